// Package readme tests that README.md is true where a machine can tell: its examples load, its command lines are understood,
// its tables name what exists. It must not test the product.
package readme

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trunkline/trunkline/lb/telemetry"
)

const root = "../../"

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(root + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section is the text under a heading, up to the next one of its level.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text(t, "README.md"), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", heading)
	}
	body, _, _ := strings.Cut(rest, "\n## ")
	return body
}

// blocks are the fenced blocks of one language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text(t, "README.md"), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatalf("README.md has no %s block", language)
	}
	return out
}

// firstColumn are the names in backquotes in the first cells of the tables in s.
func firstColumn(s string) []string {
	var names []string
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(s, -1) {
		names = append(names, quoted(row[1])...)
	}
	return names
}

func quoted(s string) []string {
	var names []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(s, -1) {
		names = append(names, m[1])
	}
	return names
}

// mustAgree reports what only one of the two lists has.
func mustAgree(t *testing.T, inReadme, inTree []string, where string) {
	t.Helper()
	for _, n := range inReadme {
		if !slices.Contains(inTree, n) {
			t.Errorf("README.md names %q, %s does not", n, where)
		}
	}
	for _, n := range inTree {
		if !slices.Contains(inReadme, n) {
			t.Errorf("README.md does not name %q of %s", n, where)
		}
	}
}

// Every room and every package right under one is on the map, and the map has no others.
func TestTheMapOfTheRoomsIsTheTree(t *testing.T) {
	var folders []string
	for _, room := range []string{"proto", "codec", "discovery", "policy", "lb", "integration"} {
		folders = append(folders, room+"/")
		entries, err := os.ReadDir(root + room)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && e.Name() != "testdata" && room != "proto" { // proto's folders are protobuf packages, not rooms of code
				folders = append(folders, path.Join(room, e.Name()))
			}
		}
	}
	mustAgree(t, firstColumn(section(t, "The map of the rooms")), folders, "the tree")
}

func TestTheDependencyTableIsGoMods(t *testing.T) {
	var direct []string
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\t?([a-z0-9.]+\.[a-z]+/\S+) v\S+$`).FindAllStringSubmatch(text(t, "go.mod"), -1) {
		direct = append(direct, m[1])
	}
	if len(direct) < 10 {
		t.Fatalf("only %v read from go.mod", direct)
	}
	mustAgree(t, firstColumn(section(t, "Dependencies")), direct, "go.mod")
}

func TestTheMetricsTableIsTheDocOfTelemetry(t *testing.T) {
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(trunkline_\w+)`).FindAllStringSubmatch(text(t, "lb/telemetry/doc.go"), -1) {
		documented = append(documented, m[1])
	}
	mustAgree(t, firstColumn(section(t, "Traces, metrics, logs")), documented, "lb/telemetry/doc.go")
}

func TestTheKindsOfLimitsAreThoseOfTelemetry(t *testing.T) {
	_, list, ok := strings.Cut(section(t, "Traces, metrics, logs"), "\nKinds of `trunkline_limited_total`: ")
	if !ok {
		t.Fatal("README.md does not list the kinds of limits")
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var kinds []string
	for l := telemetry.Limit(0); l.String() != "unknown"; l++ {
		kinds = append(kinds, l.String())
	}
	mustAgree(t, quoted(list), kinds, "lb/telemetry")
}

// The reasons in the tables are the constants that look like reasons in the source of those who refuse.
func TestTheTableOfFailuresHasEveryReason(t *testing.T) {
	var reasons, table []string
	upper := regexp.MustCompile(`(== )?"([A-Z]+(?:_[A-Z]+)+)"|[rR]eason: +"([A-Z]+)"`) // what is compared is somebody else's
	for _, dir := range []string{"lb/forward", "lb/listener", "lb/certs", "lb/connect", "lb/gate", "lb/identity", "lb/extauthz", "lb/inspect", "policy/authn"} {
		before := len(reasons)
		err := fs.WalkDir(os.DirFS(root), dir, func(p string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go") {
				for _, m := range upper.FindAllStringSubmatch(text(t, p), -1) {
					if reason := m[2] + m[3]; m[1] == "" && !slices.Contains(reasons, reason) {
						reasons = append(reasons, reason)
					}
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if refuses := !slices.Contains([]string{"lb/connect", "lb/extauthz"}, dir); refuses == (len(reasons) == before) {
			t.Errorf("%s has %d reasons of its own: look whether the pattern still finds them", dir, len(reasons)-before)
		}
	}
	for row := range strings.Lines(section(t, "Deadlines and failures")) {
		if cells := strings.Split(row, "|"); len(cells) == 6 {
			table = append(table, quoted(cells[4])...)
		}
	}
	mustAgree(t, table, reasons, "the source")
}

func TestLinksLeadSomewhere(t *testing.T) {
	all := text(t, "README.md")
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(all, -1) {
		anchors["#"+strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(all, -1) {
		switch link := m[1]; {
		case strings.Contains(link, "://"):
		case link[0] == '#':
			if !anchors[link] {
				t.Errorf("%s leads to no heading", link)
			}
		default:
			if _, err := os.Stat(root + link); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestThePlaceOfTheBenchmarkIsMarked(t *testing.T) {
	body := section(t, "Benchmark")
	if begin, end := strings.Index(body, "<!-- bench -->\n"), strings.Index(body, "<!-- /bench -->"); begin < 0 || end < begin {
		t.Error("the markers <!-- bench --> and <!-- /bench --> are not both there, in this order")
	}
}
