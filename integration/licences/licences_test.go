package licences

import (
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/trunkline/trunkline/integration/harness"
	_ "github.com/trunkline/trunkline/lb/cli" // what it is made of is what this test is made of: else an old result would do, from the test cache
)

var update = flag.Bool("update", false, "write licences.txt")

func TestMain(m *testing.M) { harness.Main(m) }

const head = `# What the trunkline command is made of, beside Go itself (BSD-3-Clause) and this repository (Apache-2.0): module, licence.
# Held against the binary and the modules' own files by a test; written by: go test ./integration/licences -update
`

func TestEveryModuleOfTheBinaryHasALicenceThatIsKnownAndListed(t *testing.T) {
	info, err := buildinfo.ReadFile(harness.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	cache := moduleCache(t)
	var lines []string
	for _, d := range info.Deps {
		if d.Replace != nil {
			t.Errorf("%s is replaced by %s: this test does not know where that is", d.Path, d.Replace.Path)
			continue
		}
		names, err := licencesOf(filepath.Join(cache, escaped(d.Path)+"@"+escaped(d.Version)))
		if err != nil {
			t.Errorf("%s %s: %v", d.Path, d.Version, err)
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s\n", d.Path, strings.Join(names, " AND ")))
	}
	if len(lines) < 20 {
		t.Fatalf("only %d modules are named by the binary: this test shows nothing", len(lines))
	}
	slices.Sort(lines)
	now := head + strings.Join(lines, "")
	if *update && !t.Failed() {
		if err := os.WriteFile("licences.txt", []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	then, err := os.ReadFile("licences.txt")
	if err != nil {
		t.Fatal(err)
	}
	before, after := strings.SplitAfter(string(then), "\n"), strings.SplitAfter(now, "\n")
	for _, l := range before {
		if !slices.Contains(after, l) {
			t.Errorf("licences.txt says, and it is not so: %s", l)
		}
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			t.Errorf("licences.txt does not say: %s", l)
		}
	}
	if t.Failed() {
		t.Log("if it is meant to be so: go test ./integration/licences -update")
	}
}

// licencesOf reads the files of a module's root that bear a licence's name. A module may have several; all hold.
func licencesOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() || !regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying)([-._].*)?$`).MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		file, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		names, err := find(string(file))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		for _, n := range names {
			if !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("has no file with a licence")
	}
	slices.Sort(all)
	return all, nil
}

func moduleCache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// escaped is a path or version as the module cache spells it: capitals as "!" and the small letter (https://go.dev/ref/mod#module-cache).
func escaped(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}
