package forward

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/deadline"
	"github.com/trunkline/trunkline/policy/retry"
)

// Attempt is one try of a call on one endpoint. Guarded by the shard.
type Attempt struct {
	c       *Call
	at      *upstream.Endpoint // whose it is
	member  int                // of the target
	conn    *upstream.Conn
	up      *session.Stream // nil before it is opened, and once it is closed
	waitsAt *upstream.Pool  // the pool in which it waits for a connection
	open    bool            // its load is on the endpoint
	handed  int64           // bytes of request data that it was handed
	until   int64           // its per-try timeout, shard time; 0: none

	// The response, held until it is judged.
	head []*hpack.Field // response headers; one reference each
	held []byte         // of DATA; owned, from the shard's buffers
	out  grpc.MessageCounter

	breaker, fallen         *breaker.Breaker // asked for it; nil: none
	probe, probeOfFallen    bool

	// What is told of it.
	kind       decision.Kind
	reason     balance.Reason
	candidates [maxCandidates]candidate
	nCands     uint8
	start      int64 // shard time
	sent       int64 // when it got a stream; 0: never
	end        int64 // 0: not yet
	wait       int64 // before it, in a backoff, nanoseconds
	given      time.Duration // the deadline that it was given; 0: none
	status     grpc.Status
	outcome    telemetry.Outcome
	evidence   retry.Evidence
	why        retry.Why // what was decided after it
	decided    bool
}

// The kinds of attempts.
const (
	KindFirst      = decision.KindFirst
	KindRetry      = decision.KindRetry
	KindHedge      = decision.KindHedge
	KindRedispatch = decision.KindRedispatch
)

// candidate is an endpoint as it stood when a pick was made.
type candidate struct {
	ep       *upstream.Endpoint
	inFlight int32
	state    uint32
}

const maxCandidates = 8

// alive says whether something may still come of it.
func (a *Attempt) alive() bool { return a.up != nil || a.waitsAt != nil }

// place picks an endpoint and a connection to it: steps 7 and 8. It says false if nobody was there to be picked, which has
// been dealt with.
func (c *Call) place(kind decision.Kind) bool {
	f, t := c.f, c.e.target
	if len(c.attempts) >= maxDials {
		c.refuse(c.exhausted())
		return false
	}
	p := f.pick(c)
	if p.ep == nil || kind == KindHedge && p.reason == balance.ReasonOnlyAvoided {
		if kind == KindHedge {
			c.note(NoteNoOther, t.Cluster, int64(len(t.Endpoints)), 0)
			return false
		}
		c.nobody(p)
		return false
	}
	a := f.newAttempt(c)
	a.at, a.member, a.kind, a.reason, a.start = p.ep, p.member, kind, p.reason, f.shard.Now()
	a.breaker, a.fallen, a.probe, a.probeOfFallen = p.breaker, p.fallen, p.probe, p.probeOfFallen
	if n := len(c.attempts); n > 0 && kind == KindRetry {
		a.wait = a.start - c.attempts[n-1].end
	}
	a.see(t)
	c.attempts = append(c.attempts, a)
	if len(c.attempts) == 1 && c.rules.Cluster.Budget != nil {
		c.rules.Cluster.Budget.Deposit()
		if c.canRepeat && c.rules.Hedge != nil {
			c.rules.Cluster.Hedges.Deposit()
		}
	}
	p.ep.InFlight.Add(1)
	p.ep.Picks.Add(1)
	a.open = true
	pool := p.ep.Pool(f.shard.ID)
	conn, err := pool.Reserve(a)
	switch {
	case err != nil:
		a.over(ending{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, evidence: retry.NeverSent})
		if kind == KindHedge && c.live > 0 {
			return false
		}
		c.refuse(refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, reason: "PENDING_OVERFLOW",
			message: "cluster " + t.Cluster + ", endpoint " + p.ep.Address + ": " + err.Error()})
		return false
	case conn == nil:
		a.waitsAt = pool
		c.live++
	default:
		c.live++
		a.send(conn)
	}
	return true
}

