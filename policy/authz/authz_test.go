package authz

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/methods"
)

const ping = "bench.Echo/Ping"

// field is metadata as a request has it.
type pair [2]string

// call is a call of a reader with a certificate.
func call(metadata ...pair) *Facts {
	return &Facts{
		Authority: "shop.example.com", Address: "10.1.2.3", Now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC),
		Peer: &authn.Peer{TLS: "TLS 1.3", ServerName: "shop.example.com", Verified: true, SPIFFE: "spiffe://example.com/web",
			DNS: []string{"web.example.com"}, CommonName: "web", Serial: "0a"},
		Principal: &authn.Principal{Kind: "jwt", Provider: "shop", Name: "web",
			Claims: map[string]any{"role": "reader", "roles": []any{"reader", "tester"}, "level": 3.0, "tenant": map[string]any{"id": "t-17"}}},
		Each: func(yield func(name, value string) bool) {
			for _, p := range metadata {
				if !yield(p[0], p[1]) {
					return
				}
			}
		},
	}
}

func compile(t testing.TB, deny bool, rules ...Rule) *Policy {
	t.Helper()
	for i := range rules {
		if rules[i].Methods == nil {
			rules[i].Methods = []string{"*"}
		}
	}
	p, err := Compile(rules, deny)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Each condition is what it says, of the reader's call.
func TestConditionsSeeWhatIsKnownOfACall(t *testing.T) {
	metadata := []pair{{"x-tenant", "acme"}, {"x-tenant", "other"}, {"x-debug", ""}, {"x-user", "spoofed"}}
	for _, c := range []struct {
		when string
		want bool
	}{
		{`method == "bench.Echo/Ping" && service == "bench.Echo"`, true},
		{`method.startsWith("bench.") && method.matches("^bench[.]E.*/Ping$")`, true},
		{`authority == "shop.example.com"`, true},
		{`metadata["x-tenant"][0] == "acme" && metadata["X-Tenant"].size() == 2`, true},
		{`"other" in metadata["x-tenant"]`, true},
		{`"x-debug" in metadata && !("x-absent" in metadata)`, true},
		{`has(metadata.authorization)`, false},
		{`metadata.?authorization[0].orValue("") == ""`, true},
		{`metadata.exists(k, k.startsWith("x-t") && metadata[k].exists(v, v == "other"))`, true},
		{`metadata.size() == 2`, true},
		{`"x-user" in metadata`, false}, // only Trunkline may set it
		{`peer.address == "10.1.2.3" && cidr("10.0.0.0/8").containsIP(peer.address)`, true},
		{`peer.tls == "TLS 1.3" && peer.server_name == "shop.example.com" && peer.verified`, true},
		{`peer.spiffe.startsWith("spiffe://example.com/") && peer.name == peer.spiffe`, true},
		{`"web.example.com" in peer.dns && peer.uris.size() == 0 && peer.emails == []`, true},
		{`has(peer.spiffe) && !has(peer.subject) && peer.issuer == "" && peer.fingerprint == ""`, true},
		{`peer.common_name == "web" && peer.serial == "0a"`, true},
		{`identity.kind == "jwt" && identity.provider == "shop" && identity.name == "web"`, true},
		{`claims.role == "reader" && claims.level >= 3 && claims["tenant"].id == "t-17"`, true},
		{`"tester" in claims.roles && claims.roles.exists(r, r == "reader")`, true},
		{`sets.intersects(claims.roles, ["admin", "tester"])`, true},
		{`claims.?admin.orValue(false) == true`, false},
		{`now > timestamp("2026-11-23T09:59:59Z") && now.getHours() < 18`, true},
		{"method == 'x' ||\n  true", true},
	} {
		f := call(metadata...)
		f.Hidden = func(name string) bool { return name == "x-user" }
		d := compile(t, false, Rule{Name: "a", When: c.when}).For(ping).Decide(f)
		if d.Denied == c.want {
			t.Errorf("%s: %+v, want %v", c.when, d, c.want)
		}
		for _, n := range d.Notes {
			if strings.Contains(n.Text, "cannot be evaluated") {
				t.Errorf("%s: %s", c.when, n.Text)
			}
		}
	}
}

func TestACallOfWhichNothingIsKnownHasEmptyFacts(t *testing.T) {
	for _, when := range []string{
		`peer.address == "" && peer.tls == "" && !peer.verified && peer.dns.size() == 0 && peer.name == ""`,
		`identity.name == "" && identity.kind == ""`, `claims.size() == 0`, `!has(claims.role)`, `metadata.size() == 0`,
	} {
		if d := compile(t, false, Rule{Name: "a", When: when}).For(ping).Decide(&Facts{}); d.Denied {
			t.Errorf("%s: %+v", when, d)
		}
	}
}

// A story per way to decide: what the rules are, and what becomes of the reader's call.
func TestADenyRuleWinsAndOfTheAllowRulesOneMustMatch(t *testing.T) {
	const yes, no, broken = `claims.role == "reader"`, `claims.role == "writer"`, `claims.absent == 1`
	for _, c := range []struct {
		name    string
		rules   []Rule
		deny    bool // by default
		refused bool
		rule    string
		missing []string
		notes   string
	}{
		{name: "no allow rule, the default allows", rules: []Rule{{Name: "d", Deny: true, When: no}}},
		{name: "no rules, the default denies", deny: true, refused: true, notes: "authorization.default! denies it: no rule allows this method"},
		{name: "an allow rule lets it in against the default", rules: []Rule{{Name: "a", When: yes}}, deny: true, rule: "a", notes: "a allows it"},
		{name: "the second allow rule lets it in", rules: []Rule{{Name: "a", When: no}, {Name: "b", When: yes}}, rule: "b", notes: "b allows it"},
		{name: "no allow rule matches", rules: []Rule{{Name: "a", When: no}, {Name: "b", When: no}}, refused: true, missing: []string{"a", "b"},
			notes: "a! does not allow it, b! does not allow it"},
		{name: "a deny rule wins", rules: []Rule{{Name: "a", When: yes}, {Name: "d", Deny: true, When: yes}}, refused: true, rule: "d", notes: "d! denies it"},
		{name: "a deny rule without a condition", rules: []Rule{{Name: "d", Deny: true}}, refused: true, rule: "d", notes: "d! denies it"},
		{name: "a deny rule that fails denies", rules: []Rule{{Name: "d", Deny: true, When: broken}}, refused: true, rule: "d",
			notes: "d! denies it: its condition cannot be evaluated (there is no absent)"},
		{name: "an allow rule that fails does not allow", rules: []Rule{{Name: "a", When: broken}}, refused: true, missing: []string{"a"},
			notes: "a! does not allow it: its condition cannot be evaluated (there is no absent)"},
		{name: "rules for others", rules: []Rule{{Name: "d", Deny: true, Methods: []string{"bench.Other/*"}}, {Name: "a", When: no, Methods: []string{"shop.*"}}}},

		{name: "a shadow deny rule only notes", rules: []Rule{{Name: "a", When: yes}, {Name: "s", Deny: true, Shadow: true}}, rule: "a",
			notes: "a allows it, s!~ would deny it"},
		{name: "a shadow deny rule that does not match", rules: []Rule{{Name: "s", Deny: true, Shadow: true, When: no}}},
		{name: "a shadow allow rule beside the default", rules: []Rule{{Name: "s", Shadow: true, When: no}},
			notes: "s!~ would refuse it: s would have to allow it"},
		{name: "a shadow allow rule that matches", rules: []Rule{{Name: "s", Shadow: true, When: no}, {Name: "u", Shadow: true, When: yes}}},
		{name: "a shadow allow rule would have let it in", rules: []Rule{{Name: "a", When: no}, {Name: "s", Shadow: true, When: yes}}, refused: true,
			missing: []string{"a"}, notes: "a! does not allow it, s~ would allow it"},
		{name: "a shadow allow rule does not help against a deny rule", rules: []Rule{{Name: "d", Deny: true}, {Name: "s", Shadow: true}}, refused: true, rule: "d",
			notes: "d! denies it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decision
			if r := compile(t, c.deny, c.rules...).For(ping); r != nil {
				d = r.Decide(call())
			}
			var notes []string
			for _, n := range d.Notes {
				s := n.Name
				if n.Refused {
					s += "!"
				}
				if n.Shadow {
					s += "~"
				}
				notes = append(notes, s+" "+n.Text)
			}
			if got := strings.Join(notes, ", "); d.Denied != c.refused || d.Rule != c.rule || !slices.Equal(d.Missing, c.missing) || got != c.notes {
				t.Errorf("%+v\nnotes %s\n want %s", d, got, c.notes)
			}
		})
	}
}

