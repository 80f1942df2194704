package serviceconfig

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
)

const (
	defaultHold    = 100 * time.Millisecond
	defaultMaxKeys = 10_000
)

// methodPolicyKeys is never written.
var methodPolicyKeys = [...]string{
	"name", "idempotent", "perTryTimeout", "idleTimeout", "refuseHopeless", "holdResponse", "replayBytes", "maxStreams", "breaker",
	"hedging", "rateLimits",
}

// methodPolicy is what an item of trunkline.methodPolicy says.
type methodPolicy struct {
	idempotent      *bool
	perTry, idle    time.Duration
	hopeless        bool
	hold            time.Duration
	replay, streams int
	breaker         *breaker.Settings
	percentile      float64
	rates           []RateLimit
}

func (p methodPolicy) apply(m *Method) {
	m.Idempotent, m.PerTryTimeout, m.IdleTimeout, m.RefuseHopeless = p.idempotent, p.perTry, p.idle, p.hopeless
	m.HoldResponse, m.ReplayBytes, m.MaxStreams = p.hold, p.replay, p.streams
	m.Breaker, m.Rates = p.breaker, p.rates
	m.Hedge = withPercentile(m.Hedge, p.percentile)
}

// warnings tells what has no effect beside what gRPC's part says of the same name.
func (p methodPolicy) warnings(at value, m *Method) {
	if p.percentile != 0 && m.Hedge == nil {
		at.warnf("hedging.delayPercentile does nothing for %s, for which no hedgingPolicy holds", m.Name)
	}
	if p.perTry != 0 && m.Timeout != 0 && p.perTry >= m.Timeout {
		at.warnf("perTryTimeout (%v) does nothing for %s, whose timeout is %v: make it shorter", p.perTry, m.Name, m.Timeout)
	}
}

func readMethodPolicy(o object, names map[name]value) methodPolicy {
	p := methodPolicy{
		perTry:   o.get("perTryTimeout").duration(0, false),
		idle:     o.get("idleTimeout").duration(0, false),
		hopeless: o.get("refuseHopeless").boolean(false),
		hold:     o.get("holdResponse").duration(defaultHold, true),
		replay:   int(o.get("replayBytes").integer(-1, 0, 16<<20)),
		streams:  o.get("maxStreams").count(0, 1),
		breaker:  readBreaker(o.get("breaker")),
	}
	if v := o.get("idempotent"); v.given() {
		b := v.boolean(false)
		p.idempotent = &b
	}
	if h, ok := o.get("hedging").object("delayPercentile"); ok {
		required(h, "delayPercentile", "a percentile over 0 and below 100, such as 95")
		p.percentile = h.get("delayPercentile").number(0, "over 0 and below 100, such as 95", func(f float64) bool { return f > 0 && f < 100 })
	}
	for _, item := range o.get("rateLimits").list() {
		if l, ok := readRateLimit(item, names); ok {
			p.rates = append(p.rates, l)
		}
	}
	return p
}

func readBreaker(v value) *breaker.Settings {
	o, ok := v.object("consecutive", "errorRate", "window", "minVolume", "openFor", "maxOpenFor", "probes", "faults")
	if !ok {
		return nil
	}
	if !o.has("consecutive") && !o.has("errorRate") {
		v.errorf("says nothing that opens it: add \"consecutive\": 5, \"errorRate\": 0.5, or both")
	}
	if !o.has("errorRate") {
		for _, key := range [...]string{"window", "minVolume"} {
			if o.has(key) {
				o.get(key).errorf("is about errorRate, which is not given: add it, or remove this")
			}
		}
	}
	s := &breaker.Settings{
		Consecutive: o.get("consecutive").count(0, 1),
		ErrorRate:   o.get("errorRate").number(0, "over 0, at most 1", share),
		Window:      o.get("window").duration(10*time.Second, false),
		MinVolume:   o.get("minVolume").count(20, 1),
		OpenFor:     o.get("openFor").duration(5*time.Second, false),
		Probes:      o.get("probes").count(3, 1),
		Faults:      o.get("faults").statuses(grpc.ServerFaults),
	}
	s.MaxOpenFor = o.get("maxOpenFor").duration(max(time.Minute, s.OpenFor), false)
	if s.MaxOpenFor < s.OpenFor {
		o.get("maxOpenFor").errorf("is %v, shorter than openFor (%v)", s.MaxOpenFor, s.OpenFor)
	}
	return s
}

func readRateLimit(v value, names map[name]value) (l RateLimit, ok bool) {
	o, ok := v.object("requestsPerSecond", "burst", "metadata", "clientAddress", "identity", "claim", "maxKeys", "shared")
	if !ok {
		return l, false
	}
	required(o, "requestsPerSecond", "a number over 0, such as 100 or 0.5")
	l = RateLimit{
		Rate: limit.Rate{
			PerSecond: o.get("requestsPerSecond").number(1, "over 0, up to a milliard", func(f float64) bool { return f > 1e-9 && f <= 1e9 }),
		},
		Metadata:      o.get("metadata").headerName(),
		ClientAddress: o.get("clientAddress").boolean(false),
		Identity:      o.get("identity").boolean(false),
		Claim:         o.get("claim").text(""),
		MaxKeys:       int(o.get("maxKeys").integer(defaultMaxKeys, 1, 10_000_000)),
	}
	l.Rate.Burst = o.get("burst").count(max(1, int(math.Ceil(l.Rate.PerSecond))), 1)
	if o.get("shared").boolean(false) {
		var all []string
		for n := range names {
			all = append(all, n.String())
		}
		slices.Sort(all)
		l.Shared = strings.Join(all, ", ")
	}
	first := ""
	for _, key := range [...]string{"metadata", "clientAddress", "identity", "claim"} {
		switch on := map[string]bool{"metadata": l.Metadata != "", "clientAddress": l.ClientAddress, "identity": l.Identity, "claim": l.Claim != ""}[key]; {
		case on && first != "":
			o.get(key).errorf("stands beside %s (line %d): a limit is per one of them", first, o.get(first).at.Line)
		case on:
			first = key
		}
	}
	if o.has("maxKeys") && first == "" {
		o.get("maxKeys").errorf("is about keys, but none of metadata, clientAddress, identity and claim is given")
	}
	return l, true
}

// headerName is the name of a request header field that gRPC calls metadata.
func (v value) headerName() string {
	s := v.text("")
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789_-."
	switch {
	case !v.given():
	case s == "":
		v.errorf("is empty: write the name of a metadata field, such as \"x-user\"")
	case strings.Trim(strings.ToLower(s), allowed) != "" || len(s) > 256:
		v.errorf("%q is not the name of a metadata field: lower-case letters, digits, \"-\", \"_\" and \".\"", document.Shorten(s))
	case s != strings.ToLower(s):
		v.errorf("%q has capital letters, which no metadata has: write %q", s, strings.ToLower(s))
	default:
		return s
	}
	return ""
}
