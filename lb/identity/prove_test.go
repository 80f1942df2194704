package identity

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func keyFile(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	save(t, path, []byte(strings.Join(lines, "\n")))
	return path
}

func hashed(name, key string) string {
	return fmt.Sprintf("%s sha256:%x", name, sha256.Sum256([]byte(key)))
}

func TestATokenProvesItsBearerAtOnceTheSecondTime(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}})
	c := bearer(i.token("one", nil))
	first := a.prove(t, c)
	if first.says() != "jwt alice" || first.Principal.Provider != "main" {
		t.Fatal(first.says(), first.Refused)
	}
	if second := a.Prove(c.field, nil, time.Now(), nil); second != first {
		t.Error("it is judged again")
	}
	if a.Prove(call{"authorization": "bearer  " + c["authorization"][7:]}.field, nil, time.Now(), nil) != first {
		t.Error("the scheme's name is not taken in lower case (RFC 9110 section 11.1)")
	}
}

func TestWhoShowsNothingIsNobody(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}, ApiKeys: &configv1.ApiKeys{File: keyFile(t, hashed("shop", "k1"))}})
	for _, c := range []call{{}, {"authorization": "Basic YTpi"}, {"authorization": "Bearish x"}, {"other": "x"}} {
		if p := a.Prove(c.field, nil, time.Now(), nil); p == nil || p.says() != "" || p.Set != nil || p.Remove != nil {
			t.Errorf("%v: %+v", c, p)
		}
	}
}

func TestAProofThatIsShownMustBeGood(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}, ApiKeys: &configv1.ApiKeys{File: keyFile(t, hashed("shop", "k1"))}})
	good := "Bearer " + i.token("one", nil)
	peer := &authn.Peer{Verified: true, SPIFFE: "spiffe://mesh/web"}
	for name, c := range map[string]struct {
		call call
		want string
	}{
		"key":                       {call{"x-api-key": "k1"}, "api_key shop"},
		"wrong key":                 {call{"x-api-key": "k2"}, "API_KEY_UNKNOWN"},
		"long key":                  {call{"x-api-key": strings.Repeat("k", 5000)}, "API_KEY_UNKNOWN"},
		"token and key":             {call{"authorization": good, "x-api-key": "k1"}, "jwt alice"},
		"token and wrong key":       {call{"authorization": good, "x-api-key": "k2"}, "API_KEY_UNKNOWN"},
		"wrong token and key":       {call{"authorization": "Bearer x", "x-api-key": "k1"}, "TOKEN_MALFORMED"},
		"empty token":               {call{"authorization": "Bearer "}, "TOKEN_MALFORMED"},
		"no token":                  {call{"authorization": "Bearer"}, "TOKEN_MALFORMED"},
		"another issuer":            {bearer(i.token("one", map[string]any{"iss": "https://other"})), "TOKEN_ISSUER"},
		"expired":                   {bearer(i.token("one", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), "TOKEN_EXPIRED"},
		"two tokens":                {call{"authorization": good + "," + good}, "TOKEN_MALFORMED"},
		"a scheme and a token":      {call{"authorization": "Basic YTpi, " + good}, "TOKEN_MALFORMED"},
		"nothing and a token":       {call{"authorization": "," + good}, "TOKEN_MALFORMED"},
		"two other schemes":         {call{"authorization": "Basic YTpi,Basic YTpi"}, "certificate spiffe://mesh/web"},
		"two keys":                  {call{"x-api-key": "k1,k1"}, "API_KEY_UNKNOWN"},
		"nothing but a certificate": {call{}, "certificate spiffe://mesh/web"},
	} {
		for range 2 { // the second answer is remembered
			if p := a.proveAt(t, c.call, peer, time.Now()); p.says() != c.want {
				t.Errorf("%s: %s, want %s", name, p.says(), c.want)
			}
		}
	}
}

func TestATokenIsGoodUntilItExpiresHoweverWellRemembered(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}})
	now := time.Now()
	c := bearer(i.token("one", map[string]any{"exp": now.Add(time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix()}))
	for _, step := range []struct {
		at   time.Duration
		want string
	}{{0, "jwt alice"}, {80 * time.Second, "jwt alice"}, {91 * time.Second, "TOKEN_EXPIRED"}, {time.Hour, "TOKEN_EXPIRED"}} {
		if p := a.proveAt(t, c, nil, now.Add(step.at)); p.says() != step.want {
			t.Errorf("after %v: %s, want %s", step.at, p.says(), step.want)
		}
	}
}

