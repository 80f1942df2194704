package serviceconfig

import (
	"go/parser"
	"go/token"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/retry"
)

// packageExample is the document of the package comment, as JSON.
func packageExample(t testing.TB) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(file.Doc.Text()) {
		if text, ok := strings.CutPrefix(line, "\t"); ok {
			out = append(out, regexp.MustCompile(`\s+// .*`).ReplaceAllString(text, "\n"))
		}
	}
	return strings.Join(out, "")
}

// parsed is a document that must be read without a word.
func parsed(t testing.TB, text string) *Config {
	t.Helper()
	c, problems := Parse("test", []byte(text), 1)
	for _, p := range problems {
		t.Error(p)
	}
	if c == nil {
		t.FailNow()
	}
	return c
}

func ptr[T any](v T) *T { return &v }

func TestTheExampleInThePackageCommentIsReadWhole(t *testing.T) {
	c := parsed(t, packageExample(t))
	get := c.For("shop.Orders", "Get")
	want := &Method{
		Name: "shop.Orders/Get", Timeout: time.Second, MaxRequestBytes: -1, MaxResponseBytes: -1,
		Hedge:      &hedge.Policy{MaxAttempts: 2, Delay: 100 * time.Millisecond, NonFatal: grpc.SetOf(grpc.Unavailable), Percentile: 95},
		Idempotent: ptr(true), PerTryTimeout: 250 * time.Millisecond, IdleTimeout: 5 * time.Minute, RefuseHopeless: true,
		HoldResponse: 100 * time.Millisecond, ReplayBytes: 65536, MaxStreams: 200,
		Breaker: &breaker.Settings{
			Consecutive: 5, ErrorRate: 0.5, Window: 10 * time.Second, MinVolume: 20, OpenFor: 5 * time.Second,
			MaxOpenFor: time.Minute, Probes: 3, Faults: grpc.ServerFaults,
		},
		Rates: []RateLimit{
			{Rate: limit.Rate{PerSecond: 500, Burst: 100}, MaxKeys: 10_000},
			{Rate: limit.Rate{PerSecond: 900, Burst: 900}, MaxKeys: 10_000, Shared: "shop.Orders/Get"},
			{Rate: limit.Rate{PerSecond: 10, Burst: 10}, Metadata: "x-user", MaxKeys: 10_000},
			{Rate: limit.Rate{PerSecond: 50, Burst: 50}, ClientAddress: true, MaxKeys: 10_000},
			{Rate: limit.Rate{PerSecond: 50, Burst: 50}, Identity: true, MaxKeys: 10_000},
			{Rate: limit.Rate{PerSecond: 500, Burst: 500}, Claim: "org", MaxKeys: 10_000},
		},
	}
	if diff := cmp.Diff(want, get); diff != "" {
		t.Errorf("shop.Orders/Get (-want +got):\n%s", diff)
	}
	wantPut := &Method{
		Name: "shop.Orders", Timeout: 2 * time.Second, MaxRequestBytes: 1 << 20, MaxResponseBytes: 4 << 20,
		Retry: &retry.Policy{
			MaxAttempts: 3, InitialBackoff: 50 * time.Millisecond, MaxBackoff: time.Second, BackoffMultiplier: 2,
			Retryable: grpc.SetOf(grpc.Unavailable),
		},
		HoldResponse: 100 * time.Millisecond, ReplayBytes: -1,
	}
	if diff := cmp.Diff(wantPut, c.For("shop.Orders", "Put")); diff != "" {
		t.Errorf("shop.Orders/Put (-want +got):\n%s", diff)
	}
	if c.Source != "test" || c.LoadBalancing != "round_robin" || *c.HealthService != "shop.Orders" ||
		*c.Throttle != (retry.ThrottleSettings{MaxTokens: 100, TokenRatio: 0.1}) {
		t.Errorf("config = %+v", c)
	}
	wantCluster := Cluster{
		RetryBudget: retry.BudgetSettings{Ratio: 0.1, Burst: 50},
		HedgeBudget: retry.BudgetSettings{Ratio: 0.1, Burst: 50},
		Concurrency: Concurrency{MaxStreams: 1000, MaxStreamsPerEndpoint: 100, MaxPending: 50, PendingTimeout: time.Second},
		Breaker: &breaker.Settings{
			Consecutive: 20, Window: 10 * time.Second, MinVolume: 20, OpenFor: 5 * time.Second,
			MaxOpenFor: time.Minute, Probes: 3, Faults: grpc.ServerFaults,
		},
		Outlier: &outlier.Settings{
			Interval: time.Second, BaseEjection: 30 * time.Second, MaxEjection: 5 * time.Minute, MaxEjectedShare: 0.5, Consecutive: 5,
			SuccessRate: &outlier.SuccessRate{StdevFactor: 1.9, MinHosts: 5, MinVolume: 100},
			Failures:    &outlier.FailureShare{Threshold: 0.85, MinHosts: 5, MinVolume: 50},
			Latency:     &outlier.Latency{Factor: 3, Min: 50 * time.Millisecond, MinHosts: 3, MinVolume: 50},
			Faults:      grpc.ServerFaults,
		},
		PanicShare: 0.5, SlowStart: 10 * time.Second,
		HealthCheck: &HealthCheck{Interval: 5 * time.Second, Timeout: time.Second, UnhealthyThreshold: 2, HealthyThreshold: 1},
		Adaptive: &limit.Adaptive{
			Min: 4, Max: 1000, Initial: 50, Window: 100 * time.Millisecond, MinSamples: 10, Tolerance: 1.5, Rebase: 30 * time.Second,
		},
		GlobalLimits: &GlobalLimits{
			Address: "127.0.0.1:8081", Domain: "trunkline", Timeout: 20 * time.Millisecond, FailOpen: true,
			Descriptors: [][]DescriptorEntry{
				{{Key: "method", Method: true}, {Key: "user", Metadata: "x-user"}},
				{{Key: "plan", Value: "free"}, {Key: "ip", ClientAddress: true}},
			},
		},
	}
	if diff := cmp.Diff(wantCluster, c.Cluster); diff != "" {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
}

func TestWithoutADocumentEveryFieldHasItsDefault(t *testing.T) {
	c := Default()
	want := &Method{Name: "default", MaxRequestBytes: -1, MaxResponseBytes: -1, HoldResponse: 100 * time.Millisecond, ReplayBytes: -1}
	if diff := cmp.Diff(want, c.For("any.Service", "Method")); diff != "" {
		t.Errorf("method (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, new(Config).For("any.Service", "Method")); diff != "" {
		t.Errorf("method of a zero Config (-want +got):\n%s", diff)
	}
	budget := retry.BudgetSettings{Ratio: 0.1, Burst: 50}
	if diff := cmp.Diff(Cluster{RetryBudget: budget, HedgeBudget: budget, PanicShare: 0.5, Concurrency: Concurrency{PendingTimeout: time.Second}}, c.Cluster); diff != "" {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(c.Cluster, parsed(t, `{"methodConfig": null, "healthCheckConfig": null}`).Cluster); diff != "" {
		t.Errorf("a document that says nothing differs from none:\n%s", diff)
	}
	for _, text := range []string{
		`{"trunkline": {"cluster": {"outlierDetection": {}, "healthCheck": {}, "adaptiveConcurrency": {}, "retryBudget": {}, "concurrency": {}}}}`,
		`{"trunkline": {"cluster": {"outlierDetection": {"successRate": {}, "failureShare": {}, "latency": {}}}}}`,
	} {
		parsed(t, text)
	}
}

// The three levels are looked up in each part by itself: here methodConfig knows the service and methodPolicy the method,
// then the other way round.
func TestThePrecedenceIsFullNameServiceDefaultInEachPartByItself(t *testing.T) {
	c := parsed(t, `
methodConfig:
- { name: [{}], timeout: 9s }
- { name: [{service: a.A}], timeout: 1s }
- { name: [{service: b.B, method: M}, {service: c.C}], timeout: 2s }
trunkline:
  methodPolicy:
  - { name: [{}], maxStreams: 99 }
  - { name: [{service: a.A, method: M}], maxStreams: 10 }
  - { name: [{service: b.B}], maxStreams: 20 }
`)
	for _, x := range []struct {
		service, method string
		name            string
		timeout         time.Duration
		streams         int
	}{
		{"a.A", "M", "a.A/M", 1 * time.Second, 10},
		{"a.A", "N", "a.A", 1 * time.Second, 99},
		{"b.B", "M", "b.B/M", 2 * time.Second, 20},
		{"b.B", "N", "b.B", 9 * time.Second, 20},
		{"c.C", "N", "c.C", 2 * time.Second, 99},
		{"d.D", "M", "default", 9 * time.Second, 99},
		{"", "", "default", 9 * time.Second, 99},
	} {
		m := c.For(x.service, x.method)
		if m.Name != x.name || m.Timeout != x.timeout || m.MaxStreams != x.streams {
			t.Errorf("For(%q, %q) = %s %v %d, want %s %v %d", x.service, x.method, m.Name, m.Timeout, m.MaxStreams, x.name, x.timeout, x.streams)
		}
	}
	if n := testing.AllocsPerRun(100, func() { c.For("a.A", "N") }); n != 0 {
		t.Errorf("For allocates %v times", n)
	}
	if len(c.Methods()) != 6 {
		t.Errorf("%d entries, want 6", len(c.Methods()))
	}
}

// An entry does not inherit from a wider one, as in clients.
func TestTheMostSpecificEntryHoldsAlone(t *testing.T) {
	c := parsed(t, `{"methodConfig": [{"name": [{}], "timeout": "1s"}, {"name": [{"service": "a.A"}], "waitForReady": true}]}`)
	if m := c.For("a.A", "M"); m.Timeout != 0 || !m.WaitForReady {
		t.Errorf("timeout %v, waitForReady %v", m.Timeout, m.WaitForReady)
	}
}

func TestADurationIsWrittenInSecondsAndInOurPartInOtherUnitsToo(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1s": time.Second, "0.25s": 250 * time.Millisecond, ".5s": 500 * time.Millisecond, "5.s": 5 * time.Second,
		"0.000000001s": 1, "00.1s": 100 * time.Millisecond, "86400s": 24 * time.Hour,
	} {
		c := parsed(t, `{"methodConfig": [{"name": [{}], "timeout": "`+text+`"}]}`)
		if got := c.For("", "").Timeout; got != want {
			t.Errorf("timeout %q = %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]time.Duration{"250ms": 250 * time.Millisecond, "0.25s": 250 * time.Millisecond, "1m30s": 90 * time.Second, "2h": 2 * time.Hour} {
		c := parsed(t, `{"trunkline": {"methodPolicy": [{"name": [{}], "idleTimeout": "`+text+`"}]}}`)
		if got := c.For("", "").IdleTimeout; got != want {
			t.Errorf("idleTimeout %q = %v, want %v", text, got, want)
		}
	}
	// The longest that protobuf has does not overflow.
	c, problems := Parse("x", []byte(`{"methodConfig": [{"name": [{}], "timeout": "315576000000s"}]}`), 1)
	if len(problems) != 1 || !problems[0].Warning || c.For("", "").Timeout != maxDuration {
		t.Errorf("%v %v", c, problems)
	}
}

func TestAHealthCheckConfigTurnsActiveChecksOn(t *testing.T) {
	c := parsed(t, `{"healthCheckConfig": {"serviceName": "a.A"}}`)
	if h := c.Cluster.HealthCheck; h == nil || h.Service != "a.A" || h.Interval != 5*time.Second {
		t.Errorf("health check = %+v", h)
	}
	c = parsed(t, `{"healthCheckConfig": {"serviceName": "a.A"}, "trunkline": {"cluster": {"healthCheck": {"interval": "1s"}}}}`)
	if h := c.Cluster.HealthCheck; h.Service != "a.A" || h.Interval != time.Second {
		t.Errorf("health check = %+v", h)
	}
}

func TestTheFirstBalancerThatTrunklineHasIsTaken(t *testing.T) {
	for text, want := range map[string]string{
		`"loadBalancingConfig": [{"round_robin": {}}]`: "round_robin",
		`"loadBalancingConfig": [{"new_thing": {"a": 1}}, {"least_request_experimental": {"choiceCount": 2}}, {"round_robin": {}}]`: "least_request",
		`"loadBalancingPolicy": "ROUND_ROBIN"`:                                                       "round_robin",
		`"loadBalancingPolicy": "pick_first", "loadBalancingConfig": [{"weighted_round_robin": {}}]`: "round_robin",
	} {
		if got := parsed(t, "{"+text+"}").LoadBalancing; got != want {
			t.Errorf("%s = %q, want %q", text, got, want)
		}
	}
}
