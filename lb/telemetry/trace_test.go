package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// silent is a collector's address where nobody is asked: the tests that use it export nothing.
const silent = "http://127.0.0.1:9"

func TestWithoutAnEndpointTracingIsOffAtNoCost(t *testing.T) {
	tel := start(t, Config{SampleRatio: ptr(1)})
	if tr := tel.StartTrace(sampled, headers{}.get, 0); tr != nil {
		t.Error("a trace without a collector")
	}
	if tel.WantRecord(14, 1<<40, nil) {
		t.Error("nobody wants a record when traces and access log are off")
	}
}

func TestTheDecisionFollowsTheParentElseTheRatio(t *testing.T) {
	const all, none = uint64(0), ^uint64(0) // the random numbers that are always and never below the ratio
	for _, c := range []struct {
		name, traceparent string
		rnd               uint64
		traced, continued bool
	}{
		{"sampled parent", sampled, none, true, true},
		{"unsampled parent", unsampled, all, false, false},
		{"no parent, lucky", "", all, true, false},
		{"no parent, unlucky", "", none, false, false},
		{"malformed counts as absent: lucky", "00-zz-zz-01", all, true, false},
		{"malformed counts as absent: unlucky", strings.ToUpper(sampled), none, false, false},
		{"all-zero trace id", "00-00000000000000000000000000000000-" + parentSpan + "-01", none, false, false},
		{"all-zero span id", "00-" + parentTrace + "-0000000000000000-01", none, false, false},
		{"version ff is invalid", "ff" + sampled[2:], none, false, false},
		{"version 00 is not longer", sampled + "-x", none, false, false},
		{"a later version may be longer", "01" + sampled[2:] + "-x", none, true, true},
		{"a later version with junk", "01" + sampled[2:] + "x", none, false, false},
		{"unknown flags are dropped", sampled[:53] + "ff", none, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tel := start(t, Config{OTLPEndpoint: silent, SampleRatio: ptr(0.5)})
			tr := tel.StartTrace(c.traceparent, headers{"tracestate": "v=1"}.get, c.rnd)
			if (tr != nil) != c.traced {
				t.Fatalf("traced: %v", tr != nil)
			}
			if tr == nil {
				return
			}
			h := headers{"traceparent": c.traceparent, "tracestate": "v=1"}
			tr.Inject(tr.StartAttempt(), h.set)
			if got := strings.Contains(h["traceparent"], parentTrace); got != c.continued {
				t.Errorf("injected %s; continued: %v", h["traceparent"], got)
			}
			if flags := h["traceparent"][53:]; flags != "01" && flags != "03" {
				t.Errorf("injected flags %s", flags)
			}
			if _, kept := h["tracestate"]; kept != c.continued {
				t.Errorf("tracestate kept: %v; it belongs to the traceparent", kept)
			}
		})
	}
}

func TestTheRatioSamplerObeysTheSDKsLaw(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, ratio := range []float64{0, 1e-9, 0.01, 0.25, 0.5, 0.999, 1} {
		ours, sdk := newSampler(ratio, true), sdktrace.TraceIDRatioBased(ratio)
		const n = 100_000
		hits := 0
		for range n {
			rnd := rng.Uint64()
			var id trace.TraceID
			binary.BigEndian.PutUint64(id[8:], rnd)
			theirs := sdk.ShouldSample(sdktrace.SamplingParameters{ParentContext: context.Background(), TraceID: id}).Decision == sdktrace.RecordAndSample
			if got := ours.root(rnd); got != theirs {
				t.Fatalf("ratio %v, number %x: %v, the SDK says %v", ratio, rnd, got, theirs)
			} else if got {
				hits++
			}
		}
		if got := float64(hits) / n; got < ratio-0.01 || got > ratio+0.01 {
			t.Errorf("ratio %v sampled %v", ratio, got)
		}
	}
}

