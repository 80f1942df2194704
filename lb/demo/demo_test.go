package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/trunkline/trunkline/discovery"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs one backend of the cast until the test ends.
func start(t *testing.T, name string) *backend {
	t.Helper()
	for _, c := range cast() {
		if c.name == name {
			b, err := startBackend(c, "127.0.0.1", nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.stop)
			return b
		}
	}
	t.Fatalf("no %s in the cast", name)
	return nil
}

func TestRefusedStreamsAreRefusedUnprocessedAndHarmNoOther(t *testing.T) {
	b := start(t, "shop-b")
	ta := newTally()
	c, err := newClient(b.address, nil, ta)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	// Straight to the backend: grpc-go itself sends a stream again that it was told was not processed.
	// One call at a time: it does so only once, and must not meet a second refusal.
	c.rush(t.Context(), 200, 1)
	calls, ended := ta.totals()
	if calls != 200 || b.refusedStreams() < 20 {
		t.Errorf("%d calls, %d streams refused", calls, b.refusedStreams())
	}
	if got := c.resends.Load(); got != b.refusedStreams() {
		t.Errorf("the backend refused %d streams, the client sent %d again", b.refusedStreams(), got)
	}
	if got := uint64(ended[codes.Unavailable]); got != b.shop.refused.Load() || got < 5 {
		t.Errorf("the backend said UNAVAILABLE %d times, the client heard it %d times", b.shop.refused.Load(), got)
	}
	// grpc-go returns a bare io.EOF, which reads as UNKNOWN, when the stream that it sent again is answered before the request
	// was sent again in full. Only UNIMPLEMENTED comes so early; seen in one of a thousand such calls on a busy machine.
	if n := ended[codes.Unimplemented] + ended[codes.Unknown]; n != 30 || ended[codes.Unknown] > 5 || ended[codes.NotFound]+ended[codes.OK]+ended[codes.Unavailable] != 170 {
		t.Errorf("calls ended %v; of 200, the 30 SuggestTea must end UNIMPLEMENTED", ended)
	}
}

func TestOnlyTheNewVersionTellsOfItsMethodAndHasIt(t *testing.T) {
	for name, has := range map[string]bool{"shop-a": false, "shop-c": true} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient(start(t, name).address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			want := codes.Unimplemented
			if has {
				want = codes.OK
			}
			if err := conn.Invoke(ctx, "/trunkline.demo.v1.Shop/SuggestTea", &demov1.GetTeaRequest{}, new(demov1.GetTeaResponse)); status.Code(err) != want {
				t.Errorf("SuggestTea: %v, want %v", err, want)
			}
			if got := methods(ctx, t, conn); slices.Contains(got, suggestTea) != has || !slices.Contains(got, "GetTea") {
				t.Errorf("reflection tells of %v", got)
			}
		})
	}
}

// methods asks reflection for the methods of the Shop, by symbol, as grpcurl does.
func methods(ctx context.Context, t *testing.T, conn *grpc.ClientConn) (names []string) {
	t.Helper()
	s, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "trunkline.demo.v1.Shop"}}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	_ = s.CloseSend()
	for _, b := range r.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(b, f); err != nil {
			t.Fatal(err)
		}
		for _, svc := range f.GetService() {
			for _, m := range svc.GetMethod() {
				names = append(names, m.GetName())
			}
		}
	}
	return names
}

// favourite is a poor balancer: it relays every connection to one endpoint, shop-c, and knows no policies. What it counts is
// made up.
type favourite struct {
	page     *httptest.Server
	l        net.Listener
	clusters []*discovery.Cluster
	wg       sync.WaitGroup
	config   *configv1.Config
	drained  bool
}

