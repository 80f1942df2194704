package interop

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trunkline/trunkline/integration/harness"
)

// clientSource is the path of grpc-go's own interop client, whose switch is the list of official cases.
func clientSource(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/grpc")
	cmd.Dir = harness.Root()
	dir, err := cmd.Output()
	if err != nil {
		t.Fatalf("where is grpc-go: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "interop", "client", "client.go")
}
