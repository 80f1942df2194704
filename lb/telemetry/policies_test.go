package telemetry

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
)

func TestPolicyCountersOfAllShardsAddUpAndAreBounded(t *testing.T) {
	tel := start(t, Config{})
	var shards sync.WaitGroup
	for range 3 {
		var mu sync.Mutex
		r := tel.NewRecorder(&mu)
		shards.Go(func() {
			for i := range 2 * MaxClusters {
				mu.Lock()
				r.Retried("shop", "status")
				r.RetryDenied("shop", fmt.Sprint("word", i))
				r.Hedged("shop")
				r.Limited("shop", LimitQueue)
				r.Limited("", Limit(99))
				r.Limited(fmt.Sprint("c", i), LimitRate)
				mu.Unlock()
			}
		})
	}
	metricsPage(t, tel) // while they count: the race detector is the judge
	shards.Wait()
	page := metricsPage(t, tel)
	for _, want := range []string{
		`trunkline_retries_total{cluster="shop",reason="status"} 6000`,
		`trunkline_retries_denied_total{cluster="shop",reason="_other"} 5907`, // 31 words have places of their own
		`trunkline_retries_denied_total{cluster="shop",reason="word30"} 3`,
		`trunkline_hedges_total{cluster="shop"} 6000`,
		`trunkline_limited_total{cluster="shop",kind="queue"} 6000`,
		`trunkline_limited_total{cluster="c7",kind="rate_limit"} 3`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("the page lacks %s", want)
		}
	}
	if n := strings.Count(page, "trunkline_limited_total{"); n != MaxClusters+1 {
		t.Errorf("%d series of limits, want %d", n, MaxClusters+1)
	}
}

func TestCountingPoliciesAllocatesNothing(t *testing.T) {
	tel := start(t, Config{})
	r := tel.NewRecorder(new(sync.Mutex))
	if n := testing.AllocsPerRun(1000, func() {
		r.Retried("shop", "status")
		r.HedgeDenied("shop", "no_budget")
		r.Limited("shop", LimitRate)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestOnlySoManyBreakersHaveSeries(t *testing.T) {
	tel := start(t, Config{})
	tel.Observe(func(g *Gauges) {
		for c := range 3 {
			cl := ClusterGauges{Name: fmt.Sprint("c", c)}
			for i := range 600 {
				cl.Breakers = append(cl.Breakers, BreakerGauges{Endpoint: fmt.Sprint("10.0.0.1:", i)})
			}
			g.Clusters = append(g.Clusters, cl)
		}
	})
	if n := strings.Count(metricsPage(t, tel), "trunkline_breaker_open{"); n != maxBreakers {
		t.Errorf("%d series, want %d", n, maxBreakers)
	}
}

func TestEveryDecisionIsAnEventOfTheServerSpan(t *testing.T) {
	c := grpcCollector(t)
	tel := start(t, Config{OTLPEndpoint: c.url})
	tr := tel.StartTrace(sampled, headers{}.get, 0)
	rec := retried(tr)
	rec.Attempts[0].Kind, rec.Attempts[0].Why, rec.Attempts[1].Kind = "first", "status", "retry"
	rec.Events = []Event{
		{Name: EventPick, At: rec.Start.Add(time.Millisecond), Attempt: 0, Attrs: []attribute.KeyValue{attribute.String("trunkline.endpoint", "10.0.0.1:7001")}},
		{Name: EventRetry, At: rec.Start.Add(2 * time.Millisecond), Attempt: 0, Attrs: []attribute.KeyValue{attribute.Int("trunkline.wait_ms", 5)}},
		{Name: EventReject, At: rec.Start.Add(3 * time.Millisecond), Attempt: -1, Attrs: []attribute.KeyValue{attribute.String("trunkline.reject.reason", strings.Repeat("x", 5000)+"\xff")}},
	}
	tel.Export(rec)
	stop(t, tel)
	s := c.only(t, server)
	var got []map[string]any
	for _, e := range s.Events {
		m := map[string]any{"name": e.Name, "at": time.Duration(e.TimeUnixNano - s.StartTimeUnixNano).String()}
		for _, kv := range e.Attributes {
			if x := kv.Value.GetStringValue(); x != "" {
				m[kv.Key] = x
			} else {
				m[kv.Key] = kv.Value.GetIntValue()
			}
		}
		got = append(got, m)
	}
	want := []map[string]any{
		{"name": "lb.pick", "at": "1ms", "trunkline.attempt": int64(0), "trunkline.endpoint": "10.0.0.1:7001"},
		{"name": "lb.retry", "at": "2ms", "trunkline.attempt": int64(0), "trunkline.wait_ms": int64(5)},
		{"name": "lb.reject", "at": "3ms", "trunkline.reject.reason": strings.Repeat("x", maxText)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for i, cs := range c.of(client) {
		a := attrs(cs)
		if a["trunkline.attempt.kind"] != []string{"first", "retry"}[i] || i == 0 && a["trunkline.attempt.decision"] != "status" {
			t.Errorf("attempt %d: %v", i, a)
		}
	}
}

func TestTheTraceIDOfACallThatIsNotSampledCanBeTold(t *testing.T) {
	tel := start(t, Config{OTLPEndpoint: silent})
	tr := tel.StartTrace(sampled, headers{}.get, 0)
	for _, parent := range []string{sampled, unsampled} {
		if id, ok := ParseTraceID(parent); !ok || id != tr.ID() || hexID(id[:]) != parentTrace {
			t.Errorf("%s: %x, %v", parent, id, ok)
		}
	}
	for _, bad := range []string{"", "00-zz", strings.ToUpper(sampled)} {
		if _, ok := ParseTraceID(bad); ok {
			t.Errorf("%q has a trace id", bad)
		}
	}
}
