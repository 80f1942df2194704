package harness

import (
	"testing"

	"github.com/trunkline/trunkline/integration/tools"
)

// Tool is the path of a program that the tests need (consul, jaeger, h2spec, grpcurl): installed, cached, or built now.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := tools.Path(t.Context(), name)
	if err != nil {
		t.Fatalf("tool %s: %v", name, err)
	}
	return path
}