func TestB3IsReadInEitherFormAndWrittenInTheConfiguredOne(t *testing.T) {
	single := headers{"b3": parentTrace + "-" + parentSpan + "-1"}
	multi := headers{"x-b3-traceid": parentTrace, "x-b3-spanid": parentSpan, "x-b3-sampled": "1", "x-b3-parentspanid": "00f067aa0ba902b7"}
	for _, c := range []struct {
		propagators string
		in          headers
		want        headers // SPAN stands for the attempt's span id; nil: not traced
	}{
		{"b3", single, headers{"b3": parentTrace + "-SPAN-1"}},
		{"b3", multi, headers{"b3": parentTrace + "-SPAN-1"}},
		{"b3multi", single, headers{"x-b3-traceid": parentTrace, "x-b3-spanid": "SPAN", "x-b3-sampled": "1"}},
		{"b3multi", multi, headers{"x-b3-traceid": parentTrace, "x-b3-spanid": "SPAN", "x-b3-sampled": "1"}},
		{"b3", headers{"b3": parentTrace + "-" + parentSpan + "-d"}, headers{"b3": parentTrace + "-SPAN-d"}},
		{"b3", headers{"b3": parentTrace[16:] + "-" + parentSpan + "-1"}, headers{"b3": "0000000000000000" + parentTrace[16:] + "-SPAN-1"}},
		{"b3", headers{"b3": parentTrace + "-" + parentSpan + "-0"}, nil},
		{"b3", headers{"b3": parentTrace + "-" + parentSpan}, nil}, // decision deferred: to those behind us
		{"b3", headers{"b3": "0"}, nil},
		{"b3multi", headers{"x-b3-sampled": "0"}, nil},
		{"b3", headers{"traceparent": sampled}, headers{"traceparent": sampled, "b3": "NEW-SPAN-1"}}, // W3C is not configured: relayed
		{"tracecontext,b3", headers{"traceparent": sampled}, headers{"traceparent": "00-" + parentTrace + "-SPAN-01", "b3": parentTrace + "-SPAN-1"}},
		{"tracecontext,b3", single, headers{"traceparent": "00-" + parentTrace + "-SPAN-01", "b3": parentTrace + "-SPAN-1"}},
		{"tracecontext,b3", headers{"traceparent": "broken", "tracestate": "v=1", "b3": single["b3"]},
			headers{"traceparent": "00-" + parentTrace + "-SPAN-01", "b3": parentTrace + "-SPAN-1"}}, // a tracestate without its traceparent
		{"tracecontext,b3", headers{"traceparent": sampled, "b3": "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-0"},
			headers{"traceparent": "00-" + parentTrace + "-SPAN-01", "b3": parentTrace + "-SPAN-1"}}, // W3C goes first
		{"none", headers{"traceparent": sampled, "b3": "0"}, headers{"traceparent": sampled, "b3": "0"}},
		{"jaeger", headers{"uber-trace-id": parentTrace + ":" + parentSpan + ":0:1"}, headers{"uber-trace-id": parentTrace + ":SPAN:0:1"}},
	} {
		t.Run(c.propagators, func(t *testing.T) {
			tel := start(t, Config{OTLPEndpoint: silent, SampleRatio: ptr(1), Propagators: strings.Split(c.propagators, ",")})
			tr := tel.StartTrace(c.in["traceparent"], c.in.get, 0)
			if tr == nil || c.want == nil {
				if (tr == nil) != (c.want == nil) {
					t.Fatalf("%v: traced: %v", c.in, tr != nil)
				}
				return
			}
			got := headers{}
			for k, v := range c.in {
				got[k] = v
			}
			attempt := tr.StartAttempt()
			tr.Inject(attempt, got.set)
			span := tr.attempts[attempt].String()
			for k, v := range got {
				v = strings.ReplaceAll(v, span, "SPAN")
				if tr.TraceID() != parentTrace {
					v = strings.ReplaceAll(v, tr.TraceID(), "NEW")
				}
				got[k] = strings.ReplaceAll(v, "NEW"+parentTrace[16:], parentTrace[16:])
			}
			if c.propagators == "b3" && len(c.in["b3"]) == 16+1+16+2 {
				got["b3"] = strings.ReplaceAll(got["b3"], "NEW", "0000000000000000"+parentTrace[16:])
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", c.in, diff)
			}
		})
	}
}

func TestWhatTheTraceKeepsIsCopiedFromTheArena(t *testing.T) {
	tel := start(t, Config{OTLPEndpoint: silent, Propagators: []string{"tracecontext"}})
	arena := []byte("vendor=abcdef")
	borrowed := func(string) string { return unsafeString(arena) }
	tr := tel.StartTrace(sampled, borrowed, 0)
	copy(arena, "XXXXXXXXXXXXX")
	if got := tr.parent.TraceState().String(); got != "vendor=abcdef" {
		t.Errorf("tracestate became %q when the arena was used again", got)
	}
}

