package route

import (
	"fmt"
	"strings"
)

// Step is one rule as it was considered for a call.
type Step struct {
	Rule    Rule
	Matched bool
	Chosen  bool   // the first that matched
	Why     string // for people: why it matched, why not, or what outranks it
}

// Explain lists every rule in precedence order with what it says to the call, then the rules that Compile dropped: for people,
// slow. At most one step is Chosen, and it is the route that Match returns.
func (t *Table) Explain(path, authority string) []Step {
	steps := make([]Step, 0, len(t.routes))
	name, slashed := strings.CutPrefix(path, "/")
	slash := strings.LastIndexByte(name, '/')
	valid := slashed && slash > 0 && slash < len(name)-1
	var chosen *Route
	for _, r := range t.routes {
		s := Step{Rule: r.Rule}
		if !valid {
			s.Why = fmt.Sprintf("%q is not /pkg.Service/Method", path)
		} else {
			s.Matched, s.Why = r.Rule.Match.explain(name, name[:slash], authority)
		}
		switch {
		case s.Matched && chosen == nil:
			chosen, s.Chosen = r, true
		case s.Matched:
			s.Why += ", but outranked by " + chosen.Rule.Match.String() + " (" + chosen.Rule.Tier.String() + ")"
		}
		steps = append(steps, s)
	}
	for _, rule := range t.dropped {
		steps = append(steps, Step{Rule: rule, Why: "dropped: several clusters claim it, and choosing would be guessing"})
	}
	return steps
}

func (m Match) explain(name, svc, authority string) (bool, string) {
	if !authorityCovers(m.Authority, authority) {
		return false, fmt.Sprintf("authority %q is not %s", authority, m.Authority)
	}
	switch {
	case m.Method != "":
		if name == m.Method {
			return true, "the method"
		}
		return false, "another method"
	case m.Service != "":
		if svc == m.Service {
			return true, "the service"
		}
		return false, "another service"
	case m.Prefix != "":
		if strings.HasPrefix(name, m.Prefix) {
			return true, "begins with the prefix"
		}
		return false, "does not begin with the prefix"
	}
	return true, "the default takes all"
}
