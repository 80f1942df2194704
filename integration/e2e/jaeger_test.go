package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// tracerFor is a tracer whose spans go to Jaeger under a service name, and what sends them now.
func tracerFor(t *testing.T, jaeger *harness.Jaeger, service string) (trace.Tracer, func()) {
	t.Helper()
	exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpoint(jaeger.OTLP), otlptracegrpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName(service))), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	t.Cleanup(func() { provider.Shutdown(context.Background()) }) // the test is over
	return provider.Tracer("e2e"), func() {
		if err := provider.ForceFlush(harness.Context(t, stepLimit)); err != nil {
			t.Errorf("send %s's spans: %v", service, err)
		}
	}
}

// tracedBackend makes one SERVER span per call, as an instrumented service does.
func tracedBackend(t *testing.T, tracer trace.Tracer) *harness.Backend {
	t.Helper()
	return harness.StartBackend(t, "traced", grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			carrier := propagation.MapCarrier{}
			for key, values := range md {
				carrier[key] = strings.Join(values, ",")
			}
			ctx, span := tracer.Start(propagation.TraceContext{}.Extract(ctx, carrier), "backend", trace.WithSpanKind(trace.SpanKindServer))
			defer span.End()
			return next(ctx, req)
		}))
}

// tracedCall makes a call under a client span of its own and returns the trace's id and its error.
func tracedCall(t *testing.T, tracer trace.Tracer, c testpb.TestServiceClient, in *testpb.SimpleRequest) (id string, err error) {
	t.Helper()
	ctx, span := tracer.Start(harness.Context(t, stepLimit), "client", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	for key, value := range carrier {
		ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	}
	_, err = c.UnaryCall(ctx, in)
	return span.SpanContext().TraceID().String(), err
}

// awaitTrace waits until Jaeger has n spans of a trace.
func awaitTrace(t *testing.T, jaeger *harness.Jaeger, id string, n int) (spans []harness.Span) {
	t.Helper()
	harness.Eventually(t, stepLimit, fmt.Sprintf("%d spans of trace %s in Jaeger", n, id), func() bool {
		spans = jaeger.Trace(t, id)
		return len(spans) >= n
	})
	slices.SortFunc(spans, func(a, b harness.Span) int { return a.Start.Compare(b.Start) })
	return spans
}

// one returns the only span of a service and kind.
func one(t *testing.T, spans []harness.Span, service, kind string) harness.Span {
	t.Helper()
	found := all(spans, service, kind)
	if len(found) != 1 {
		t.Fatalf("%d %s spans of %s, want 1, in %+v", len(found), kind, service, spans)
	}
	return found[0]
}

func all(spans []harness.Span, service, kind string) []harness.Span {
	var found []harness.Span
	for _, s := range spans {
		if s.Service == service && s.Kind() == kind {
			found = append(found, s)
		}
	}
	return found
}

// wantTags checks attributes by their printed form.
func wantTags(t *testing.T, s harness.Span, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got := fmt.Sprint(s.Tags[key]); got != value {
			t.Errorf("%s span of %s: %s = %q, want %q", s.Kind(), s.Service, key, got, value)
		}
	}
}

