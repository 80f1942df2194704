package policies

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// collector keeps the spans that Trunkline exports.
type collector struct {
	coltrace.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracepb.Span // guarded by mu
}

func (c *collector) Export(_ context.Context, r *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			c.spans = append(c.spans, ss.GetSpans()...)
		}
	}
	return &coltrace.ExportTraceServiceResponse{}, nil
}

// events are the names of the SERVER span's events in a trace, and whether it is there.
func (c *collector) events(traceID string) (names []string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.GetKind() == tracepb.Span_SPAN_KIND_SERVER && fmt.Sprintf("%x", s.GetTraceId()) == traceID {
			for _, e := range s.GetEvents() {
				names = append(names, e.GetName())
			}
			ok = true
		}
	}
	return names, ok
}

func TestASpanBearsEachDecisionAsAnEvent(t *testing.T) {
	t.Parallel()
	spans := &collector{}
	otlp := harness.Serve(t, func(s *grpc.Server) { coltrace.RegisterTraceServiceServer(s, spans) })
	one, two, _ := pair(t, rogue.Options{})
	method := func(name, more string) string {
		return fmt.Sprintf(`{"name": [{"service": %q, "method": %q}], %s}`, harness.Service, name, more)
	}
	sc := policies{more: fmt.Sprintf(`"methodConfig": [%s, %s], "trunkline": {"cluster": {%s}, "methodPolicy": [%s, %s]}`,
		method("UnaryCall", retries), method("EmptyCall", hedging(2, "0.05s")), freely,
		method("EmptyCall", idempotent), method("CacheableUnaryCall", `"rateLimits": [{"requestsPerSecond": 0.01, "burst": 1}]`))}
	tr := harness.Start(t, config(sc.String(), []string{one.Addr, two.Addr}, fmt.Sprintf("tracing: { otlpEndpoint: %q, sampleRatio: 0 }", "http://"+otlp)),
		"OTEL_BSP_SCHEDULE_DELAY=100")
	cc := harness.Dial(t, tr.Listen)
	tests := []struct {
		story, method, plan string
		code                codes.Code
		want                []string // in this order, others between
		never               []string
	}{
		{"one attempt", "UnaryCall", "ok", codes.OK, []string{"lb.pick"}, []string{"lb.hedge", "lb.reject"}},
		{"a retry", "UnaryCall", "trailers:14|ok", codes.OK, []string{"lb.pick", "lb.retry", "lb.pick"}, []string{"lb.hedge", "lb.reject"}},
		{"a hedge", "EmptyCall", "slow:3s|ok", codes.OK, []string{"lb.pick", "lb.hedge", "lb.pick"}, []string{"lb.reject"}},
		{"within the rate", "CacheableUnaryCall", "ok", codes.OK, []string{"lb.pick"}, []string{"lb.reject"}},
		{"over the rate", "CacheableUnaryCall", "ok", codes.ResourceExhausted, []string{"lb.reject"}, []string{"lb.pick", "lb.retry"}},
	}
	for i, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			traceID := fmt.Sprintf("0af7651916cd43dd8448eb211c80%04x", i)
			ctx := metadata.AppendToOutgoingContext(steer(harness.Context(t, stepLimit), tt.story, tt.plan), "traceparent", "00-"+traceID+"-b7ad6b7169203331-01")
			must(t, "the call", cc.Invoke(ctx, "/"+harness.Service+"/"+tt.method, &testpb.Empty{}, &testpb.SimpleResponse{}), tt.code)
			var names []string
			harness.Eventually(t, stepLimit, "the span", func() bool {
				var ok bool
				names, ok = spans.events(traceID)
				return ok
			})
			at := 0
			for _, n := range names {
				if at < len(tt.want) && n == tt.want[at] {
					at++
				}
				if slices.Contains(tt.never, n) {
					t.Errorf("an event %s among %v", n, names)
				}
			}
			if at < len(tt.want) {
				t.Errorf("events %v, want %v in this order", names, tt.want)
			}
		})
	}
}

func TestAReplyThatTrunklineMadeTellsItsAttempts(t *testing.T) {
	t.Parallel()
	one, two, _ := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries, own: idempotent, cluster: freely}, one.Addr, two.Addr)
	_, err := call(t, harness.Dial(t, tr.Listen), "a", "cut|cut|cut|cut")
	must(t, "four ambiguous failures", err, codes.Unavailable)
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			text := fmt.Sprint(info.GetMetadata())
			if info.GetMetadata()["attempts"] != "4" || !strings.Contains(text, one.Addr) || !strings.Contains(text, two.Addr) {
				t.Errorf("the details name neither 4 attempts nor both endpoints: %v", info)
			}
			return
		}
	}
	t.Errorf("no ErrorInfo in %v", err)
}

// A call that could have been retried, but for the size of its request, says so.
func TestACallThatOutgrewTheReplayBufferSaysSo(t *testing.T) {
	t.Parallel()
	one, two, _ := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries, own: idempotent + `, "replayBytes": 1000`, cluster: freely}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	ctx := metadata.AppendToOutgoingContext(steer(harness.Context(t, stepLimit), "a", "cut"), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
	_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 50_000)}})
	must(t, "an ambiguous failure", err, codes.Unavailable)
	var out string
	harness.Eventually(t, stepLimit, "the record", func() bool {
		var exit int
		out, exit = explain(t, tr, "--trace", "0af7651916cd43dd8448eb211c80319c")
		return exit == 0
	})
	tells(t, out, "replayBytes")
}
