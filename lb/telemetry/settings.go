package telemetry

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/propagation"
)

// DefaultSampleRatio is the part of the calls without a parent that are traced when nobody says otherwise.
const DefaultSampleRatio = 0.01

// settings are the tracing settings after file and environment are merged.
type settings struct {
	enabled  bool
	endpoint *url.URL // from the file; nil: the exporter reads the environment itself
	protocol string
	headers  map[string]string // from the file; nil: the exporter reads the environment itself
	sampler  sampler

	w3c    bool                          // W3C traceparent is read and written
	others propagation.TextMapPropagator // the other formats, nil if none
	read   []string                      // header fields whose presence makes it worth to ask others
	stale  []string                      // header fields that must not be relayed beside what others writes
}

// resolve merges the configuration with the environment.
func resolve(cfg Config, env func(string) string) (s settings, err error) {
	get := func(names ...string) string {
		for _, n := range names {
			if v := strings.TrimSpace(env(n)); v != "" {
				return v
			}
		}
		return ""
	}
	if cfg.OTLPEndpoint != "" {
		s.endpoint, err = url.Parse(cfg.OTLPEndpoint)
		if err != nil || s.endpoint.Host == "" || s.endpoint.Scheme != "http" && s.endpoint.Scheme != "https" {
			return s, fmt.Errorf("telemetry: otlpEndpoint %q: want a URL like http://collector:4317", cfg.OTLPEndpoint)
		}
	}
	switch exporter := get("OTEL_TRACES_EXPORTER"); exporter {
	case "", "otlp", "none":
		fromEnv := get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") != "" || exporter == "otlp"
		s.enabled = s.endpoint != nil || fromEnv && exporter != "none"
	default:
		return s, fmt.Errorf("telemetry: OTEL_TRACES_EXPORTER=%s: want otlp or none", exporter)
	}
	if strings.EqualFold(get("OTEL_SDK_DISABLED"), "true") {
		s.enabled = false
	}
	s.protocol = cfg.OTLPProtocol
	if s.protocol == "" {
		s.protocol = get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch s.protocol {
	case "":
		s.protocol = "grpc"
	case "grpc", "http/protobuf":
	default:
		return s, fmt.Errorf("telemetry: OTLP protocol %q: want grpc or http/protobuf", s.protocol)
	}
	if len(cfg.Headers) > 0 {
		s.headers = cfg.Headers
	}
	if s.sampler, err = resolveSampler(cfg.SampleRatio, get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG")); err != nil {
		return s, err
	}
	names := cfg.Propagators
	if len(names) == 0 {
		if v := get("OTEL_PROPAGATORS"); v != "" {
			names = strings.Split(v, ",")
		} else {
			names = []string{"tracecontext"}
		}
	}
	return s, s.resolvePropagators(names)
}

// resolvePropagators splits the propagators into W3C, which the hot path reads itself, and the others. Baggage needs no
// propagator here: it is a header field like any other, and relayed.
func (s *settings) resolvePropagators(names []string) error {
	var others []string
	for _, n := range names {
		switch n = strings.ToLower(strings.TrimSpace(n)); n {
		case "none":
			*s = settings{enabled: s.enabled, endpoint: s.endpoint, protocol: s.protocol, headers: s.headers, sampler: s.sampler}
			return nil
		case "tracecontext":
			s.w3c = true
		case "baggage", "":
		default:
			others = append(others, n)
		}
	}
	if len(others) == 0 {
		return nil
	}
	var err error
	if s.others, err = autoprop.TextMapPropagator(others...); err != nil {
		return fmt.Errorf("telemetry: propagators: %w", err)
	}
	for _, f := range s.others.Fields() {
		s.read = append(s.read, strings.ToLower(f))
	}
	if slices.Contains(others, "b3") || slices.Contains(others, "b3multi") {
		// Either form is read, and only the configured one is written: the other must not contradict it.
		b3 := []string{"b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "x-b3-parentspanid"}
		for _, f := range b3 {
			if !slices.Contains(s.read, f) {
				s.stale = append(s.stale, f)
			}
		}
		s.read = append(s.read, "b3", "x-b3-traceid", "x-b3-sampled")
		slices.Sort(s.read)
		s.read = slices.Compact(s.read)
	}
	return nil
}

// sampler decides like the OpenTelemetry SDK's TraceIDRatioBased, under ParentBased or alone.
type sampler struct {
	bound       uint64 // sampled if the trace id's low 8 bytes, shifted right by one, are below
	parentBased bool
}

func newSampler(ratio float64, parentBased bool) sampler {
	switch {
	case ratio >= 1:
		return sampler{math.MaxUint64, parentBased}
	case ratio <= 0:
		return sampler{0, parentBased}
	}
	return sampler{uint64(ratio * (1 << 63)), parentBased}
}

// root decides for a trace id's low 8 bytes.
func (s sampler) root(low uint64) bool { return low>>1 < s.bound }

// child decides for a call that brought a parent.
func (s sampler) child(parentSampled bool, low uint64) bool {
	if s.parentBased {
		return parentSampled
	}
	return s.root(low)
}

func resolveSampler(ratio *float64, name, arg string) (sampler, error) {
	if ratio != nil {
		if !(*ratio >= 0 && *ratio <= 1) {
			return sampler{}, fmt.Errorf("telemetry: sampleRatio %v: want 0 to 1", *ratio)
		}
		return newSampler(*ratio, true), nil
	}
	fromArg := 1.0
	if strings.HasSuffix(name, "traceidratio") && arg != "" {
		var err error
		if fromArg, err = strconv.ParseFloat(arg, 64); err != nil || !(fromArg >= 0 && fromArg <= 1) {
			return sampler{}, fmt.Errorf("telemetry: OTEL_TRACES_SAMPLER_ARG=%s: want 0 to 1", arg)
		}
	}
	switch strings.ToLower(name) {
	case "":
		return newSampler(DefaultSampleRatio, true), nil
	case "always_on":
		return newSampler(1, false), nil
	case "always_off":
		return newSampler(0, false), nil
	case "traceidratio":
		return newSampler(fromArg, false), nil
	case "parentbased_always_on":
		return newSampler(1, true), nil
	case "parentbased_always_off":
		return newSampler(0, true), nil
	case "parentbased_traceidratio":
		return newSampler(fromArg, true), nil
	}
	return sampler{}, fmt.Errorf("telemetry: OTEL_TRACES_SAMPLER=%s: want [parentbased_]always_on, always_off or traceidratio", name)
}

// slowThreshold turns 0 into "never".
func slowThreshold(d time.Duration) int64 {
	if d <= 0 {
		return math.MaxInt64
	}
	return int64(d)
}
