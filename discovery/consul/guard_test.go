package consul

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trunkline/trunkline/discovery"
)

// named makes endpoints of the letters: "abc" are three.
func named(letters string) []discovery.Endpoint {
	var out []discovery.Endpoint
	for _, l := range strings.Split(letters, "") {
		out = append(out, discovery.Endpoint{Address: l, Weight: 1})
	}
	discovery.SortEndpoints(out)
	return out
}

func letters(endpoints []discovery.Endpoint) string {
	var s string
	for _, e := range endpoints {
		s += e.Address
	}
	return s
}

// What is believed at once and what is held: one line is one service's history.
func TestGuardHistories(t *testing.T) {
	for _, story := range []struct {
		name  string
		share float64
		steps string // "<second>:<what Consul says>=<what is published>[/<held>]"
	}{
		{"one of two goes at once", 0.5, "0:ab=ab 5:a=a"},
		{"one of three goes at once", 0.5, "0:abc=abc 5:ab=ab"},
		{"the last one is held, then believed", 0.5, "0:a=a 5:=a/1 64.9:=a/1 65:="},
		{"half of four goes at once", 0.5, "0:abcd=abcd 5:ab=ab"},
		{"more than half of four is held", 0.5, "0:abcd=abcd 5:a=abcd/3 65:a=a"},
		{"all come back", 0.5, "0:abc=abc 5:=abc/3 9:abc=abc 80:abc=abc"},
		{"when half is back the rest is believed", 0.5, "0:abcd=abcd 5:=abcd/4 6:a=abcd/3 7:ab=ab"},
		{"a wave within a second is one loss", 0.5, "0:abcd=abcd 5:abc=abc 5.1:ab=ab 5.2:a=abcd/3 5.3:=abcd/4 65.3:="},
		{"a wave may spare nobody", 0.5, "0:abc=abc 5:ab=ab 5.1:a=abc/2 5.2:=abc/3"},
		{"spread over seconds it is daily life, but for the last", 0.5, "0:abc=abc 5:ab=ab 7:a=a 9:=a/1"},
		{"a rolling deploy holds nothing", 0.5, "0:abc=abc 5:bcx=bcx 5.2:cxy=cxy 5.4:xyz=xyz"},
		{"a swap at once holds nothing", 0.5, "0:abc=abc 5:xyz=xyz"},
		{"stop all, then start all elsewhere", 0.5, "0:ab=ab 5:=ab/2 6:x=x 6.5:xy=xy"},
		{"a small share holds sooner", 0.25, "0:abcdef=abcdef 5:abcd=abcdef/2"},
		{"a share of 1 holds only emptiness", 1, "0:abcd=abcd 5:a=a 10:=a/1"},
		{"it may happen again", 0.5, "0:ab=ab 5:=ab/2 6:ab=ab 7:=ab/2 66.9:=ab/2 67:="},
		{"more losses while holding are held for their own time", 0.5, "0:abcdef=abcdef 5:ab=abcdef/4 30:a=abcdef/5 65:a=ab/1 90:a=a"},
	} {
		t.Run(story.name, func(t *testing.T) {
			start := time.Unix(1e9, 0)
			g := guard{share: story.share, holdFor: time.Minute}
			for step := range strings.FieldsSeq(story.steps) {
				second, rest, _ := strings.Cut(step, ":")
				says, want, _ := strings.Cut(rest, "=")
				want, held, _ := strings.Cut(want, "/")
				d, err := time.ParseDuration(second + "s")
				if err != nil {
					t.Fatal(err)
				}
				g.expire(start.Add(d))
				var answer []discovery.Endpoint
				if says != "" {
					answer = named(says)
				}
				g.answer(start.Add(d), answer)
				if held == "" {
					held = "0"
				}
				if got := letters(g.published()); got != want || len(g.held) != int(held[0]-'0') {
					t.Fatalf("%s: published %q with %d held", step, got, len(g.held))
				}
			}
		})
	}
}

// Whatever happens: what Consul names is published; nothing is held for longer than told; what was not named for that long
// is gone; and the guard is not woken for nothing.
func TestGuardLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const holdFor = 10 * time.Second
		g := guard{share: rapid.Float64Range(0, 1).Draw(t, "share"), holdFor: holdFor}
		now := time.Unix(1e9, 0)
		seen := map[string]time.Time{} // when Consul last named it
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond)
			g.expire(now)
			if next := g.next(); !next.IsZero() && !next.After(now) {
				t.Fatalf("it wants to be woken in the past")
			}
			var says []discovery.Endpoint
			for _, l := range rapid.SliceOfDistinct(rapid.IntRange(0, 7), rapid.ID[int]).Draw(t, "says") {
				says = append(says, discovery.Endpoint{Address: string(rune('a' + l))})
			}
			discovery.SortEndpoints(says)
			for _, e := range g.live {
				seen[e.Address] = now // until now it was named
			}
			g.answer(now, says)
			published := g.published()
			if !slices.IsSortedFunc(published, func(a, b discovery.Endpoint) int { return strings.Compare(a.Address, b.Address) }) {
				t.Fatalf("not sorted: %s", letters(published))
			}
			for i, e := range published {
				if i > 0 && published[i-1].Address == e.Address {
					t.Fatalf("%s twice", e.Address)
				}
				if !contains(says, e.Address) && now.Sub(seen[e.Address]) > holdFor+burst {
					t.Fatalf("%s is held for %v", e.Address, now.Sub(seen[e.Address]))
				}
			}
			for _, e := range says {
				if !contains(published, e.Address) {
					t.Fatalf("%s is named and not published", e.Address)
				}
			}
		}
	})
}