func TestAMethodWithoutRulesCostsNothing(t *testing.T) {
	p := compile(t, false, Rule{Name: "a", Methods: []string{"shop.*"}})
	if r := p.For(ping); r != nil {
		t.Errorf("rules for %s: %+v", ping, r)
	}
	if r := (*Policy)(nil).For(ping); r != nil {
		t.Errorf("rules of nobody: %+v", r)
	}
	if r := p.For("shop.Cart/Get"); r == nil || r.Metadata {
		t.Errorf("rules for shop.Cart/Get: %+v", r)
	}
	if r := compile(t, false, Rule{Name: "a", When: `"x" in metadata`}).For(ping); !r.Metadata {
		t.Error("a rule that looks at metadata does not say so")
	}
}

// What callers send must not reach records through errors.
func TestNotesHoldNoValues(t *testing.T) {
	p := compile(t, false, Rule{Name: "a", When: `claims[metadata["x"][0]] == 1 || claims.roles[int(metadata["y"][0])] == "a"`})
	d := p.For(ping).Decide(call(pair{"x", "s3cret"}, pair{"y", "s3cret"}))
	if !d.Denied || len(d.Notes) != 1 || strings.Contains(d.Notes[0].Text, "s3cret") {
		t.Errorf("%+v", d)
	}
}

