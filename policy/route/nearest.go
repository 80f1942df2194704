package route

import (
	"slices"
	"strings"
)

// service is a known service with the methods known of it; none known: all methods may exist.
type service struct {
	name    string
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
		out = append(out, service{name, slices.Compact(ms)})
	}
	slices.SortFunc(out, func(a, b service) int { return strings.Compare(a.name, b.name) })
	return out
}

// nearestBudget bounds the work of one Nearest in bytes compared (about 1 to 2 ns each): unknown methods can come in floods.
const nearestBudget = 32 << 10

// Nearest returns the known "pkg.Service/Method", or the known "pkg.Service", that a person who called path probably meant, or
// "" if nothing is near. Near is at most a third of the letters wrong in the service and in the method; a forgotten package
// counts as one. The work is bounded (tens of microseconds at worst), so in huge tables it may miss a name.
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
	for i := range t.names {
		s := &t.names[i]
		ds, ok := svc.near(s.name, &budget)
		if !ok && strings.HasSuffix(s.name, unqualified) {
			ds, ok = 1, true
		}
		if !ok || ds >= bestDist {
			continue
		}
		if ds+serviceAlone < bestDist {
			bestService, bestMethod, bestDist = s, "", ds+serviceAlone
		}
		for _, m := range s.methods {
			if dm, ok := method.near(m, &budget); ok && ds+dm < bestDist {
				bestService, bestMethod, bestDist = s, m, ds+dm
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

// serviceAlone makes a service without a method worse than any near method.
const serviceAlone = 64

// pattern is a string prepared for many edit distances (Myers 1999, as Hyyro 2003 gives it): one bit per letter, so that a
// column of the matrix costs a few instructions. Longer strings than 64 bytes keep their ends: packages differ less than names.
type pattern struct {
	n    int
	mask [128]uint64 // by letter, lower case: where it stands
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
	p := &pattern{n: len(s)}
	for i := range len(s) {
		p.mask[fold(s[i])] |= 1 << i
	}
	return p
}

// near returns the edit distance to s (case does not count) if it is at most a third of the longer one.
func (p *pattern) near(s string, budget *int) (int, bool) {
	s = clip(s)
	most := max(p.n, len(s)) / 3
	if p.n == 0 || p.n-len(s) > most || len(s)-p.n > most || *budget < len(s) {
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
