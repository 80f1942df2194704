package architecture

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// step is a line of lb's package doc: " 4 grpc.ParseRequest   method, timeout, metadata".
var step = regexp.MustCompile("(?m)^[ \t]*([0-9]+)[ \t]+`?([A-Za-z_][A-Za-z0-9_.]*)`?")

// fewestSteps is less than a call has; fewer found means that the doc is laid out differently and nothing was checked.
const fewestSteps = 10

// lostSteps checks lb/doc.go: steps numbered from 1, each naming pkg.Func, pkg.Type or pkg.Type.Member of a package below
// lb, codec or policy that exists.
func lostSteps(t *tree) []string {
	i := slices.IndexFunc(t.files, func(f *file) bool { return f.path == "lb/doc.go" })
	if i < 0 {
		return nil
	}
	doc := t.files[i]
	steps := step.FindAllStringSubmatch(doc.ast.Doc.Text(), -1)
	if len(steps) < fewestSteps {
		return []string{t.finding(doc.ast, "the way of a call has %d numbered steps that name a function, want at least %d", len(steps), fewestSteps)}
	}
	names := declared(t)
	var found []string
	for n, s := range steps {
		if s[1] != strconv.Itoa(n+1) {
			found = append(found, t.finding(doc.ast, "step %s follows step %d", s[1], n))
		}
		if !names[s[2]] {
			found = append(found, t.finding(doc.ast, "step %s names %s, which is in no package below lb, codec or policy", s[1], s[2]))
		}
	}
	return found
}

// declared is the set of pkg.Func, pkg.Type, pkg.Type.Method, pkg.Type.field and the methods of interfaces.
func declared(t *tree) map[string]bool {
	names := map[string]bool{}
	for _, f := range t.files {
		if f.test || !slices.Contains([]string{"lb", "codec", "policy"}, f.room()) {
			continue
		}
		pkg := f.ast.Name.Name
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					names[pkg+"."+d.Name.Name] = true
				} else if recv := receiver(d.Recv.List[0].Type); recv != "" {
					names[fmt.Sprintf("%s.%s.%s", pkg, recv, d.Name.Name)] = true
				}
			case *ast.GenDecl:
				if d.Tok != token.TYPE {
					continue
				}
				for _, spec := range d.Specs {
					typ := spec.(*ast.TypeSpec)
					names[pkg+"."+typ.Name.Name] = true
					var members *ast.FieldList
					switch t := typ.Type.(type) {
					case *ast.StructType:
						members = t.Fields
					case *ast.InterfaceType:
						members = t.Methods
					default:
						continue
					}
					for _, m := range members.List {
						for _, name := range m.Names {
							names[fmt.Sprintf("%s.%s.%s", pkg, typ.Name.Name, name.Name)] = true
						}
					}
				}
			}
		}
	}
	return names
}

func receiver(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x.Name
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr: // T[P]
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		default:
			return ""
		}
	}
}

func TestTheWayOfACallNamesFunctionsThatExist(t *testing.T) {
	for _, f := range lostSteps(repository(t)) {
		t.Error(f)
	}

	story := func(third string) *tree {
		var b strings.Builder
		b.WriteString("// Package lb owns the calls.\n//\n")
		for i := 1; i <= fewestSteps; i++ {
			name := "shard.Conn.readLoop"
			if i == 3 {
				name = third
			}
			fmt.Fprintf(&b, "//\t%2d %-20s what it does\n", i, name)
		}
		b.WriteString("package lb\n")
		small, err := parse(fstest.MapFS{
			"lb/doc.go":        {Data: []byte(b.String())},
			"lb/shard/x.go":    {Data: []byte("package shard\ntype Conn struct{ session int }\nfunc (c *Conn) readLoop() {}\n")},
			"policy/pick/x.go": {Data: []byte("package pick\ntype Picker interface{ Pick() }\nfunc New() Picker { return nil }\n")},
		})
		if err != nil {
			t.Fatal(err)
		}
		return small
	}
	for _, name := range []string{"shard.Conn", "shard.Conn.session", "pick.Picker.Pick", "pick.New", "`pick.New`"} {
		if found := lostSteps(story(name)); len(found) > 0 {
			t.Errorf("%s exists, but: %s", name, found)
		}
	}
	for _, name := range []string{"shard.Conn.gone", "nowhere.New", "pick", "9"} {
		if len(lostSteps(story(name))) == 0 {
			t.Errorf("%s does not exist, and nobody minds", name)
		}
	}
}
