package gate

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/identity"
	"github.com/trunkline/trunkline/policy/authn"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

func TestAConfigurationThatAsksNothingHasNoGate(t *testing.T) {
	g, err := New(parse(t, "{}"), quiet())
	if g != nil || err != nil {
		t.Fatal(g, err)
	}
	if g.For(ping) != nil || g.Protected() != nil || g.Identity() != nil {
		t.Error("no gate asks something")
	}
	if v := g.CheckHTTP(ping, nil, nil, "", time.Now()); v.Refused {
		t.Errorf("%+v", v)
	}
	g.Close()
	g = open(t, `authorization: { rules: [ { name: a, methods: [ "shop.*" ], action: allow } ] }`)
	if g.For(ping) != nil || g.For("shop.Cart/Get") == nil {
		t.Error("what is asked of methods that no rule names")
	}
}

// The refusals, as the caller reads them.
func TestARefusalTellsItsCallerWhatToDo(t *testing.T) {
	i := newIssuer(t)
	keys := write(t, "keys", hashed("batch", "s3cret"))
	const rules = `
authorization:
  rules:
    - { name: readers, methods: [ bench.Echo/Ping ], action: allow, when: 'claims.role == "reader"', message: "ask the shop team for the role reader" }
    - { name: admins, methods: [ bench.Echo/Ping ], action: allow, when: 'claims.role == "admin"' }
    - { name: frozen, methods: [ "*" ], action: deny, when: 'claims.?frozen.orValue(false) == true', message: "pay your bill" }
    - { name: broken, methods: [ bench.Echo/Broken ], action: deny, when: 'claims.absent == "s3cret"' }
    - { name: nobody, methods: [ bench.Echo/Never ], action: deny }
`
	g := open(t, i.authentication("  required: [ bench.Echo/Required ]\n  apiKeys: { file: "+keys+" }")+rules)
	closed := open(t, "authorization: { default: deny }")
	peer := &authn.Peer{TLS: "TLS 1.3", Verified: true, SPIFFE: "spiffe://mesh/web"}
	refused := &authn.Peer{TLS: "TLS 1.3", Refused: &authn.Refusal{Status: grpc.Unauthenticated, Reason: "CERTIFICATE_REQUIRED", Message: "show a client certificate"}}
	for _, c := range []struct {
		name   string
		gate   *Gate
		method string
		q      *Request
		source Source
		says   string
	}{
		{"a reader", g, ping, call("authorization", i.token(map[string]any{"role": "reader"})), SourceNone, ""},
		{"a writer", g, ping, call("authorization", i.token(map[string]any{"role": "writer"})), SourceAuthorization,
			"PERMISSION_DENIED NOT_ALLOWED_BY_RULE: no rule allows bench.Echo/Ping to web: one of readers, admins would have to: " +
				"ask the shop team for the role reader (authorization.rules)"},
		{"who says nothing", g, ping, call(), SourceAuthorization,
			"PERMISSION_DENIED NOT_ALLOWED_BY_RULE: no rule allows bench.Echo/Ping to a caller who does not say who it is: one of readers, admins would have to: " +
				"ask the shop team for the role reader; a caller is known by a token or a key (authorization.rules)"},
		{"who says nothing to a rule that asks nothing", g, "bench.Echo/Never", call(), SourceAuthorization,
			"PERMISSION_DENIED DENIED_BY_RULE: rule nobody denies bench.Echo/Never to a caller who does not say who it is; ask whoever runs this service (authorization.rules)"},
		{"a frozen reader", g, ping, call("authorization", i.token(map[string]any{"role": "reader", "frozen": true})), SourceAuthorization,
			"PERMISSION_DENIED DENIED_BY_RULE: rule frozen denies bench.Echo/Ping to web: pay your bill (authorization.rules)"},
		{"a rule without a message", g, "bench.Echo/Never", call("x-api-key", "s3cret"), SourceAuthorization,
			"PERMISSION_DENIED DENIED_BY_RULE: rule nobody denies bench.Echo/Never to batch; ask whoever runs this service (authorization.rules)"},
		{"a rule that fails", g, "bench.Echo/Broken", call().with(peer), SourceAuthorization,
			"PERMISSION_DENIED DENIED_BY_RULE: rule broken denies bench.Echo/Broken to spiffe://mesh/web, for its condition cannot be evaluated; ask whoever runs this service (authorization.rules)"},
		{"a required proof", g, "bench.Echo/Required", call(), SourceAuthentication,
			"UNAUTHENTICATED TOKEN_MISSING: this method is only for callers who prove who they are: send a token of https://id.example.com as the metadata " +
				"authorization: Bearer <token>, or send a key as the metadata x-api-key"},
		{"a password in place of a token", g, "bench.Echo/Required", call("authorization", "Basic s3cret"), SourceAuthentication,
			"UNAUTHENTICATED TOKEN_MISSING: this method is only for callers who prove who they are: what was sent as authorization is no bearer token, for it does not " +
				"begin with Bearer; send a token of https://id.example.com as the metadata authorization: Bearer <token>, or send a key as the metadata x-api-key"},
		{"a required proof is a certificate", g, "bench.Echo/Required", call().with(peer), SourceNone, ""},
		{"a connection that is refused", g, ping, call("authorization", i.token(map[string]any{"role": "reader"})).with(refused), SourceConnection,
			"UNAUTHENTICATED CERTIFICATE_REQUIRED: show a client certificate"},
		{"no rules at all", closed, ping, call(), SourceAuthorization,
			"PERMISSION_DENIED NOT_ALLOWED_BY_DEFAULT: no rule is about bench.Echo/Ping, and what no rule allows is denied: ask for an allow rule (authorization.default)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.q.Method = c.method
			v := check(t, c.gate, c.q)
			says := ""
			if v.Refused {
				says = fmt.Sprintf("%v %s: %s", v.Status, v.Reason, v.Message)
				if len(v.Notes) == 0 || !v.Notes[len(v.Notes)-1].Refused {
					t.Errorf("no note that it is refused: %+v", v.Notes)
				}
			}
			if says != c.says || v.Source != c.source {
				t.Errorf("%v: %s\n  want %s", v.Source, says, c.says)
			}
			if strings.Contains(fmt.Sprint(v.Notes, says), "s3cret") {
				t.Errorf("a secret is told: %+v", v)
			}
		})
	}
	v := check(t, g, &Request{Method: ping, Now: time.Now(), Field: func(name string) string {
		if name == "authorization" {
			return "Bearer rubbish"
		}
		return ""
	}})
	if !v.Refused || v.Status != grpc.Unauthenticated || v.Source != SourceAuthentication || v.Principal != nil {
		t.Errorf("a bad token: %+v", v)
	}
}

