// Package route owns the choice of a route for a call by its method and authority; it must not know endpoints, open
// anything or change after it was built.
//
// [Compile] turns rules into a [Table], which is immutable: lb puts each new one behind an atomic pointer, and a call keeps
// the one it began with. [Table.Match] is on the way of every call. [Table.Explain] and [Table.Nearest] are for people.
//
// # Precedence
//
// Rules with an authority come before rules without: the exact host:port, then the exact host, then wildcards from the
// longest suffix to the shortest, then rules for any authority. Among rules of one authority:
//
//  1. method, then service, then longest prefix, of the config (TierConfig)
//  2. method, then service, that a cluster declared (TierDeclared)
//  3. method, then service, that reflection found (TierReflection)
//  4. the default of the config
//
// Names compare whole: a rule for a.S/Get never takes a.S/GetAll. Where only methods of a service are known, its other
// methods match nothing (but a prefix or the default).
//
// # What will come, and where
//
// Metadata and cookie conditions become fields of [Match]. A level's maps then lead to a short list of routes in
// precedence order instead of one, whose conditions Match tries with the call's fields (a new argument); routes without
// conditions stay as fast as they are. Weighted splits are no matter of matching: they are part of the target, Rule.Data,
// and are drawn by the engine after Match.
package route

import "strings"

// Tier says who stands behind a rule. Lower is stronger.
type Tier uint8

// The tiers, strongest first.
const (
	TierConfig     Tier = iota // a route of the config
	TierDeclared               // a cluster's own word: grpcServices of a static cluster, service meta in Consul
	TierReflection             // found by asking endpoints
)

// String is the tier for people: "config", "declared", "reflection".
func (t Tier) String() string {
	switch t {
	case TierConfig:
		return "config"
	case TierDeclared:
		return "declared"
	case TierReflection:
		return "reflection"
	}
	return "unknown"
}

// Match says which calls a rule is for. At most one of Method, Service and Prefix is set; with none it is a default. Names are
// without leading slash and compare with case.
type Match struct {
	Method  string // "pkg.Service/Method"
	Service string // "pkg.Service"
	Prefix  string // of "pkg.Service/Method": "pkg." or "pkg.Service/Get". Only in TierConfig, as defaults are
	// Authority is "host", "host:port" or either with "*." in front (one or more labels); "" is any. Without a port, the call's
	// does not matter. Letters compare without case.
	Authority string
}

// String is the match as people write it: "method pkg.S/M", "service pkg.S", "prefix pkg.", "default", each with
// " at AUTHORITY" if it has one.
func (m Match) String() string {
	s := "default"
	switch {
	case m.Method != "":
		s = "method " + m.Method
	case m.Service != "":
		s = "service " + m.Service
	case m.Prefix != "":
		s = "prefix " + m.Prefix
	}
	if m.Authority != "" {
		s += " at " + m.Authority
	}
	return s
}

// Rule is one line of the table as its author gave it.
type Rule struct {
	Name    string // for metrics and logs; Compile fills in Match.String() where it is empty
	Tier    Tier
	Match   Match
	Cluster string
	Source  string // where it is from, for people: "trunkline.yaml:12", "reflection of echo"
	Data    any    // the engine's compiled target; not looked at here but to see whether two rules are the same
}

// Route is a rule in a table. One rule is one Route for the table's life, so pointers may be compared and kept.
type Route struct {
	Rule  Rule
	Index int // position in Rules()
}

// Table is a compiled set of rules. Immutable; safe for concurrent use. The zero Table matches nothing.
type Table struct {
	any     level     // rules for any authority
	hosts   *hosts    // rules with an authority; nil if there are none
	routes  []*Route  // in precedence order
	dropped []Rule    // contradicted each other below TierConfig; they match nothing
	names   []service // what Nearest knows, sorted
}

// Match returns the route of a call, or nil. path is :path with its leading slash; what is not "/service/method" matches
// nothing, not even the default. authority is :authority as it came. Both are only read; Match does not allocate.
func (t *Table) Match(path, authority string) *Route {
	if path == "" || path[0] != '/' {
		return nil
	}
	if t.hosts != nil && authority != "" {
		if r := t.hosts.match(path[1:], authority); r != nil {
			return r
		}
	}
	return t.any.match(path[1:])
}

// Rules returns a copy of all rules, in precedence order. Rules that Compile dropped are not among them.
func (t *Table) Rules() []Rule {
	rules := make([]Rule, len(t.routes))
	for i, r := range t.routes {
		rules[i] = r.Rule
	}
	return rules
}

// level holds the rules of one authority. What can be decided when the table is compiled is decided then: methods holds the
// final answer for each known method, whichever rule it is from.
type level struct {
	methods  map[string]*Route // by "pkg.Service/Method"
	services map[string]*Route // by "pkg.Service": the strongest rule for the whole service
	prefixes map[string]*Route // by prefix
	lengths  []int             // the lengths of prefixes, longest first, each once
	fallback *Route            // the default; may be nil
}

// match finds the route of "pkg.Service/Method".
func (l *level) match(name string) *Route {
	if r, ok := l.methods[name]; ok {
		return r
	}
	slash := strings.LastIndexByte(name, '/')
	if slash <= 0 || slash == len(name)-1 {
		return nil
	}
	return l.matchUnknown(name, name[:slash])
}

// matchUnknown finds the route of a method that no method rule names.
func (l *level) matchUnknown(name, svc string) *Route {
	s := l.services[svc]
	if s != nil && s.Rule.Tier == TierConfig {
		return s
	}
	if r := l.prefix(name); r != nil {
		return r
	}
	if s != nil {
		return s
	}
	return l.fallback
}

func (l *level) prefix(name string) *Route {
	for _, n := range l.lengths {
		if n <= len(name) {
			if r := l.prefixes[name[:n]]; r != nil {
				return r
			}
		}
	}
	return nil
}
