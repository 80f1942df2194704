package forward

import (
	"fmt"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/ratelimit"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// admit asks everybody who may turn a call away before an endpoint is picked, the cheapest first: step 6.
func (c *Call) admit() {
	f, r := c.f, c.rules
	c.obey(r)
	if f.shedding != nil {
		if why, pushback := f.shedding(); why != "" {
			c.note(decision.Note{Kind: decision.NoteOverload, Text: why, Wait: pushback, Refused: true})
			f.rec.Limited(r.Cluster.Name, telemetry.LimitOverload)
			c.refuse(refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeOverloaded, reason: "OVERLOADED", message: why, after: pushback})
			return
		}
	}
	if f.queued > 0 {
		f.wake(r.Cluster.Name) // a place that another shard gave back belongs to those who wait
	}
	if !r.Guarded {
		c.place(decision.First)
		return
	}
	for _, rate := range r.Rates {
		if !c.take(rate) {
			return
		}
	}
	if r.Cluster.Global != nil && c.ask() {
		return
	}
	c.enter()
}

// obey puts rules in force for a call that no endpoint has seen yet. What was measured against others (its time, the rates) stands.
func (c *Call) obey(r *policies.Rules) {
	c.rules = r
	c.canRepeat = r.Retry != nil || r.Hedge != nil
	c.shadowKeys = nil
	if r.Shadow != nil {
		c.shadowKeys = r.Shadow.Keys(c.field, c.d.address(), c.who)
	}
}

// take takes a token from a rate limit, or refuses the call.
func (c *Call) take(rate *policies.Rate) bool {
	now := c.f.shard.Now()
	var ok bool
	var after time.Duration
	if rate.Bucket != nil {
		if ok, after = rate.Bucket.Take(now); ok {
			return true
		}
	} else {
		key := c.d.address()
		switch {
		case rate.Metadata != "":
			key = c.field(rate.Metadata)
		case rate.Identity:
			key = c.who.Named()
		case rate.Claim != "":
			key = c.who.Claim(rate.Claim)
		}
		if ok, after = rate.Keyed.Take(now, key); ok {
			return true
		}
	}
	what := "method " + c.rules.Full
	if rate.Shared != "" {
		what = "all methods of " + rate.Shared + " together"
	}
	switch {
	case rate.Metadata != "":
		what += ", for each value of metadata " + rate.Metadata // never the value: it may be a secret
	default:
		if per := rate.Per(); per != "" {
			what += "," + per
		}
	}
	c.note(decision.Note{Kind: decision.NoteRateLimit, Name: what, A: int64(1000 * rate.Rate.PerSecond), B: int64(rate.Rate.Burst), Wait: after, Refused: true})
	c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitRate)
	c.refuse(refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeRateLimited, reason: "RATE_LIMITED", after: max(after, time.Millisecond),
		message: fmt.Sprintf("over the rate limit of %s: %g calls per second, bursts of %d (trunkline.methodPolicy[].rateLimits); try again in %s",
			what, rate.Rate.PerSecond, rate.Rate.Burst, max(after, time.Millisecond).Round(time.Millisecond))})
	return false
}

