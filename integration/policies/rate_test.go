package policies

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	ratelimitpb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// tailer holds the trailers of a refusal.
type tailer struct{ md metadata.MD }

// mustPushBack checks that a refusal says when to come again, in both of gRPC's ways.
func (l *tailer) mustPushBack(t *testing.T, err error) time.Duration {
	t.Helper()
	values := l.md["grpc-retry-pushback-ms"]
	if len(values) != 1 {
		t.Fatalf("grpc-retry-pushback-ms: %q", values)
	}
	ms, convErr := strconv.Atoi(values[0])
	if convErr != nil || ms <= 0 {
		t.Errorf("grpc-retry-pushback-ms: %q", values)
	}
	pushback := time.Duration(ms) * time.Millisecond
	if info := retryAfter(err); info <= 0 || info > pushback+time.Millisecond || info < pushback-time.Millisecond {
		t.Errorf("RetryInfo says %v, the pushback %v", info, pushback)
	}
	return pushback
}

func TestOverTheRateOfAMethodCallsAreToldWhenToComeAgain(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	// What the policy would retry: Trunkline's own refusal is not among it.
	retry := `"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}`
	tr := start(t, policies{method: retry, more: fmt.Sprintf(`"trunkline": {"methodPolicy": [{"name": [{"service": %q, "method": "UnaryCall"}],
		"rateLimits": [{"requestsPerSecond": 0.5, "burst": 5}]}]}`, harness.Service)}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	for i := range 8 {
		id := fmt.Sprint(i)
		var tail tailer
		_, err := client.UnaryCall(steer(harness.Context(t, stepLimit), id, "ok"), &testpb.SimpleRequest{}, grpc.Trailer(&tail.md))
		if i < 5 {
			must(t, "within the burst", err, codes.OK)
			continue
		}
		must(t, "over the burst", err, codes.ResourceExhausted)
		saysWhy(t, err, "rate")
		if d := tail.mustPushBack(t, err); d > 2*time.Second+100*time.Millisecond {
			t.Errorf("pushed back for %v, but a token comes every 2 s", d)
		}
		if n := len(ledger.Attempts(id)); n != 0 {
			t.Errorf("%d attempts of a refused call", n)
		}
	}
	if _, err := client.EmptyCall(steer(harness.Context(t, stepLimit), "empty", "ok"), &testpb.Empty{}); err != nil {
		t.Errorf("another method: %v", err)
	}
	if n := ledger.Streams(); n != 6 {
		t.Errorf("%d attempts have reached the servers, want 6", n)
	}
	harness.Eventually(t, stepLimit, "a token to come back", func() bool {
		_, err := client.UnaryCall(steer(harness.Context(t, stepLimit), "later", "ok"), &testpb.SimpleRequest{})
		return err == nil
	})
}

func TestEachKeyHasItsOwnRate(t *testing.T) {
	t.Parallel()
	server := rogue.Start(t, "server", rogue.Options{})
	tr := start(t, policies{own: `"rateLimits": [{"requestsPerSecond": 0.01, "burst": 3, "metadata": "x-tenant"}]`}, server.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	for _, tenant := range []string{"a", "b", ""} {
		for i := range 4 {
			ctx := harness.Context(t, stepLimit)
			if tenant != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-tenant", tenant)
			}
			_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
			want := codes.OK
			if i == 3 {
				want = codes.ResourceExhausted
			}
			must(t, fmt.Sprintf("tenant %q, call %d", tenant, i), err, want)
		}
	}
}

func TestEachClientAddressHasItsOwnRate(t *testing.T) {
	t.Parallel()
	server := rogue.Start(t, "server", rogue.Options{})
	tr := start(t, policies{own: `"rateLimits": [{"requestsPerSecond": 0.01, "burst": 3, "clientAddress": true}]`}, server.Addr)
	for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
		// Two connections from each address: the port does not count.
		for i := range 4 {
			cc := harness.Dial(t, tr.Listen, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				return d.DialContext(ctx, "tcp", addr)
			}))
			_, err := call(t, cc, "", "")
			want := codes.OK
			if i == 3 {
				want = codes.ResourceExhausted
			}
			must(t, fmt.Sprintf("from %s, call %d", from, i), err, want)
		}
	}
}

