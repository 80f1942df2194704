package forward

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/retry"
)

// Before commit nothing of a response has gone down, and the call may have another attempt. What an attempt answers is held as
// it came until it can be judged: response headers until a whole message or the trailers follow them. The first whole
// message, a status that is not tried again, or too long a wait commits.

// maxHeldData bounds the DATA of a response that is held, in bytes: a message that is not whole by then commits.
const maxHeldData = 16 << 10

// failure is how an attempt failed.
type failure struct {
	status   grpc.Status
	outcome  telemetry.Outcome
	reason   string // of ErrorInfo, if it comes to a reply of our own
	message  string
	evidence retry.Evidence
	perTry   bool
	pushback pushback
	code     h2.Code
	relay    bool // the endpoint's own RST_STREAM: the client gets its code
}

// pushback is what the server said of another attempt (gRFC A6).
type pushback struct {
	after   time.Duration
	has, no bool
}

// read takes one grpc-retry-pushback-ms field. Several forbid: they were not sent by who knows what it says.
func (p *pushback) read(v string) {
	if p.has {
		p.no = true
		return
	}
	after, ok := grpc.ParsePushback(v)
	p.after, p.has, p.no = after, true, !ok
}

// hold keeps response headers back for as long as the attempt may still come to nothing. It says false if they need not wait.
func (a *Attempt) hold(b *session.Block) bool {
	c := a.c
	if !c.canRepeat || c.noReplay {
		return false
	}
	b.Taken = true
	a.head = append(a.head, b.Fields...)
	if !c.rules.Unary && c.holdAt == 0 {
		c.holdAt = c.f.shard.Now() + int64(c.rules.HoldResponse)
		c.alarm(c.holdAt)
	}
	return true
}

// holdData keeps the beginning of a message back.
func (a *Attempt) holdData(p []byte) bool {
	c := a.c
	if !c.canRepeat || c.noReplay || len(a.held)+len(p) > maxHeldData {
		return false
	}
	if len(p) == 0 {
		return true // a frame of nothing says nothing
	}
	if !c.d.Budget.Hold(int64(len(p))) {
		return false
	}
	a.held = append(c.f.shard.Env.Buffers.Grow(a.held, len(p)), p...)
	return true
}

// release lets held response headers go: they have waited long enough. Of several attempts the first that has any wins.
func (c *Call) release() {
	for _, a := range c.attempts {
		if a.alive() && len(a.head) > 0 {
			c.note(decision.Note{Kind: decision.NoteHold, Wait: c.rules.HoldResponse})
			a.commit()
			return
		}
	}
}

// commit: the response is this attempt's. The others are cancelled, what was kept for another is given back, and what was
// held goes down as it came.
func (a *Attempt) commit() {
	c := a.c
	c.winner = a
	c.retryAt, c.hedgeAt, c.holdAt = 0, 0, 0
	if c.others(a) {
		for _, o := range c.attempts {
			if o != a && o.alive() {
				o.rec.Lost = true
				o.abandon(h2.Cancel, ending{status: grpc.Canceled, outcome: telemetry.OutcomeLocalReset})
			}
		}
	}
	c.d.isUsed()
	c.dropRequest()
	if len(a.head) == 0 || c.down == nil {
		a.dropHeld()
		return
	}
	c.started = true
	f := c.f
	if fields := f.withoutHopByHop(a.head); c.forCaller != nil {
		c.sendTold(fields, false)
	} else {
		c.d.Sess.SendHeaders(c.down, fields, false)
	}
	held := a.held
	a.held = nil
	a.dropHeld()
	if held != nil {
		c.d.Budget.Release(int64(len(held)))
		c.bytesOut += uint64(len(held))
		a.relay(held, false)
		f.shard.Env.Buffers.Put(held)
	}
}

// judged looks at the end of a response before commit: a Trailers-Only reply, or trailers after headers that are held. It says
// true if the call goes on without it.
func (a *Attempt) judged(b *session.Block, status grpc.Status, message string) bool {
	c := a.c
	if !c.canRepeat && c.rules.Shadow == nil {
		return false
	}
	if status == grpc.OK {
		c.rules.Cluster.Throttle.Succeeded()
		return false
	}
	fl := failure{status: status, outcome: telemetry.OutcomeOK, message: message, evidence: retry.ByStatus}
	for _, h := range b.Fields {
		if h.ID == hpack.GrpcRetryPushbackMs {
			fl.pushback.read(h.Value)
		}
	}
	a.pushback = fl.pushback
	if !c.canRepeat || !c.goesOn(a, &fl) {
		return false
	}
	c.message = message
	return true
}