// field is the first request header field of that name, borrowed; "" if there is none.
func (c *Call) field(name string) string {
	for _, h := range c.req {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// ask asks the rate limit service; the call waits meanwhile. It says false if there is nothing to ask.
func (c *Call) ask() bool {
	f, g := c.f, c.rules.Cluster.GlobalLimits
	var list [][]ratelimit.Entry
	for _, d := range g.Descriptors {
		if entries := c.descriptor(d); entries != nil {
			list = append(list, entries)
		}
	}
	if len(list) == 0 {
		return false
	}
	c.asking, c.askedFor = true, "while the rate limit service was asked"
	c.ticket++
	ticket := c.ticket
	c.rules.Cluster.Global.Ask(list, func(v ratelimit.Verdict) {
		f.shard.Enter()
		defer f.shard.Leave()
		if !c.asking || c.ticket != ticket {
			return // the call has ended
		}
		c.asking = false
		f.shard.Timed()
		c.answered(&v)
	})
	return true
}

// descriptor fills in one descriptor of the rate limit service; nil if a part of it is missing.
func (c *Call) descriptor(d []serviceconfig.DescriptorEntry) (out []ratelimit.Entry) {
	for _, e := range d {
		v := e.Value
		switch {
		case e.Metadata != "":
			if v = strings.Clone(c.field(e.Metadata)); v == "" {
				return nil
			}
		case e.ClientAddress:
			v = c.d.address()
		case e.Identity:
			if v = c.who.Named(); v == "" {
				return nil
			}
		case e.Claim != "":
			if v = c.who.Claim(e.Claim); v == "" {
				return nil
			}
		case e.Method:
			v = c.rules.Full
		}
		out = append(out, ratelimit.Entry{Key: e.Key, Value: v, Hidden: e.Metadata != ""})
	}
	return out
}

// answered goes on with a call that the rate limit service was asked about.
func (c *Call) answered(v *ratelimit.Verdict) {
	g := c.rules.Cluster.GlobalLimits
	if v.Why != "" {
		c.note(decision.Note{Kind: decision.NoteGlobalLimit, Name: g.Domain, Text: v.Why, Wait: v.RetryAfter, Refused: v.Over})
	}
	if !v.Over {
		c.enter()
		return
	}
	c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitGlobal)
	r := refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeRateLimited, reason: "RATE_LIMITED_GLOBALLY", after: v.RetryAfter,
		message: "over the limit that the rate limit service keeps for domain " + g.Domain}
	if v.Failed {
		r.status, r.reason = grpc.Unavailable, "RATE_LIMIT_SERVICE"
		r.message = "refused because the rate limit service did not answer and failOpen is off (trunkline.cluster.rateLimitService): " + v.Why
	}
	c.refuse(r)
}

// The permits that a call may hold.
const (
	permitMethod = 1 << iota
	permitCluster
)

// full names what keeps a call from entering.
type full struct {
	kind  decision.NoteKind
	name  string // "cluster shop"
	key   string // of the configuration that says so
	inUse int64
	limit int64
}

// enter takes the places that the call needs, or waits for them, or is refused.
func (c *Call) enter() {
	if why := c.permit(); why != nil {
		c.await(why)
		return
	}
	c.place(decision.First)
}

// permit takes what places are free; what it says is what is missing.
func (c *Call) permit() *full {
	r := c.rules
	if s := r.Streams; s != nil && c.permits&permitMethod == 0 {
		if !s.Acquire() {
			return &full{kind: decision.NoteConcurrency, name: "method " + r.Full, key: "trunkline.methodPolicy[].maxStreams", inUse: s.InUse(), limit: s.Limit()}
		}
		c.permits |= permitMethod
	}
	if s := r.Cluster.Streams; s != nil && c.permits&permitCluster == 0 {
		if !s.Acquire() {
			why := &full{kind: decision.NoteConcurrency, name: "cluster " + r.Cluster.Name, key: "trunkline.cluster.concurrency.maxStreams", inUse: s.InUse(), limit: s.Limit()}
			if r.Cluster.Gradient != nil {
				why.kind, why.key = decision.NoteAdaptive, "trunkline.cluster.adaptiveConcurrency"
			}
			return why
		}
		c.permits |= permitCluster
	}
	return nil
}

// leave gives the call's places back; somebody may be waiting for them.
func (c *Call) leave() {
	if c.permits == 0 {
		return
	}
	c.giveUpPlaces()
	if c.f.queued > 0 {
		c.f.wake(c.rules.Cluster.Name)
	}
}

// giveUpPlaces gives the call's places back and tells nobody.
func (c *Call) giveUpPlaces() {
	if c.permits&permitMethod != 0 {
		c.rules.Streams.Release()
	}
	if c.permits&permitCluster != 0 {
		c.rules.Cluster.Streams.Release()
	}
	c.permits = 0
}