func TestAShadowRuleIsOnlyNoted(t *testing.T) {
	g := open(t, `authorization: { rules: [ { name: soon, action: deny, shadow: true }, { name: all, action: allow } ] }`)
	v := check(t, g, call())
	if v.Refused || !slices.Equal(v.Notes, []Note{{Name: "all", Text: "allows it"}, {Name: "soon", Text: "would deny it", Refused: true, Shadow: true}}) {
		t.Errorf("%+v", v)
	}
}

func TestWhoCallsIsToldToEndpointsAndNotTakenFromClients(t *testing.T) {
	i := newIssuer(t)
	g := open(t, i.authentication("  identityMetadata: x-caller\n")+
		`authorization: { rules: [ { name: spoofed, action: deny, when: '"x-tenant" in metadata || "x-trunkline-a" in metadata || "x-forwarded-client-cert" in metadata' } ] }`)
	if p := g.Protected(); !slices.Equal(p, []string{"x-caller", "x-tenant"}) {
		t.Errorf("protected: %q", p)
	}
	v := check(t, g, call("authorization", i.token(map[string]any{"tenant": "acme"}), "x-tenant", "other", "x-trunkline-a", "b", "x-forwarded-client-cert", "c"))
	slices.SortFunc(v.Set, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	if v.Refused || fmt.Sprint(v.Set) != "[[x-caller web] [x-tenant acme]]" || v.Principal.Name != "web" {
		t.Errorf("%+v", v)
	}
}

// A token that is seen for the first time is judged elsewhere: by then the shard has other bytes where the request was.
func TestWhatIsBorrowedMayChangeWhenCheckReturns(t *testing.T) {
	i := newIssuer(t)
	g := open(t, i.authentication("")+`authorization: { rules: [ { name: a, action: allow,
		when: 'metadata["x-a"][0] == "1" && authority == "shop.example.com" && peer.address == "10.1.2.3" && method == "bench.Echo/Ping"' } ] }`)
	later := 0
	for n := range 50 {
		fields := []string{"authorization", i.token(map[string]any{"jti": fmt.Sprint(n)}), "x-a", "1"}
		q := call(fields...)
		verdict := make(chan *Verdict, 1)
		v := g.For(ping).Check(q, func(v *Verdict) { verdict <- v })
		clear(fields)
		*q = Request{}
		if v == nil {
			later++
			v = <-verdict
		}
		if v.Refused {
			t.Fatalf("%+v", v)
		}
	}
	if later == 0 {
		t.Error("no token was judged elsewhere: nothing was tested")
	}
}

func TestATokenThatIsKnownIsAnsweredAtOnce(t *testing.T) {
	i := newIssuer(t)
	g := open(t, i.authentication("")+`authorization: { rules: [ { name: a, action: allow, when: 'claims.sub == "web"' } ] }`)
	q := call("authorization", i.token(nil))
	check(t, g, q)
	if v := g.For(ping).Check(q, nil); v == nil || v.Refused {
		t.Errorf("%+v", v)
	}
}

func denied(code int32, http typev3.StatusCode, body string) *auth.CheckResponse {
	return &auth.CheckResponse{Status: &rpcstatus.Status{Code: code}, HttpResponse: &auth.CheckResponse_DeniedResponse{
		DeniedResponse: &auth.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: http}, Body: body}}}
}

