package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

const (
	server = tracepb.Span_SPAN_KIND_SERVER
	client = tracepb.Span_SPAN_KIND_CLIENT

	parentTrace = "0af7651916cd43dd8448eb211c80319c"
	parentSpan  = "b7ad6b7169203331"
	sampled     = "00-" + parentTrace + "-" + parentSpan + "-01"
	unsampled   = "00-" + parentTrace + "-" + parentSpan + "-00"
)

// retried is a call that failed on one endpoint and succeeded on the next.
func retried(tr *Trace) *CallRecord {
	begin := time.Unix(1_800_000_000, 0)
	return &CallRecord{
		Trace: tr, Service: "pkg.Echo", Method: "Ping", Authority: "echo.example:443", Peer: "10.0.0.9:5555", UserAgent: "grpc-go/1",
		Route: "pkg.Echo", Cluster: "echo", Generation: 7,
		Start: begin, End: begin.Add(10 * time.Millisecond), Total: 10 * time.Millisecond, Upstream: 9 * time.Millisecond, Own: time.Millisecond,
		Attempts: []AttemptRecord{
			{Endpoint: "10.0.0.1:7001", PickReason: "least_request 3<5", Start: begin.Add(time.Millisecond), End: begin.Add(2 * time.Millisecond),
				Status: 14, StatusMessage: "refused", Outcome: OutcomeUpstreamConnectFailure, Evidence: "never sent"},
			{Endpoint: "10.0.0.2:7001", PickReason: "retry", Start: begin.Add(3 * time.Millisecond), End: begin.Add(9 * time.Millisecond)},
		},
		MessagesIn: 1, MessagesOut: 1, BytesIn: 69, BytesOut: 70,
	}
}

func TestOneSampledCallIsOneServerSpanAndOneClientSpanPerAttempt(t *testing.T) {
	for name, c := range map[string]*collector{"grpc": grpcCollector(t), "http/protobuf": httpCollector(t)} {
		t.Run(name, func(t *testing.T) {
			tel := start(t, Config{OTLPEndpoint: c.url, OTLPProtocol: name, Version: "1.2.3", Headers: map[string]string{"token": "secret"}})
			tr := tel.StartTrace(sampled, headers{"tracestate": "vendor=1"}.get, 0)
			if tr == nil {
				t.Fatal("a sampled parent was not followed")
			}
			var injected []string
			for range 2 {
				h := headers{"tracestate": "vendor=1", "baggage": "a=b"}
				tr.Inject(tr.StartAttempt(), h.set)
				injected = append(injected, h["traceparent"])
				if h["tracestate"] != "vendor=1" || h["baggage"] != "a=b" {
					t.Errorf("tracestate and baggage did not pass untouched: %v", h)
				}
			}
			tel.Export(retried(tr))
			stop(t, tel)

			s := c.only(t, server)
			clients := c.of(client)
			if s.Name != "pkg.Echo/Ping" || hexID(s.TraceId) != parentTrace || hexID(s.ParentSpanId) != parentSpan || s.TraceState != "vendor=1" {
				t.Errorf("SERVER span %q of trace %x under %x, state %q", s.Name, s.TraceId, s.ParentSpanId, s.TraceState)
			}
			if len(clients) != 2 {
				t.Fatalf("%d CLIENT spans, want 2", len(clients))
			}
			for i, cs := range clients {
				if want := "00-" + parentTrace + "-" + hexID(cs.SpanId) + "-01"; injected[i] != want {
					t.Errorf("attempt %d: injected %s, its span is %s", i, injected[i], want)
				}
				if !bytes.Equal(cs.ParentSpanId, s.SpanId) || !bytes.Equal(cs.TraceId, s.TraceId) {
					t.Errorf("attempt %d is not a child of the SERVER span", i)
				}
			}
			if got := time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano); got != 10*time.Millisecond {
				t.Errorf("SERVER span took %v, want 10ms", got)
			}
			if got := time.Duration(clients[1].EndTimeUnixNano - clients[1].StartTimeUnixNano); got != 6*time.Millisecond {
				t.Errorf("second CLIENT span took %v, want 6ms", got)
			}
			wantServer := map[string]any{
				"rpc.system.name": "grpc", "rpc.method": "pkg.Echo/Ping", "rpc.response.status_code": "OK",
				"rpc.system": "grpc", "rpc.service": "pkg.Echo", "rpc.grpc.status_code": int64(0),
				"server.address": "echo.example", "server.port": int64(443), "client.address": "10.0.0.9", "client.port": int64(5555),
				"network.peer.address": "10.0.0.9", "network.peer.port": int64(5555), "user_agent.original": "grpc-go/1",
				"trunkline.route": "pkg.Echo", "trunkline.cluster": "echo", "trunkline.endpoint": "10.0.0.2:7001",
				"trunkline.generation": int64(7), "trunkline.outcome": "OK", "trunkline.origin": "upstream", "trunkline.attempts": int64(2),
				"trunkline.messages.request": int64(1), "trunkline.messages.response": int64(1),
				"trunkline.bytes.request": int64(69), "trunkline.bytes.response": int64(70),
				"trunkline.upstream_ns": int64(9e6), "trunkline.added_ns": int64(1e6),
			}
			if diff := cmp.Diff(wantServer, attrs(s)); diff != "" {
				t.Errorf("SERVER attributes (-want +got):\n%s", diff)
			}
			wantClient := map[string]any{
				"rpc.system.name": "grpc", "rpc.method": "pkg.Echo/Ping", "rpc.response.status_code": "UNAVAILABLE", "error.type": "UNAVAILABLE",
				"rpc.system": "grpc", "rpc.service": "pkg.Echo", "rpc.grpc.status_code": int64(14),
				"server.address": "10.0.0.1", "server.port": int64(7001), "network.peer.address": "10.0.0.1", "network.peer.port": int64(7001),
				"trunkline.route": "pkg.Echo", "trunkline.cluster": "echo", "trunkline.endpoint": "10.0.0.1:7001", "trunkline.attempt": int64(0),
				"trunkline.pick.reason": "least_request 3<5", "trunkline.attempt.evidence": "never sent", "trunkline.outcome": "UF",
			}
			if diff := cmp.Diff(wantClient, attrs(clients[0])); diff != "" {
				t.Errorf("CLIENT attributes (-want +got):\n%s", diff)
			}
			if c.resource["service.name"] != "trunkline" || c.resource["service.version"] != "1.2.3" || c.token != "secret" {
				t.Errorf("resource %v, token %q", c.resource, c.token)
			}
			if name != "grpc" && c.path != "/v1/traces" {
				t.Errorf("sent to %s", c.path)
			}
			if n := tel.spansExported.Load(); n != 3 {
				t.Errorf("spans exported: %d", n)
			}
		})
	}
}