func TestEndpointsAreToldWhoCalls(t *testing.T) {
	i := newIssuer(t, "one")
	p := i.provider()
	p.ClaimsToMetadata = []*configv1.ClaimToMetadata{{Claim: "realm.roles", Metadata: "X-Roles"}, {Claim: "tenant", Metadata: "x-tenant"}}
	p.Strip = true
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{p}, IdentityMetadata: "X-User", ProtectedMetadata: []string{"x-Admin", "x-user"},
		ApiKeys: &configv1.ApiKeys{File: keyFile(t, hashed("shop", "k1"))}})
	if got := a.Protected(); !slices.Equal(got, []string{"x-admin", "x-roles", "x-tenant", "x-user"}) {
		t.Errorf("protected: %q", got)
	}
	token := i.token("one", map[string]any{"realm": map[string]any{"roles": []string{"a", "b"}}, "tenant": "x\r\nx-user: root"})
	for name, c := range map[string]struct {
		call        call
		peer        *authn.Peer
		set, remove string
	}{
		"token":         {bearer(token), nil, "[[x-roles a,b] [x-user alice]]", "[authorization]"},
		"key":           {call{"x-api-key": "k1"}, nil, "[[x-user shop]]", "[x-api-key]"},
		"both":          {call{"authorization": "Bearer " + token, "x-api-key": "k1"}, nil, "[[x-roles a,b] [x-user alice]]", "[x-api-key authorization]"},
		"certificate":   {call{}, &authn.Peer{Verified: true, DNS: []string{"web.example.com"}}, "[[x-user web.example.com]]", "[]"},
		"unsendable":    {call{}, &authn.Peer{Verified: true, CommonName: "wéb"}, "[]", "[]"},
		"no certificat": {call{}, &authn.Peer{DNS: []string{"web.example.com"}}, "[]", "[]"},
	} {
		p := a.proveAt(t, c.call, c.peer, time.Now())
		if p.Refused != nil || fmt.Sprint(p.Set) != c.set || fmt.Sprint(p.Remove) != c.remove {
			t.Errorf("%s: set %v, remove %v (%+v); want %s and %s", name, p.Set, p.Remove, p.Refused, c.set, c.remove)
		}
	}
}

func TestTheKeyGoesOnWhereThatIsAskedFor(t *testing.T) {
	a := begin(t, &configv1.Authentication{ApiKeys: &configv1.ApiKeys{File: keyFile(t, hashed("shop", "k1")), Forward: true, Metadata: "x-key"}})
	if p := a.prove(t, call{"x-key": "k1"}); p.says() != "api_key shop" || len(p.Remove)+len(p.Set) != 0 {
		t.Errorf("%+v", p)
	}
}

func TestATokenInAFieldOfItsOwnNeedsNoScheme(t *testing.T) {
	i, j := newIssuer(t, "one"), newIssuer(t, "one")
	p, q := i.provider(), j.provider()
	q.Name, q.Metadata = "inner", "x-token"
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{p, q}})
	inner := j.token("one", map[string]any{"sub": "inner"})
	for name, c := range map[string]struct {
		call call
		want string
	}{
		"bare":                    {call{"x-token": inner}, "jwt inner"},
		"with a scheme":           {call{"x-token": "Bearer " + inner}, "jwt inner"},
		"both":                    {call{"x-token": inner, "authorization": "Bearer " + i.token("one", nil)}, "jwt alice"},
		"in the other's field":    {bearer(inner), "TOKEN_ISSUER"},
		"with another, not good":  {call{"x-token": "x", "authorization": "Bearer " + i.token("one", nil)}, "TOKEN_MALFORMED"},
		"with a scheme not taken": {call{"x-token": "Basic YTpi"}, "TOKEN_MALFORMED"},
	} {
		for range 2 {
			if p := a.prove(t, c.call); p.says() != c.want {
				t.Errorf("%s: %s, want %s", name, p.says(), c.want)
			}
		}
	}
}

func TestMethodsAreRequiredToHaveAProvenCallerOrNot(t *testing.T) {
	a := begin(t, &configv1.Authentication{Required: []string{"shop.*"}, Anonymous: []string{"shop.Health/*"}, ApiKeys: &configv1.ApiKeys{File: keyFile(t)}})
	if !a.Required("shop.Cart/Add") || a.Required("shop.Health/Check") || a.Required("bank.Account/Get") {
		t.Error("required is not as configured")
	}
	want := "this method is only for callers who prove who they are: send a key as the metadata x-api-key, or show a client certificate"
	if m := a.Missing(nil); m.Reason != "TOKEN_MISSING" || m.Message != want {
		t.Errorf("%+v", m)
	}
}

func TestWhoIsMissingAProofIsToldOfThoseThatAreTakenHere(t *testing.T) {
	i := newIssuer(t, "one")
	const only = "this method is only for callers who prove who they are: "
	send := "send a token of " + i.provider().GetIssuer() + " as the metadata authorization: Bearer <token>"
	for _, c := range []struct {
		cfg          *configv1.Authentication
		certificates bool
		call         call
		says, known  string
	}{
		{&configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}}, true, call{}, send + ", or show a client certificate", "a token or a client certificate"},
		{&configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}}, false, call{}, send, "a token"},
		{&configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}}, false, call{"authorization": "Basic YTpi"},
			"what was sent as authorization is no bearer token, for it does not begin with Bearer; " + send, "a token"},
		{&configv1.Authentication{ApiKeys: &configv1.ApiKeys{File: keyFile(t)}}, false, call{"authorization": "Basic YTpi"}, "send a key as the metadata x-api-key", "a key"},
		{nil, false, call{}, "no way to do so is configured here, ask whoever runs this balancer", ""},
	} {
		cfg := c.cfg
		if cfg != nil {
			cfg = defaulted(cfg)
		}
		a, err := New(cfg, c.certificates, slog.New(slog.DiscardHandler))
		must(t, err)
		if got := a.Missing(c.call.field).Message; got != only+c.says || a.Known() != c.known {
			t.Errorf("%q %q\nwant %q", got, a.Known(), c.says)
		}
		a.Close()
	}
}