func TestTheExternalServiceIsAskedLast(t *testing.T) {
	i := newIssuer(t)
	var answer atomic.Pointer[auth.CheckResponse]
	var asked atomic.Pointer[auth.CheckRequest]
	at, stop := serve(t, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
		asked.Store(r)
		return answer.Load(), nil
	})
	base := i.authentication("") + `authorization: { rules: [ { name: frozen, action: deny, when: 'claims.?frozen.orValue(false) == true' } ] }` + "\n"
	text := base + "externalAuthorization: { address: \"" + at + "\", timeout: 5s, except: [ bench.Echo/Free ] }\n"
	g := open(t, text)
	good := i.token(map[string]any{"tenant": "acme"})

	answer.Store(&auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
		Headers:         []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "x-tenant", Value: "acme-eu"}}, {Header: &core.HeaderValue{Key: "x-plan", Value: "gold"}}},
		HeadersToRemove: []string{"x-debug"}, ResponseHeadersToAdd: []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "x-quota", Value: "7"}}}}}})
	v := check(t, g, call("authorization", good, "x-debug", "1", "x-tenant", "spoofed"))
	if v.Refused || fmt.Sprint(v.Set, v.Remove) != "[[x-tenant acme-eu] [x-plan gold]] [x-debug]" || len(v.Notes) != 1 || v.Notes[0].Text != "allows it" ||
		!slices.Equal(v.Told, []Told{{Name: "x-quota", Value: "7"}}) {
		t.Errorf("%+v", v)
	}
	if h := asked.Load().GetAttributes().GetRequest().GetHttp().GetHeaders(); h["x-tenant"] != "acme" || h["x-debug"] != "1" {
		t.Errorf("it is told %v", h)
	}

	denial := denied(7, 401, "log in at https://id.example.com")
	denial.GetDeniedResponse().Headers = []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "www-authenticate", Value: "Bearer"}}}
	answer.Store(denial)
	v = check(t, g, call("authorization", good))
	if v.Source != SourceExternal || v.Status != grpc.Unauthenticated || v.Reason != "DENIED_BY_SERVICE" ||
		v.Message != "the authorization service denies bench.Echo/Ping to web: log in at https://id.example.com (externalAuthorization)" ||
		!slices.Equal(v.Told, []Told{{Name: "www-authenticate", Value: "Bearer"}}) {
		t.Errorf("%+v", v)
	}

	asked.Store(nil)
	if v = check(t, g, call("authorization", i.token(map[string]any{"frozen": true}))); v.Source != SourceAuthorization {
		t.Errorf("%+v", v)
	}
	q := call("authorization", good)
	q.Method = "bench.Echo/Free"
	if v = check(t, g, q); v.Refused || asked.Load() != nil {
		t.Errorf("it is asked about calls that it has nothing to do with: %+v", v)
	}

	shadow := open(t, strings.Replace(text, "timeout: 5s", "timeout: 5s, shadow: true", 1))
	v = check(t, shadow, call("authorization", good))
	if v.Refused || len(v.Told) > 0 || len(v.Notes) != 1 || !v.Notes[0].Shadow || !v.Notes[0].Refused || !strings.Contains(v.Notes[0].Text, "denies it with UNAUTHENTICATED") {
		t.Errorf("shadow: %+v", v)
	}

	stop()
	v = check(t, g, call("authorization", good))
	if v.Status != grpc.Unavailable || v.Reason != "AUTHORIZATION_SERVICE" || strings.Contains(v.Message, at) || !strings.Contains(v.Notes[0].Text, at) {
		t.Errorf("away: %+v", v)
	}
	if s, ok := g.External(); !ok || s.Failed != 1 || s.Denied != 1 {
		t.Errorf("%+v", s)
	}
	ajar := open(t, strings.Replace(text, "timeout: 5s", "timeout: 5s, failOpen: true", 1))
	if v = check(t, ajar, call("authorization", good)); v.Refused || len(v.Notes) != 1 || v.Notes[0].Refused || !strings.Contains(v.Notes[0].Text, "passes") {
		t.Errorf("away, fail open: %+v", v)
	}
}

