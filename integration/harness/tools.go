package harness

import (
	"os/exec"
	"testing"
)

// Tool is the path of a program that the tests need (consul, jaeger, h2spec, grpcurl): from PATH, else built.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("tool %s: %v", name, err)
	}
	return path
}
