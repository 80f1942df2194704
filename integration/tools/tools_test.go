package tools

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module writes a nested module with one tiny program, and makes the working directory a repository around it.
func module(t *testing.T, name string) {
	t.Helper()
	root := t.TempDir()
	t.Chdir(root)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(root, "cache"))
	at := filepath.Join(root, "integration", "tools", name)
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		filepath.Join(root, "go.mod"):   "module github.com/trunkline/trunkline\n",
		filepath.Join(at, "go.mod"):     "module example.test/" + name + "\n\ngo 1.26\n\ntool example.test/" + name + "\n",
		filepath.Join(at, "go.sum"):     "",
		filepath.Join(at, "main.go"):    "package main\n\nfunc main() {}\n",
		filepath.Join(at, ".gitignore"): "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAToolIsBuiltOnceHoweverManyAsk(t *testing.T) {
	module(t, "hello")
	var wg sync.WaitGroup
	paths := make([]string, 4)
	for i := range paths {
		wg.Go(func() {
			var err error
			if paths[i], err = Path(t.Context(), "hello"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(slices.Compact(paths)) != 1 || !isProgram(paths[0]) {
		t.Fatalf("paths = %q, want one program", paths)
	}
	before, err := os.Stat(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Path(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(paths[0]); err != nil || !os.SameFile(before, after) {
		t.Error("it was built again")
	}
}

func TestAToolThatDoesNotCompileSaysWhy(t *testing.T) {
	module(t, "broken")
	if err := os.WriteFile("integration/tools/broken/main.go", []byte("package main\n\nfunc main() { nonsense }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Path(t.Context(), "broken"); err == nil || !strings.Contains(err.Error(), "undefined: nonsense") {
		t.Fatalf("err = %v, want the compiler's", err)
	}
}

func TestAnUnknownToolIsRefusedWithTheKnownOnes(t *testing.T) {
	_, err := Path(context.Background(), "hammer")
	if err == nil || !strings.Contains(err.Error(), "consul") {
		t.Fatalf("err = %v, want one that lists the tools", err)
	}
}

func TestEveryNestedModuleNamesItsTool(t *testing.T) {
	names, err := Names()
	if err != nil || !slices.Contains(names, "buf") {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if _, _, err := readModule(name); err != nil {
			t.Error(err)
		}
	}
}