func TestAnHTTPServerAsksTheSame(t *testing.T) {
	i := newIssuer(t)
	g := open(t, i.authentication("")+`authorization: { rules: [ { name: operators, methods: [ "trunkline.*" ], action: allow,
		when: 'claims.role == "operator" && metadata["x-reason"][0] == "drill"' } ] }`)
	const drain = "trunkline.admin.v1.Admin/Drain"
	h := http.Header{"Authorization": {i.token(map[string]any{"role": "operator"})}, "X-Reason": {"drill"}}
	if v := g.CheckHTTP(drain, h, nil, "10.1.2.3", time.Now()); v.Refused || v.Principal.Name != "web" {
		t.Errorf("%+v", v)
	}
	twice := http.Header{"Authorization": {h.Get("Authorization"), "Bearer evil"}}
	if v := g.CheckHTTP(drain, twice, nil, "10.1.2.3", time.Now()); !v.Refused || v.Reason != "TOKEN_MALFORMED" {
		t.Errorf("of two tokens one is not judged: %+v", v)
	}
	if v := g.CheckHTTP(drain, http.Header{}, nil, "10.1.2.3", time.Now()); !v.Refused {
		t.Errorf("%+v", v)
	}
	refused := &authn.Peer{Refused: &authn.Refusal{Status: grpc.PermissionDenied, Message: "no"}}
	if v := (*Gate)(nil).CheckHTTP(drain, h, refused, "", time.Now()); !v.Refused {
		t.Errorf("%+v", v)
	}
}

func TestAReloadKeepsWhatHasNotChanged(t *testing.T) {
	i := newIssuer(t)
	at, _ := serve(t, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
		return &auth.CheckResponse{}, nil
	})
	external := "\nexternalAuthorization: { address: \"" + at + "\", timeout: 5s }\n"
	first, err := New(parse(t, i.authentication("")+external), quiet())
	must(t, err)
	q := call("authorization", i.token(nil))
	check(t, first, q)

	second, err := first.Next(parse(t, i.authentication("")+external+`authorization: { rules: [ { name: all, action: allow } ] }`), quiet())
	must(t, err)
	if second.who != first.who || second.service != first.service {
		t.Error("what has not changed is made again")
	}
	first.Close()
	first.Close()
	if v := check(t, second, q); v.Refused || len(v.Notes) != 2 {
		t.Errorf("after the first is closed: %+v", v)
	}

	third, err := second.Next(parse(t, i.authentication("  identityMetadata: x-caller")+strings.Replace(external, "5s", "6s", 1)), quiet())
	must(t, err)
	if third.who == second.who || third.service == second.service {
		t.Error("what has changed is shared")
	}
	second.Close()
	if v := check(t, third, q); v.Refused || len(v.Set) != 1 {
		t.Errorf("%+v", v)
	}
	none, err := third.Next(parse(t, "{}"), quiet())
	if none != nil || err != nil {
		t.Error(none, err)
	}
	if _, err := third.Next(parse(t, strings.Replace(i.authentication(""), i.file, "/absent.json", 1)), quiet()); err == nil || !strings.Contains(err.Error(), "jwksFile") {
		t.Errorf("a file that is not there: %v", err)
	}
	third.Close()
}

func TestCloseWaitsForThoseWhoWait(t *testing.T) {
	release, came := make(chan struct{}), make(chan struct{}, 1)
	at, _ := serve(t, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
		came <- struct{}{}
		<-release
		return &auth.CheckResponse{}, nil
	})
	g, err := New(parse(t, "externalAuthorization: { address: \""+at+"\", timeout: 1m }"), quiet())
	must(t, err)
	var answered atomic.Bool
	if v := g.For(ping).Check(call(), func(v *Verdict) { answered.Store(!v.Refused) }); v != nil {
		t.Fatalf("%+v", v)
	}
	<-came
	closed := make(chan bool)
	go func() {
		g.Close()
		closed <- answered.Load()
	}()
	close(release)
	if !<-closed {
		t.Error("Close has cut an answer off")
	}
}

