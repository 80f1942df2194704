package serviceconfig

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files")

func files(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v, %d files", pattern, err, len(found))
	}
	return slices.DeleteFunc(found, func(name string) bool { return filepath.Ext(name) == ".txt" })
}

// told compares what was said about a file with the .txt beside it, and demands a place and an order.
func told(t *testing.T, file string, problems []Problem) {
	t.Helper()
	var b strings.Builder
	for i, p := range problems {
		if p.Line < 1 || p.Column < 1 || p.Message == "" {
			t.Errorf("no place or message in %q", p)
		}
		if i > 0 && p.Line < problems[i-1].Line {
			t.Error("not in the order of the file")
		}
		kind := ""
		if p.Warning {
			kind = "warning: "
		}
		fmt.Fprintf(&b, "%s%s\n", kind, p)
	}
	golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s (-want +got; go test -update rewrites it):\n%s", golden, diff)
	}
}

func parseFile(t testing.TB, file string) (*Config, []Problem) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return Parse(filepath.Base(file), text, 1)
}

// Every mistake in testdata/wrong is told with source, line, column and field.
func TestAWrongDocumentIsExplained(t *testing.T) {
	for _, file := range files(t, "testdata/wrong/*") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, problems := parseFile(t, file)
			if c != nil || !slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning }) {
				t.Errorf("Parse = %v, %v; want problems and no config", c, problems)
			}
			told(t, file, problems)
		})
	}
}

func TestASuspiciousDocumentIsUsedWithWarnings(t *testing.T) {
	for _, file := range files(t, "testdata/warned/*") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, problems := parseFile(t, file)
			if c == nil {
				t.Error("no config")
			}
			told(t, file, problems)
		})
	}
	c, _ := parseFile(t, "testdata/warned/suspicious.json")
	if p := c.For("a.A", "M").Retry; p == nil || p.MaxAttempts != 5 || p.BackoffMultiplier != 1 {
		t.Errorf("the policy with grpc-go's spelling is %+v", p)
	}
}

// A text that begins in the middle of a file has the file's lines, as JSON, as YAML and as a node.
func TestLinesCountFromWhereTheTextBegins(t *testing.T) {
	for _, text := range []string{"{\n\"timeout\": 1,\n\"trunkline\": 5}", "trunkline:\n\n  5\n", "\ntrunkline:\n  false\n"} {
		_, from1 := Parse("x", []byte(text), 1)
		_, from41 := Parse("x", []byte(text), 41)
		if len(from1) == 0 || len(from1) != len(from41) {
			t.Fatalf("%q: %v and %v", text, from1, from41)
		}
		for i := range from1 {
			if from41[i].Line != from1[i].Line+40 {
				t.Errorf("%q: line %d, want %d", text, from41[i].Line, from1[i].Line+40)
			}
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte("a: 1\nserviceConfig:\n  retryThrottling: {maxTokens: 5}\n"), &doc); err != nil {
		t.Fatal(err)
	}
	_, problems := ParseNode("x.yaml", doc.Content[0].Content[3])
	if len(problems) != 1 || problems[0].String() != "x.yaml:3:3: retryThrottling.tokenRatio: is missing: write a number over 0, such as 0.1" {
		t.Errorf("%v", problems)
	}
}

func TestADocumentIsBounded(t *testing.T) {
	bomb := "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
	for c := 'b'; c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	manyAliases := "trunkline: {methodPolicy: [&p {name: [{service: a.A}]}" + strings.Repeat(", *p", 60_000) + "]}"
	for what, text := range map[string]string{
		"larger than":       `{"a": "` + strings.Repeat("x", maxBytes) + `"}`,
		"nested too deep":   `{"a": ` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		"has more than":     manyAliases,
		"has more than 100": `{"methodConfig": [` + strings.Repeat("0,", 100_001) + `0]}`,
		"unknown key":       bomb + "trunkline: {x: *i}\n",
		"expected a list":   "methodConfig: &m\n  name: *m\n",
	} {
		c, problems := Parse("x", []byte(text), 1)
		if c != nil && what != "expected a list" {
			t.Errorf("%s: accepted", what)
		}
		if len(problems) > maxProblems+1 || !slices.ContainsFunc(problems, func(p Problem) bool { return strings.Contains(p.Message, what) }) {
			t.Errorf("%s: %d problems, %.300v", what, len(problems), problems)
		}
	}
	if _, problems := Parse("x", []byte(`{"trunkline": `+strings.Repeat(`{"a":`, 1_000_0)), 1); len(problems) == 0 {
		t.Error("a cut text is accepted")
	}
}
