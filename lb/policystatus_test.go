package lb

import (
	"errors"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/telemetry"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// broken starts a server that fails every call.
func broken(t *testing.T) (addr string) {
	t.Helper()
	l := listen(t)
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.Internal, "broken") }))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// policiesOf is what is told of a cluster; nil if nothing is.
func (r *running) policiesOf(cluster string) *adminv1.ClusterPolicies {
	for _, c := range r.Policies().GetClusters() {
		if c.GetCluster() == cluster {
			return c
		}
	}
	return nil
}

// gaugesOf are those of a cluster.
func (r *running) gaugesOf(cluster string) telemetry.ClusterGauges {
	var g telemetry.Gauges
	r.observe(&g)
	for _, c := range g.Clusters {
		if c.Name == cluster {
			return c
		}
	}
	r.t.Fatalf("no gauges of %s in %v", cluster, g)
	return telemetry.ClusterGauges{}
}

// store has the KV store hold these documents.
func (r *running) store(index uint64, docs map[string]string) {
	found := map[string]consul.Document{}
	for key, text := range docs {
		found[key] = consul.Document{Key: key, Value: []byte(text), Index: index}
	}
	r.takeDocuments(found)
}

// contains fails the test unless text has all the parts.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in %q", p, text)
		}
	}
}

const echoKey, shadowKey = "trunkline/clusters/echo/service-config", "trunkline/clusters/echo/service-config-shadow"

func TestABadDocumentIsToldWholeAndTheLastGoodOneIsSaidToBeInForce(t *testing.T) {
	r := run(t, echoAt(backend(t))+`serviceConfig: {methodConfig: [{name: [{}], timeout: 7s}]}`)
	if c := r.policiesOf("echo").GetConfig(); c.GetSource() != "test.yaml" || c.GetMethods()[0].GetWords()[0] != "timeout 7s" || c.GetSince() == nil {
		t.Errorf("from the file: %v", c)
	}

	// Nothing good came yet: the file's holds, and the mistake is the document's.
	r.store(1, map[string]string{echoKey: "{\"methodConfig\": [{\"name\": [{}],\n \"timeout\": 3, \"retryPolicy\": {}}]}"})
	c := r.policiesOf("echo").GetConfig()
	contains(t, c.GetLastError(), "consul kv "+echoKey+":2:", "methodConfig[0].timeout", "methodConfig[0].retryPolicy.maxAttempts")
	if c.GetSource() != "test.yaml" || c.GetLastErrorAt() == nil || !r.gaugesOf("echo").ConfigError {
		t.Errorf("with a bad document: %v, gauge %t", c, r.gaugesOf("echo").ConfigError)
	}

	r.store(2, map[string]string{echoKey: `{"methodConfig": [{"name": [{"service": "bench.Echo"}], "timeout": "2s"}], "unheardOf": 1}`})
	c = r.policiesOf("echo").GetConfig()
	if c.GetSource() != "consul kv "+echoKey || c.GetLastError() != "" || len(c.GetMethods()) != 1 || c.GetMethods()[0].GetName() != "bench.Echo" || r.gaugesOf("echo").ConfigError {
		t.Errorf("with a good document: %v", c)
	}
	contains(t, strings.Join(c.GetClusterWords(), "\n"), "warning: ", "unheardOf")

	// A mistake in the file is none of a cluster's that has its own.
	r.Rejected(errors.New("test.yaml:3: wrong"))
	if c := r.policiesOf("echo"); c.GetConfig().GetLastError() != "" || c.Shadow != nil || r.gaugesOf("echo").ConfigError {
		t.Errorf("told the file's mistake: %v", c)
	}
	r.store(3, map[string]string{echoKey: "{", "trunkline/clusters/ehco/service-config": `{"trunkline": {"cluster": {"slowStart": "5s"}}}`, shadowKey: "[]"})
	p := r.policiesOf("echo")
	contains(t, p.GetConfig().GetLastError(), echoKey+":1:")
	contains(t, p.GetShadow().GetLastError(), shadowKey+":1:")
	if p.GetConfig().GetSource() != "consul kv "+echoKey || p.GetShadow().GetSource() != "" || p.GetConfig().GetMethods()[0].GetWords()[0] != "timeout 2s" {
		t.Errorf("the last good one is not told: %v", p)
	}
	if c := r.policiesOf("ehco").GetConfig(); c.GetSource() == "" || len(c.GetClusterWords()) != 1 {
		t.Errorf("the policies of a cluster that nobody knows: %v", c)
	}
	r.store(4, nil)
	if c := r.policiesOf("echo").GetConfig(); c.GetSource() != "test.yaml" || c.GetLastError() != "test.yaml:3: wrong" || r.policiesOf("ehco") != nil {
		t.Errorf("without documents: %v", c)
	}
}

