package telemetry

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
	"unsafe"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector keeps the spans that it receives, over gRPC or HTTP.
type collector struct {
	coltrace.UnimplementedTraceServiceServer
	url string

	mu       sync.Mutex
	spans    []*tracepb.Span   // guarded by mu
	resource map[string]string // of the last request; guarded by mu
	token    string            // header "token" of the last request; guarded by mu
	path     string            // HTTP path of the last request; guarded by mu
}

func (c *collector) Export(ctx context.Context, req *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	token := ""
	if v := md.Get("token"); len(v) > 0 {
		token = v[0]
	}
	c.take(req, token, "")
	return &coltrace.ExportTraceServiceResponse{}, nil
}

func (c *collector) take(req *coltrace.ExportTraceServiceRequest, token, path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token, c.path = token, path
	for _, rs := range req.ResourceSpans {
		c.resource = map[string]string{}
		for _, kv := range rs.Resource.Attributes {
			c.resource[kv.Key] = kv.Value.GetStringValue()
		}
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
}

// only returns the span of a kind; there must be exactly one.
func (c *collector) only(t *testing.T, kind tracepb.Span_SpanKind) *tracepb.Span {
	t.Helper()
	list := c.of(kind)
	if len(list) != 1 {
		t.Fatalf("%d spans of kind %v, want 1", len(list), kind)
	}
	return list[0]
}

func (c *collector) of(kind tracepb.Span_SpanKind) (list []*tracepb.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Kind == kind {
			list = append(list, s)
		}
	}
	return list
}

func grpcCollector(t *testing.T) *collector {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{url: "http://" + lis.Addr().String()}
	s := grpc.NewServer()
	coltrace.RegisterTraceServiceServer(s, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(lis) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return c
}

func httpCollector(t *testing.T) *collector {
	c := new(collector)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var req coltrace.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.take(&req, r.Header.Get("token"), r.URL.Path)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	c.url = s.URL
	t.Cleanup(s.Close)
	return c
}

// start is New without the environment of whoever runs the tests.
func start(t *testing.T, cfg Config) *Telemetry {
	t.Helper()
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
		"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS", "OTEL_SDK_DISABLED"} {
		t.Setenv(name, "")
	}
	return startInEnv(t, cfg)
}

func startInEnv(t *testing.T, cfg Config) *Telemetry {
	t.Helper()
	tel, err := New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, tel) })
	return tel
}

// stop delivers what is queued; a second one does nothing.
func stop(t *testing.T, tel *Telemetry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := tel.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func hexID(b []byte) string { return hex.EncodeToString(b) }

func ptr(f float64) *float64 { return &f }

// headers is a request's header fields; set is what Inject wants of the engine.
type headers map[string]string

func (h headers) get(name string) string { return h[name] }

func (h headers) set(name, value string) {
	if value == "" {
		delete(h, name)
		return
	}
	h[name] = value
}

// attrs flattens a span's attributes.
func attrs(s *tracepb.Span) map[string]any {
	m := map[string]any{}
	for _, kv := range s.Attributes {
		if x := kv.Value.GetStringValue(); x != "" {
			m[kv.Key] = x
		} else {
			m[kv.Key] = kv.Value.GetIntValue()
		}
	}
	return m
}

// unsafeString is a string over memory that changes, as the engine's arena is.
func unsafeString(b []byte) string { return unsafe.String(&b[0], len(b)) }
