package forward

import (
	"math"
	"slices"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/deadline"
	"github.com/trunkline/trunkline/policy/retry"
)

// A call has several things to wait for at a time, and one timer: it is set to the earliest of them and rings, then or before,
// for whatever is due. Moving one of them back costs nothing: the timer rings in vain and is set anew.

// timing is what the caller said of time.
type timing struct {
	given time.Duration
	has   bool
	twice bool // several fields: they do not go on as they came
	err   error
}

// timeout reads one grpc-timeout field. Of several the shortest holds: each hop may only shorten.
func (t *timing) timeout(v string) {
	d, err := grpc.ParseTimeout(v)
	switch {
	case err != nil:
		t.err = err
	case !t.has:
		t.given, t.has = d, true
	default:
		t.given, t.twice = min(t.given, d), true
	}
}

// clock settles how long the call may take, from its arrival on. If it is to be refused for that, c.late does so.
func (c *Call) clock(said *timing) {
	if err := said.err; err != nil {
		// grpc-go and grpc-java answer so, too.
		c.late = func() {
			c.refuse(refusal{status: grpc.Internal, outcome: telemetry.OutcomeDownstreamProtocolError, reason: "BAD_TIMEOUT", message: err.Error()})
		}
	}
	r := c.rules
	if said.has {
		c.asked = max(1, int64(said.given))
	}
	if !said.has && r.Timeout == 0 && r.IdleTimeout == 0 && r.PerTryTimeout == 0 {
		return
	}
	facts := deadline.Facts{Received: said.given, HasReceived: said.has, Policy: r.Timeout}
	if r.RefuseHopeless && r.Latency != nil {
		facts.Hopeless = true
		facts.Median, facts.Samples = r.Latency.Quantile(c.f.shard.Now(), 0.5)
	}
	c.limit = deadline.Decide(facts)
	if c.limit.Refuse && c.late == nil {
		c.isLate(&facts)
	}
	if c.limit.Source != deadline.None && int64(c.limit.Limit) < math.MaxInt64-c.arrived {
		c.deadline = c.arrived + int64(c.limit.Limit)
		if c.limit.Limit <= 1 && c.late == nil { // it was up on arrival
			c.late = c.expire
		}
		c.alarm(c.deadline)
	}
	if given, bounded := deadline.ForAttempt(r.PerTryTimeout, c.limit.Limit, c.deadline != 0); bounded {
		c.carry(given, said.has && !said.twice && given == said.given)
	}
	if r.IdleTimeout > 0 {
		c.idle = int64(r.IdleTimeout)
		c.alarm(c.seen + c.idle)
	}
}

// isLate has a call refused that would hardly be done in the time that its caller left.
func (c *Call) isLate(facts *deadline.Facts) {
	received, median, samples := facts.Received, facts.Median, int64(facts.Samples)
	c.late = func() {
		c.note(decision.Note{Kind: decision.NoteHopeless, A: int64(median), B: samples, Refused: true})
		c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitHopeless)
		c.refuse(refusal{status: grpc.DeadlineExceeded, outcome: telemetry.OutcomeUpstreamTimeout, reason: "DEADLINE_HOPELESS",
			message: "the call came with " + received.String() + " left, and half of the recent calls of this method took longer than " +
				median.String() + ": refused on arrival (trunkline.methodPolicy[].refuseHopeless)"})
	}
}

// carry has the request say how much time its first attempt is given, so that it need not be put together anew for that.
func (c *Call) carry(given time.Duration, asItCame bool) {
	c.carries = given
	if asItCame {
		return
	}
	field := c.f.timeoutField(given)
	c.f.shard.Env.Interner.Retain(field)
	c.req = slices.DeleteFunc(c.req, func(h *hpack.Field) bool {
		if h.ID == hpack.GrpcTimeout {
			c.f.shard.Env.Interner.Release(h)
			return true
		}
		return false
	})
	c.req = append(c.req, field)
}

// timeoutField is the field grpc-timeout of that value; the shard keeps the last one, for a policy's is the same for all calls.
func (f *Forwarder) timeoutField(d time.Duration) *hpack.Field {
	if f.lastTimeout == nil || f.lastGiven != d {
		if f.lastTimeout != nil {
			f.shard.Env.Interner.Release(f.lastTimeout)
		}
		var b [16]byte
		f.lastGiven, f.lastTimeout = d, f.shard.Env.Interner.InternBytes([]byte("grpc-timeout"), grpc.AppendTimeout(b[:0], d))
	}
	return f.lastTimeout
}

// alarm has the call looked at at that time, or earlier.
func (c *Call) alarm(at int64) {
	if at == 0 || c.timer.Pending() && c.ringAt <= at {
		return
	}
	c.ringAt = at
	c.f.shard.Timer.Set(&c.timer, at)
}

