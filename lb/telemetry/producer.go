package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

const scopeName = "github.com/trunkline/trunkline/lb/telemetry"

// producer shows the numbers to OpenTelemetry's metric readers. Names are OpenTelemetry's; the Prometheus exporter turns
// "trunkline.call.duration" in seconds into trunkline_call_duration_seconds.
type producer struct{ t *Telemetry }

// Produce implements metric.Producer of the OpenTelemetry SDK.
func (p producer) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	m := &page{start: p.t.started, now: time.Now()}
	p.t.produceMethods(m)
	p.t.producePolicies(m)
	p.t.produceEndpoints(m)
	p.t.produceGauges(m)
	return []metricdata.ScopeMetrics{{
		Scope:   instrumentation.Scope{Name: scopeName, Version: p.t.version},
		Metrics: m.metrics,
	}}, nil
}

// merged returns the methods and the sum of all shards' blocks, by method index.
func (t *Telemetry) merged() ([]*Method, []block, [outcomes]uint64) {
	t.mu.Lock()
	recorders := t.recorders[:len(t.recorders):len(t.recorders)]
	t.mu.Unlock()
	list := t.methods.all()
	sums := make([]block, len(list))
	var byOutcome [outcomes]uint64
	for _, r := range recorders {
		r.mergeInto(sums, &byOutcome)
	}
	return list, sums, byOutcome
}

func (t *Telemetry) produceMethods(m *page) {
	list, sums, byOutcome := t.merged()
	var calls, attempts, open, messages, bytes, ended []metricdata.DataPoint[int64]
	var durations [hists][]metricdata.HistogramDataPoint[float64]
	bounds := [hists]*bounds{t.callBounds, t.callBounds, t.addedBounds}
	for i, method := range list {
		b := &sums[i]
		if *b == (block{}) {
			continue // never called: thousands of methods may be known, few are used
		}
		label := attribute.String("method", method.name)
		set := attribute.NewSet(label)
		request := attribute.NewSet(label, attribute.String("direction", "request"))
		response := attribute.NewSet(label, attribute.String("direction", "response"))
		for by := range b.calls {
			for slot, n := range b.calls[by] {
				if n > 0 {
					calls = append(calls, m.point(attribute.NewSet(label,
						attribute.String("status", slotName(slot)), attribute.String("origin", origin(by == 1))), int64(n)))
				}
			}
		}
		for h := range durations {
			if p := m.histogram(set, bounds[h], &b.counts[h], b.sums[h]); p.Count > 0 {
				durations[h] = append(durations[h], p)
			}
		}
		open = append(open, m.point(set, b.open))
		attempts = append(attempts, m.point(set, int64(b.attempts)))
		messages = append(messages, m.point(request, int64(b.messagesIn)), m.point(response, int64(b.messagesOut)))
		bytes = append(bytes, m.point(request, int64(b.bytesIn)), m.point(response, int64(b.bytesOut)))
	}
	for o, n := range byOutcome {
		if n > 0 {
			ended = append(ended, m.point(attribute.NewSet(attribute.String("outcome", Outcome(o).String())), int64(n)))
		}
	}
	m.sum("calls", "{call}", "Calls finished, by gRPC status and by who made it (upstream or local).", calls)
	m.sum("outcomes", "{call}", "Calls finished, by why and where they ended (Envoy's letters).", ended)
	m.sum("attempts", "{attempt}", "Tries on endpoints.", attempts)
	m.histograms("call.duration", "Duration of calls as the client sees it.", durations[histTotal])
	m.histograms("upstream.duration", "Part of the calls' duration that the upstream took.", durations[histUpstream])
	m.histograms("added.duration", "Part of the calls' duration that Trunkline added.", durations[histOwn])
	m.gauge("streams.open", "{stream}", "Calls under way.", open)
	m.sum("messages", "{message}", "Messages relayed.", messages)
	m.sum("message", "By", "Bytes of DATA relayed.", bytes)
	m.gauge("methods", "{method}", "Methods that have series of their own.", m.single(int64(len(list)-1)))
}

func (t *Telemetry) produceEndpoints(m *page) {
	var picks, streams, available, failures, connections []metricdata.DataPoint[int64]
	for _, e := range t.endpoints.all() {
		up := int64(1)
		if e.Down.Load() {
			up = 0
		}
		picks = append(picks, m.point(e.set, int64(e.Picks.Load())))
		streams = append(streams, m.point(e.set, e.Streams.Load()))
		available = append(available, m.point(e.set, up))
		failures = append(failures, m.point(e.set, int64(e.DialFailures.Load())))
		connections = append(connections, m.point(e.set, e.Connections.Load()))
	}
	m.sum("endpoint.picks", "{pick}", "Times the picker chose the endpoint.", picks)
	m.gauge("endpoint.streams", "{stream}", "Calls under way on the endpoint.", streams)
	m.gauge("endpoint.available", "{endpoint}", "1 if the endpoint may be picked, 0 if it is out.", available)
	m.sum("endpoint.dial.failures", "{failure}", "Connections to the endpoint that could not be made.", failures)
	m.gauge("upstream.connections", "{connection}", "Open connections to the endpoint.", connections)
}

