package admin

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/trunkline/trunkline/lb/decision"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a balancer with one cluster of two endpoints, one of them down, and one live stream.
type fake struct {
	mu      sync.Mutex
	status  *adminv1.Status // guarded by mu
	changed chan struct{}   // guarded by mu; closed at each change
	drains  int             // guarded by mu
	books   decision.Books
}

func newFake() *fake {
	return &fake{
		status: &adminv1.Status{
			Version: "test", Ready: true, StreamsTotal: 42,
			Uptime:    durationpb.New(90e9),
			Config:    &adminv1.ConfigStatus{Generation: 1, Hash: "abc", File: "t.yaml"},
			Listeners: []*adminv1.Listener{{Address: "127.0.0.1:7443", Connections: 3}},
			Shards:    []*adminv1.Shard{{DownstreamConnections: 3, UpstreamConnections: 2, Streams: 1}},
		},
		changed: make(chan struct{}),
	}
}

// change edits the status and wakes who watches.
func (f *fake) change(edit func(*adminv1.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit(f.status)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) Status() *adminv1.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return proto.Clone(f.status).(*adminv1.Status)
}

func (f *fake) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fake) StartDrain() (bool, uint64) {
	f.mu.Lock()
	already := f.status.Draining
	f.drains++
	f.mu.Unlock()
	f.change(func(s *adminv1.Status) { s.Draining = true })
	return already, 1
}

func (f *fake) Routes() []*adminv1.Route {
	return []*adminv1.Route{{Name: "routes[0]", Kind: adminv1.RouteKind_ROUTE_KIND_SERVICE, Pattern: "a.S", Cluster: "a", Claim: adminv1.Claim_CLAIM_ROUTE}}
}

func (f *fake) Clusters() *adminv1.ListClustersResponse {
	return &adminv1.ListClustersResponse{Clusters: []*adminv1.Cluster{{Name: "a", Source: "static", Services: []string{"a.S"}, Balancer: "least_request", Endpoints: []*adminv1.Endpoint{
		{Address: "127.0.0.1:1", Weight: 1, State: adminv1.EndpointState_ENDPOINT_STATE_UP, Load: 1},
		{Address: "127.0.0.1:2", Weight: 1, State: adminv1.EndpointState_ENDPOINT_STATE_DOWN, Error: "connection refused"},
	}}}, Conflicts: []*adminv1.Conflict{{Service: "b.T", Clusters: []string{"x", "y"}}}}
}

// Streams has 12,000 of them, so that limits can be seen.
func (f *fake) Streams(limit int) ([]*adminv1.Stream, uint64) {
	out := make([]*adminv1.Stream, limit)
	for i := range out {
		out[i] = &adminv1.Stream{Id: uint64(i), Method: "a.S/Get"}
	}
	return out, 12_000
}

func (f *fake) Connections() []*adminv1.Connection {
	return []*adminv1.Connection{{Id: 1, Role: adminv1.ConnectionRole_CONNECTION_ROLE_DOWNSTREAM}}
}

func (f *fake) Explain(method, authority string) *adminv1.ExplainResponse {
	return &adminv1.ExplainResponse{Method: method, Authority: authority, Cluster: "a", Route: f.Routes()[0],
		Steps: []*adminv1.ExplainStep{{Route: f.Routes()[0], Matched: true, Chosen: true}}}
}

func (f *fake) Decisions() decision.Books { return f.books }

func (f *fake) Policies() *adminv1.GetPoliciesResponse {
	return &adminv1.GetPoliciesResponse{Clusters: []*adminv1.ClusterPolicies{{Cluster: "a", Breakers: []*adminv1.Breaker{
		{Endpoint: "127.0.0.1:2", State: adminv1.BreakerState_BREAKER_STATE_OPEN, Reason: "5 calls failed in a row"}}}}}
}

func (f *fake) Certificates() *adminv1.ListCertificatesResponse {
	return &adminv1.ListCertificatesResponse{Certificates: []*adminv1.Certificate{{Where: "listeners[0].tls", Serial: "12ab"}}, Mesh: &adminv1.Mesh{Service: "edge"}}
}

// serve runs a Server on a free loopback port until the test ends, and returns its address.
func serve(t *testing.T, f *fake) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { say(w, 200, "trunkline_up 1") })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := New(f, metrics, slog.New(slog.DiscardHandler))
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended with %v, want nil after its context", err)
		}
	})
	return l.Addr().String()
}
