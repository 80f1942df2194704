package route

import (
	"math/bits"
	"slices"
	"strings"
)

// service is a known service with the methods known of it; none known: all methods may exist.
type service struct {
	name    string
	letters uint64 // which letters name has
	methods []string
}

func serviceNames(routes []*Route) []service {
	methods := map[string][]string{}
	for _, r := range routes {
		if m := r.Rule.Match; m.Method != "" {
			i := strings.LastIndexByte(m.Method, '/')
			methods[m.Method[:i]] = append(methods[m.Method[:i]], m.Method[i+1:])
		} else if m.Service != "" {
			methods[m.Service] = append(methods[m.Service], "")
		}
	}
	var out []service
	for name, ms := range methods {
		slices.Sort(ms)
		if ms[0] == "" {
			ms = ms[1:]
		}
		out = append(out, service{name, letters(name), slices.Compact(ms)})
	}
	slices.SortFunc(out, func(a, b service) int { return strings.Compare(a.name, b.name) })
	return out
}

// nearestBudget bounds the work of one Nearest, in bytes compared (about 5 ns each): unknown methods can come in floods.
const nearestBudget = 16 << 10

// serviceAlone makes a service without a method worse than any near method.
const serviceAlone = 64

// Nearest returns the known "pkg.Service/Method", or the known "pkg.Service", that a person who called path probably meant, or
// "" if nothing is near. Near is at most a third of the letters wrong in the service and in the method; a forgotten package
// counts as one. The work is bounded (about 0.1 ms), so among thousands of services it may miss one that is misspelt. It
// costs thousands of Matches all the same: keep the answer, or do not ask for every call of a flood.
func (t *Table) Nearest(path string) string {
	name := strings.TrimPrefix(path, "/")
	slash := strings.LastIndexByte(name, '/')
	if slash <= 0 {
		return ""
	}
	svc, method := newPattern(name[:slash]), newPattern(name[slash+1:])
	unqualified := "." + name[:slash]
	budget := nearestBudget
	var bestService *service
	bestMethod, bestDist := "", 1<<30
	consider := func(s *service, ds int) {
		if ds+serviceAlone < bestDist {
			bestService, bestMethod, bestDist = s, "", ds+serviceAlone
		}
		for _, m := range s.methods {
			if dm, ok := method.near(m, method.letters, &budget); ok && ds+dm < bestDist {
				bestService, bestMethod, bestDist = s, m, ds+dm
			}
		}
	}
	// The service is right: only its methods are in question.
	if i, ok := slices.BinarySearchFunc(t.names, name[:slash], func(s service, n string) int { return strings.Compare(s.name, n) }); ok {
		consider(&t.names[i], 0)
	} else {
		for i := 0; i < len(t.names) && budget > 0; i++ {
			s := &t.names[i]
			ds, ok := svc.near(s.name, s.letters, &budget)
			if !ok && strings.HasSuffix(s.name, unqualified) {
				ds, ok = 1, true
			}
			if ok && ds < bestDist {
				consider(s, ds)
			}
		}
	}
	switch {
	case bestService == nil:
		return ""
	case bestMethod == "":
		return bestService.name
	}
	return bestService.name + "/" + bestMethod
}

// pattern is a string prepared for many edit distances (Myers 1999, as Hyyro 2003 gives it): one bit per letter, so that a
// column of the matrix costs a few instructions. Longer strings than 64 bytes keep their ends: packages differ less than names.
type pattern struct {
	n       int
	letters uint64
	mask    [128]uint64 // by letter, lower case: where it stands
}

func clip(s string) string { return s[max(0, len(s)-64):] }

func fold(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c & 127
}

func newPattern(s string) *pattern {
	s = clip(s)
	p := &pattern{n: len(s), letters: letters(s)}
	for i := range len(s) {
		p.mask[fold(s[i])] |= 1 << i
	}
	return p
}

// letters is the set of letters of s (the part that is compared), folded to 64 bits.
func letters(s string) (set uint64) {
	s = clip(s)
	for i := range len(s) {
		set |= 1 << (fold(s[i]) & 63)
	}
	return set
}

// near returns the edit distance to s (case does not count) if it is at most a third of the longer one. set is letters(s), or
// p.letters where that is not at hand: a letter that only one of both has is an edit at least, which spares most comparisons.
func (p *pattern) near(s string, set uint64, budget *int) (int, bool) {
	s = clip(s)
	*budget -= 4
	most := max(p.n, len(s)) / 3
	if p.n == 0 || p.n-len(s) > most || len(s)-p.n > most || *budget < 0 ||
		bits.OnesCount64(p.letters&^set) > most || bits.OnesCount64(set&^p.letters) > most {
		return 0, false
	}
	*budget -= len(s)
	last := uint64(1) << (p.n - 1)
	plus, minus, dist := ^uint64(0), uint64(0), p.n
	for i := range len(s) {
		eq := p.mask[fold(s[i])]
		diag := (((eq & plus) + plus) ^ plus) | eq | minus
		up, down := minus|^(diag|plus), plus&diag
		if up&last != 0 {
			dist++
		}
		if down&last != 0 {
			dist--
		}
		up = up<<1 | 1
		plus, minus = down<<1|^(diag|up), up&diag
	}
	return dist, dist <= most
}