// failed decides what becomes of a call whose attempt failed other than with a status: step 11.
func (a *Attempt) failed(fl failure) {
	c := a.c
	c.f.shard.Timed()
	c.upEnded, c.upRound = c.f.shard.Now(), c.f.shard.Round()
	c.message = fl.message
	if c.down == nil {
		a.close(&fl)
		c.settle()
		return
	}
	if c.winner == nil && c.goesOn(a, &fl) {
		return
	}
	if fl.relay && c.canRepeat && c.winner == nil && len(a.head) == 0 {
		// Nothing was said yet, and a policy had its say: a reply of ours tells the attempts, which a reset cannot.
		fl.relay, fl.reason = false, "UPSTREAM_RESET"
	}
	if fl.relay {
		if c.winner == nil {
			a.commit() // what it said before goes down, too
		}
		a.close(&fl)
		c.status, c.outcome, c.complete = fl.status, fl.outcome, true
		if c.down != nil {
			c.d.Sess.Reset(c.down, fl.code)
		}
		return
	}
	a.close(&fl)
	c.abandon(h2.Cancel, grpc.Canceled, telemetry.OutcomeLocalReset) // others, if it is hedged
	c.refuse(refusal{status: fl.status, outcome: fl.outcome, reason: fl.reason, message: fl.message, after: fl.pushback.after})
}

// close ends the attempt as it failed.
func (a *Attempt) close(fl *failure) {
	e := ending{status: fl.status, outcome: fl.outcome, evidence: fl.evidence}
	if fl.evidence == retry.ByStatus || fl.evidence == retry.Ambiguous {
		e.verdict = a.verdict(fl.status)
		if fl.perTry {
			e.verdict = neutral
			if a.c.ended { // else the endpoint may have waited for the client
				e.verdict = fault
			}
		}
	}
	if a.alive() {
		code := fl.code
		if code == 0 {
			code = h2.Cancel
		}
		a.abandon(code, e)
		return
	}
	a.dropHeld()
	a.over(e)
}

// others says whether another attempt than a is under way.
func (c *Call) others(a *Attempt) bool { return c.live > 1 || c.live == 1 && !a.alive() }

// goesOn asks the policies whether the call goes on without the attempt that just failed, and sees to it.
func (c *Call) goesOn(a *Attempt, fl *failure) bool {
	r, now := c.rules, c.f.shard.Now()
	again := transparent(fl.evidence)
	// Of a hedged call: what says nothing of the call itself does not end the others.
	others := c.others(a)
	switch {
	case again && c.noReplay:
		a.rec.Why = retry.NoReplay
		if others {
			a.close(fl)
		}
		return others
	case !again && r.Hedge != nil:
		return c.goesOnHedged(a, fl)
	}
	a.rec.TimedOut = fl.perTry
	if fl.pushback.has {
		c.note(decision.Note{Kind: decision.NotePushback, Wait: fl.pushback.after, Refused: fl.pushback.no})
	}
	facts := retry.Failure{
		Evidence: fl.evidence, Status: fl.status, PerTry: fl.perTry,
		Pushback: fl.pushback.after, HasPushback: fl.pushback.has, NoRetry: fl.pushback.no,
		PushedAt: c.pushedAt, Previous: c.previous, Idempotent: r.Idempotent, Replayable: !c.noReplay,
		HasDeadline: c.deadline != 0, Left: time.Duration(c.deadline - now), Random: c.f.shard.Rand(),
	}
	facts.Attempts = c.countable() // with a, whose evidence is not noted yet
	facts.Transparent = len(c.attempts) - facts.Attempts
	if again {
		facts.Attempts--
	}
	d := retry.Decide(r.Retry, &facts, r.Cluster.Budget, r.Cluster.Throttle)
	a.rec.Why = d.Why
	switch d.Why {
	case retry.NoBudget:
		c.note(decision.Note{Kind: decision.NoteBudget, Name: r.Cluster.Name, A: int64(1000 * r.Cluster.Budget.Tokens()), Refused: true})
	case retry.NoThrottle:
		c.note(decision.Note{Kind: decision.NoteThrottle, Name: r.Cluster.Name, A: int64(1000 * r.Cluster.Throttle.Tokens()),
			B: int64(1000 * r.Cluster.Config().Throttle.MaxTokens), Refused: true})
	}
	if !d.Retry {
		if r.Retry != nil {
			c.f.rec.RetryDenied(r.Cluster.Name, d.Why.Code())
		}
		if again && others {
			a.close(fl)
			return true
		}
		return false
	}
	if d.Why == retry.RetryPushback {
		c.pushedAt = facts.Attempts
	}
	a.close(fl)
	if c.down == nil {
		return true // closing it ended the call
	}
	c.holdAt = 0
	c.f.rec.Retried(r.Cluster.Name, d.Why.Code())
	switch {
	case again && others:
		c.place(decision.Hedge) // never where another is
	case again:
		c.place(decision.Redispatch)
	case d.After <= 0:
		c.place(decision.Retry)
	default:
		c.retryAt = now + int64(d.After)
		c.alarm(c.retryAt)
	}
	return true
}