func (t *Telemetry) produceGauges(m *page) {
	t.mu.Lock()
	observers := t.observers[:len(t.observers):len(t.observers)]
	t.mu.Unlock()
	var g Gauges
	for _, fill := range observers {
		fill(&g)
	}
	m.gauge("downstream.connections", "{connection}", "Open client connections.", m.single(g.DownstreamConnections))
	m.listeners(g.Listeners)
	m.certificates(g.Certificates)
	m.gauge("overload.shedding", "{process}", "1 while Trunkline is overloaded and refuses new calls, else 0.", m.single(bit(g.Shedding)))
	m.clusters(g.Clusters)
	m.gaugeSeconds("discovery.lag", "Last change: from seen by the source to used for picks.",
		[]metricdata.DataPoint[float64]{m.seconds(*attribute.EmptySet(), g.DiscoveryLag)})
	m.gauge("config.generation", "{generation}", "Number of the configuration in use.", m.single(int64(g.ConfigGeneration)))
	m.sum("config.rejected", "{reload}", "Reloads refused as invalid.", m.single(int64(g.ConfigRejected)))

	reason := func(r string, n uint64) metricdata.DataPoint[int64] {
		return m.point(attribute.NewSet(attribute.String("reason", r)), int64(n))
	}
	m.sum("spans.exported", "{span}", "Spans that the collector took.", m.single(int64(t.spansExported.Load())))
	m.sum("spans.dropped", "{span}", "Spans lost.", []metricdata.DataPoint[int64]{
		reason("queue_full", t.spansDropped.Load()), reason("export_failed", t.spansFailed.Load())})
	m.sum("access_log.dropped", "{line}", "Access-log lines lost because the writer was too slow.",
		m.single(int64(t.linesDropped.Load())))
}

// page collects the metrics of one scrape.
type page struct {
	start, now time.Time
	metrics    []metricdata.Metrics
}

func (m *page) point(set attribute.Set, v int64) metricdata.DataPoint[int64] {
	return metricdata.DataPoint[int64]{Attributes: set, StartTime: m.start, Time: m.now, Value: v}
}

func (m *page) seconds(set attribute.Set, v time.Duration) metricdata.DataPoint[float64] {
	return metricdata.DataPoint[float64]{Attributes: set, StartTime: m.start, Time: m.now, Value: v.Seconds()}
}

func (m *page) number(set attribute.Set, v float64) metricdata.DataPoint[float64] {
	return metricdata.DataPoint[float64]{Attributes: set, StartTime: m.start, Time: m.now, Value: v}
}

func (m *page) single(v int64) []metricdata.DataPoint[int64] {
	return []metricdata.DataPoint[int64]{m.point(*attribute.EmptySet(), v)}
}

func (m *page) histogram(set attribute.Set, b *bounds, counts *[buckets]uint64, ns uint64) metricdata.HistogramDataPoint[float64] {
	p := metricdata.HistogramDataPoint[float64]{
		Attributes: set, StartTime: m.start, Time: m.now,
		Bounds: b.sec, BucketCounts: append([]uint64(nil), counts[:b.n+1]...), Sum: float64(ns) / 1e9,
	}
	for _, n := range p.BucketCounts {
		p.Count += n
	}
	return p
}

// add leaves out what has no points, which the exporters would show as an empty family.
func (m *page) add(name, unit, help string, points int, data metricdata.Aggregation) {
	if points > 0 {
		m.metrics = append(m.metrics, metricdata.Metrics{Name: "trunkline." + name, Unit: unit, Description: help, Data: data})
	}
}

func (m *page) sum(name, unit, help string, points []metricdata.DataPoint[int64]) {
	m.add(name, unit, help, len(points),
		metricdata.Sum[int64]{DataPoints: points, Temporality: metricdata.CumulativeTemporality, IsMonotonic: true})
}

func (m *page) gauge(name, unit, help string, points []metricdata.DataPoint[int64]) {
	m.add(name, unit, help, len(points), metricdata.Gauge[int64]{DataPoints: points})
}

func (m *page) gaugeSeconds(name, help string, points []metricdata.DataPoint[float64]) {
	m.add(name, "s", help, len(points), metricdata.Gauge[float64]{DataPoints: points})
}

func (m *page) gaugeNumber(name, help string, points []metricdata.DataPoint[float64]) {
	m.add(name, "", help, len(points), metricdata.Gauge[float64]{DataPoints: points})
}

func (m *page) histograms(name, help string, points []metricdata.HistogramDataPoint[float64]) {
	m.add(name, "s", help, len(points),
		metricdata.Histogram[float64]{DataPoints: points, Temporality: metricdata.CumulativeTemporality})
}