func TestWithoutConfigurationACertificateStillNamesItsCaller(t *testing.T) {
	a, err := New(nil, true, slog.New(slog.DiscardHandler))
	must(t, err)
	defer a.Close()
	if p := a.prove(t, bearer("x")); p.says() != "" {
		t.Error(p.says())
	}
	if p := a.proveAt(t, call{}, &authn.Peer{Verified: true, CommonName: "web"}, time.Now()); p.says() != "certificate web" {
		t.Error(p.says())
	}
}

// Many calls of one client begin at once, before its token is known.
func TestCallsThatShowTheSameTokenWaitForOneJudgement(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}})
	c := bearer(i.token("one", nil))
	var wg sync.WaitGroup
	proofs := make([]*Proof, 200)
	for n := range proofs {
		wg.Go(func() { proofs[n] = a.prove(t, c) })
	}
	wg.Wait()
	for _, p := range proofs {
		if p != nil && p.says() != "jwt alice" {
			t.Fatal(p.says())
		}
	}
	if n := a.groups[0].good.len(); n != 1 {
		t.Errorf("%d tokens remembered", n)
	}
	if n := a.waiting.Load(); n != 0 {
		t.Errorf("%d calls still count as waiting", n)
	}
}

func TestTooManyWaitingCallsAreRefusedInWords(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}})
	known := bearer(i.token("one", nil))
	a.prove(t, known)
	a.waiting.Store(maxWaiting)
	if p := a.Prove(bearer(i.token("one", map[string]any{"x": 1})).field, nil, time.Now(), nil); p == nil || p.says() != "TOKENS_WAITING" {
		t.Errorf("%+v", p)
	}
	if p := a.Prove(known.field, nil, time.Now(), nil); p == nil || p.says() != "jwt alice" {
		t.Errorf("who is known does not pass: %+v", p)
	}
}

func TestAKnownTokenIsProvedWithoutAnAllocation(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}, ApiKeys: &configv1.ApiKeys{File: keyFile(t, hashed("shop", "k1"))}})
	token, key, peer := bearer(i.token("one", nil)), call{"x-api-key": "k1"}, &authn.Peer{Verified: true, CommonName: "web"}
	a.prove(t, token)
	now := time.Now()
	tokenField, keyField, none := token.field, key.field, call{}.field
	for name, c := range map[string]struct {
		field func(string) string
		most  float64
	}{"token": {tokenField, 0}, "key": {keyField, 0}, "certificate": {none, 1}} {
		if n := testing.AllocsPerRun(100, func() { a.Prove(c.field, peer, now, nil) }); n > c.most {
			t.Errorf("%s: %v allocations, want %v at most", name, n, c.most)
		}
	}
}

func BenchmarkProveKnownToken(b *testing.B) {
	i := newIssuer(b, "one")
	a := begin(b, &configv1.Authentication{Jwt: []*configv1.JwtProvider{i.provider()}})
	c := bearer(i.token("one", map[string]any{"roles": strings.Repeat("administrator,", 30)})) // some 900 bytes
	a.prove(b, c)
	now, field := time.Now(), c.field
	b.Logf("token of %d bytes", len(c["authorization"]))
	b.ReportAllocs()
	for b.Loop() {
		a.Prove(field, nil, now, nil)
	}
}

func BenchmarkProveKey(b *testing.B) {
	a := begin(b, &configv1.Authentication{ApiKeys: &configv1.ApiKeys{File: keyFile(b, hashed("shop", "k1"))}})
	now, field := time.Now(), call{"x-api-key": "k1"}.field
	b.ReportAllocs()
	for b.Loop() {
		a.Prove(field, nil, now, nil)
	}
}

// The shard would wait for so long a token's digest; its refusal is told at once, and not remembered.
func TestATokenThatIsTooLongIsRefusedAtOnce(t *testing.T) {
	g := newGroup(t.Context(), nil, "authorization")
	p := g.known(strings.Repeat("a", authn.MaxToken+1), time.Now())
	if p == nil || p.Refused == nil || p.Refused.Reason != "TOKEN_MALFORMED" || !strings.Contains(p.Refused.Message, "more than 16384") {
		t.Errorf("%+v", p)
	}
	if p := g.known(strings.Repeat("a", authn.MaxToken), time.Now()); p != nil {
		t.Errorf("of a token that nobody has judged is known: %+v", p.Refused)
	}
}