func TestWhoHasNoPoliciesIsToldNone(t *testing.T) {
	r := run(t, echoAt(backend(t)))
	p := r.policiesOf("echo")
	if c := p.GetConfig(); c.GetSource() != "" || c.Since != nil || len(c.GetMethods())+len(c.GetClusterWords()) != 0 {
		t.Errorf("config %v", c)
	}
	if len(p.GetBudgets()) != 2 || len(p.GetLimits())+len(p.GetEndpoints())+len(p.GetBreakers()) != 0 || p.GetPanic() != "" || p.ShadowReport != nil {
		t.Errorf("state %v", p)
	}
	if r.policiesOf(builtinName) != nil {
		t.Error("Trunkline's own services are told")
	}
}

func TestOpenBreakersAreToldUntilTheirSettingsOrEndpointsAreGone(t *testing.T) {
	addr := broken(t)
	const breakers = `serviceConfig: {trunkline: {methodPolicy: [{name: [{}], breaker: {consecutive: 2, openFor: 60s}}], cluster: {breaker: {consecutive: 3, openFor: 60s}}}}`
	r := run(t, echoAt(addr)+breakers)
	before := time.Now()
	for _, method := range []string{"Ping", "Ping", "Chat"} {
		if _, err := r.call("bench.Echo/"+method, ""); status.Code(err) != codes.Internal {
			t.Fatal(err)
		}
	}
	r.until("both breakers are told", func() bool { return len(r.policiesOf("echo").GetBreakers()) == 2 })
	p := r.policiesOf("echo")
	whole, ping := p.GetBreakers()[0], p.GetBreakers()[1]
	if whole.GetMethod() != "" || ping.GetMethod() != "bench.Echo/Ping" || p.GetBreakersTotal() != 3 {
		t.Errorf("of %d: %v", p.GetBreakersTotal(), p.GetBreakers())
	}
	wait := ping.GetNextProbe().AsTime().Sub(before)
	if ping.GetEndpoint() != addr || ping.GetState() != adminv1.BreakerState_BREAKER_STATE_OPEN || ping.GetReason() != "2 calls in a row failed (limit 2)" ||
		ping.GetOpened() != 1 || wait < 60*time.Second || wait > 71*time.Second {
		t.Errorf("next probe in %v, %v", wait, ping)
	}
	if g := r.gaugesOf("echo"); len(g.Breakers) != 2 || g.BreakerOpened != 2 || g.Breakers[0].HalfOpen {
		t.Errorf("gauges %+v", g)
	}
	if err := r.Apply(parse(t, echoAt(addr))); err != nil {
		t.Fatal(err)
	}
	if p, g := r.policiesOf("echo"), r.gaugesOf("echo"); len(p.GetBreakers()) != 0 || p.GetBreakersTotal() != 0 || g.BreakerOpened != 2 || len(g.Breakers) != 0 {
		t.Errorf("without breakers in force: %v, %+v", p, g)
	}
	if err := r.Apply(parse(t, echoAt(backend(t))+breakers)); err != nil {
		t.Fatal(err)
	}
	r.until("the endpoint is gone, and its breakers are told no more", func() bool {
		p, g := r.policiesOf("echo"), r.gaugesOf("echo")
		return len(p.GetBreakers()) == 0 && len(g.Breakers) == 0
	})
}

func TestEndpointsWithoutTheirFullShareAreToldWithTheReason(t *testing.T) {
	one, two, dead := broken(t), broken(t), nobody(t)
	r := run(t, echoAt(one, two, dead)+`serviceConfig: {trunkline: {cluster: {panicShare: 0.9, outlierDetection: {consecutive: 1, interval: 0.01s, maxEjectedShare: 1}}}}`)
	r.until("both are ejected, the third is known to be down, and it is panic", func() bool {
		if _, err := r.call("bench.Echo/Ping", ""); err == nil {
			t.Fatal("a broken server answered")
		}
		p := r.policiesOf("echo")
		return len(p.GetEndpoints()) == 3 && p.GetPanic() != ""
	})
	p := r.policiesOf("echo")
	contains(t, p.GetPanic(), "0 of 3 endpoints are healthy", "90%")
	for _, e := range p.GetEndpoints() {
		switch e.GetAddress() {
		case dead:
			if e.GetState() != "down" || e.EjectedUntil != nil {
				t.Errorf("%v", e)
			}
			contains(t, e.GetWhy(), "refused")
		default:
			if e.GetState() != "ejected" || e.GetEjectedUntil().AsTime().Before(time.Now()) || e.GetSince() == nil || e.GetWhy() == "" || e.GetEjections() != 1 {
				t.Errorf("%v", e)
			}
		}
	}
	g := r.gaugesOf("echo")
	ejected := 0
	for _, h := range g.Health {
		if h.Ejected {
			ejected++
		}
	}
	if !g.Panic || len(g.Health) != 3 || ejected != 2 {
		t.Errorf("gauges %+v", g)
	}
}

