package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/lb/config"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend starts a grpc-go server that echoes the messages of every method, and names itself in the header x-endpoint.
func backend(t *testing.T) (addr string) {
	t.Helper()
	l := listen(t)
	addr = l.Addr().String()
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		if err := s.SendHeader(metadata.Pairs("x-endpoint", addr)); err != nil {
			return err
		}
		for {
			m := new(wrapperspb.BytesValue)
			if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return addr
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l := listen(t)
	defer l.Close()
	return l.Addr().String()
}

func parse(t *testing.T, yaml string) *configv1.Config {
	t.Helper()
	cfg, _, err := config.Parse("test.yaml", []byte("listeners: [ { address: 127.0.0.1:0 } ]\nadmin: { address: \"-\" }\naccessLog: { mode: \"off\" }\n"+yaml))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// echoAt is a configuration with one cluster that serves bench.Echo.
func echoAt(addrs ...string) string {
	return "discovery: { static: { clusters: [ { name: echo, grpcServices: [ bench.Echo ], endpoints: [ { address: \"" +
		strings.Join(addrs, "\" }, { address: \"") + "\" } ] } ] } }\n"
}

// running is a Server at work, and its one client.
type running struct {
	*Server
	t     *testing.T
	cc    *grpc.ClientConn
	ended chan error // what Run returned
}

// run starts a Server and waits until it is ready; it is stopped when the test ends.
func run(t *testing.T, yaml string, sources ...discovery.Source) *running {
	t.Helper()
	return runConfig(t, parse(t, yaml), sources...)
}

func runConfig(t *testing.T, cfg *configv1.Config, sources ...discovery.Source) *running {
	t.Helper()
	s, err := New(context.Background(), Options{Config: cfg, ConfigName: "test.yaml", Version: "1.2.3", ExtraSources: sources})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: s, t: t, ended: make(chan error, 1)}
	over := make(chan struct{})
	go func() {
		r.ended <- s.Run(ctx)
		close(over)
	}()
	r.cc, err = grpc.NewClient("passthrough:///"+s.ListenerAddrs()[0].String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cc.Close()
		cancel()
		<-over
	})
	r.until("it is ready", func() bool { return r.Status().GetReady() })
	return r
}

// until polls what clients, sockets and the engine bring about.
func (r *running) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited 10 s until %s; status: %v; clusters: %v", what, r.Status(), r.Clusters())
		}
	}
}

// call makes a unary call and says which endpoint answered.
func (r *running) call(method, authority string) (endpoint string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var h metadata.MD
	opts := []grpc.CallOption{grpc.Header(&h)}
	if authority != "" {
		opts = append(opts, grpc.CallAuthority(authority))
	}
	err = r.cc.Invoke(ctx, "/"+method, wrapperspb.Bytes(nil), new(wrapperspb.BytesValue), opts...)
	return strings.Join(h.Get("x-endpoint"), ","), err
}

// chat opens a stream on which one message of n bytes was echoed; done ends it and says how it ended.
func (r *running) chat(n int, timeout time.Duration) (done func() error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	r.t.Cleanup(cancel)
	s, err := r.cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/bench.Echo/Chat")
	if err == nil {
		err = s.SendMsg(wrapperspb.Bytes(make([]byte, n)))
	}
	if err == nil {
		err = s.RecvMsg(new(wrapperspb.BytesValue))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return func() error {
		defer cancel()
		if err := s.CloseSend(); err != nil {
			return err
		}
		if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
			return fmt.Errorf("the stream ended with %w", err)
		}
		return nil
	}
}

