package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/retry"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is an Engine that serves nothing and writes down what it was told.
type fake struct {
	EngineOptions
	mu       sync.Mutex
	applied  []*configv1.Config // guarded by mu
	rejected []error            // guarded by mu
	drained  chan struct{}      // closed by Drain
	live     chan struct{}      // Drain waits until it is closed, for as long as it may
	cut      bool               // Drain had to cut; read after drained
}

func (f *fake) Run(ctx context.Context) error {
	select {
	case <-f.drained:
	case <-ctx.Done():
	}
	return nil
}

func (f *fake) Drain(ctx context.Context) error {
	defer close(f.drained)
	select {
	case <-f.live:
		return nil
	case <-ctx.Done():
		f.cut = true
		return context.Cause(ctx)
	}
}

func (f *fake) Apply(c *configv1.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = append(f.applied, c)
	return nil
}

func (f *fake) Rejected(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejected = append(f.rejected, err)
}

func (f *fake) told() (applied, rejected int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.applied), len(f.rejected)
}

func (f *fake) ListenerAddrs() []net.Addr {
	return []net.Addr{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7443}}
}
func (f *fake) AdminAddr() net.Addr                     { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9901} }
func (f *fake) Status() *adminv1.Status                 { return &adminv1.Status{Ready: true} }
func (f *fake) Clusters() *adminv1.ListClustersResponse { return &adminv1.ListClustersResponse{} }

// world is one process: run starts it, the rest looks at it.
type world struct {
	out, err lockedBuffer
	signals  chan os.Signal
	engine   chan *fake
	live     chan struct{}
}

func newWorld() *world {
	return &world{signals: make(chan os.Signal), engine: make(chan *fake, 1), live: make(chan struct{})}
}

func (w *world) env() Env {
	return Env{Out: &w.out, Err: &w.err, Signals: w.signals, Command: "trunkline", Version: "1.2.3 (test)",
		Start: func(_ context.Context, o EngineOptions) (Engine, error) {
			f := &fake{EngineOptions: o, drained: make(chan struct{}), live: w.live}
			w.engine <- f
			return f, nil
		},
		Explain: func(_ *configv1.Config, method, authority string) (*adminv1.ExplainResponse, error) {
			return answer(method, authority), nil
		},
	}
}

// answer knows bench.Echo, with one endpoint up and one down, and nothing else.
func answer(method, authority string) *adminv1.ExplainResponse {
	echo := &adminv1.Route{Name: "routes[0]", Kind: adminv1.RouteKind_ROUTE_KIND_SERVICE, Pattern: "bench.Echo", Cluster: "echo", Claim: adminv1.Claim_CLAIM_ROUTE}
	shop := &adminv1.Route{Name: "learned/x.Shop", Kind: adminv1.RouteKind_ROUTE_KIND_SERVICE, Pattern: "x.Shop", Cluster: "shop", Claim: adminv1.Claim_CLAIM_REFLECTION}
	r := &adminv1.ExplainResponse{Method: method, Authority: authority, Steps: []*adminv1.ExplainStep{
		{Route: echo, Reason: "another service"}, {Route: shop, Reason: "another service"},
	}}
	if !strings.HasPrefix(method, "bench.Echo/") {
		r.Status, r.Message, r.Nearest = 12, "no route for "+method, []string{"bench.Echo"}
		return r
	}
	r.Steps[0] = &adminv1.ExplainStep{Route: echo, Matched: true, Chosen: true, Reason: "the service"}
	r.Route, r.Cluster, r.ClusterSource, r.Balancer = echo, "echo", "static", "least_request"
	if authority != "" {
		r.Asked = []string{"It would be asked for a token of https://login.example.com (authentication.required[0]).", "The authorization service would be asked, and may refuse it (externalAuthorization)."}
		r.PolicySource, r.Policy = "trunkline.yaml", &adminv1.MethodPolicy{Name: "bench.Echo", Words: []string{"timeout 1 s", "up to 3 attempts on UNAVAILABLE"}}
	}
	r.Candidates = []*adminv1.Candidate{
		{Address: "127.0.0.1:7001", Weight: 1, Load: 3, State: adminv1.EndpointState_ENDPOINT_STATE_UP, HasMethod: true, Eligible: true},
		{Address: "127.0.0.1:7002", Weight: 10, State: adminv1.EndpointState_ENDPOINT_STATE_DOWN, HasMethod: true, Reason: "its last dial was refused"},
	}
	return r
}

// traced is the trace of the call that was retried.
const traced = "4bf92f3577b34da6a3ce929d0e0e4736"

// records are of two calls to bench.Echo: one was retried and answered OK, one was refused by a breaker.
func records() decision.Books {
	const ms = time.Millisecond
	b := decision.NewBook(10, 10, 0, new(sync.Mutex))
	id, _ := admin.ParseTraceID(traced)
	facts := decision.Facts{
		Arrived: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano(), Took: 60 * ms, Own: 21 * ms, TraceID: id, HasTrace: true, Method: "bench.Echo/Ping",
		Authority: "echo", Peer: "10.9.0.7:51544", Route: "routes[0]", Match: "service bench.Echo", Cluster: "echo", Balancer: "least_request", Generation: 3,
		Policy: "bench.Echo", PolicyFrom: "trunkline.yaml", Pool: &decision.Pool{Names: []string{"127.0.0.1:7001", "127.0.0.1:7002"}}, Retries: true,
		Received: 2 * time.Second, HasReceived: true, Limit: 2 * time.Second,
	}
	d := b.Next()
	d.Facts = facts
	first := decision.Attempt{Endpoint: "127.0.0.1:7002", Start: ms / 20, Sent: ms / 10, End: 12 * ms, Given: 2 * time.Second, Status: grpc.Unavailable,
		Evidence: retry.ByStatus, Pick: balance.ReasonP2CLessLoaded, Why: retry.RetryStatus, Of: 2}
	first.Consider(decision.Candidate{Member: 0, Load: 3})
	first.Consider(decision.Candidate{Member: 1})
	*d.AddAttempt() = first
	*d.AddAttempt() = decision.Attempt{Endpoint: "127.0.0.1:7001", Kind: decision.Retry, Start: 32 * ms, Sent: 32 * ms, End: 60 * ms, Wait: 20 * ms,
		Given: 1968 * ms, Pick: balance.ReasonP2COtherAvoided, Of: 2}
	b.Done(d)
	d = b.Next()
	facts.Arrived += int64(time.Second)
	facts.TraceID, facts.HasTrace, facts.Took, facts.Own = [16]byte{}, false, ms/10, ms/10
	facts.Status, facts.Local, facts.Outcome, facts.Reason = grpc.Unavailable, true, telemetry.OutcomeUpstreamOverflow, "BREAKER_OPEN"
	facts.Message = "the circuit breaker of 127.0.0.1:7002 is open"
	d.Facts = facts
	*d.AddNote() = decision.Note{Kind: decision.NoteBreaker, Name: "127.0.0.1:7002", Text: "5 calls in a row failed (limit 5)", Wait: 3 * time.Second, A: 1, Refused: true, Attempt: -1}
	b.Done(d)
	return decision.Books{b}
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// until polls what another goroutine and the file system bring about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}