func startFavourite(ctx context.Context, config *configv1.Config, extra []discovery.Source) (*favourite, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &favourite{l: l, config: config, page: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "# TYPE trunkline_calls_total counter\n"+
			`trunkline_calls_total{method="trunkline.demo.v1.Shop/GetTea",origin="upstream",status="OK"} 190`+"\n"+
			`trunkline_calls_total{method="trunkline.demo.v1.Shop/Chat",origin="upstream",status="OK"} 11`+"\n"+
			`trunkline_calls_total{method="_other",origin="upstream",status="OK"} 7`+"\n"+
			`trunkline_retries_total{cluster="shop",reason="status"} 3`+"\n")
	}))}
	ctx, cancel := context.WithCancel(ctx)
	err = extra[0].Run(ctx, func(c []*discovery.Cluster) { f.clusters = c; cancel() })
	return f, err
}

func (f *favourite) Run(ctx context.Context) error {
	defer f.wg.Wait()
	defer context.AfterFunc(ctx, func() { _ = f.l.Close() })()
	for {
		down, err := f.l.Accept()
		if err != nil {
			return nil
		}
		shops := f.clusters[0].Endpoints
		up, err := net.Dial("tcp", shops[slices.IndexFunc(shops, func(e discovery.Endpoint) bool { return e.InstanceID == "shop-c" })].Address)
		if err != nil {
			return err
		}
		relay := func(to, from net.Conn) { _, _ = io.Copy(to, from); _ = to.Close(); _ = from.Close() }
		f.wg.Go(func() { relay(up, down) })
		f.wg.Go(func() { relay(down, up) })
	}
}

func (f *favourite) Drain(context.Context) error { f.page.Close(); f.drained = true; return nil }
func (f *favourite) ListenerAddrs() []net.Addr   { return []net.Addr{f.l.Addr()} }
func (f *favourite) AdminAddr() net.Addr         { return f.page.Listener.Addr() }
func (f *favourite) Status() *adminv1.Status     { return &adminv1.Status{Ready: true} }
func (f *favourite) Clusters() *adminv1.ListClustersResponse {
	r := &adminv1.ListClustersResponse{}
	for _, c := range f.clusters {
		to := &adminv1.Cluster{Name: c.Name}
		for _, e := range c.Endpoints {
			to.Endpoints = append(to.Endpoints, &adminv1.Endpoint{Address: e.Address, Services: []*adminv1.Service{{Name: "trunkline.demo.v1.Shop"}}})
		}
		r.Clusters = append(r.Clusters, to)
	}
	return r
}

func TestOnceFailsIfTheBalancerHasAFavourite(t *testing.T) {
	var out bytes.Buffer
	var f *favourite
	err := Run(t.Context(), Options{Once: true, Calls: 200, Out: &out, Listen: "127.0.0.1:0", Admin: "-", Command: "trunkline",
		Start: func(ctx context.Context, c *configv1.Config, extra []discovery.Source) (b Balancer, err error) {
			f, err = startFavourite(ctx, c, extra)
			return f, err
		}})
	if err == nil || strings.Contains(err.Error(), "shop-c") {
		t.Fatalf("the verdict is %v", err)
	}
	for _, want := range []string{
		"shop-a answered no GetTea", "shop-d was open again, and got no call", "shop-d failed every call for a while, and was not ejected",
		"Trunkline counts 201 calls, the client made 200", "the shops ended 0 calls with UNAVAILABLE, Trunkline retried 3",
		"no ListTeas was hedged", "all calls of TasteTea got through",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the verdict does not say %q: %v", want, err)
		}
	}
	if !f.drained {
		t.Error("the balancer was not drained at the end")
	}
	for _, want := range []string{"200 calls", "method", "GetTea", "WatchKettle", "PlaceOrder", "Chat", "SuggestTea", "10 NOT_FOUND", "100%"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
}

func TestTheDemoSaysWhatToTryAndEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	seen := watcher{Writer: &out, for_: "Ctrl-C", then: cancel}
	err := Run(ctx, Options{Out: &seen, Listen: "127.0.0.1:0", Admin: "-", Command: "trunkline",
		Start: func(ctx context.Context, c *configv1.Config, extra []discovery.Source) (Balancer, error) {
			return startFavourite(ctx, c, extra)
		}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"shop-a v1", "grpcurl -plaintext 127.0.0.1:", "http://127.0.0.1:", "trunkline explain trunkline.demo.v1.Shop/SuggestTea --admin 127.0.0.1:", "trunkline explain --last-errors --admin 127.0.0.1:", "jaeger", "The client's calls:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &out)
		}
	}
}

