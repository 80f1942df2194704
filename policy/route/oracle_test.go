package route

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// oracle is the precedence of the package doc, word by word, over the rules as they were given.
func oracle(rules []Rule, path, authority string) *Rule {
	if !strings.HasPrefix(path, "/") {
		return nil
	}
	name := path[1:]
	slash := strings.LastIndex(name, "/")
	if slash < 1 || slash == len(name)-1 {
		return nil
	}
	host, port := strings.ToLower(authority), ""
	if i := strings.LastIndex(host, ":"); i >= 0 && strings.Count(host, ":") == 1 {
		host, port = host[:i], host[i+1:]
	}
	score := func(r *Rule) (score int) { // the higher the better; 0: no match
		m := r.Match
		ahost, aport := strings.ToLower(m.Authority), ""
		if i := strings.LastIndex(ahost, ":"); i >= 0 {
			ahost, aport = ahost[:i], ahost[i+1:]
		}
		if aport != "" && aport != port {
			return 0
		}
		switch {
		case m.Authority == "":
		case strings.HasPrefix(ahost, "*."):
			if !strings.HasSuffix(host, ahost[1:]) || len(host) == len(ahost)-1 {
				return 0
			}
			score += 10000 * (2*len(ahost) + len(aport+" ")/2)
		case ahost != host:
			return 0
		default:
			score += 1e9
			if aport != "" {
				score += 1e9
			}
		}
		switch {
		case m.Method != "":
			if m.Method != name {
				return 0
			}
			score += 9000 - 1000*2*int(r.Tier)
		case m.Service != "":
			if m.Service != name[:slash] {
				return 0
			}
			score += 8000 - 1000*2*int(r.Tier)
		case m.Prefix != "":
			if !strings.HasPrefix(name, m.Prefix) {
				return 0
			}
			score += 7001 + len(m.Prefix)
		default:
			score++
		}
		return score
	}
	var best *Rule
	bestScore := 0
	for i := range rules {
		if s := score(&rules[i]); s > bestScore {
			best, bestScore = &rules[i], s
		}
	}
	return best
}

// Names from a small world, so that rules and calls meet.
func randomName(rnd *rand.Rand) string {
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	return pick("a.", "a.b.", "", "a/") + pick("S", "T", "SX") + "/" + pick("Get", "GetAll", "G", "L")
}

func randomAuthority(rnd *rand.Rand, pattern bool) string {
	s := []string{"", "h.com", "x.h.com", "y.x.h.com", "H.com", "o.net"}[rnd.IntN(6)]
	if s != "" && pattern && rnd.IntN(2) == 0 {
		s = "*." + s
	}
	if s != "" && rnd.IntN(3) == 0 {
		s += []string{":1", ":22"}[rnd.IntN(2)]
	}
	return s
}

func randomRules(rnd *rand.Rand) []Rule {
	var rules []Rule
	seen := map[Rule]bool{}
	for range rnd.IntN(24) {
		r := Rule{Tier: Tier(rnd.IntN(3))}
		name := randomName(rnd)
		switch rnd.IntN(7) {
		case 0, 1, 2:
			r.Match.Method = name
		case 3, 4:
			r.Match.Service = name[:strings.LastIndexByte(name, '/')]
		case 5:
			r.Tier, r.Match.Prefix = TierConfig, name[:1+rnd.IntN(len(name))]
		case 6:
			r.Tier = TierConfig
		}
		r.Match.Authority = strings.ToLower(randomAuthority(rnd, true))
		if !seen[r] {
			seen[r] = true
			rules = append(rules, r)
		}
	}
	for i := range rules {
		rules[i].Data = i
	}
	return rules
}

// Whatever the rules, the compiled table, its explanation and the naive reading of the precedence agree.
func FuzzTheTableAgreesWithTheNaiveReading(f *testing.F) {
	for seed := range uint64(500) {
		f.Add(seed, "", "")
	}
	f.Add(uint64(7), "/a/b/c", "[::1]:80")
	f.Fuzz(func(t *testing.T, seed uint64, path, authority string) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		rules := randomRules(rnd)
		table := mustCompile(t, rules...)
		check := func(path, authority string, compare bool) {
			got := table.Match(path, authority)
			if compare {
				want := oracle(rules, path, authority)
				if (got == nil) != (want == nil) || got != nil && got.Rule.Data != want.Data {
					t.Fatalf("%q at %q: got %+v, want %+v", path, authority, got, want)
				}
			}
			var chosen any
			for _, s := range table.Explain(path, authority) {
				if s.Chosen {
					chosen = s.Rule.Data
				}
			}
			if got == nil && chosen != nil || got != nil && got.Rule.Data != chosen {
				t.Fatalf("%q at %q: Match says %+v, Explain %v", path, authority, got, chosen)
			}
			table.Nearest(path)
		}
		for range 20 {
			check("/"+randomName(rnd), randomAuthority(rnd, false), true)
		}
		check(path, authority, false)
	})
}
