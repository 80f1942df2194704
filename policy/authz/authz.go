// Package authz owns the rules over calls: compiling their conditions, once, and deciding by them who may call what; it must not
// find out who calls, refuse calls itself, or tell anybody what its facts are.
//
// A deny rule that matches wins. Else, where allow rules name the method, one must match; where none does, the default decides.
// A condition that cannot be evaluated (a claim that is not there, say) is the cautious answer: a deny rule then matches, an
// allow rule does not. Shadow rules decide nothing; what they would have done is noted.
package authz

import (
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/trunkline/trunkline/policy/methods"
)

// Rule is one rule as it is written.
type Rule struct {
	Name    string   // for people
	Methods []string // patterns of policy/methods
	When    string   // a condition in CEL; "" is always true
	Deny    bool     // else it allows
	Shadow  bool     // it only notes
	Message string   // for those whom it refuses
}

// Policy are compiled rules. Immutable.
type Policy struct {
	rules   []*rule
	deny    bool // where no allow rule names the method
	working sync.Pool
}

// rule is a compiled rule. Immutable.
type rule struct {
	Rule
	methods methods.Set
	when    *Condition // nil: always
	allowed []Note     // what is noted when it lets a call in
}

// RuleError is why a rule cannot be compiled. What it wraps is a *methods.PatternError or an *ExpressionError.
type RuleError struct {
	Index int // of the rule
	Name  string
	Err   error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %q: %v", e.Name, e.Err) }
func (e *RuleError) Unwrap() error { return e.Err }

// Compile makes rules ready. deny is the default where no allow rule names the method. The error is a *RuleError.
func Compile(rules []Rule, deny bool) (*Policy, error) {
	p := &Policy{deny: deny}
	p.working.New = func() any { return new(facts) }
	c, err := NewCompiler()
	if err != nil {
		return nil, err
	}
	for i, r := range rules {
		set, err := methods.Compile(r.Methods)
		if err != nil {
			return nil, &RuleError{Index: i, Name: r.Name, Err: err}
		}
		x := &rule{Rule: r, methods: set, allowed: []Note{{Name: r.Name, Text: "allows it"}}}
		if strings.TrimSpace(r.When) != "" {
			if x.when, err = c.Compile(r.When); err != nil {
				return nil, &RuleError{Index: i, Name: r.Name, Err: err}
			}
		}
		p.rules = append(p.rules, x)
	}
	return p, nil
}

// Rules are those that hold for one method. Immutable.
type Rules struct {
	policy                    *Policy
	deny, allow               []*rule
	shadows                   []*rule
	boxedMethod, boxedService ref.Val // strings, made once
	// Metadata tells whether any of them looks at the request's metadata.
	Metadata bool
}

// For is what holds for a method, "pkg.Service/Method"; nil if every call of it passes.
func (p *Policy) For(method string) *Rules {
	if p == nil {
		return nil
	}
	r := &Rules{policy: p}
	for _, x := range p.rules {
		if !x.methods.Match(method) {
			continue
		}
		switch {
		case x.Shadow:
			r.shadows = append(r.shadows, x)
		case x.Deny:
			r.deny = append(r.deny, x)
		default:
			r.allow = append(r.allow, x)
		}
		r.Metadata = r.Metadata || x.when.uses("metadata")
	}
	if len(r.deny)+len(r.allow)+len(r.shadows) == 0 && !p.deny {
		return nil
	}
	method = strings.Clone(method)
	service, _, _ := strings.Cut(method, "/")
	r.boxedMethod, r.boxedService = types.String(method), types.String(service)
	return r
}