func TestLimitsAndBudgetsAreToldWithWhatIsInUse(t *testing.T) {
	addr := backend(t)
	r := run(t, echoAt(addr)+`serviceConfig: {retryThrottling: {maxTokens: 10, tokenRatio: 0.5}, trunkline: {methodPolicy: [{name: [{}], maxStreams: 4}],
  cluster: {retryBudget: {ratio: 0.2, burst: 30}, concurrency: {maxStreams: 3, maxStreamsPerEndpoint: 2, maxPending: 5, pendingTimeout: 60s}}}}`)
	ends := []func() error{r.chat(1, time.Minute), r.chat(1, time.Minute)}
	late := make(chan error)
	go func() {
		_, err := r.call("bench.Echo/Ping", "")
		late <- err
	}()
	// In use (who waits for an endpoint has a place in the cluster already), limit, waiting.
	want := map[string][3]uint64{"cluster": {3, 3, 1}, "endpoint " + addr: {2, 2, 0}, "method bench.Echo/Chat": {2, 4, 0}, "method bench.Echo/Ping": {1, 4, 0}}
	r.until("one call waits", func() bool {
		l := r.policiesOf("echo").GetLimits()
		return len(l) > 0 && l[0].GetWaiting() == 1
	})
	p := r.policiesOf("echo")
	got := map[string][3]uint64{}
	for _, l := range p.GetLimits() {
		got[l.GetWhat()] = [3]uint64{l.GetInUse(), l.GetLimit(), l.GetWaiting()}
	}
	if !maps.Equal(got, want) {
		t.Errorf("limits %v, want %v", got, want)
	}
	if g := r.gaugesOf("echo"); len(g.Limits) != 1 || g.Limits[0].Kind != "cluster" || g.Limits[0].Waiting != 1 || g.Limits[0].Limit != 3 || len(g.Budgets) != 3 {
		t.Errorf("gauges %+v", g)
	}
	b := p.GetBudgets()
	if len(b) != 3 || b[0].GetName() != "retry" || b[0].GetMaxTokens() != 30 || b[0].GetRatio() != 0.2 || b[0].GetTokens() < 6 ||
		b[2].GetName() != "throttle" || b[2].GetTokens() != 10 || b[2].GetMaxTokens() != 10 {
		t.Errorf("budgets %v", b)
	}
	for _, end := range ends {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	if err := <-late; err != nil {
		t.Error(err)
	}
}

func TestTheShadowsReportIsTold(t *testing.T) {
	r := run(t, echoAt(backend(t))+`shadowServiceConfig: {trunkline: {methodPolicy: [{name: [{}], rateLimits: [{requestsPerSecond: 0.001, burst: 1}]}]}}`)
	began := time.Now()
	for range 3 {
		if _, err := r.call("bench.Echo/Ping", ""); err != nil {
			t.Fatal(err)
		}
	}
	r.until("three calls are compared", func() bool { return r.policiesOf("echo").GetShadowReport().GetCalls() == 3 })
	p := r.policiesOf("echo")
	if s := p.GetShadow(); s.GetSource() != "test.yaml, shadowServiceConfig" || len(s.GetMethods()) != 1 || p.GetConfig().GetSource() != "" {
		t.Errorf("live %v, shadow %v", p.GetConfig(), s)
	}
	sr := p.GetShadowReport()
	if sr.GetDiffering() != 2 || len(sr.GetKinds()) != 1 || sr.GetKinds()[0].GetCalls() != 2 || sr.GetKinds()[0].GetMethod() != "bench.Echo/Ping" || len(sr.GetLatest()) != 2 {
		t.Fatalf("%v", sr)
	}
	if at := sr.GetLatest()[0].GetAt().AsTime(); at.Before(began.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("a call at %v, between %v and now", at, began)
	}
	if d := sr.GetLatest()[0].GetDifferences(); len(d) != 1 || d[0].GetLive() == "" || d[0].GetShadow() == "" {
		t.Errorf("%v", d)
	}
	if g := r.gaugesOf("echo").Shadow; g == nil || g.Calls != 3 || len(g.Differ) != 1 || g.Differ[0].Calls != 2 {
		t.Errorf("gauges %+v", g)
	}
}