func TestOneTraceInJaegerShowsTheWayOfTheCall(t *testing.T) {
	jaeger := harness.StartJaeger(t)
	clientTracer, flushClient := tracerFor(t, jaeger, "client")
	backendTracer, flushBackend := tracerFor(t, jaeger, "backend")
	backend := tracedBackend(t, backendTracer)
	refuser := harness.StartRefuser(t)
	tracing := fmt.Sprintf("tracing: { otlpEndpoint: %q, sampleRatio: 0 }", "http://"+jaeger.OTLP) // the client's decision counts
	const soon = "OTEL_BSP_SCHEDULE_DELAY=100"                                                     // milliseconds; by default spans are sent every 5 s
	flush := func() { flushClient(); flushBackend() }

	t.Run("client, Trunkline's SERVER, its CLIENT and the backend hang together", func(t *testing.T) {
		trunkline := harness.Start(t, static([]string{backend.Addr}, tracing), soon)
		id, err := tracedCall(t, clientTracer, testpb.NewTestServiceClient(harness.Dial(t, trunkline.Listen)), &testpb.SimpleRequest{})
		if err != nil {
			t.Fatal(err)
		}
		flush()
		spans := awaitTrace(t, jaeger, id, 4)
		if len(spans) != 4 {
			t.Errorf("%d spans, want 4: %+v", len(spans), spans)
		}
		client, server := one(t, spans, "client", "client"), one(t, spans, "trunkline", "server")
		attempt, end := one(t, spans, "trunkline", "client"), one(t, spans, "backend", "server")
		if server.ParentID != client.SpanID || attempt.ParentID != server.SpanID || end.ParentID != attempt.SpanID {
			t.Errorf("the spans do not hang in one line: %+v", spans)
		}
		if server.Duration > client.Duration || attempt.Duration > server.Duration || end.Duration > attempt.Duration {
			t.Errorf("a span is longer than its parent: %+v", spans)
		}
		method := harness.Service + "/UnaryCall"
		host, port, _ := strings.Cut(backend.Addr, ":")
		wantTags(t, server, map[string]string{"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": "OK",
			"trunkline.cluster": "backends", "trunkline.endpoint": backend.Addr, "trunkline.outcome": "OK"})
		wantTags(t, attempt, map[string]string{"rpc.method": method, "rpc.response.status_code": "OK", "server.address": host, "server.port": port,
			"trunkline.endpoint": backend.Addr})
		if server.Operation != method || attempt.Operation != method {
			t.Errorf("operations %q and %q, want the method", server.Operation, attempt.Operation)
		}
		if attempt.Tags["trunkline.pick.reason"] == nil || server.Tags["trunkline.route"] == nil {
			t.Errorf("no pick's reason or no route: %v %v", attempt.Tags, server.Tags)
		}
	})

	t.Run("a failed call shows its status", func(t *testing.T) {
		trunkline := harness.Start(t, static([]string{backend.Addr}, tracing), soon)
		id, err := tracedCall(t, clientTracer, testpb.NewTestServiceClient(harness.Dial(t, trunkline.Listen)),
			&testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.DataLoss), Message: "lost"}})
		if status.Code(err) != codes.DataLoss {
			t.Fatal(err)
		}
		flush()
		spans := awaitTrace(t, jaeger, id, 4)
		for _, s := range []harness.Span{one(t, spans, "trunkline", "server"), one(t, spans, "trunkline", "client")} {
			wantTags(t, s, map[string]string{"rpc.response.status_code": "DATA_LOSS", "otel.status_code": "ERROR", "error": "true"})
		}
	})

	t.Run("each attempt has its own CLIENT span, and the backend hangs below the one that reached it", func(t *testing.T) {
		trunkline := harness.Start(t, static([]string{refuser.Addr, backend.Addr}, tracing, roundRobin), soon)
		c := testpb.NewTestServiceClient(harness.Dial(t, trunkline.Listen))
		var id string
		for before, i := refuser.Refused.Load(), 0; refuser.Refused.Load() == before; i++ {
			if i == 20 {
				t.Fatal("20 calls in turn, none to the backend that refuses")
			}
			var err error
			if id, err = tracedCall(t, clientTracer, c, &testpb.SimpleRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		flush()
		spans := awaitTrace(t, jaeger, id, 5)
		server, attempts := one(t, spans, "trunkline", "server"), all(spans, "trunkline", "client")
		if len(attempts) != 2 {
			t.Fatalf("%d CLIENT spans, want 2: %+v", len(attempts), spans)
		}
		for _, a := range attempts {
			if a.ParentID != server.SpanID {
				t.Errorf("an attempt does not hang below the SERVER span: %+v", a)
			}
		}
		wantTags(t, attempts[0], map[string]string{"trunkline.endpoint": refuser.Addr, "error": "true"})
		wantTags(t, attempts[1], map[string]string{"trunkline.endpoint": backend.Addr, "rpc.response.status_code": "OK"})
		if end := one(t, spans, "backend", "server"); end.ParentID != attempts[1].SpanID {
			t.Errorf("the backend's span hangs below %s, want the second attempt %s", end.ParentID, attempts[1].SpanID)
		}
		wantTags(t, server, map[string]string{"rpc.response.status_code": "OK", "trunkline.attempts": "2"})
	})

	t.Run("a call that the client did not sample leaves no trace", func(t *testing.T) {
		trunkline := harness.Start(t, static([]string{backend.Addr}, tracing), soon)
		c := testpb.NewTestServiceClient(harness.Dial(t, trunkline.Listen))
		const unsampled = "0af7651916cd43dd8448eb211c80319c"
		ctx := metadata.AppendToOutgoingContext(harness.Context(t, stepLimit), "traceparent", "00-"+unsampled+"-b7ad6b7169203331-00")
		if _, err := c.EmptyCall(ctx, &testpb.Empty{}); err != nil {
			t.Fatal(err)
		}
		id, err := tracedCall(t, clientTracer, c, &testpb.SimpleRequest{})
		if err != nil {
			t.Fatal(err)
		}
		flush()
		awaitTrace(t, jaeger, id, 4) // sent after the unsampled call
		if spans := jaeger.Trace(t, unsampled); len(spans) != 0 {
			t.Errorf("the unsampled call left %+v", spans)
		}
	})
}