func TestStatusShowsTheProcessAtOneGlance(t *testing.T) {
	r := run(t, "shards: 2\n"+echoAt(backend(t)))
	for range 3 {
		if _, err := r.call("bench.Echo/Ping", ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.call("no.Such/Method", ""); status.Code(err) != codes.Unimplemented {
		t.Fatalf("got %v", err)
	}
	end := r.chat(10, time.Minute)
	r.until("five calls were seen, one of them under way", func() bool {
		st, live := r.Status(), uint32(0)
		for _, sh := range st.GetShards() {
			live += sh.GetStreams()
		}
		return st.GetStreamsTotal() == 5 && live == 1
	})
	st := r.Status()
	c := st.GetConfig()
	if st.GetVersion() != "1.2.3" || !strings.HasPrefix(st.GetGoVersion(), "go1.") || st.GetPid() == 0 || st.GetUptime().AsDuration() <= 0 || st.GetNotReadyReason() != "" || st.GetDraining() || st.GetSnapshotVersion() == 0 {
		t.Errorf("status: %v", st)
	}
	if c.GetGeneration() != 1 || len(c.GetHash()) != 12 || c.GetFile() != "test.yaml" || c.GetAppliedAt() == nil || c.GetLastError() != "" || c.GetLastErrorAt() != nil {
		t.Errorf("config: %v", c)
	}
	if l := st.GetListeners(); len(l) != 1 || l[0].GetAddress() != r.ListenerAddrs()[0].String() || l[0].GetConnections() != 1 {
		t.Errorf("listeners: %v", l)
	}
	down, up := uint32(0), uint32(0)
	for i, sh := range st.GetShards() {
		down, up = down+sh.GetDownstreamConnections(), up+sh.GetUpstreamConnections()
		if sh.GetIndex() != uint32(i) {
			t.Errorf("shard %d: %v", i, sh)
		}
	}
	if len(st.GetShards()) != 2 || down != 1 || up != 1 {
		t.Errorf("shards: %v", st.GetShards())
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestBeforeTheFirstTableTheStatusNamesTheSourceThatIsMissing(t *testing.T) {
	src := newSource("slow")
	s, err := New(context.Background(), Options{Config: parse(t, echoAt("127.0.0.1:1")), ExtraSources: []discovery.Source{src}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r := &running{Server: s, t: t}
	r.until("only the slow source is missing", func() bool {
		return s.Status().GetNotReadyReason() == "waiting for the first answer of slow (the origin is away)"
	})
	if s.Status().GetReady() {
		t.Error("ready without it")
	}
	src.say()
	r.until("it is ready", func() bool { return s.Status().GetReady() && s.Status().GetNotReadyReason() == "" })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestARefusedConfigurationIsShownUntilOneIsApplied(t *testing.T) {
	addr := backend(t)
	r := run(t, echoAt(addr))
	before := r.Status().GetConfig()
	changed := r.Changed()
	r.Rejected(errors.New("t.yaml:1:10: nonsense"))
	select {
	case <-changed:
	default:
		t.Error("nobody who watches was told")
	}
	c := r.Status().GetConfig()
	if c.GetLastError() != "t.yaml:1:10: nonsense" || c.GetLastErrorAt() == nil || c.GetGeneration() != before.GetGeneration() || c.GetHash() != before.GetHash() {
		t.Errorf("after Rejected: %v", c)
	}
	twice := parse(t, echoAt(addr))
	for _, cluster := range []string{"echo", "other"} {
		twice.Routes = append(twice.Routes, &configv1.Route{Match: &configv1.Match{Service: "a.S"}, Cluster: cluster})
	}
	if err := r.Apply(twice); err == nil {
		t.Fatal("two routes contradict each other, and it was applied")
	}
	if c := r.Status().GetConfig(); !strings.Contains(c.GetLastError(), "service a.S") || c.GetGeneration() != before.GetGeneration() || c.GetHash() != before.GetHash() {
		t.Errorf("after a refusal by Apply: %v", c)
	}
	if err := r.Apply(parse(t, echoAt(addr))); err != nil {
		t.Fatal(err)
	}
	if c := r.Status().GetConfig(); c.GetLastError() != "" || c.GetLastErrorAt() != nil || c.GetGeneration() != 2 || c.GetHash() != before.GetHash() {
		t.Errorf("after the same one again: %v; it was %v", c, before)
	}
	if err := r.Apply(parse(t, echoAt(addr, "127.0.0.1:1"))); err != nil {
		t.Fatal(err)
	}
	if c := r.Status().GetConfig(); c.GetGeneration() != 3 || c.GetHash() == before.GetHash() {
		t.Errorf("after another one: %v", c)
	}
}

func TestStreamsAreListedOldestFirstOverAllShards(t *testing.T) {
	addr := backend(t)
	r := run(t, "shards: 2\n"+echoAt(addr))
	first := r.chat(100, time.Minute)
	second := r.chat(7, time.Hour)
	other, err := grpc.NewClient("passthrough:///"+r.ListenerAddrs()[0].String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	third := (&running{Server: r.Server, t: t, cc: other}).chat(3, time.Minute) // on the other shard
	list, total := r.Streams(10)
	if total != 3 || len(list) != 3 {
		t.Fatalf("%d of %d streams: %v", len(list), total, list)
	}
	ids := map[uint64]bool{}
	for i, s := range list {
		ids[s.GetId()] = true
		if i > 0 && s.GetAge().AsDuration() > list[i-1].GetAge().AsDuration() {
			t.Errorf("%d is older than what comes before", i)
		}
		// 5 bytes of prefix, 2 of the field, then the payload.
		if n := []uint64{107, 14, 10}[i]; s.GetRequestBytes() != n || s.GetResponseBytes() != n || s.GetRequestMessages() != 1 || s.GetResponseMessages() != 1 {
			t.Errorf("stream %d: %v", i, s)
		}
		if s.GetMethod() != "bench.Echo/Chat" || s.GetCluster() != "echo" || s.GetRoute() != "service bench.Echo" || s.GetEndpoint() != addr || s.GetAttempts() != 1 || s.GetAuthority() != r.ListenerAddrs()[0].String() {
			t.Errorf("stream %d: %v", i, s)
		}
	}
	if d := list[1].GetDeadlineLeft().AsDuration(); d <= time.Minute || d > time.Hour {
		t.Errorf("the second has %v left of an hour", d)
	}
	if len(ids) != 3 || list[0].GetPeer() == list[2].GetPeer() {
		t.Errorf("they cannot be told apart: %v", list)
	}
	again, total := r.Streams(2)
	if total != 3 || len(again) != 2 || again[0].GetId() != list[0].GetId() || again[1].GetId() != list[1].GetId() {
		t.Errorf("the two oldest of %d: %v", total, again)
	}
	if again[0].GetAge().AsDuration() <= list[0].GetAge().AsDuration() {
		t.Error("a stream on which nothing happens does not grow older")
	}
	for _, end := range []func() error{first, second, third} {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	r.until("none is left", func() bool { l, n := r.Streams(10); return len(l) == 0 && n == 0 })
}

func TestConnectionsOfBothSidesKeepTheirNumbers(t *testing.T) {
	addr := backend(t)
	r := run(t, "shards: 1\n"+echoAt(addr))
	end := r.chat(10, time.Minute)
	list := r.Connections()
	if len(list) != 2 {
		t.Fatalf("connections: %v", list)
	}
	down, up := list[0], list[1]
	if down.GetRole() != adminv1.ConnectionRole_CONNECTION_ROLE_DOWNSTREAM || down.GetLocalAddress() != r.ListenerAddrs()[0].String() || down.GetStreams() != 1 || down.GetAge().AsDuration() <= 0 || down.GetBytesOut() == 0 || down.GetGoingAway() {
		t.Errorf("downstream: %v", down)
	}
	if up.GetRole() != adminv1.ConnectionRole_CONNECTION_ROLE_UPSTREAM || up.GetPeerAddress() != addr || up.GetCluster() != "echo" || up.GetStreams() != 1 || up.GetBytesOut() == 0 {
		t.Errorf("upstream: %v", up)
	}
	if s, _ := r.Streams(1); s[0].GetPeer() != down.GetPeerAddress() || s[0].GetId()>>32 != down.GetId() {
		t.Errorf("the stream %v is not of %v", s, down)
	}
	if again := r.Connections(); again[0].GetId() != down.GetId() || again[1].GetId() != up.GetId() || up.GetId() == down.GetId() {
		t.Errorf("numbers changed: %v then %v", list, again)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestAnEndpointThatRefusesIsShownDownAndTheOtherTakesTheCalls(t *testing.T) {
	up, down := backend(t), nobody(t)
	r := run(t, echoAt(up, down)+"clusters: [ { name: echo, loadBalancing: round_robin } ]\n")
	for range 4 {
		if at, err := r.call("bench.Echo/Ping", ""); err != nil || at != up {
			t.Fatalf("%s answered, %v", at, err)
		}
	}
	c := r.Clusters().GetClusters()[0]
	if c.GetName() != "echo" || c.GetSource() != "static" || c.GetClaim() != adminv1.Claim_CLAIM_CONFIG || c.GetBalancer() != "round_robin" || strings.Join(c.GetServices(), " ") != "bench.Echo" {
		t.Errorf("cluster: %v", c)
	}
	for _, e := range c.GetEndpoints() {
		switch e.GetAddress() {
		case up:
			if e.GetState() != adminv1.EndpointState_ENDPOINT_STATE_UP || e.GetPicks() != 4 || e.GetConnections() == 0 || e.GetError() != "" || e.GetWeight() != 1 {
				t.Errorf("the one that is up: %v", e)
			}
		case down:
			if e.GetState() != adminv1.EndpointState_ENDPOINT_STATE_DOWN || !strings.Contains(e.GetError(), "refused") || e.GetConnections() != 0 || e.GetLoad() != 0 {
				t.Errorf("the one that is down: %v", e)
			}
		default:
			t.Errorf("unknown: %v", e)
		}
	}
	for _, c := range r.Explain("bench.Echo/Ping", "").GetCandidates() {
		if up := c.GetAddress() == up; c.GetEligible() != up || !c.GetHasMethod() || !up && !strings.Contains(c.GetReason(), "refused") {
			t.Errorf("candidate: %v", c)
		}
	}
}

func TestARemovedEndpointIsShownUntilItsLastStreamHasEnded(t *testing.T) {
	old, fresh := backend(t), backend(t)
	r := run(t, echoAt(old))
	end := r.chat(10, time.Minute)
	if err := r.Apply(parse(t, echoAt(fresh))); err != nil {
		t.Fatal(err)
	}
	state := func(addr string) (out adminv1.EndpointState) {
		for _, c := range r.Clusters().GetClusters() {
			for _, e := range c.GetEndpoints() {
				if e.GetAddress() == addr {
					out = e.GetState()
				}
			}
		}
		return out
	}
	r.until("the old endpoint is removed", func() bool {
		return state(old) == adminv1.EndpointState_ENDPOINT_STATE_REMOVED && state(fresh) == adminv1.EndpointState_ENDPOINT_STATE_UP
	})
	if n := len(r.Connections()); n != 2 {
		t.Errorf("%d connections, want the client's and the one to the removed endpoint", n)
	}
	if at, err := r.call("bench.Echo/Ping", ""); err != nil || at != fresh {
		t.Errorf("%s answered, %v", at, err)
	}
	if err := end(); err != nil {
		t.Errorf("the stream on it was not left alone: %v", err)
	}
	r.until("the old endpoint is forgotten", func() bool { return state(old) == adminv1.EndpointState_ENDPOINT_STATE_UNSPECIFIED })
}

func TestStartDrainReturnsAtOnceAndLetsStreamsEnd(t *testing.T) {
	r := run(t, echoAt(backend(t))+"drain: { timeout: 60s }\n")
	end := r.chat(10, time.Minute)
	if already, n := r.StartDrain(); already || n != 1 {
		t.Errorf("already %v, %d streams", already, n)
	}
	st := r.Status()
	if left := time.Until(st.GetDrainDeadline().AsTime()); !st.GetDraining() || st.GetReady() || left <= 50*time.Second || left > time.Minute {
		t.Errorf("status: %v", st)
	}
	if already, n := r.StartDrain(); !already || n != 1 {
		t.Errorf("the second time: already %v, %d streams", already, n)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-r.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the last stream has ended, and Run goes on")
	}
}

func TestADrainThatTakesTooLongIsCut(t *testing.T) {
	r := run(t, echoAt(backend(t))+"drain: { timeout: 50ms }\n")
	end := r.chat(10, time.Minute)
	r.StartDrain()
	select {
	case <-r.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("drain.timeout has passed, and Run goes on")
	}
	if err := end(); err == nil {
		t.Error("the stream was not cut")
	}
}
