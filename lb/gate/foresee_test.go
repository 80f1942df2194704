package gate

import (
	"slices"
	"strings"
	"testing"
)

// What a call would be asked, in words; and where it would be refused whoever calls, Check refuses it.
func TestWhatACallWouldBeAskedIsForeseen(t *testing.T) {
	i := newIssuer(t)
	const proof = "It would be asked for a token of https://id.example.com (authentication.required[1])."
	const shown = "It needs no proof of who calls, but one that it shows would have to be good (authentication)."
	cfg := parse(t, `
listeners: [ { address: 127.0.0.1:0 } ]
`+i.authentication("  required: [ other.*, \"*\" ]\n  anonymous: [ bench.Open/* ]")+`
authorization:
  rules:
    - { name: frozen, methods: [ bench.Echo/* ], action: deny, when: 'claims.?frozen.orValue(false) == "s3cret"' }
    - { name: readers, methods: [ bench.Echo/Ping ], action: allow, when: 'claims.role == "reader"' }
    - { name: admins, methods: [ bench.Echo/Ping ], action: allow, when: 'claims.role == "admin"' }
    - { name: all, methods: [ bench.Open/Get ], action: allow }
    - { name: closed, methods: [ bench.Open/Never, bench.Echo/Never ], action: deny, message: "use bench.Open/Get" }
    - { name: soon, methods: [ bench.Open/Get ], action: deny, shadow: true }
externalAuthorization: { address: "127.0.0.1:1", except: [ bench.Open/* ] }
`)
	g := open(t, `authorization: { default: deny, rules: [ { name: one, methods: [ x.Y/Z ], action: allow } ] }`)
	if asked, refused := Foresee(parse(t, `authorization: { default: deny, rules: [ { name: one, methods: [ x.Y/Z ], action: allow } ] }`), ping); len(asked) != 0 ||
		refused != check(t, g, call()).Message {
		t.Errorf("the default denies: %q %q", asked, refused)
	}
	for method, want := range map[string]struct {
		asked   []string
		refused string
	}{
		ping: {[]string{proof, "It would be refused if it meets the condition of rule frozen (authorization.rules[0]).",
			"It would be refused unless it meets the condition of rule readers (authorization.rules[1]) or rule admins (authorization.rules[2]).",
			"The authorization service would be asked, and may refuse it (externalAuthorization)."}, ""},
		"bench.Open/Get":   {[]string{shown}, ""},
		"bench.Open/Never": {[]string{shown}, "rule closed denies bench.Open/Never, whoever calls: use bench.Open/Get (authorization.rules[4])"},
		"bench.Echo/Never": {[]string{proof, "It would be refused if it meets the condition of rule frozen (authorization.rules[0])."},
			"rule closed denies bench.Echo/Never, whoever calls: use bench.Open/Get (authorization.rules[4])"},
	} {
		asked, refused := Foresee(cfg, method)
		if !slices.Equal(asked, want.asked) || refused != want.refused {
			t.Errorf("%s: %q %q", method, asked, refused)
		}
		if strings.Contains(strings.Join(asked, ""), "s3cret") {
			t.Errorf("a condition is told: %q", asked)
		}
	}
	gate, err := New(cfg, quiet())
	must(t, err)
	defer gate.Close()
	never := call()
	never.Method = "bench.Open/Never"
	if v := check(t, gate, never); !v.Refused || v.Reason != "DENIED_BY_RULE" {
		t.Errorf("%+v", v)
	}
	if v := check(t, open(t, "authorization: { default: deny }"), call()); strings.Contains(v.Message, "AdminService") {
		t.Error(v.Message)
	}
}

func TestWhereEverythingIsDeniedTheAdminApiSaysWhatToWrite(t *testing.T) {
	g := open(t, "authorization: { default: deny }")
	v := g.CheckHTTP("trunkline.admin.v1.AdminService/GetStatus", nil, nil, "127.0.0.1", call().Now)
	if !v.Refused || !strings.Contains(v.Message, "methods: [ trunkline.admin.v1.AdminService/* ]") {
		t.Errorf("%+v", v)
	}
	open := open(t, "authorization: { default: deny, rules: [ { name: operators, action: allow, methods: [ trunkline.admin.v1.AdminService/* ] } ] }")
	if v := open.CheckHTTP("trunkline.admin.v1.AdminService/GetStatus", nil, nil, "127.0.0.1", call().Now); v.Refused {
		t.Errorf("%+v", v)
	}
}
