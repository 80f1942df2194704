package extauthz

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/trunkline/trunkline/policy/authn"
	"go.uber.org/goleak"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type answerFunc = func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)

// service answers as the test says.
type service struct {
	auth.UnimplementedAuthorizationServer
	answer answerFunc
}

func (s *service) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	return s.answer(ctx, r)
}

// serve runs a service on the address ("127.0.0.1:0": any) until stop.
func serve(t testing.TB, address string, answer answerFunc, options ...grpc.ServerOption) (at string, stop func()) {
	t.Helper()
	var l net.Listener
	var err error
	for range 100 { // the port of a server that has just gone
		if l, err = net.Listen("tcp", address); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	auth.RegisterAuthorizationServer(server, &service{answer: answer})
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) })
	stop = sync.OnceFunc(func() {
		server.Stop()
		served.Wait()
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func says(r *auth.CheckResponse) answerFunc {
	return func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) { return r, nil }
}

func newClient(t testing.TB, o Options) *Client {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// call is a question about a call of a known caller over TLS.
func call(fields ...[2]string) *Question {
	return &Question{
		Method: "bench.Echo/Ping", Authority: "shop.example.com", Address: "10.1.2.3", Now: time.Unix(1_800_000_000, 5),
		Peer:      &authn.Peer{TLS: "TLS 1.3", ServerName: "shop.example.com", Verified: true, SPIFFE: "spiffe://example.com/web"},
		Principal: &authn.Principal{Kind: "jwt", Provider: "shop", Name: "web", Claims: map[string]any{"role": "reader", "level": 3.0}},
		Each: func(yield func(name, value string) bool) {
			for _, f := range fields {
				if !yield(f[0], f[1]) {
					return
				}
			}
		},
	}
}

func ask(t testing.TB, c *Client, q *Question) *Verdict {
	t.Helper()
	verdict := make(chan *Verdict, 1)
	c.Ask(q, func(v *Verdict) { verdict <- v })
	select {
	case v := <-verdict:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("no verdict")
		return nil
	}
}

func wantWhy(t *testing.T, v *Verdict, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(v.Why, p) {
			t.Errorf("why = %q, want %q in it", v.Why, p)
		}
	}
}

func TestTheServiceIsToldWhatEnvoyWouldTellIt(t *testing.T) {
	got := make(chan *auth.CheckRequest, 1)
	at, _ := serve(t, "127.0.0.1:0", func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
		got <- r
		return &auth.CheckResponse{}, nil
	})
	c := newClient(t, Options{Address: at})
	q := call([2]string{"x-request-id", "r-1"}, [2]string{"x-tenant", "a"}, [2]string{"x-tenant", "b"}, [2]string{"token-bin", "AAAA"},
		[2]string{"x-latin", "caf\xe9"}, [2]string{"x-user", "spoofed"})
	q.Set = [][2]string{{"x-user", "web"}}
	if v := ask(t, c, q); v.Denied || v.Failed || v.Why != "" {
		t.Fatalf("%+v", v)
	}
	a := (<-got).GetAttributes()
	http := a.GetRequest().GetHttp()
	for name, want := range map[string]string{
		"x-request-id": "r-1", "x-tenant": "a,b", "x-latin": "caf\uFFFD", "x-user": "web",
		":method": "POST", ":path": "/bench.Echo/Ping", ":scheme": "https", ":authority": "shop.example.com",
	} {
		if http.GetHeaders()[name] != want {
			t.Errorf("%s = %q, want %q", name, http.GetHeaders()[name], want)
		}
	}
	if len(http.GetHeaders()) != 8 {
		t.Errorf("headers: %v", http.GetHeaders())
	}
	if http.GetId() != "r-1" || http.GetMethod() != "POST" || http.GetPath() != "/bench.Echo/Ping" || http.GetHost() != "shop.example.com" ||
		http.GetScheme() != "https" || http.GetProtocol() != "HTTP/2" || http.GetSize() != -1 {
		t.Errorf("http: %v", http)
	}
	if s := a.GetSource(); s.GetAddress().GetSocketAddress().GetAddress() != "10.1.2.3" || s.GetPrincipal() != "spiffe://example.com/web" {
		t.Errorf("source: %v", s)
	}
	if a.GetTlsSession().GetSni() != "shop.example.com" || !a.GetRequest().GetTime().AsTime().Equal(q.Now) {
		t.Errorf("attributes: %v", a)
	}
	m := a.GetMetadataContext().GetFilterMetadata()["trunkline"].AsMap()
	if who, _ := m["identity"].(map[string]any); who["name"] != "web" || who["kind"] != "jwt" || who["provider"] != "shop" {
		t.Errorf("metadata context: %v", m)
	}
	if claims, _ := m["claims"].(map[string]any); claims["role"] != "reader" || claims["level"] != 3.0 {
		t.Errorf("metadata context: %v", m)
	}

	// A caller of whom nothing is known, and only the metadata that are configured.
	c = newClient(t, Options{Address: at, Metadata: []string{"X-Tenant"}})
	q = call([2]string{"x-tenant", "a"}, [2]string{"authorization", "Bearer s3cret"})
	q.Peer, q.Principal, q.Address = nil, nil, "@"
	if v := ask(t, c, q); v.Denied {
		t.Fatalf("%+v", v)
	}
	a = (<-got).GetAttributes()
	http = a.GetRequest().GetHttp()
	if h := http.GetHeaders(); len(h) != 1 || h["x-tenant"] != "a" || http.GetScheme() != "http" || a.GetTlsSession() != nil || a.GetMetadataContext() != nil ||
		a.GetSource().GetAddress() != nil || a.GetSource().GetPrincipal() != "" {
		t.Errorf("attributes: %v", a)
	}
}

