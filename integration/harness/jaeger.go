package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// Jaeger is a real Jaeger all-in-one with its spans in memory.
type Jaeger struct {
	*Process
	OTLP  string // host:port of OTLP over gRPC
	Query string // http://127.0.0.1:port of the query API
}

// StartJaeger starts Jaeger and waits until it answers queries.
func StartJaeger(t testing.TB) *Jaeger {
	t.Helper()
	query := FreeAddr(t)
	j := &Jaeger{OTLP: FreeAddr(t), Query: "http://" + query}
	j.Process = startProcess(t, "jaeger", []string{"SPAN_STORAGE_TYPE=memory"}, Tool(t, "jaeger"),
		"--collector.otlp.grpc.host-port="+j.OTLP, "--query.http-server.host-port="+query,
		// The rest is not used; each gets a port of its own so that nothing clashes with another Jaeger.
		"--collector.otlp.http.host-port="+FreeAddr(t), "--collector.grpc-server.host-port="+FreeAddr(t),
		"--collector.http-server.host-port="+FreeAddr(t), "--query.grpc-server.host-port="+FreeAddr(t),
		"--admin.http.host-port="+FreeAddr(t), "--http-server.host-port="+FreeAddr(t),
		"--processor.jaeger-binary.server-host-port="+FreeAddr(t),
		"--processor.jaeger-compact.server-host-port="+FreeAddr(t),
		"--processor.zipkin-compact.server-host-port="+FreeAddr(t),
	)
	Eventually(t, 30*time.Second, "jaeger to answer", func() bool {
		if j.Exited() {
			t.Fatal("jaeger ended")
		}
		_, err := j.query("/api/services")
		return err == nil
	})
	return j
}

// Span is one span as Jaeger's query API tells it.
type Span struct {
	TraceID   string
	SpanID    string
	ParentID  string
	Service   string // service.name of the process that made it
	Operation string
	Start     time.Time
	Duration  time.Duration
	Tags      map[string]any // attributes; span.kind, otel.status_code and error among them
}

// Kind is the span's kind: client, server, ...
func (s Span) Kind() string { return fmt.Sprint(s.Tags["span.kind"]) }

// Trace returns the spans of a trace by its 32 hexadecimal digits, none while Jaeger does not know it.
func (j *Jaeger) Trace(t testing.TB, id string) []Span {
	t.Helper()
	body, err := j.query("/api/traces/" + id)
	if err != nil {
		return nil
	}
	var reply struct {
		Data []struct {
			Spans []struct {
				TraceID       string
				SpanID        string
				OperationName string
				ProcessID     string
				StartTime     int64 // microseconds
				Duration      int64 // microseconds
				References    []struct{ RefType, SpanID string }
				Tags          []struct {
					Key   string
					Value any
				}
			}
			Processes map[string]struct{ ServiceName string }
		}
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		t.Fatalf("jaeger's reply: %v\n%s", err, body)
	}
	var spans []Span
	for _, trace := range reply.Data {
		for _, s := range trace.Spans {
			span := Span{
				TraceID: s.TraceID, SpanID: s.SpanID, Operation: s.OperationName,
				Service: trace.Processes[s.ProcessID].ServiceName,
				Start:   time.UnixMicro(s.StartTime), Duration: time.Duration(s.Duration) * time.Microsecond,
				Tags: map[string]any{},
			}
			for _, ref := range s.References {
				if ref.RefType == "CHILD_OF" {
					span.ParentID = ref.SpanID
				}
			}
			for _, tag := range s.Tags {
				span.Tags[tag.Key] = tag.Value
			}
			spans = append(spans, span)
		}
	}
	return spans
}

func (j *Jaeger) query(path string) ([]byte, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(j.Query + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return body, err
}
