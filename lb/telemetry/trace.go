package telemetry

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"math/rand/v2"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// Trace is the context of one sampled call: the ids are fixed when the call begins, the spans are built when it has ended.
// One goroutine at a time (the shard's lock) until it goes into a [CallRecord]; afterwards it must not be changed.
type Trace struct {
	tracing  *tracing
	traceID  trace.TraceID
	parent   trace.SpanContext // of the client; invalid for a new trace
	span     trace.SpanID      // of the SERVER span
	flags    trace.TraceFlags
	w3c      bool            // the parent came as traceparent, so the request's tracestate belongs to it
	ctx      context.Context // what other formats than W3C remember (B3's debug flag); nil if nothing
	attempts []trace.SpanID
	few      [2]trace.SpanID // the first places of attempts
}

// StartTrace decides whether a call is traced, when its request headers have arrived: nil if not, then its headers go
// upstream as they came. traceparent is the header's value, "" if absent; h looks up any other header field by its
// lower-case name ("" if absent); both are borrowed until return. rnd is a uniformly random number, which becomes part of a new trace's
// id. A valid parent's decision is followed (unless the sampler is told otherwise); a malformed traceparent counts as
// absent, as W3C Trace Context has it.
func (t *Telemetry) StartTrace(traceparent string, h func(name string) string, rnd uint64) *Trace {
	if t.tracing == nil {
		return nil
	}
	return t.tracing.start(traceparent, h, rnd)
}

func (tc *tracing) start(traceparent string, h func(string) string, rnd uint64) *Trace {
	if traceparent != "" && tc.w3c {
		if id, span, flags, ok := parseTraceparent(traceparent); ok {
			if !tc.sampler.child(flags.IsSampled(), low(id)) {
				return nil
			}
			// An unreadable tracestate is no reason to lose the trace (W3C 3.3.1.1).
			state, _ := trace.ParseTraceState(strings.Clone(h("tracestate")))
			tr := tc.newTrace(id, trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: id, SpanID: span, TraceFlags: flags, TraceState: state, Remote: true}), nil)
			tr.w3c = true
			return tr
		}
	}
	if tc.others != nil {
		ctx, sc, denied := tc.extract(h)
		if denied || sc.IsValid() && !tc.sampler.child(sc.IsSampled(), low(sc.TraceID())) {
			return nil
		}
		if sc.IsValid() {
			return tc.newTrace(sc.TraceID(), sc, ctx)
		}
	}
	if !tc.sampler.root(rnd) {
		return nil
	}
	var id trace.TraceID
	binary.BigEndian.PutUint64(id[:8], rand.Uint64()|1) // never all zero, which is no valid id
	binary.BigEndian.PutUint64(id[8:], rnd)
	return tc.newTrace(id, trace.SpanContext{}, nil)
}

func (tc *tracing) newTrace(id trace.TraceID, parent trace.SpanContext, ctx context.Context) *Trace {
	tr := &Trace{tracing: tc, traceID: id, parent: parent, span: newSpanID(), ctx: ctx,
		flags: parent.TraceFlags() | trace.FlagsSampled}
	tr.attempts = tr.few[:0]
	return tr
}

// extract reads a parent in the other formats. It allocates, and so looks first whether there is one.
func (tc *tracing) extract(h func(string) string) (ctx context.Context, sc trace.SpanContext, denied bool) {
	for _, f := range tc.read {
		if h(f) != "" {
			ctx = tc.others.Extract(context.Background(), carrier{get: h})
			sc = trace.SpanContextFromContext(ctx)
			// B3 may deny sampling without naming a trace.
			return ctx, sc, !sc.IsValid() && (h("b3") == "0" || h("x-b3-sampled") == "0")
		}
	}
	return nil, sc, false
}

// TraceID returns the trace's id, 32 hex digits.
func (tr *Trace) TraceID() string { return tr.traceID.String() }

// ID returns the trace's id.
func (tr *Trace) ID() [16]byte { return tr.traceID }

// ParseTraceID returns the trace id of a traceparent, for calls that are not sampled, too; not ok if it is none.
func ParseTraceID(traceparent string) (id [16]byte, ok bool) {
	if traceparent == "" {
		return id, false
	}
	id, _, _, ok = parseTraceparent(traceparent)
	return id, ok
}

