package shadow

import (
	"fmt"
	"slices"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/deadline"
	"github.com/trunkline/trunkline/policy/latency"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// maxBreakers bounds the shadow's breakers of one policy.
const maxBreakers = 1024

// Options are what a shadow shares with its cluster's other methods. Zero values are good.
type Options struct {
	// Retries, Hedges and Throttle are those of the shadow's cluster, made for it alone: never the live ones. nil: unbounded.
	Retries, Hedges *retry.Budget
	Throttle        *retry.Throttle
	ReplayBytes     int    // what the replay buffer of a call holds where the policy does not say; 0: anything
	Seed            uint64 // of the hash of rate limit keys: random
}

// Policy judges finished calls of one method by another policy than the one that held. It keeps rate limits, breakers and a
// latency of its own, all of bounded size.
//
// Judge may be called by any goroutine at any time. It takes a lock of its own where the shadow has breakers, and makes
// strings where there is a difference: call it outside the shard's lock, from a goroutine that gets copies of finished calls.
type Policy struct {
	live, shadow *serviceconfig.Method
	o            Options
	rates        []rate         // set once in New
	breakers     *breaker.Table // nil: none
	faults       grpc.StatusSet
	recent       *latency.Window // of calls that ended with OK
}

// rate is one rate limit: exactly one of the two is set.
type rate struct {
	one   *limit.Bucket
	keyed *limit.Keyed
}

func (r rate) take(now int64, key string) bool {
	var ok bool
	if r.keyed != nil {
		ok, _ = r.keyed.Take(now, key)
	} else {
		ok, _ = r.one.Take(now)
	}
	return ok
}

// New returns the shadow of what holds live for a method. Both are kept and not changed.
func New(live, shadow *serviceconfig.Method, o Options) *Policy {
	p := &Policy{live: live, shadow: shadow, o: o, recent: latency.New()}
	for _, r := range shadow.Rates {
		if r.Per() != "" {
			p.rates = append(p.rates, rate{keyed: limit.NewKeyed(r.Rate, r.MaxKeys, o.Seed)})
		} else {
			p.rates = append(p.rates, rate{one: limit.NewBucket(r.Rate)})
		}
	}
	if s := shadow.Breaker; s != nil {
		p.breakers = breaker.NewTable(s, maxBreakers)
		if p.faults = s.Faults; p.faults == 0 {
			p.faults = grpc.ServerFaults
		}
	}
	return p
}

// Judge says how the call would have gone otherwise; nil if it would not. c is borrowed: valid until Judge returns.
func (p *Policy) Judge(c *Call) []Difference {
	now := c.Now + int64(c.Took)
	j := judgement{p: p, s: p.shadow, c: c, now: now}
	j.time = deadline.Decide(p.time(c, now))
	if c.Status == grpc.OK && !c.Local {
		p.recent.Record(now, c.Took)
	}
	if j.arrival() {
		return j.found
	}
	p.o.Retries.Deposit()
	p.o.Hedges.Deposit()
	j.course()
	return j.found
}

func (p *Policy) time(c *Call, now int64) deadline.Facts {
	f := deadline.Facts{Received: c.Received, HasReceived: c.HasReceived, Policy: p.shadow.Timeout, Hopeless: p.shadow.RefuseHopeless}
	if f.Hopeless {
		f.Median, f.Samples = p.recent.Quantile(now, 0.5)
	}
	return f
}

// Unjudged are the settings in which the two differ and which finished calls cannot tell about, by their names in the
// configuration.
func (p *Policy) Unjudged() (names []string) {
	l, s := p.live, p.shadow
	for _, setting := range []struct {
		name    string
		differs bool
	}{
		{"waitForReady", l.WaitForReady != s.WaitForReady},
		{"holdResponse", l.HoldResponse != s.HoldResponse},
		{"retryPolicy (only the backoff)", l.Retry != nil && s.Retry != nil &&
			(l.Retry.InitialBackoff != s.Retry.InitialBackoff || l.Retry.MaxBackoff != s.Retry.MaxBackoff || l.Retry.BackoffMultiplier != s.Retry.BackoffMultiplier)},
		// A shadow sees one method: a limit that methods share is judged as if this one had it alone.
		{"rateLimits[].shared", slices.ContainsFunc(s.Rates, func(r serviceconfig.RateLimit) bool { return r.Shared != "" })},
		{"hedgingPolicy (of calls that were hedged)", l.Hedge != nil && s.Hedge != nil && *l.Hedge != *s.Hedge},
	} {
		if setting.differs {
			names = append(names, setting.name)
		}
	}
	return names
}

// judgement is the judging of one call.
type judgement struct {
	p     *Policy
	s     *serviceconfig.Method // the shadow
	c     *Call
	now   int64 // when it ended: the time of the shadow's limits and breakers, which cannot look back
	time  deadline.Decision
	found []Difference

	gained time.Duration // by how much the shadow would be ahead of what happened, for having cut attempts earlier
}

// ends notes that the shadow would have ended the call with the status.
func (j *judgement) ends(what string, status grpc.Status, format string, args ...any) {
	j.found = append(j.found, Difference{What: what, Live: lived(j.c), Shadow: fmt.Sprintf(format, args...), Known: true, Status: status})
}

// parts notes that the shadow would have gone another way, whose end nobody knows.
func (j *judgement) parts(what, format string, args ...any) {
	j.found = append(j.found, Difference{What: what, Live: lived(j.c), Shadow: fmt.Sprintf(format, args...) + "; outcome unknown"})
}

// arrival judges what is decided before the first attempt. Done: there is nothing more to say about the call.
func (j *judgement) arrival() (done bool) {
	c, s := j.c, j.s
	if len(c.Attempts) == 0 && (c.Cause == CauseOther || c.Cause == CauseNone || c.Cause == CauseCancel) {
		return true // ended before policies could matter
	}
	// In the order in which they would refuse. For each: both the same, or one of them only.
	hopeless := c.Cause == CauseHopeless
	switch {
	case j.time.Refuse && !hopeless:
		median, _ := j.p.recent.Quantile(j.now, 0.5)
		j.ends(KindDeadline, grpc.DeadlineExceeded, "would have been refused on arrival: %s were left, and such calls take about %s", brief(c.Received), brief(median))
		return true
	case hopeless:
		if !j.time.Refuse {
			j.parts(KindDeadline, "would have been let through with its %s", brief(c.Received))
		}
		return true
	}
	for i, r := range j.p.rates {
		key := ""
		if i < len(c.RateKeys) {
			key = c.RateKeys[i]
		}
		if !r.take(j.now, key) {
			if c.Cause != CauseRate {
				j.ends(KindRate, grpc.ResourceExhausted, "would have been refused by the rate limit: %s", rateWords(s.Rates[i]))
			}
			return true
		}
	}
	if c.Cause == CauseRate {
		j.parts(KindRate, "would have been within the rate limits")
		return true
	}
	over := s.MaxStreams > 0 && c.InFlight >= s.MaxStreams
	switch {
	case over && c.Cause != CauseConcurrency:
		j.ends(KindConcurrency, grpc.Unavailable, "would have been refused: %d calls of the method are allowed at once, and there were %d beside it", s.MaxStreams, c.InFlight)
		return true
	case c.Cause == CauseConcurrency:
		if !over && (s.MaxStreams == 0 || c.InFlight > 0) {
			j.parts(KindConcurrency, "would have been let through: %s at once", atMost(s.MaxStreams))
		}
		return true
	case c.Cause == CauseBreaker:
		j.liveBreaker()
		return true
	}
	tooLong := exceeds(c.RequestLongest, s.MaxRequestBytes)
	switch {
	case tooLong && c.Cause != CauseRequestSize:
		j.ends(KindMessageSize, grpc.ResourceExhausted, "a request message of %s would have been refused: over %s", bytes(int64(c.RequestLongest)), bytes(s.MaxRequestBytes))
		return true
	case c.Cause == CauseRequestSize:
		if !tooLong {
			j.parts(KindMessageSize, "a request message of %s would have been let through", bytes(int64(c.RequestLongest)))
		}
		return true
	}
	return false
}

// liveBreaker judges a call that a live breaker refused. The shadow's breakers have not seen what came of such calls either.
func (j *judgement) liveBreaker() {
	switch {
	case j.p.breakers == nil:
		j.parts(KindBreaker, "would have been let through: there is no breaker")
	case j.p.breakers.Open() == 0:
		j.parts(KindBreaker, "would have been let through: no breaker is open")
	}
}

// idempotent says what the shadow holds of the method.
func (j *judgement) idempotent() bool {
	if j.s.Idempotent != nil {
		return *j.s.Idempotent
	}
	return j.c.Idempotent
}

// keeps says whether the shadow would have kept the request to send it again.
func (j *judgement) keeps() bool {
	most := int64(j.s.ReplayBytes)
	if most < 0 {
		most = int64(j.p.o.ReplayBytes)
	}
	return j.c.RequestBytes <= most || j.s.ReplayBytes < 0 && most == 0
}

func exceeds(longest uint32, most int64) bool { return most >= 0 && int64(longest) > most }
