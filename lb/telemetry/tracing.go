package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// tracing is the SDK behind the span lane. The lane may block on the batch processor, which may block on the exporter: what
// that costs is the lane's queue filling up, and [Telemetry.Export] dropping.
type tracing struct {
	settings // set once in newTracing
	tracer   trace.Tracer
	failed   *atomic.Uint64 // Telemetry.spansFailed
	provider *sdktrace.TracerProvider
	limit    context.Context    // done: shutdown's time is over, what is not delivered is lost
	hurry    context.CancelFunc // ends limit
}

func newTracing(ctx context.Context, t *Telemetry, s settings, res *resource.Resource, log *slog.Logger) (*tracing, error) {
	client := s.client()
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, err
	}
	limit, hurry := context.WithCancel(context.Background())
	counted := &countingExporter{SpanExporter: exporter, limit: limit, t: t, log: log}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // StartTrace has decided
		sdktrace.WithIDGenerator(givenIDs{}),
		sdktrace.WithSpanProcessor(sdktrace.NewBatchSpanProcessor(counted, sdktrace.WithBlocking())),
	)
	tracer := provider.Tracer(scopeName, trace.WithInstrumentationVersion(t.version), trace.WithSchemaURL(semconv.SchemaURL))
	return &tracing{settings: s, tracer: tracer, failed: &t.spansFailed, provider: provider, limit: limit, hurry: hurry}, nil
}

// client returns the OTLP client. Options override what it reads from the environment.
func (s *settings) client() otlptrace.Client {
	if s.protocol == "grpc" {
		var opts []otlptracegrpc.Option
		if s.endpoint != nil {
			opts = append(opts, otlptracegrpc.WithEndpointURL(s.endpoint.String()))
		}
		if s.headers != nil {
			opts = append(opts, otlptracegrpc.WithHeaders(s.headers))
		}
		return otlptracegrpc.NewClient(opts...)
	}
	opts := []otlptracehttp.Option{otlptracehttp.WithEncoding(otlptracehttp.EncodingProtobuf)}
	if s.endpoint != nil {
		u := *s.endpoint
		if !strings.HasSuffix(u.Path, "/v1/traces") {
			u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/traces"
		}
		opts = append(opts, otlptracehttp.WithEndpointURL(u.String()))
	}
	if s.headers != nil {
		opts = append(opts, otlptracehttp.WithHeaders(s.headers))
	}
	return otlptracehttp.NewClient(opts...)
}

// shutdown delivers what is queued as long as ctx allows; then all that is left fails at once, so it ends either way.
func (tc *tracing) shutdown(ctx context.Context, spans *lane) error {
	defer tc.hurry()
	defer context.AfterFunc(ctx, tc.hurry)()
	spans.stop()
	<-spans.done
	err := tc.provider.Shutdown(context.WithoutCancel(ctx))
	return errors.Join(err, ctx.Err())
}

// idsKey carries the ids that a span must get to givenIDs.
type idsKey struct{}

type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

// givenIDs gives spans the ids that were fixed when the call ran.
type givenIDs struct{}

func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	given := ctx.Value(idsKey{}).(ids)
	return given.trace, given.span
}

func (givenIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	return ctx.Value(idsKey{}).(ids).span
}

// countingExporter counts, says once when the collector stops and starts taking spans, and can be hurried.
type countingExporter struct {
	sdktrace.SpanExporter
	limit   context.Context // done: exports must end
	t       *Telemetry
	log     *slog.Logger
	failing bool // owned by the batch processor, which exports one batch at a time
}

// ExportSpans implements the SDK's SpanExporter. It reports no error: the SDK would print it, batch for batch.
func (e *countingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if e.limit.Err() != nil {
		e.t.spansFailed.Add(uint64(len(spans)))
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.limit, cancel)()
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		e.t.spansFailed.Add(uint64(len(spans)))
		if !e.failing {
			e.log.Warn("the trace collector does not take spans; they are dropped until it does", "error", err)
		}
	} else {
		e.t.spansExported.Add(uint64(len(spans)))
		if e.failing {
			e.log.Info("the trace collector takes spans again")
		}
	}
	e.failing = err != nil
	return nil
}

// Shutdown implements the SDK's SpanExporter.
func (e *countingExporter) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return e.SpanExporter.Shutdown(ctx)
}
