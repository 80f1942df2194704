package telemetry

import (
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var update = flag.Bool("update", false, "write the golden file")

// full has something in every metric.
func full(t *testing.T) *Telemetry {
	tel := start(t, Config{Version: "1.2.3"})
	ping, other := tel.Method("pkg.Echo/Ping", true), tel.Method("pkg.Echo/Nobody", false)
	for shard := range 2 {
		r := tel.NewRecorder(new(sync.Mutex))
		r.Start(ping)
		r.Record(&Finish{Method: ping, Attempts: 1, Total: 120_000, Upstream: 100_000, Own: 20_000, MessagesIn: 1, MessagesOut: 1, BytesIn: 69, BytesOut: 70})
		r.Start(ping)
		r.Record(&Finish{Method: ping, Status: 14, Local: true, Outcome: OutcomeUpstreamConnectFailure, Attempts: 2,
			Total: int64(3 * time.Second), Upstream: int64(2 * time.Second), Own: int64(time.Second), MessagesIn: 1, BytesIn: 69})
		r.Start(other)
		r.Record(&Finish{Method: other, Status: 12, Local: true, Outcome: OutcomeNoRoute, Total: 5_000, Own: 5_000})
		if shard == 0 {
			r.Start(ping)
		}
		r.Retried("echo", "status")
		r.RetryDenied("echo", "budget_exhausted")
		r.Hedged("echo")
		r.HedgeDenied("echo", "not_idempotent")
		r.Limited("echo", LimitBreaker)
		r.Limited("", LimitOverload)
		r.WouldRefuse("echo", "closed-at-night")
	}
	for i, address := range []string{"10.0.0.1:7001", "10.0.0.2:7001"} {
		e := tel.Endpoint("echo", address)
		e.Picks.Add(uint64(10 + i))
		e.Streams.Add(int64(i))
		e.Connections.Add(1)
		e.Down.Store(i == 1)
		e.DialFailures.Add(uint64(i))
	}
	gone := tel.Endpoint("echo", "10.0.0.3:7001")
	gone.Picks.Add(1)
	tel.Forget(gone)
	tel.Observe(func(g *Gauges) {
		g.DownstreamConnections, g.ConfigGeneration, g.ConfigRejected = 40, 7, 1
	})
	tel.Observe(func(g *Gauges) {
		g.DiscoveryLag = 150 * time.Millisecond
		g.Listeners = append(g.Listeners, ListenerGauges{Listener: "127.0.0.1:7443", Accepted: 9, Crowded: 1, Handshakes: 5, Resumed: 2, Cut: []ReasonCount{{"resets", 3}}})
		g.Certificates = append(g.Certificates, CertificateGauges{Name: "lb.example.com", Where: "listeners[0].tls", Left: time.Hour})
		g.Clusters = append(g.Clusters, ClusterGauges{Name: "echo", Endpoints: 2, Stale: 3 * time.Second, Panic: true, ConfigError: true, BreakerOpened: 3,
			Breakers: []BreakerGauges{{Endpoint: "10.0.0.2:7001", Method: "pkg.Echo/Ping"}, {Endpoint: "10.0.0.1:7001", HalfOpen: true}},
			Health:   []HealthGauges{{Endpoint: "10.0.0.1:7001", Healthy: true, Warm: 0.25}, {Endpoint: "10.0.0.2:7001", Ejected: true, Ejections: 2, Warm: 1}},
			Budgets:  []BudgetGauges{{Name: "retry", Tokens: 9.5}},
			Limits:   []LimitGauges{{Kind: "cluster", InUse: 7, Limit: 10, Waiting: 1}},
			Shadow:   &ShadowGauges{Calls: 100, Differ: []ShadowCount{{Kind: "deadline", Calls: 4}}},
		}, ClusterGauges{Name: "echo", Endpoints: 9, Breakers: []BreakerGauges{{Endpoint: "nobody"}}})
	})
	return tel
}

func TestTheMetricsPageIsTheGoldenOne(t *testing.T) {
	var ours []string
	for _, line := range strings.Split(metricsPage(t, full(t)), "\n") {
		if strings.Contains(line, "trunkline_") && !strings.HasPrefix(line, "target_info") {
			ours = append(ours, line)
		}
	}
	got := strings.Join(ours, "\n") + "\n"
	const file = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

func TestAForgottenEndpointVanishesAndMayComeBack(t *testing.T) {
	tel := full(t)
	if strings.Contains(metricsPage(t, tel), "10.0.0.3") {
		t.Error("a forgotten endpoint has series")
	}
	e := tel.Endpoint("echo", "10.0.0.3:7001")
	if e.Picks.Load() != 0 || e != tel.Endpoint("echo", "10.0.0.3:7001") {
		t.Error("an endpoint that comes back does not begin anew, with one handle")
	}
	if !strings.Contains(metricsPage(t, tel), "10.0.0.3") {
		t.Error("an endpoint that came back has no series")
	}
}

func TestMetricNamesFollowTheConventionsAndTheDocListsThemAll(t *testing.T) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(metricsPage(t, full(t))))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^trunkline_[a-z]+(_[a-z]+)*$`)
	label := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	allowed := []string{"method", "status", "origin", "outcome", "direction", "cluster", "endpoint", "reason", "kind", "state", "budget", "listener", "result", "name", "where"}
	shown := map[string]string{} // name -> its labels, sorted
	for n, f := range families {
		if strings.HasPrefix(n, "go_") || strings.HasPrefix(n, "process_") || strings.HasPrefix(n, "promhttp_") || n == "target_info" {
			continue
		}
		if !name.MatchString(n) {
			t.Errorf("%s: not trunkline_ and lower-case words", n)
		}
		if (f.GetType() == dto.MetricType_COUNTER) != strings.HasSuffix(n, "_total") {
			t.Errorf("%s: counters end with _total, and only they do", n)
		}
		if f.GetType() == dto.MetricType_HISTOGRAM && !strings.HasSuffix(n, "_seconds") {
			t.Errorf("%s: a histogram without its base unit", n)
		}
		if h := f.GetHelp(); h == "" || !strings.HasSuffix(h, ".") {
			t.Errorf("%s: help %q is no sentence", n, h)
		}
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
			if !label.MatchString(l.GetName()) || !slices.Contains(allowed, l.GetName()) {
				t.Errorf("%s: label %s is not one of %v", n, l.GetName(), allowed)
			}
		}
		slices.Sort(labels)
		shown[n] = strings.Join(labels, ",")
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^//\t(trunkline_\w+)(?:\{([\w,]+)\})?`).FindAllStringSubmatch(string(doc), -1) {
		labels := strings.Split(m[2], ",")
		slices.Sort(labels)
		listed[m[1]] = strings.Join(labels, ",")
	}
	if diff := cmp.Diff(listed, shown); diff != "" {
		t.Errorf("package comment and metrics page differ (-listed +shown):\n%s", diff)
	}
}

func TestOutcomesHaveTheLettersOfTheDesign(t *testing.T) {
	var got []string
	for o := range outcomes {
		got = append(got, o.String())
	}
	want := "OK NR UH UF UO UC UR UT URX DC DPE UPE RL UAEX OM LR"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
	if s := outcomes.String(); s != "Outcome(16)" {
		t.Errorf("an outcome that does not exist is %s", s)
	}
}