func TestTheFileWinsOverTheEnvironment(t *testing.T) {
	ratio := func(bound float64, parent bool) sampler { return newSampler(bound, parent) }
	for _, c := range []struct {
		name    string
		cfg     Config
		env     map[string]string
		enabled bool
		proto   string
		sampler sampler
	}{
		{"nothing", Config{}, nil, false, "grpc", ratio(DefaultSampleRatio, true)},
		{"endpoint by environment", Config{}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": silent}, true, "grpc", ratio(DefaultSampleRatio, true)},
		{"endpoint of traces", Config{}, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": silent,
			"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, true, "http/protobuf", ratio(DefaultSampleRatio, true)},
		{"exporter otlp", Config{}, map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, true, "grpc", ratio(DefaultSampleRatio, true)},
		{"exporter none", Config{}, map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": silent}, false, "grpc", ratio(DefaultSampleRatio, true)},
		{"exporter none, but a file", Config{OTLPEndpoint: silent}, map[string]string{"OTEL_TRACES_EXPORTER": "none"}, true, "grpc", ratio(DefaultSampleRatio, true)},
		{"disabled", Config{OTLPEndpoint: silent}, map[string]string{"OTEL_SDK_DISABLED": "TRUE"}, false, "grpc", ratio(DefaultSampleRatio, true)},
		{"sampler by environment", Config{OTLPEndpoint: silent}, map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, true, "grpc", ratio(0.25, false)},
		{"sampler by both", Config{OTLPEndpoint: silent, SampleRatio: ptr(0), OTLPProtocol: "http/protobuf"},
			map[string]string{"OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, "http/protobuf", ratio(0, true)},
		{"always on", Config{OTLPEndpoint: silent}, map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, true, "grpc", ratio(1, true)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := resolve(c.cfg, func(name string) string { return c.env[name] })
			if err != nil {
				t.Fatal(err)
			}
			if s.enabled != c.enabled || s.protocol != c.proto || s.sampler != c.sampler || !s.w3c || s.others != nil {
				t.Errorf("got %+v", s)
			}
		})
	}
}

func TestConfigurationThatCannotBeRightIsRefused(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		env  map[string]string
		want string
	}{
		{Config{OTLPEndpoint: "collector:4317"}, nil, "http://collector:4317"},
		{Config{OTLPProtocol: "udp"}, nil, "grpc or http/protobuf"},
		{Config{SampleRatio: ptr(1.5)}, nil, "0 to 1"},
		{Config{Propagators: []string{"b4"}}, nil, "b4"},
		{Config{}, map[string]string{"OTEL_TRACES_SAMPLER": "sometimes"}, "sometimes"},
		{Config{}, map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, "_ARG"},
		{Config{}, map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"},
	} {
		if _, err := resolve(c.cfg, func(name string) string { return c.env[name] }); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v %v: error %v, want one that says %q", c.cfg, c.env, err, c.want)
		}
	}
}

func TestTheStandardVariablesReachTheExporter(t *testing.T) {
	c := httpCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.url+"/base")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "token=env")
	t.Setenv("OTEL_SERVICE_NAME", "edge")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	t.Setenv("OTEL_PROPAGATORS", "b3")
	tel := startInEnv(t, Config{})
	tr := tel.StartTrace("", headers{}.get, ^uint64(0))
	h := headers{}
	tr.Inject(tr.StartAttempt(), h.set)
	tel.Export(retried(tr))
	stop(t, tel)
	c.only(t, server)
	if c.path != "/base/v1/traces" || c.token != "env" || c.resource["service.name"] != "edge" ||
		c.resource["deployment.environment.name"] != "test" || len(h) != 1 || h["b3"] == "" {
		t.Errorf("path %q, token %q, resource %v, injected %v", c.path, c.token, c.resource, h)
	}
}

// FuzzParseTraceparent holds our parser against OpenTelemetry's. They differ about version 00 in two places: it refuses flags
// that it does not know (W3C: a reader drops them) and takes a dash at the end (W3C: 55 characters).
func FuzzParseTraceparent(f *testing.F) {
	for _, s := range []string{sampled, unsampled, "", sampled + "-", "01" + sampled[2:] + "-more", "ff" + sampled[2:],
		strings.ToUpper(sampled), sampled[:53] + "03", "00-0-0-0", "00-00000000000000000000x00000000000-0000000000000001-00", strings.ReplaceAll(sampled, "-", "_")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, span, flags, ok := parseTraceparent(s)
		sc := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": s}))
		if ok && strings.HasPrefix(s, "00") && s[53:] > "03" || len(s) == len(sampled)+1 && s[:2] == "00" && s[len(sampled)] == '-' {
			return
		}
		if ok != sc.IsValid() || id != sc.TraceID() || span != sc.SpanID() || flags != sc.TraceFlags() {
			t.Errorf("%q: %v %v %v %v, OpenTelemetry says %v", s, id, span, flags, ok, sc)
		}
		if ok {
			if id2, span2, flags2, ok2 := parseTraceparent(formatTraceparent(id, span, flags)); !ok2 || id2 != id || span2 != span || flags2 != flags {
				t.Errorf("%q does not survive formatting", s)
			}
		}
	})
}

func TestACallThatIsNotSampledAllocatesNothing(t *testing.T) {
	tel := start(t, Config{OTLPEndpoint: silent, Propagators: []string{"tracecontext", "b3"}})
	get := headers{}.get
	for name, traceparent := range map[string]string{"no parent": "", "unsampled parent": unsampled, "malformed": "nonsense"} {
		if n := testing.AllocsPerRun(1000, func() {
			if tel.StartTrace(traceparent, get, ^uint64(0)) != nil {
				t.Fatal("sampled")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkStartTrace(b *testing.B) {
	tel, err := New(context.Background(), Config{OTLPEndpoint: silent})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = tel.Shutdown(context.Background()) }()
	for name, traceparent := range map[string]string{"unsampled parent": unsampled, "no parent": "", "sampled parent": sampled} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			get := headers{}.get
			for b.Loop() {
				tel.StartTrace(traceparent, get, ^uint64(0))
			}
		})
	}
}
