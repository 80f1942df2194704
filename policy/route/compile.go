package route

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Compile builds the table of rules, in any order. All errors are reported at once (errors.Join), each naming the rule and its
// Source: a match that could never match, a prefix or default outside TierConfig, and two rules of TierConfig with the same
// match that differ in Cluster or Data (deeply equal ones are one rule, the first).
//
// What is found out there must not stop a config from being loaded: two rules of a weaker tier with the same match and different
// clusters drop out both, because choosing would be guessing. (discovery refuses and reports such claims; this is the net below,
// and [Table.Explain] shows what it caught.)
func Compile(rules []Rule) (*Table, error) {
	var errs []error
	var kept []*Route
	type key struct {
		tier  Tier
		match Match
	}
	first := map[key]*Route{}
	refused := map[key][]Rule{}
	for _, rule := range rules {
		if err := rule.Match.check(rule.Tier); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rule.at(), err))
			continue
		}
		rule.Match.Authority = string(lower(nil, rule.Match.Authority))
		if rule.Name == "" {
			rule.Name = rule.Match.String()
		}
		k := key{rule.Tier, rule.Match}
		have := first[k]
		switch {
		case have == nil:
			first[k] = &Route{Rule: rule}
			kept = append(kept, first[k])
		case have.Rule.Cluster == rule.Cluster && (rule.Tier != TierConfig || reflect.DeepEqual(have.Rule.Data, rule.Data)):
			// the same once more
		case rule.Tier == TierConfig:
			errs = append(errs, fmt.Errorf("%s: %s leads to %q here and to %q in %s: remove one", rule.at(), rule.Match,
				rule.Cluster, have.Rule.Cluster, have.Rule.at()))
		default:
			if refused[k] == nil {
				refused[k] = []Rule{have.Rule}
			}
			refused[k] = append(refused[k], rule)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var dropped []Rule
	kept = slices.DeleteFunc(kept, func(r *Route) bool {
		rules := refused[key{r.Rule.Tier, r.Rule.Match}]
		dropped = append(dropped, rules...)
		return rules != nil
	})
	t := build(kept)
	t.dropped = dropped
	return t, nil
}

func (r Rule) at() string {
	return cmp.Or(r.Source, r.Name, "rule "+r.Match.String())
}

func (m Match) check(tier Tier) error {
	set := 0
	for _, s := range []string{m.Method, m.Service, m.Prefix} {
		if s == "" {
			continue
		}
		if set++; s[0] == '/' {
			return fmt.Errorf("%s: a name has no leading slash, write %q", m, strings.TrimLeft(s, "/"))
		}
	}
	if tier > TierReflection {
		return fmt.Errorf("%s: unknown tier %d", m, tier)
	}
	if set > 1 {
		return fmt.Errorf("%s: only one of method, service and prefix may be given", m)
	}
	if tier != TierConfig && m.Method == "" && m.Service == "" {
		return fmt.Errorf("%s: only the config may have a prefix or a default, this is from %s", m, tier)
	}
	if m.Method != "" {
		if i := strings.LastIndexByte(m.Method, '/'); i < 1 || i == len(m.Method)-1 {
			return fmt.Errorf("%s: a method is written pkg.Service/Method", m)
		}
	}
	if strings.HasSuffix(m.Service, "/") {
		return fmt.Errorf("%s: a service is written pkg.Service, without a slash", m)
	}
	return checkAuthority(m.Authority)
}

func checkAuthority(pattern string) error {
	rest := strings.TrimPrefix(pattern, "*.")
	n := portAt(rest)
	switch {
	case pattern == "":
		return nil
	case len(pattern) > maxAuthority:
		return fmt.Errorf("authority %q is longer than %d bytes", pattern, maxAuthority)
	case strings.Contains(rest, "*"):
		return fmt.Errorf("authority %q: a wildcard is written *.example.com", pattern)
	case n == 0, n == len(rest)-1, strings.ContainsAny(rest, "/@ "):
		return fmt.Errorf("authority %q: want host, host:port or *.host", pattern)
	}
	return nil
}

// build sorts routes into precedence order and files them by authority.
func build(routes []*Route) *Table {
	slices.SortStableFunc(routes, precedence)
	t := &Table{routes: routes}
	levels := []*level{&t.any}
	for i, r := range routes {
		r.Index = i
		l := &t.any
		if a := r.Rule.Match.Authority; a != "" {
			if t.hosts == nil {
				t.hosts = new(hosts)
			}
			if l = t.hosts.add(a); !slices.Contains(levels, l) {
				levels = append(levels, l)
			}
		}
		l.file(r)
	}
	for _, l := range levels {
		l.settle()
	}
	t.names = serviceNames(routes)
	return t
}

// kind orders the rules of one authority; the lowest that matches wins.
func (r *Route) kind() int {
	m := r.Rule.Match
	switch {
	case m.Method != "":
		return 3 * int(r.Rule.Tier)
	case m.Service != "":
		return 3*int(r.Rule.Tier) + 1
	case m.Prefix != "":
		return 2
	}
	return 3 * int(TierReflection+1)
}

func precedence(a, b *Route) int {
	ma, mb := a.Rule.Match, b.Rule.Match
	classA, lenA := authorityRank(ma.Authority)
	classB, lenB := authorityRank(mb.Authority)
	return cmp.Or(cmp.Compare(classA, classB), cmp.Compare(lenA, lenB), cmp.Compare(ma.Authority, mb.Authority),
		cmp.Compare(a.kind(), b.kind()), cmp.Compare(len(mb.Prefix), len(ma.Prefix)), cmp.Compare(ma.Method, mb.Method),
		cmp.Compare(ma.Service, mb.Service), cmp.Compare(ma.Prefix, mb.Prefix))
}

// file enters a route; routes come strongest first, so what is there stays.
func (l *level) file(r *Route) {
	m := r.Rule.Match
	switch {
	case m.Method != "":
		put(&l.methods, m.Method, r)
	case m.Service != "":
		put(&l.services, m.Service, r)
	case m.Prefix != "":
		put(&l.prefixes, m.Prefix, r)
		if n := len(m.Prefix); !slices.Contains(l.lengths, n) {
			l.lengths = append(l.lengths, n) // they come longest first
		}
	default:
		l.fallback = r
	}
}

func put(m *map[string]*Route, key string, r *Route) {
	if *m == nil {
		*m = map[string]*Route{}
	}
	if _, ok := (*m)[key]; !ok {
		(*m)[key] = r
	}
}

// settle decides for each known method whether its own rule or one for its service or prefix is stronger.
func (l *level) settle() {
	for name, own := range l.methods {
		other := l.matchUnknown(name, name[:strings.LastIndexByte(name, '/')])
		if other != nil && other.kind() < own.kind() {
			l.methods[name] = other
		}
	}
}