// judge is a rate limit service that lets nobody greedy pass, and keeps what it was asked.
type judge struct {
	ratelimitpb.UnimplementedRateLimitServiceServer
	mu    sync.Mutex
	asked []*ratelimitpb.RateLimitRequest
	hold  chan struct{} // answers come when it is closed; nil: at once
}

func (j *judge) ShouldRateLimit(ctx context.Context, r *ratelimitpb.RateLimitRequest) (*ratelimitpb.RateLimitResponse, error) {
	j.mu.Lock()
	j.asked = append(j.asked, r)
	j.mu.Unlock()
	if j.hold != nil {
		select {
		case <-j.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	resp := &ratelimitpb.RateLimitResponse{OverallCode: ratelimitpb.RateLimitResponse_OK}
	for _, d := range r.GetDescriptors() {
		st := &ratelimitpb.RateLimitResponse_DescriptorStatus{Code: ratelimitpb.RateLimitResponse_OK}
		for _, e := range d.GetEntries() {
			if e.GetValue() == "greedy" {
				st.Code, resp.OverallCode = ratelimitpb.RateLimitResponse_OVER_LIMIT, ratelimitpb.RateLimitResponse_OVER_LIMIT
				st.DurationUntilReset = durationpb.New(3 * time.Second)
			}
		}
		resp.Statuses = append(resp.Statuses, st)
	}
	return resp, nil
}

func rateLimitService(address, failOpen string) policies {
	return policies{cluster: fmt.Sprintf(`"rateLimitService": {"address": %q, "domain": "shop", "timeout": "0.5s", "failOpen": %s,
		"descriptors": [[{"key": "method", "method": true}, {"key": "tenant", "metadata": "x-tenant"}], [{"key": "from", "clientAddress": true}, {"key": "via", "value": "trunkline"}]]}`, address, failOpen)}
}

func TestLimitsSharedByReplicasAreAskedOfARateLimitService(t *testing.T) {
	t.Parallel()
	j := &judge{}
	service := harness.Serve(t, func(s *grpc.Server) { ratelimitpb.RegisterRateLimitServiceServer(s, j) })
	server := rogue.Start(t, "server", rogue.Options{})
	tr := start(t, rateLimitService(service, "false"), server.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	as := func(tenant string) context.Context {
		return metadata.AppendToOutgoingContext(steer(harness.Context(t, stepLimit), tenant, "ok"), "x-tenant", tenant)
	}
	for range 5 {
		if _, err := client.UnaryCall(as("modest"), &testpb.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	var tail tailer
	_, err := client.UnaryCall(as("greedy"), &testpb.SimpleRequest{}, grpc.Trailer(&tail.md))
	must(t, "over the limit", err, codes.ResourceExhausted)
	if d := tail.mustPushBack(t, err); d < 2*time.Second || d > 3*time.Second {
		t.Errorf("pushed back for %v, want 3 s", d)
	}
	if n := len(server.Ledger.Attempts("greedy")); n != 0 {
		t.Errorf("%d attempts of a refused call", n)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.asked) != 6 {
		t.Fatalf("asked %d times for 6 calls", len(j.asked))
	}
	r := j.asked[0]
	got := fmt.Sprint(r.GetDomain())
	for _, d := range r.GetDescriptors() {
		for _, e := range d.GetEntries() {
			got += " " + e.GetKey() + "=" + e.GetValue()
		}
	}
	if want := "shop method=" + unary + " tenant=modest from=127.0.0.1 via=trunkline"; got != want {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

func TestARateLimitServiceThatIsAwayFailsOpenOrClosed(t *testing.T) {
	t.Parallel()
	nobody := harness.FreeAddr(t)
	j := &judge{hold: make(chan struct{})}
	defer close(j.hold)
	silent := harness.Serve(t, func(s *grpc.Server) { ratelimitpb.RegisterRateLimitServiceServer(s, j) })
	server := rogue.Start(t, "server", rogue.Options{})
	for _, address := range []string{nobody, silent} {
		for _, open := range []string{"true", "false"} {
			tr := start(t, rateLimitService(address, open), server.Addr)
			began := time.Now()
			_, err := call(t, harness.Dial(t, tr.Listen), "", "")
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("the call took %v", took)
			}
			if open == "true" {
				must(t, "failing open", err, codes.OK)
			} else if err == nil || reasonOf(err) == "" {
				t.Errorf("failing closed: %v", err)
			}
		}
	}
}
