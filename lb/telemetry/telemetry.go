package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// AccessLogMode says which calls get an access-log line.
type AccessLogMode uint8

// The modes.
const (
	AccessLogOff      AccessLogMode = iota
	AccessLogFailures               // status other than OK, and slow calls: Config.SlowThreshold
	AccessLogAll
)

// Config is what the configuration file says. Zero fields fall back to the environment, then to the defaults; see the
// package comment.
type Config struct {
	ServiceName   string            // service.name; "trunkline" if neither file nor environment names one
	Version       string            // service.version
	OTLPEndpoint  string            // collector, http:// or https:// URL; for http/protobuf the base, as in OTEL_EXPORTER_OTLP_ENDPOINT
	OTLPProtocol  string            // "grpc" (default) or "http/protobuf"
	Headers       map[string]string // sent to the collector
	SampleRatio   *float64          // 0 to 1, of the calls that bring no parent; a parent's decision is followed
	Propagators   []string          // by OTEL_PROPAGATORS' names: tracecontext, b3, b3multi, jaeger, xray, ottrace, baggage, none
	AccessLog     AccessLogMode
	SlowThreshold time.Duration // of calls with one message each way at most; 0: no call is slow
	Logger        *slog.Logger  // gets the access log; JSON to standard output if nil
	FlushLog      func()        // is called when there is no further line for now, by who calls Logger; may be nil
	Diagnostics   *slog.Logger  // gets what goes wrong with the telemetry itself; slog.Default() if nil
}

// Telemetry owns the process's metrics, spans and access log. Its methods may be called from any goroutine.
type Telemetry struct {
	version     string       // set once in New
	started     time.Time    // set once in New
	methods     *methods     // set once in New
	endpoints   endpoints    // has its own lock
	callBounds  *bounds      // set once in New
	addedBounds *bounds      // set once in New
	handler     http.Handler // set once in New
	meters      *sdkmetric.MeterProvider

	accessLog AccessLogMode // set once in New
	slow      int64         // ns, math.MaxInt64 if off; set once in New
	tracing   *tracing      // nil: off; set once in New
	spans     *lane         // nil: off; set once in New
	lines     *lane         // nil: off; set once in New

	spansExported atomic.Uint64
	spansDropped  atomic.Uint64 // the queue was full
	spansFailed   atomic.Uint64 // the collector did not take them
	linesDropped  atomic.Uint64

	stopped   sync.Once
	mu        sync.Mutex
	recorders []*Recorder     // guarded by mu
	observers []func(*Gauges) // guarded by mu
}

// The queues between the data plane and the two goroutines, in calls.
const (
	spanQueue = 4096
	lineQueue = 16384
)

// New starts telemetry. It does not wait for the collector, nor does it fail for one that is away; it fails for
// configuration that cannot be right. Stop it with [Telemetry.Shutdown].
func New(ctx context.Context, cfg Config) (*Telemetry, error) {
	settings, err := resolve(cfg, os.Getenv)
	if err != nil {
		return nil, err
	}
	res, err := newResource(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("telemetry: resource: %w", err)
	}
	if cfg.Diagnostics == nil {
		cfg.Diagnostics = slog.Default()
	}
	t := &Telemetry{
		version:     cfg.Version,
		started:     time.Now(),
		methods:     newMethods(),
		endpoints:   endpoints{byKey: map[endpointKey]*Endpoint{}},
		callBounds:  callBounds(),
		addedBounds: addedBounds(),
		accessLog:   cfg.AccessLog,
		slow:        slowThreshold(cfg.SlowThreshold),
	}
	if err := t.startMetrics(res); err != nil {
		return nil, fmt.Errorf("telemetry: metrics: %w", err)
	}
	if settings.enabled {
		if t.tracing, err = newTracing(ctx, t, settings, res, cfg.Diagnostics); err != nil {
			return nil, fmt.Errorf("telemetry: traces: %w", err)
		}
		t.spans = newLane(spanQueue, false, t.tracing.take, nil)
	}
	if cfg.AccessLog != AccessLogOff {
		logger := cfg.Logger
		if logger == nil {
			logger = slog.New(slog.NewJSONHandler(os.Stdout, nil))
		}
		t.lines = newLane(lineQueue, true, func(rec *CallRecord) { writeLine(logger.Handler(), rec) }, cfg.FlushLog)
	}
	return t, nil
}

func (t *Telemetry) startMetrics(res *resource.Resource) error {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	exporter, err := otelprom.New(
		otelprom.WithRegisterer(registry),
		otelprom.WithProducer(producer{t}),
		otelprom.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		otelprom.WithoutScopeInfo(),
	)
	if err != nil {
		return err
	}
	t.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(res))
	t.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return nil
}

// newResource says who we are: defaults, overridden by the environment, overridden by the configuration.
func newResource(ctx context.Context, cfg Config) (*resource.Resource, error) {
	opts := []resource.Option{
		resource.WithAttributes(semconv.ServiceName("trunkline")),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(), resource.WithFromEnv(),
	}
	if cfg.Version != "" {
		opts = append(opts, resource.WithAttributes(semconv.ServiceVersion(cfg.Version)))
	}
	if cfg.ServiceName != "" {
		opts = append(opts, resource.WithAttributes(semconv.ServiceName(cfg.ServiceName)))
	}
	return resource.New(ctx, opts...)
}

// Handler serves the metrics page, in Prometheus' text format.
func (t *Telemetry) Handler() http.Handler { return t.handler }

// Shutdown writes what is queued and stops all goroutines. It takes no longer than ctx allows, and 5 seconds if ctx sets no
// limit, even if the collector does not answer; spans that it could not deliver count as dropped. Calls may still be recorded
// during and after it; their spans and lines are lost. A second call does nothing. Only a log writer that blocks for ever
// can keep a goroutine alive behind it.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
	}
	var err error
	t.stopped.Do(func() {
		if t.lines != nil {
			t.lines.stop()
		}
		if t.tracing != nil {
			err = t.tracing.shutdown(ctx, t.spans)
		}
		if t.lines != nil {
			err = errors.Join(err, t.lines.wait(ctx))
		}
		err = errors.Join(err, t.meters.Shutdown(ctx))
	})
	return err
}
