package architecture

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

const module = "github.com/trunkline/trunkline"

// file is one parsed Go file of the main module.
type file struct {
	path      string // from the root, with slashes
	ast       *ast.File
	lines     int
	test      bool // _test.go
	generated bool
	imports   map[string]string // local name -> import path
}

// room is the top-level folder, "" for the root itself.
func (f *file) room() string {
	room, _, ok := strings.Cut(f.path, "/")
	if !ok {
		return ""
	}
	return room
}

func (f *file) dir() string { return path.Dir(f.path) }

// tree is every Go file of the module, sorted by path.
type tree struct {
	files []*file
	fset  *token.FileSet
}

// finding says that something at a place breaks a rule.
func (t *tree) finding(at ast.Node, format string, args ...any) string {
	p := t.fset.Position(at.Pos())
	return fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, fmt.Sprintf(format, args...))
}

// parse reads the module in fsys, less nested modules, testdata and hidden folders.
func parse(fsys fs.FS) (*tree, error) {
	t := &tree{fset: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p == "." {
				return nil
			}
			if _, err := fs.Stat(fsys, path.Join(p, "go.mod")); err == nil || d.Name() == "testdata" || d.Name()[0] == '.' || d.Name()[0] == '_' {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		src, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(t.fset, p, src, parser.ParseComments)
		if err != nil {
			return err
		}
		f := &file{
			path: p, ast: syntax, lines: strings.Count(string(src), "\n"), test: strings.HasSuffix(p, "_test.go"),
			generated: ast.IsGenerated(syntax), imports: map[string]string{},
		}
		for _, spec := range syntax.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			name := path.Base(target)
			if name == "v2" || name == "v3" { // math/rand/v2 is rand
				name = path.Base(path.Dir(target))
			}
			if spec.Name != nil {
				name = spec.Name.Name
			}
			f.imports[name] = target
		}
		t.files = append(t.files, f)
		return nil
	})
	return t, err
}

// parsed is read once for all tests of this package; rules do not change it.
var parsed = sync.OnceValues(func() (*tree, error) { return parse(os.DirFS("../..")) })

// repository is the tree that these tests are part of.
func repository(t *testing.T) *tree {
	t.Helper()
	all, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(all.files) < 20 {
		t.Fatalf("only %d files: this is not the repository", len(all.files))
	}
	return all
}

// check runs a rule over the repository, and over sources that break it: every one of them must be found.
func check(t *testing.T, rule func(*tree) []string, broken map[string]string) {
	t.Helper()
	for _, f := range rule(repository(t)) {
		t.Error(f)
	}
	for name, src := range broken {
		small, err := parse(fstest.MapFS{name: {Data: []byte(src)}})
		if err != nil {
			t.Fatal(err)
		}
		if len(rule(small)) == 0 {
			t.Errorf("the rule does not see what is wrong with %s:\n%s", name, src)
		}
	}
}

// passes asserts that a rule has nothing to say about sources that look alike but keep it.
func passes(t *testing.T, rule func(*tree) []string, fine map[string]string) {
	t.Helper()
	for name, src := range fine {
		small, err := parse(fstest.MapFS{name: {Data: []byte(src)}})
		if err != nil {
			t.Fatal(err)
		}
		if found := rule(small); len(found) > 0 {
			t.Errorf("the rule is wrong about %s: %s", name, strings.Join(found, "; "))
		}
	}
}

// selected yields pkg.Name where pkg is an import: the path, the name and where.
func (f *file) selected(yield func(importPath, name string, at ast.Node)) {
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil { // not a local variable of that name
				if target, ok := f.imports[id.Name]; ok {
					yield(target, sel.Sel.Name, n)
				}
			}
		}
		return true
	})
}