func TestASpanIsAnErrorByTheConventionsForItsKind(t *testing.T) {
	c := grpcCollector(t)
	tel := start(t, Config{OTLPEndpoint: c.url})
	for status := range uint32(18) {
		tr := tel.StartTrace(sampled, headers{}.get, 0)
		tr.StartAttempt()
		rec := retried(tr)
		rec.Status, rec.Attempts = status, rec.Attempts[:1]
		rec.Attempts[0].Status = status
		tel.Export(rec)
	}
	stop(t, tel)
	fault := map[string]bool{"UNKNOWN": true, "DEADLINE_EXCEEDED": true, "UNIMPLEMENTED": true, "INTERNAL": true, "UNAVAILABLE": true, "DATA_LOSS": true, "17": true}
	check := func(s *tracepb.Span, want bool) {
		name := attrs(s)["rpc.response.status_code"].(string)
		if got := s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; got != want {
			t.Errorf("%v span with status %s: error %v, want %v", s.Kind, name, got, want)
		}
		if _, got := attrs(s)["error.type"]; got != want {
			t.Errorf("%v span with status %s: error.type set: %v, want %v", s.Kind, name, got, want)
		}
	}
	if n := len(c.of(server)); n != 18 {
		t.Fatalf("%d SERVER spans", n)
	}
	for _, s := range c.of(server) {
		check(s, fault[attrs(s)["rpc.response.status_code"].(string)])
	}
	for _, s := range c.of(client) {
		check(s, attrs(s)["rpc.response.status_code"] != "OK")
	}
}

func TestStringsThatAreNotUTF8CostNoBatch(t *testing.T) {
	c := grpcCollector(t)
	tel := start(t, Config{OTLPEndpoint: c.url})
	rec := retried(tel.StartTrace(sampled, headers{}.get, 0))
	rec.StatusMessage, rec.Status, rec.UserAgent, rec.Authority, rec.Method = "\xff", 13, "\xc3(", "\xfe:x", strings.Repeat("ä", 5000)
	rec.Unknown = true
	tel.Export(rec)
	stop(t, tel)
	s := c.only(t, server)
	if s.Name != "grpc" || attrs(s)["rpc.method"] != "_OTHER" {
		t.Errorf("an unknown method became the name %q", s.Name)
	}
	if n := len(attrs(s)["rpc.method_original"].(string)); n > maxText+8 {
		t.Errorf("a method name of %d bytes got through", n)
	}
}