// see notes the candidates of the pick that was just made.
func (a *Attempt) see(t *Target) {
	for i, ep := range t.Endpoints {
		if i == maxCandidates {
			if a.member >= maxCandidates { // the picked one is always among those told
				a.candidates[0] = candidate{a.at, int32(a.at.InFlight.Load()), a.at.State()}
			}
			return
		}
		a.candidates[i] = candidate{ep, int32(ep.InFlight.Load()), ep.State()}
		a.nCands = uint8(i + 1)
	}
}

// HandleConn implements upstream.Waiter.
func (a *Attempt) HandleConn(conn *upstream.Conn, err error) {
	a.waitsAt = nil
	if err == nil {
		a.send(conn)
		return
	}
	c := a.c
	c.live--
	a.failed(failure{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamConnectFailure, evidence: retry.NeverSent,
		reason: "UPSTREAM_CONNECT_FAILURE", message: err.Error()})
}

// send opens the attempt's stream and says what there is of the request: step 9.
func (a *Attempt) send(conn *upstream.Conn) {
	c := a.c
	f := c.f
	a.conn, a.handed = conn, 0
	now := f.shard.Now()
	a.sent = now
	c.sent, c.sentRound = now, f.shard.Round()
	f.shard.Timed()
	fields := c.req
	// In the batch in which the call came, the time left is the time given: the field goes on as it came.
	retime := a.time(now)
	if retime || c.trace != nil || len(c.attempts) > 1 && c.attemptsBefore(a) > 0 {
		fields = f.rewrite(a, retime)
	}
	end := c.ended && len(c.replay) == 0 && c.trailers == nil
	a.up = conn.Sess.Open(fields, end, &c.d.Budget)
	a.up.Owner = a
	f.releaseMade()
	if c.canRepeat {
		c.plan(now)
	}
	if end {
		return
	}
	if len(c.replay) > 0 {
		n, ok := conn.Sess.SendData(a.up, c.replay, c.ended && c.trailers == nil)
		if !ok {
			c.overBudget()
			return
		}
		a.wasHanded(n)
	}
	if c.trailers != nil && a.up != nil {
		conn.Sess.SendHeaders(a.up, c.trailers, true)
	}
}

// time settles what deadline the attempt is given, and whether grpc-timeout must be written for it.
func (a *Attempt) time(now int64) (rewrite bool) {
	c := a.c
	perTry := c.rules.PerTryTimeout
	if c.deadline == 0 && perTry == 0 {
		return false
	}
	left := time.Duration(max(1, c.deadline-now))
	given, bounded := deadline.ForAttempt(perTry, left, c.deadline != 0)
	if !bounded {
		return false
	}
	a.given = given
	if perTry > 0 && (c.deadline == 0 || perTry < left) {
		a.until = now + int64(perTry)
		c.alarm(a.until)
	}
	return c.limit.Source != deadline.Caller || given != left || c.sentRound != c.round
}

// attemptsBefore is how many attempts the server must be told of (gRFC A6: those that may have reached a server's application; not transparent ones).
func (c *Call) attemptsBefore(a *Attempt) (n int) {
	for _, o := range c.attempts {
		if o == a {
			break
		}
		if o.sent != 0 && o.evidence != retry.NeverSent && o.evidence != retry.Refused {
			n++
		}
	}
	return n
}

// ending is how an attempt ended.
type ending struct {
	status   grpc.Status
	outcome  telemetry.Outcome
	evidence retry.Evidence
	verdict  verdict
}

// verdict is what an attempt's end says of its endpoint.
type verdict uint8

const (
	neutral verdict = iota // nothing: it was given up, or never came to the endpoint
	good
	fault
)

// over notes the end of the attempt and takes its load off the endpoint.
func (a *Attempt) over(e ending) {
	if !a.open {
		return
	}
	a.open = false
	a.at.InFlight.Add(-1)
	c := a.c
	a.end, a.status, a.outcome, a.evidence = c.f.shard.Now(), e.status, e.outcome, e.evidence
	if c.rules.Judged {
		a.judge(e)
	}
	if c.f.queued > 0 && c.rules.Cluster.Concurrency.MaxStreamsPerEndpoint > 0 {
		c.f.wake(c.rules.Cluster.Name)
	}
}