// watcher calls then once when what it waits for is written.
type watcher struct {
	io.Writer
	for_ string
	then func()
}

func (w *watcher) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.for_)) {
		w.then()
	}
	return w.Writer.Write(p)
}

func TestABalancerThatCannotStartEndsTheDemoWithItsError(t *testing.T) {
	busy := errors.New("127.0.0.1:7443: address already in use")
	err := Run(t.Context(), Options{Out: io.Discard, Start: func(context.Context, *configv1.Config, []discovery.Source) (Balancer, error) { return nil, busy }})
	if !errors.Is(err, busy) {
		t.Errorf("got %v", err)
	}
}

func TestConsulAndOTLPAddressesThatAreNoneAreRefusedByName(t *testing.T) {
	for _, o := range []Options{{Consul: "http://"}, {OTLP: "localhost:4317"}} {
		o.Out = io.Discard
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "write ") || !strings.HasPrefix(err.Error(), "--") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestTheVerdictNamesWhatIsNotAsItMustBe(t *testing.T) {
	backends := []*backend{
		{character: character{name: "a"}, shop: &shop{}},
		{character: character{name: "c", extraMethod: true}, shop: &shop{}},
	}
	get := call{method: "GetTea", expect: codes.OK}
	ok := func() *tally {
		t := newTally()
		t.add(call{method: tasteTea}, "", 0, status.Error(codes.ResourceExhausted, "the limit")) // as it must be
		t.add(get, "a", time.Millisecond, nil)
		t.add(get, "c", time.Millisecond, nil)
		return t
	}
	if bad := ok().verdict(backends, 0, true); len(bad) != 0 {
		t.Fatalf("a good run: %v", bad)
	}
	for want, spoil := range map[string]func(*tally){
		"GetTea ended Internal":                         func(t *tally) { t.add(get, "a", 0, status.Error(codes.Internal, "x")) },
		"GetTea ended Unavailable":                      func(t *tally) { t.add(get, "", 0, status.Error(codes.Unavailable, "x")) },
		"GetTea ended ResourceExhausted":                func(t *tally) { t.add(get, "", 0, status.Error(codes.ResourceExhausted, "x")) },
		"a answered SuggestTea, which it does not have": func(t *tally) { t.add(call{method: suggestTea}, "a", 0, nil) },
		"Chat ended Unavailable":                        func(t *tally) { t.add(call{method: "Chat"}, "", 0, status.Error(codes.Unavailable, "x")) },
	} {
		ta := ok()
		spoil(ta)
		if bad := ta.verdict(backends, 0, true); len(bad) != 1 || !strings.HasPrefix(bad[0], want) {
			t.Errorf("got %q, want %q", bad, want)
		}
	}
	if bad := ok().verdict(backends, 2, false); len(bad) != 1 || !strings.Contains(bad[0], "2 refusals") {
		t.Errorf("got %q", bad)
	}
}

func TestQuantilesAndEndingsReadWell(t *testing.T) {
	var ds []time.Duration
	for i := 100; i > 0; i-- {
		ds = append(ds, time.Duration(i)*time.Millisecond)
	}
	if p50, p99 := quantile(ds, .5), quantile(ds, .99); p50 != 51*time.Millisecond || p99 != 99*time.Millisecond {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
	if got := round3(1234567 * time.Nanosecond); got.String() != "1.23ms" {
		t.Errorf("rounded to %v", got)
	}
	if got := endings(map[codes.Code]int{codes.OK: 9, codes.NotFound: 2, codes.Canceled: 1}); got != "1 CANCELLED, 2 NOT_FOUND" {
		t.Errorf("endings: %s", got)
	}
}