// transparent says whether the server's application has seen nothing of an attempt that failed so.
func transparent(e retry.Evidence) bool { return e == retry.NeverSent || e == retry.Refused }

// goesOnHedged is goesOn for a hedged call: others may be under way, and the next may be sent at once.
func (c *Call) goesOnHedged(a *Attempt, fl *failure) bool {
	r := c.rules
	status := fl.status
	if fl.evidence == retry.Ambiguous {
		status = grpc.Unavailable // what a gRPC client makes of a lost connection
	}
	if hedge.Fatal(r.Hedge, status) {
		a.rec.Why = retry.NoStatus
		return false // it is the answer; the others are cancelled
	}
	r.Cluster.Throttle.Failed()
	c.noHedge = c.noHedge || fl.pushback.no
	others := c.others(a)
	switch {
	case c.noHedge:
	case fl.pushback.has && fl.pushback.after > 0 && fl.pushback.after <= retry.MaxPushback && len(c.attempts) < r.Hedge.MaxAttempts:
		c.hedgeAt = c.f.shard.Now() + int64(fl.pushback.after)
		c.alarm(c.hedgeAt)
		others = true
	case c.hedge():
		others = true
	}
	if !others {
		return false // it was the last, and its answer is the call's
	}
	c.lastFailure = *fl
	a.close(fl)
	return true
}

// plan has the next hedge sent when its delay has passed.
func (c *Call) plan(now int64) {
	p := c.rules.Hedge
	if p == nil || c.noHedge || c.hedgeAt != 0 || len(c.attempts) >= p.MaxAttempts || !c.rules.Idempotent {
		return
	}
	c.hedgeAt = now + int64(hedge.Delay(p, c.rules.Latency, now))
	c.alarm(c.hedgeAt)
}

// hedge sends one more attempt beside those under way, if the policy says so.
func (c *Call) hedge() bool {
	c.hedgeAt = 0
	r, now := c.rules, c.f.shard.Now()
	// First whether there is anybody: a hedge that cannot be sent takes nothing from the budget.
	p := c.f.pick(c)
	if p.ep == nil || c.tried(p.ep) || len(c.attempts) >= maxDials {
		p.giveBack(now)
		c.note(decision.Note{Kind: decision.NoteHedge, A: int64(hedge.NoEndpoint)})
		return false
	}
	d := hedge.Decide(r.Hedge, &hedge.Facts{
		Sent: c.countable(), Live: c.live, Previous: c.previous, Idempotent: r.Idempotent, Replayable: !c.noReplay,
		NoMore: c.noHedge, Throttle: r.Cluster.Throttle, Budget: r.Cluster.Hedges,
		HasDeadline: c.deadline != 0, Left: time.Duration(c.deadline - now),
	})
	if !d.Send {
		p.giveBack(now)
		c.note(decision.Note{Kind: decision.NoteHedge, A: int64(d.Why)})
		c.f.rec.HedgeDenied(r.Cluster.Name, d.Why.Code())
		return false
	}
	if !c.placeAt(p, decision.Hedge) {
		return false
	}
	c.f.rec.Hedged(r.Cluster.Name)
	return true
}

// countable is how many attempts a policy counts: not those of which no server's application has seen anything.
func (c *Call) countable() (n int) {
	for _, a := range c.attempts {
		if !transparent(a.rec.Evidence) {
			n++
		}
	}
	return n
}

// hedgeDue: the delay before the next hedge has passed. Without any under way it was the call's last hope.
func (c *Call) hedgeDue() {
	if !c.hedge() && c.live == 0 && c.down != nil && !c.complete {
		fl := &c.lastFailure
		c.refuse(refusal{status: fl.status, outcome: telemetry.OutcomeRetryLimit, reason: "HEDGES_FAILED", message: fl.message})
	}
}