// judge tells those who watch endpoints how the attempt went.
func (a *Attempt) judge(e ending) {
	c, now := a.c, a.end
	cl := c.rules.Cluster
	took := time.Duration(0)
	if a.sent != 0 {
		took = time.Duration(now - a.sent)
	}
	result := breaker.Neutral
	switch e.verdict {
	case good:
		result = breaker.OK
		if c.rules.Latency != nil && e.status == grpc.OK {
			c.rules.Latency.Record(now, took)
		}
	case fault:
		result = breaker.Fault
	}
	if a.breaker != nil {
		r := result
		if r == breaker.Fault && !c.rules.Breaker.Faults.Has(e.status) {
			r = breaker.OK
		}
		a.breaker.Done(now, r, a.probe)
	}
	if a.fallen != nil {
		r := result
		if r == breaker.Fault && !cl.Breaker.Faults.Has(e.status) {
			r = breaker.OK
		}
		a.fallen.Done(now, r, a.probeOfFallen)
	}
	if result == breaker.Neutral {
		return
	}
	if o := cl.Outlier; o != nil && a.at.Host.Record(o, result == breaker.Fault && o.Faults.Has(e.status), took) {
		c.f.tripped(cl.Name, a.at.Address)
	}
	if cl.Gradient != nil {
		cl.Gradient.Record(took, result == breaker.OK)
	}
}

// abandon gives the attempt up: its stream is reset and can touch the call no more.
func (a *Attempt) abandon(code h2.Code, e ending) {
	if a.waitsAt != nil {
		a.waitsAt.Cancel(a)
		a.waitsAt = nil
		a.c.live--
	}
	if s := a.up; s != nil {
		a.up, s.Owner = nil, nil
		a.c.live--
		a.conn.Sess.Reset(s, code)
	}
	a.dropHeld()
	if e.status == grpc.DeadlineExceeded && a.c.winner == nil {
		e.verdict = a.verdict(e.status)
	}
	a.over(e)
}

// hungTime is how long an endpoint must have had a call for its silence to count against it when the CALLER's deadline
// passes: a caller that gives a millisecond must not make endpoints look bad for everybody else.
const hungTime = int64(time.Second)

// verdict is what it says of the endpoint that the attempt ended with that status. Which statuses count as faults is
// asked again by each who is told.
func (a *Attempt) verdict(status grpc.Status) verdict {
	switch status {
	case grpc.OK:
		return good
	case grpc.Canceled:
		return neutral
	case grpc.DeadlineExceeded:
		if a.sent != 0 && (a.c.limit.Source == deadline.Policy || a.c.f.shard.Now()-a.sent >= hungTime) {
			return fault
		}
		return neutral
	}
	return fault
}

// dropHeld gives back what was held of the response.
func (a *Attempt) dropHeld() {
	env := &a.c.f.shard.Env
	for _, h := range a.head {
		env.Interner.Release(h)
	}
	a.head = a.head[:0]
	if a.held != nil {
		a.c.d.Budget.Held -= int64(len(a.held))
		env.Buffers.Put(a.held)
		a.held = nil
	}
}

func (f *Forwarder) newAttempt(c *Call) *Attempt {
	n := len(f.freeAttempts)
	if n == 0 {
		return &Attempt{c: c}
	}
	a := f.freeAttempts[n-1]
	f.freeAttempts = f.freeAttempts[:n-1]
	a.c = c
	return a
}

// forget gives the attempt's memory back; nothing may point to it any more.
func (f *Forwarder) forget(a *Attempt) {
	if len(f.freeAttempts) < maxFreeCalls {
		*a = Attempt{head: a.head[:0]}
		f.freeAttempts = append(f.freeAttempts, a)
	}
}