// ring does what is due.
func (c *Call) ring() {
	now := c.f.shard.Now()
	due := func(at *int64) bool {
		if *at == 0 || now < *at {
			return false
		}
		*at = 0
		return true
	}
	switch {
	case c.deadline != 0 && now >= c.deadline:
		c.expire()
		return
	case c.idle != 0 && now >= c.seen+c.idle:
		c.idled()
		return
	case due(&c.queueEnd):
		c.overflow("waited " + time.Duration(now-c.queuedAt).String() + " in the queue")
		return
	}
	for i := 0; i < len(c.attempts) && c.prev != nil; i++ {
		if a := c.attempts[i]; a.alive() && due(&a.until) && !c.complete { // who has answered may take its time to read the rest
			a.timedOut()
		}
	}
	if c.prev != nil && c.winner == nil {
		if due(&c.holdAt) {
			c.release()
		}
		if c.winner == nil && due(&c.retryAt) {
			c.place(decision.Retry)
		}
		if c.winner == nil && due(&c.hedgeAt) {
			c.hedgeDue()
		}
	}
	c.rearm()
}

// rearm sets the timer to the next thing that is due.
func (c *Call) rearm() {
	if c.prev == nil {
		return
	}
	next := int64(math.MaxInt64)
	at := func(t int64) {
		if t != 0 {
			next = min(next, t)
		}
	}
	at(c.deadline)
	if c.idle != 0 {
		at(c.seen + c.idle)
	}
	at(c.queueEnd)
	at(c.holdAt)
	at(c.retryAt)
	at(c.hedgeAt)
	for _, a := range c.attempts {
		if a.alive() {
			at(a.until)
		}
	}
	if next != math.MaxInt64 {
		c.alarm(next)
	}
}

// expire: the deadline has come.
func (c *Call) expire() {
	c.f.shard.Timed()
	if c.endAnswered() {
		return
	}
	phase := c.phase()
	c.abandon(h2.Cancel, grpc.DeadlineExceeded, telemetry.OutcomeUpstreamTimeout)
	c.refuse(refusal{status: grpc.DeadlineExceeded, outcome: telemetry.OutcomeUpstreamTimeout, reason: "DEADLINE_EXCEEDED",
		message: c.whoseTime() + " passed " + phase})
}

// whoseTime says for people how long the call had, and who said so.
func (c *Call) whoseTime() string {
	whose := "the caller's deadline of "
	if c.limit.Source == deadline.Policy {
		whose = "the method's timeout (serviceConfig.methodConfig[].timeout) of "
	}
	return whose + time.Duration(c.deadline-c.arrived).String()
}

// idleTimeout is the reason of who was idle.
const idleTimeout = "IDLE_TIMEOUT"

// idled: nothing moved in either direction for too long.
func (c *Call) idled() {
	c.f.shard.Timed()
	if c.endAnswered() {
		return
	}
	phase := c.phase()
	c.note(decision.Note{Kind: decision.NoteIdle, Wait: time.Duration(c.idle), Refused: true})
	c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitIdle)
	c.abandon(h2.Cancel, grpc.Unavailable, telemetry.OutcomeUpstreamTimeout)
	c.refuse(refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamTimeout, reason: idleTimeout,
		message: "nothing moved in either direction for " + time.Duration(c.idle).String() + " (trunkline.methodPolicy[].idleTimeout) " + phase})
}

// timedOut: the attempt did not answer within the per-try timeout.
func (a *Attempt) timedOut() { a.failed(a.tooSlow()) }

// tooSlow is the failure of an attempt that was cut by its per-try timeout.
func (a *Attempt) tooSlow() failure {
	took := time.Duration(max(0, a.c.f.shard.Now()-a.sent))
	return failure{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamTimeout, reason: "PER_TRY_TIMEOUT", evidence: retry.Ambiguous, perTry: true,
		message: "endpoint " + a.at.Address + " did not answer within " + a.c.rules.PerTryTimeout.String() + " (trunkline.methodPolicy[].perTryTimeout), after " + took.String(),
		code:    h2.Cancel}
}

// cutItself says whether an attempt that the endpoint ended as for a deadline met its per-try timeout: the endpoint was given that as its
// deadline, and may be first. It is not the call's deadline, and must not be told as that.
func (a *Attempt) cutItself() bool {
	if a.until == 0 {
		return false
	}
	now, slack := a.c.f.shard.Now(), max(int64(deadlineSlack), int64(a.c.rules.PerTryTimeout)/50)
	return now >= a.until-slack && (a.c.deadline == 0 || now < a.c.deadline-slack)
}