// StartAttempt gives the next attempt its span id and returns its index: 0, 1, ... in the order of CallRecord.Attempts.
func (tr *Trace) StartAttempt() (index int) {
	tr.attempts = append(tr.attempts, newSpanID())
	return len(tr.attempts) - 1
}

// Inject calls set for each header field that carries the attempt's context upstream, in lower case; set replaces all fields
// of that name, and an empty value means that the field must not be sent. Fields that it does not name (tracestate of a
// continued trace, baggage) go as they came.
func (tr *Trace) Inject(attempt int, set func(name, value string)) {
	span := tr.span
	if attempt >= 0 && attempt < len(tr.attempts) {
		span = tr.attempts[attempt]
	}
	tc := tr.tracing
	if tc.w3c {
		set("traceparent", formatTraceparent(tr.traceID, span, tr.flags))
		if !tr.w3c {
			set("tracestate", "") // belongs to a traceparent that was absent or broken
		}
	}
	if tc.others == nil {
		return
	}
	for _, f := range tc.stale {
		set(f, "")
	}
	ctx := tr.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: tr.traceID, SpanID: span, TraceFlags: tr.flags, TraceState: tr.parent.TraceState()}))
	tc.others.Inject(ctx, carrier{set: set})
}

// carrier lets the contrib propagators read and write header fields. Values that are kept are copied.
type carrier struct {
	get func(string) string
	set func(name, value string)
}

func (c carrier) Get(key string) string { return strings.Clone(c.get(strings.ToLower(key))) }
func (c carrier) Set(key, value string) { c.set(strings.ToLower(key), value) }
func (c carrier) Keys() []string        { return nil }

// parseTraceparent reads version-traceid-spanid-flags (W3C Trace Context 3.2). Later versions may be longer; flags that we
// do not know are dropped.
func parseTraceparent(s string) (id trace.TraceID, span trace.SpanID, flags trace.TraceFlags, ok bool) {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(s) < length || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return trace.TraceID{}, trace.SpanID{}, 0, false
	}
	short := [8]byte{'0', '0', '0', '0', s[0], s[1], s[53], s[54]}
	versionAndFlags, bad := unhex(binary.LittleEndian.Uint64(short[:]))
	version, f := byte(versionAndFlags>>8), byte(versionAndFlags)
	for i := range 4 {
		v, b := unhex(load(s[3+8*i:]))
		binary.BigEndian.PutUint32(id[4*i:], v)
		bad |= b
	}
	for i := range 2 {
		v, b := unhex(load(s[36+8*i:]))
		binary.BigEndian.PutUint32(span[4*i:], v)
		bad |= b
	}
	if bad != 0 || version == 0xff || len(s) > length && (version == 0 || s[length] != '-') || !id.IsValid() || !span.IsValid() {
		return trace.TraceID{}, trace.SpanID{}, 0, false
	}
	return id, span, trace.TraceFlags(f) & (trace.FlagsSampled | trace.FlagsRandom), true
}

// load reads the first eight bytes of s, the first one lowest.
func load(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// unhex decodes eight lower-case hex digits at once, each byte of x being one, the first one lowest; bad is not 0 if one is
// none (encoding/hex would allow upper case). It runs for every call that brings a context.
func unhex(x uint64) (v uint32, bad uint64) {
	const ones = 0x0101010101010101
	n := x&(0x0f*ones) + 9*(x>>6&ones)               // the digits' values, if they are digits: bit 6 tells letters
	back := n + '0'*ones + 39*((n+118*ones)>>7&ones) // and what they look like
	bad = n&(0xf0*ones) | (back ^ x)
	n = (n<<4 | n>>8) & 0x00ff00ff00ff00ff
	n = (n | n>>8) & 0x0000ffff0000ffff
	return bits.ReverseBytes32(uint32(n | n>>16)), bad
}

func formatTraceparent(id trace.TraceID, span trace.SpanID, flags trace.TraceFlags) string {
	buf := make([]byte, 0, 55)
	buf = append(buf, "00-"...)
	buf = hex.AppendEncode(buf, id[:])
	buf = append(buf, '-')
	buf = hex.AppendEncode(buf, span[:])
	buf = append(buf, '-')
	buf = hex.AppendEncode(buf, []byte{byte(flags)})
	return string(buf)
}

// low returns what the ratio sampler looks at.
func low(id trace.TraceID) uint64 { return binary.BigEndian.Uint64(id[8:]) }

// newSpanID returns a random id that is not zero.
func newSpanID() (id trace.SpanID) {
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
