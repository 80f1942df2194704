package attacks

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trunkline/trunkline/integration/harness"
)

var update = flag.Bool("update", false, "make long attacks, and write their figures, and the table's words, into SECURITY.md")

// Defences that several attacks meet, with their keys and defaults.
const (
	resetBudget   = "`limits.abuse.resetsPerSecond` (100; the first 1000 are free)"
	idleBudget    = "`limits.abuse.idleFramesPerSecond` (500; the first 5000 are free)"
	refusedBudget = "`limits.abuse.refusedPerSecond` (1000; the first 1000 are free)"
	blockLimit    = "`limits.maxHeaderBytes` (256 KiB) bounds a block as it comes, in bytes and in frames"
	unusedLimit   = "`limits.abuse.unusedConnectionsPerSecond` (200 per address; the first 400 are free): the others wait in line; `limits.maxConnectionsPerAddress` (16384)"
	prefaceLimit  = "`limits.prefaceTimeout` (10s)"
	frameLimit    = "`limits.frameTimeout` (30s)"
	holdLimits    = "`limits.stallTimeout` (5m), `limits.bufferBytesPerConnection` (32 MiB), `limits.bufferBytesTotal` (1 GiB)"
)

// The table stands between these lines of SECURITY.md.
const (
	tableBegins = "<!-- The table is written by: go test ./integration/attacks -update -->"
	tableEnds   = "<!-- The end of the table. -->"
)

func page() string { return filepath.Join(harness.Root(), "SECURITY.md") }

// pageTable is SECURITY.md around its table, and the table's rows by attack.
func pageTable(t *testing.T) (before string, rows map[string]string, after string) {
	t.Helper()
	text, err := os.ReadFile(page())
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), tableBegins+"\n")
	table, after, ok2 := strings.Cut(rest, tableEnds)
	if !ok1 || !ok2 {
		t.Fatalf("SECURITY.md has no table between %q and %q", tableBegins, tableEnds)
	}
	rows = map[string]string{}
	for line := range strings.Lines(table) {
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			rows[name] = strings.TrimSpace(line)
		}
	}
	return before, rows, after
}

// words is the beginning of an attack's row: all but its figures.
func (a *attack) words() string {
	story := a.story
	if a.cve != "" {
		story += " (" + a.cve + ")"
	}
	return fmt.Sprintf("| `%s` | %s | %s |", a.name, story, a.defence)
}

// SECURITY.md tells of every attack what it is and what is done about it, with figures, and of none that is not here.
func TestSecurityPageNamesEveryAttackAndNoOther(t *testing.T) {
	_, rows, _ := pageTable(t)
	var names []string
	for _, a := range attacks() {
		if slices.Contains(names, a.name) {
			t.Errorf("two attacks are called %s", a.name)
		}
		names = append(names, a.name)
		if a.story == "" || a.defence == "" {
			t.Errorf("%s: no story, or no defence", a.name)
		}
		if row := rows[a.name]; !strings.HasPrefix(row, a.words()) {
			t.Errorf("SECURITY.md says of %s:\n%s\nwant:\n%s\n(go test ./integration/attacks -update)", a.name, row, a.words())
		} else if !strings.Contains(row, "ms") {
			t.Errorf("SECURITY.md has no figures of %s", a.name)
		}
	}
	for name := range rows {
		if !slices.Contains(names, name) {
			t.Errorf("SECURITY.md tells of %s, which is no attack of the suite", name)
		}
	}
}

// write puts the rows into SECURITY.md; attacks that have not run keep their figures.
func (f *table) write(t *testing.T) {
	t.Helper()
	before, old, after := pageTable(t)
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n\n", before, tableBegins)
	others := 0.0
	var above []string
	for _, r := range f.rows {
		others += r.strangers / float64(len(f.rows))
		if r.slow() > slower {
			above = append(above, "`"+r.attack.name+"`")
		}
	}
	fmt.Fprintf(&b, "Measured on %s, %d attacks on a machine of %d cores (%s) of which others took %.0f%%, with %s.\n\n",
		time.Now().Format("2 January 2006"), len(f.rows), runtime.NumCPU(), model(), max(0, 100*others), runtime.Version())
	if len(above) > 0 {
		fmt.Fprintf(&b, "Above %d times: %s.\n\n", slower, strings.Join(above, ", "))
	}
	b.WriteString("| Test | Attack | Defence (default) | Failed calls | p99 without, with | Memory | Connections, by GOAWAY, otherwise |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, a := range attacks() {
		_, figures, _ := strings.Cut(old[a.name], a.words())
		for _, r := range f.rows {
			if r.attack.name == a.name {
				figures = fmt.Sprintf(" %d of %d | %s, %s | %d MiB | %d, %d, %d |", r.failed, r.calls, ms(r.before), ms(r.under), r.peak/mebibyte, r.seen.Opened, r.seen.ByGoAway(), r.seen.Closed)
			}
		}
		if figures == "" {
			figures = " | | | |"
		}
		fmt.Fprintf(&b, "%s%s\n", a.words(), figures)
	}
	fmt.Fprintf(&b, "\n%s%s", tableEnds, after)
	if err := os.WriteFile(page(), []byte(b.String()), 0o644); err != nil { // a page for everybody
		t.Fatal(err)
	}
}

// model is the processor's name.
func model() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
