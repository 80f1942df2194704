package harness

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main is the body of every integration package's TestMain: it runs the tests, takes away the built binary and
// reports goroutines that were left behind.
func Main(m *testing.M) {
	code := m.Run()
	if product.dir != "" {
		os.RemoveAll(product.dir) //nolint:errcheck // a temporary directory
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left behind by the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}