// Calls with tokens that are new and tokens that are known, while gates follow each other: every call has exactly one verdict.
func TestReloadsUnderLoadLoseNoCall(t *testing.T) {
	i := newIssuer(t)
	at, _ := serve(t, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
		return &auth.CheckResponse{}, nil
	})
	texts := []string{
		i.authentication("") + `authorization: { rules: [ { name: a, action: allow, when: '"x-a" in metadata' } ] }`,
		i.authentication("") + "\nexternalAuthorization: { address: \"" + at + "\", timeout: 1m }\n",
		i.authentication("  identityMetadata: x-caller"),
	}
	var current atomic.Pointer[Gate]
	var using sync.RWMutex // the generation that a shard uses
	g, err := New(parse(t, texts[0]), quiet())
	must(t, err)
	current.Store(g)
	var calls sync.WaitGroup
	var verdicts, began atomic.Int64
	for c := range 4 {
		calls.Go(func() {
			for n := range 200 {
				q := call("authorization", i.token(map[string]any{"jti": fmt.Sprint(c, n/3)}), "x-a", "1")
				began.Add(1)
				calls.Add(1)
				then := func(v *Verdict) {
					if v.Refused {
						t.Errorf("%+v", v)
					}
					verdicts.Add(1)
					calls.Done()
				}
				using.RLock()
				v := current.Load().For(ping).Check(q, then)
				using.RUnlock()
				if v != nil {
					then(v)
				}
			}
		})
	}
	for n := range 30 {
		old := current.Load()
		next, err := old.Next(parse(t, texts[n%len(texts)]), quiet())
		must(t, err)
		using.Lock()
		current.Store(next)
		using.Unlock()
		old.Close()
	}
	calls.Wait()
	current.Load().Close()
	if verdicts.Load() != began.Load() {
		t.Errorf("%d verdicts for %d calls", verdicts.Load(), began.Load())
	}
}

// A token that is known, and two rules that look at its claims.
func BenchmarkCheck(b *testing.B) {
	i := newIssuer(b)
	g := open(b, i.authentication("")+`
authorization:
  rules:
    - { name: frozen, action: deny, when: 'claims.?frozen.orValue(false) == true' }
    - { name: readers, action: allow, when: 'claims.role == "reader" && method == "bench.Echo/Ping"' }
`)
	q := call("authorization", i.token(map[string]any{"role": "reader"}))
	if v := check(b, g, q); v.Refused {
		b.Fatalf("%+v", v)
	}
	r := g.For(ping)
	then := func(*Verdict) {}
	b.ReportAllocs()
	for b.Loop() {
		if v := r.Check(q, then); v == nil || v.Refused {
			b.Fatalf("%+v", v)
		}
	}
}

// The proof may come while the request is still being cloned: then the answer is given at once.
func TestAProofThatComesAtOnceIsNotLost(t *testing.T) {
	i := newIssuer(t)
	g := open(t, i.authentication("")+`authorization: { rules: [ { name: a, action: allow, when: 'metadata["x-a"][0] == "1"' } ] }`)
	atOnce := 0
	for n := range 20 {
		q := call("authorization", i.token(map[string]any{"jti": fmt.Sprint(n)}), "x-a", "1")
		each := q.Each
		q.Each = func(yield func(name, value string) bool) {
			for deadline := time.Now().Add(10 * time.Second); g.Identity().Prove(q.Field, nil, q.Now, func(*identity.Proof) {}) == nil; {
				if time.Now().After(deadline) {
					t.Error("the token is never judged")
					break
				}
				time.Sleep(time.Millisecond)
			}
			each(yield)
		}
		verdict := make(chan *Verdict, 2)
		if v := g.For(ping).Check(q, func(v *Verdict) { verdict <- v }); v != nil {
			atOnce++
			verdict <- v
		}
		if v := <-verdict; v.Refused {
			t.Fatalf("%+v", v)
		}
		if len(verdict) > 0 {
			t.Fatal("two verdicts")
		}
	}
	if atOnce == 0 {
		t.Error("no proof came at once: nothing was tested")
	}
}