func TestACollectorThatIsAwayHurtsNothingAndShutdownIsBounded(t *testing.T) {
	// A listener that accepts and never answers: worse than a refused connection.
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			tel := start(t, Config{OTLPEndpoint: "http://" + lis.Addr().String(), OTLPProtocol: protocol,
				Diagnostics: slog.New(slog.DiscardHandler)})
			const calls = 3 * spanQueue
			for range calls {
				tel.Export(retried(tel.StartTrace(sampled, headers{}.get, 0)))
			}
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			begin := time.Now()
			if err := tel.Shutdown(ctx); err == nil {
				t.Error("Shutdown did not say that it could not deliver")
			}
			if d := time.Since(begin); d > 3*time.Second {
				t.Errorf("Shutdown took %v with a limit of 200ms", d)
			}
			// Every span is accounted for; the leak check of TestMain finds what was left running.
			if lost := tel.spansDropped.Load() + tel.spansFailed.Load(); lost != 3*calls {
				t.Errorf("%d spans counted as lost, want %d", lost, 3*calls)
			}
			if tel.spansDropped.Load() == 0 {
				t.Error("the queue was never full: the test is too small")
			}
			tel.Export(retried(nil)) // still harmless
		})
	}
}

func TestTheAccessLogHasOneLinePerCallThatIsWanted(t *testing.T) {
	var buf bytes.Buffer
	tel := start(t, Config{AccessLog: AccessLogFailures, SlowThreshold: time.Second, Logger: slog.New(slog.NewJSONHandler(&buf, nil))})
	fine, failed, slow, stream := retried(nil), retried(nil), retried(nil), retried(nil)
	failed.Status, failed.StatusMessage, failed.Local, failed.Outcome, failed.Traceparent = 14, "no healthy endpoint", true, OutcomeNoHealthyUpstream, unsampled
	slow.Total = time.Second
	stream.Total, stream.MessagesOut = time.Hour, 2
	for _, rec := range []*CallRecord{fine, failed, slow, stream} {
		tel.Export(rec)
	}
	if tel.WantRecord(0, int64(time.Millisecond), nil) || !tel.WantRecord(5, 0, nil) || !tel.WantRecord(0, int64(time.Second), nil) {
		t.Error("WantRecord: want failures and slow calls only")
	}
	stop(t, tel)
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want the failed and the slow call:\n%s", len(lines), buf.String())
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339, got["time"].(string)); err != nil {
		t.Error(err)
	}
	delete(got, "time")
	want := map[string]any{
		"level": "INFO", "msg": "call", "method": "pkg.Echo/Ping", "status": "UNAVAILABLE", "origin": "local", "outcome": "UH",
		"message": "no healthy endpoint", "route": "pkg.Echo", "cluster": "echo", "endpoint": "10.0.0.2:7001", "attempts": 2.0,
		"total_ms": 10.0, "upstream_ms": 9.0, "added_ms": 1.0, "messages_in": 1.0, "messages_out": 1.0, "bytes_in": 69.0, "bytes_out": 70.0,
		"peer": "10.0.0.9:5555", "authority": "echo.example:443", "user_agent": "grpc-go/1", "generation": 7.0, "trace_id": parentTrace,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestALogWriterThatBlocksDropsLinesAndNothingElse(t *testing.T) {
	r, w := io.Pipe() // nobody reads yet
	tel := start(t, Config{AccessLog: AccessLogAll, Logger: slog.New(slog.NewJSONHandler(w, nil))})
	for range lineQueue + 10 {
		tel.Export(retried(nil))
	}
	if tel.linesDropped.Load() == 0 {
		t.Error("no line was dropped")
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	stop(t, tel)
	w.Close()
}

func TestANewTraceCarriesTheRandomNumberThatDecided(t *testing.T) {
	c := grpcCollector(t)
	tel := start(t, Config{OTLPEndpoint: c.url, SampleRatio: ptr(0.5)})
	rnd := rand.Uint64() >> 2
	tr := tel.StartTrace("", headers{}.get, rnd)
	if tr == nil || low(tr.traceID) != rnd {
		t.Fatal("the trace id does not hold the number, so samplers behind us would decide otherwise")
	}
	tel.Export(retried(tr))
	stop(t, tel)
	if s := c.only(t, server); len(s.ParentSpanId) != 0 || hexID(s.TraceId) != tr.TraceID() {
		t.Errorf("root span of %x under %x", s.TraceId, s.ParentSpanId)
	}
}
