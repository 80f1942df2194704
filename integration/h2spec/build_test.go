package h2spec

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trunkline/trunkline/integration/harness"
)

// upstream is h2spec's module.
const upstream = "github.com/summerwind/h2spec"

// build makes an h2spec whose requests are gRPC calls. The original sends GET requests, which Trunkline answers itself: no case
// would ever see a relayed frame, or DATA. So it is compiled from a copy with another request in this one place; the cases
// stay as they are.
func build(t *testing.T) string {
	t.Helper()
	tool := filepath.Join(harness.Root(), "integration", "tools", "h2spec")
	dir := t.TempDir()
	source := filepath.Join(dir, "h2spec")
	run(t, tool, "go", "mod", "download")
	original := strings.TrimSpace(run(t, tool, "go", "list", "-m", "-f", "{{.Dir}}", upstream))
	if err := os.CopyFS(source, os.DirFS(original)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(source, "spec", "util.go")
	text := read(t, file)
	for from, to := range map[string]string{
		`HeaderField(":method", "GET"),`:        `HeaderField(":method", "POST"),`,
		`HeaderField(":authority", authority),`: `HeaderField(":authority", authority), HeaderField("content-type", "application/grpc"), HeaderField("te", "trailers"),`,
	} {
		if strings.Count(text, from) != 1 {
			t.Fatalf("h2spec has changed: no %q in its spec/util.go", from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	// The copy has the module cache's permissions: replace the files, do not write into them.
	write(t, file, text)
	write(t, filepath.Join(source, "go.mod"), "module "+upstream+"\n")
	write(t, filepath.Join(dir, "go.mod"), read(t, filepath.Join(tool, "go.mod"))+"\nreplace "+upstream+" => "+source+"\n")
	write(t, filepath.Join(dir, "go.sum"), read(t, filepath.Join(tool, "go.sum")))
	program := filepath.Join(dir, "grpc-h2spec")
	run(t, tool, "go", "build", "-modfile="+filepath.Join(dir, "go.mod"), "-o", program, upstream+"/cmd/h2spec")
	return program
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &errs)
	}
	return string(out)
}
