package health

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a keeper of one cluster "c" with endpoints in memory and a log to read. Its time is virtual.
type rig struct {
	t     *testing.T
	k     *Keeper
	cfg   *serviceconfig.Cluster
	group *balance.Group
	all   []Member // of the last set

	mu    sync.Mutex
	lines bytes.Buffer
	known map[string]*host
}

// host is what answers at one address. Guarded by the rig's mu.
type host struct {
	accept  chan net.Conn // nil: the dial is refused
	hole    bool          // the dial never ends
	dials   int
	dialing int
	open    int // connections
}

// story runs f with a keeper in virtual time and closes it at the end.
func story(t *testing.T, cfg serviceconfig.Cluster, f func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, cfg: &cfg, group: new(balance.Group), known: map[string]*host{}}
		r.k = New(slog.New(slog.NewTextHandler(r, nil)), r.dial)
		defer r.k.Close()
		f(r)
	})
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.Write(p)
}

// logged takes the lines that were logged since the last time, and fails unless the words come in them in this order. No words: no lines.
func (r *rig) logged(words ...string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.lines.String()
	r.lines.Reset()
	rest := text
	for _, w := range words {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			r.t.Errorf("%q is missing in the log:\n%s", w, text)
			return
		}
		rest = after
	}
	if len(words) == 0 && text != "" {
		r.t.Errorf("logged:\n%s", text)
	}
}

func (r *rig) host(address string) *host {
	h := r.known[address]
	if h == nil {
		h = &host{}
		r.known[address] = h
	}
	return h
}

func (r *rig) at(address string) host {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *r.host(address)
}

func (r *rig) dial(ctx context.Context, _, address string) (net.Conn, error) {
	r.mu.Lock()
	h := r.host(address)
	h.dials++
	h.dialing++
	accept, hole := h.accept, h.hole
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		h.dialing--
		r.mu.Unlock()
	}()
	if hole {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if accept == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	select {
	case accept <- server:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.mu.Lock()
	h.open++
	r.mu.Unlock()
	return &counted{Conn: client, closed: func() {
		r.mu.Lock()
		h.open--
		r.mu.Unlock()
	}}, nil
}

type counted struct {
	net.Conn
	once   sync.Once
	closed func()
}

func (c *counted) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

type listener struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// serve answers at address with that health service (nil: a gRPC server without one) until the returned function is called.
func (r *rig) serve(address string, h healthpb.HealthServer) (stop func()) {
	l := &listener{accept: make(chan net.Conn), closed: make(chan struct{})}
	r.mu.Lock()
	r.host(address).accept = l.accept
	r.mu.Unlock()
	s := grpc.NewServer()
	if h != nil {
		healthpb.RegisterHealthServer(s, h)
	}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			r.mu.Lock()
			if r.host(address).accept == l.accept {
				r.host(address).accept = nil
			}
			r.mu.Unlock()
			s.Stop()
			<-done
		})
	}
	r.t.Cleanup(stop)
	return stop
}

// set makes these the members of the cluster, with the rig's settings; those that it knows stay the same objects.
func (r *rig) set(addresses ...string) {
	var next []Member
	for _, a := range addresses {
		m := Member{Address: a, Endpoint: balance.NewEndpoint(a), Host: outlier.NewHost()}
		for _, old := range r.all {
			if old.Address == a {
				m = old
			}
		}
		next = append(next, m)
	}
	r.all = next
	cfg := *r.cfg
	r.k.Set("c", next, r.group, &cfg)
	synctest.Wait()
}

func (r *rig) member(address string) Member {
	for _, m := range r.all {
		if m.Address == address {
			return m
		}
	}
	r.t.Fatalf("no member %s", address)
	return Member{}
}

func (r *rig) state(address string) State {
	r.t.Helper()
	synctest.Wait()
	for _, s := range r.k.Snapshot("c") {
		if s.Address == address {
			return s
		}
	}
	r.t.Fatalf("nothing known of %s", address)
	return State{}
}

// expect fails unless the endpoint has that health, these bits, and an error with these words in it.
func (r *rig) expect(address, health string, bits uint32, words string) {
	r.t.Helper()
	s := r.state(address)
	if s.Health != health || s.Bits != bits || s.Bits != r.member(address).Endpoint.State() || !strings.Contains(s.Err, words) || words == "" && s.Err != "" {
		r.t.Errorf("%s is %s [%s], %q; expected %s [%s], %q", address, s.Health, balance.StateString(s.Bits), s.Err, health, balance.StateString(bits), words)
	}
}

// faults has n calls fail at address.
func (r *rig) faults(address string, n int) {
	m := r.member(address)
	for range n {
		if m.Host.Record(r.cfg.Outlier, true, time.Millisecond) {
			r.k.Tripped("c", address)
		}
	}
	synctest.Wait()
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// checker serves Check only, and counts.
type checker struct {
	healthpb.UnimplementedHealthServer
	mu    sync.Mutex
	said  healthpb.HealthCheckResponse_ServingStatus
	err   error
	hang  bool
	times []time.Time
}

func (c *checker) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	c.mu.Lock()
	c.times = append(c.times, time.Now())
	said, err, hang := c.said, c.err, c.hang
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if err != nil {
		return nil, err
	}
	return &healthpb.HealthCheckResponse{Status: said}, nil
}

func (c *checker) say(s healthpb.HealthCheckResponse_ServingStatus, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said, c.err = s, err
}

func (c *checker) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.times)
}

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

func newHealth(service string, s healthpb.HealthCheckResponse_ServingStatus) *health.Server {
	h := health.NewServer()
	h.SetServingStatus(service, s)
	return h
}

// both watches by grpc's own health server and is checked by ours; when it hangs, open watches say nothing any more.
type both struct {
	*checker
	watch *health.Server
}

func (b both) Watch(q *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	b.mu.Lock()
	hang := b.hang
	b.mu.Unlock()
	if hang {
		return mute{}.Watch(q, s)
	}
	return b.watch.Watch(q, s)
}

// mute takes a Watch and says nothing.
type mute struct {
	healthpb.UnimplementedHealthServer
}

func (mute) Watch(_ *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	<-s.Context().Done()
	return nil
}