func TestWhatIsBorrowedMayChangeWhenAskReturns(t *testing.T) {
	got := make(chan *auth.CheckRequest, 1)
	at, _ := serve(t, "127.0.0.1:0", func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
		got <- r
		return &auth.CheckResponse{}, nil
	})
	c := newClient(t, Options{Address: at})
	fields := [][2]string{{"x-a", "1"}, {"x-b", "2"}}
	q := call(fields...)
	done := make(chan struct{})
	c.Ask(q, func(*Verdict) { close(done) })
	fields[0], fields[1], *q = [2]string{}, [2]string{}, Question{}
	<-done
	if h := (<-got).GetAttributes().GetRequest().GetHttp(); h.GetHeaders()["x-a"] != "1" || h.GetHeaders()["x-b"] != "2" || h.GetPath() != "/bench.Echo/Ping" {
		t.Errorf("%v", h)
	}
}

func denied(code codes.Code, http int32, body string) *auth.CheckResponse {
	return &auth.CheckResponse{Status: &rpcstatus.Status{Code: int32(code)}, HttpResponse: &auth.CheckResponse_DeniedResponse{
		DeniedResponse: &auth.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(http)}, Body: body}}}
}

func TestASlowServiceIsNotWaitedFor(t *testing.T) {
	at, _ := serve(t, "127.0.0.1:0", func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	v := ask(t, newClient(t, Options{Address: at, Timeout: 50 * time.Millisecond}), call())
	if !v.Failed || !v.Denied {
		t.Errorf("%+v", v)
	}
	wantWhy(t, v, at, "no answer within 50ms (externalAuthorization.timeout)", "is refused")
	v = ask(t, newClient(t, Options{Address: at, Timeout: 50 * time.Millisecond, FailOpen: true}), call())
	if !v.Failed || v.Denied {
		t.Errorf("fail open: %+v", v)
	}
	wantWhy(t, v, "passes")
}

func TestAServiceThatWasAwayIsAskedAgainSoon(t *testing.T) {
	at, stop := serve(t, "127.0.0.1:0", says(&auth.CheckResponse{}))
	var text lockedBuffer
	c := newClient(t, Options{Address: at, Timeout: time.Second, Log: slog.New(slog.NewTextHandler(&text, nil))})
	if v := ask(t, c, call()); v.Failed {
		t.Fatalf("%+v", v)
	}
	stop()
	for range 5 {
		if v := ask(t, c, call()); !v.Failed || !v.Denied {
			t.Fatalf("away: %+v", v)
		}
	}
	if !c.Stats().Down {
		t.Error("not down")
	}
	serve(t, at, says(&auth.CheckResponse{}))
	for deadline := time.Now().Add(15 * time.Second); ask(t, c, call()).Failed; {
		if time.Now().After(deadline) {
			t.Fatal("it is back, and not asked")
		}
	}
	if c.Stats().Down {
		t.Error("still down")
	}
	if s := text.String(); strings.Count(s, "fails") != 1 || strings.Count(s, "answers again") != 1 {
		t.Errorf("the log:\n%s", s)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAServiceThatFailsOrAnswersTooMuchIsOneThatDoesNotAnswer(t *testing.T) {
	var answer atomic.Pointer[auth.CheckResponse]
	at, _ := serve(t, "127.0.0.1:0", func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
		if a := answer.Load(); a != nil {
			return a, nil
		}
		return nil, status.Error(codes.Internal, "the store is gone")
	})
	c := newClient(t, Options{Address: at})
	v := ask(t, c, call())
	if !v.Failed || !v.Denied {
		t.Errorf("an error: %+v", v)
	}
	wantWhy(t, v, "Internal", "the store is gone")

	answer.Store(denied(codes.PermissionDenied, 403, strings.Repeat("x", 2*maxAnswer)))
	if v := ask(t, c, call()); !v.Failed {
		t.Errorf("an answer of %d bytes: %+v", 2*maxAnswer, v)
	}
	answer.Store(&auth.CheckResponse{HttpResponse: &auth.CheckResponse_ErrorResponse{ErrorResponse: &auth.DeniedHttpResponse{}}})
	if v := ask(t, c, call()); !v.Failed {
		t.Errorf("an error as an answer: %+v", v)
	}
	answer.Store(&auth.CheckResponse{}) // says nothing but OK
	if v := ask(t, c, call()); v.Failed || v.Denied {
		t.Errorf("an empty answer: %+v", v)
	}
}

// Beyond the bound no more questions go to a service that hangs: they fail at once and say so.
func TestQuestionsInFlightAreBounded(t *testing.T) {
	release := make(chan struct{})
	at, _ := serve(t, "127.0.0.1:0", func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
		<-release
		return &auth.CheckResponse{}, nil
	})
	c := newClient(t, Options{Address: at, Timeout: time.Minute})
	c.max = 5
	const questions = 20
	verdicts := make(chan *Verdict, questions)
	for range questions {
		c.Ask(call(), func(v *Verdict) { verdicts <- v })
	}
	for range questions - 5 {
		if v := <-verdicts; !v.Failed || !v.Denied {
			t.Fatalf("beyond the bound: %+v", v)
		} else {
			wantWhy(t, v, at, "5 questions are on the way already")
		}
	}
	if n := c.Stats().InFlight; n != 5 {
		t.Errorf("%d in flight, want 5", n)
	}
	close(release)
	for range 5 {
		if v := <-verdicts; v.Failed {
			t.Errorf("within the bound: %+v", v)
		}
	}
	if s := c.Stats(); s.Asked != questions || s.Failed != questions-5 || s.Denied != 0 {
		t.Errorf("%+v", s)
	}
}

func TestCloseAnswersEverybody(t *testing.T) {
	asked := make(chan struct{}, 1000)
	at, _ := serve(t, "127.0.0.1:0", func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c := newClient(t, Options{Address: at, Timeout: time.Minute})
	var calls [200]atomic.Int32
	for i := range 100 {
		c.Ask(call(), func(*Verdict) { calls[i].Add(1) })
	}
	<-asked
	var late sync.WaitGroup
	late.Go(func() {
		for i := range 100 {
			late.Add(1)
			c.Ask(call(), func(v *Verdict) {
				defer late.Done()
				calls[100+i].Add(1)
				if !v.Failed {
					t.Errorf("during or after Close: %+v", v)
				}
			})
		}
	})
	c.Close()
	for i := range 100 {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("when Close returned, done of question %d had been called %d times", i, n)
		}
	}
	late.Wait()
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("done of question %d was called %d times", i, n)
		}
	}
}

func TestAnAddressThatMakesNoSenseIsAnError(t *testing.T) {
	_, err := New(Options{Address: "dns:///%zz\x7f:1:2:3", Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "externalAuthorization.address") {
		t.Fatalf("error %v", err)
	}
}

// What Ask costs inside of a shard, and the whole question.
func BenchmarkAsk(b *testing.B) {
	at, _ := serve(b, "127.0.0.1:0", says(&auth.CheckResponse{}))
	c := newClient(b, Options{Address: at})
	q := call([2]string{"user-agent", "grpc-go/1.85"}, [2]string{"x-tenant", "a"}, [2]string{"authorization", "Bearer " + strings.Repeat("x", 600)})
	b.Run("clone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			q.clone()
		}
	})
	b.Run("question", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(50)
		b.RunParallel(func(pb *testing.PB) {
			verdicts := make(chan *Verdict, 1)
			for pb.Next() {
				c.Ask(q, func(v *Verdict) { verdicts <- v })
				<-verdicts
			}
		})
	})
}