// Metadata can be made so large that a loop within a loop would take long: the limit ends it, and what fails does not allow.
func TestAConditionThatCostsTooMuchIsCutOff(t *testing.T) {
	p := compile(t, false, Rule{Name: "a", When: `metadata.exists(k, metadata[k].exists(v, v.contains("zz")))`})
	var many []pair
	for range 500 {
		many = append(many, pair{"x", strings.Repeat("z ", 2000)})
	}
	d := p.For(ping).Decide(call(many...))
	if !d.Denied || !strings.Contains(d.Notes[0].Text, "cost limit exceeded") {
		t.Errorf("%+v", d)
	}
}

func TestAWrongConditionIsExplained(t *testing.T) {
	for when, want := range map[string]string{
		`clams.role == "x"`:                   `at character 1 (clams.role == "x"): there is no clams; did you mean claims?`,
		`peer.adress == ""`:                   `at character 5 (.adress == ""): there is no field adress; did you mean address?`,
		`metadata["x-tenant"] == "acme"`:      `at character 22 (== "acme"): cannot compare or call so: '==' applied to '(list(string), string)'; the values of metadata are lists: write metadata["x-tenant"][0], or "acme" in metadata["x-tenant"]`,
		`method == 3`:                         `at character 8 (== 3): cannot compare or call so: '==' applied to '(string, int)'`,
		`method ==`:                           `at character 10: does not parse: mismatched input the end`,
		`claims.admin`:                        `at character 1: the result may be anything: write claims.admin == true, if that is what is meant`,
		`service`:                             `at character 1: the result is a string, not true or false: compare it with something`,
		`size(3, 4) == 2 && isReader(claims)`: `at character 5 ((3, 4) == 2 && isReader(...): cannot compare or call so: 'size' applied to '(int, int)'`,
		`isReader(claims)`:                    `at character 9 ((claims)): there is no function isReader`,
		`cidr("10.0.0.0/99").containsIP("")`:  `at character 6 ("10.0.0.0/99").containsI...): invalid cidr argument: prefix length out of range`,
		`method.matches("(")`:                 `at character 16 ("(")): invalid matches argument`,
		"true &&\n  peer.nme == ''":           `at line 2, character 7 (.nme == ''): there is no field nme; did you mean name?`,
		`metadata.exists(a, metadata.exists(b, metadata.exists(c, a+b == c)))`: `at character 1: it may cost 1513666 steps for a call, and 20000 are allowed: ` +
			`loop over less, or not within a loop`,
		strings.Repeat("(", 20_000): `at character 1`,
	} {
		_, err := Compile([]Rule{{Name: "ok", Methods: []string{"*"}}, {Name: "wrong", Methods: []string{"*"}, When: when}}, false)
		var r *RuleError
		var x *ExpressionError
		if !errors.As(err, &r) || r.Index != 1 || !errors.As(err, &x) || !strings.HasPrefix(x.Error(), want) {
			t.Errorf("%.100s: %v\n want %s", when, err, want)
		}
	}
	var pattern *methods.PatternError
	if _, err := Compile([]Rule{{Name: "wrong", Methods: []string{"a.B"}}}, false); !errors.As(err, &pattern) {
		t.Errorf("a wrong pattern: %v", err)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(`claims.role == "reader" && "x" in metadata`)
	f.Add("peer.dns.exists(d, d.endsWith('.example.com')) ||\n now.getHours() < 8")
	c, err := NewCompiler()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, when string) {
		x, err := c.Compile(when)
		if err != nil {
			var e *ExpressionError
			if !errors.As(err, &e) || e.Line < 1 || e.Column < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		p := &Policy{}
		p.working.New = func() any { return new(facts) }
		r := &Rules{policy: p, allow: []*rule{{when: x}}, boxedMethod: types.String(ping), boxedService: types.String("bench.Echo")}
		r.Decide(call(pair{"x", "y"}))
		r.Decide(&Facts{})
	})
}

func BenchmarkDecide(b *testing.B) {
	p := compile(b, false,
		Rule{Name: "frozen", Deny: true, When: `claims.role == "frozen"`},
		Rule{Name: "readers", When: `claims.role == "reader" && method == "bench.Echo/Ping"`})
	r, f := p.For(ping), call()
	b.ReportAllocs()
	for b.Loop() {
		if r.Decide(f).Denied {
			b.Fatal("denied")
		}
	}
}
