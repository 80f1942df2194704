package forward

import (
	"errors"
	"slices"
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
	"github.com/trunkline/trunkline/policy/hedge"
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
	gone    bool            // it got a stream: from then on the endpoint may have seen it
	handed  int64           // bytes of request data that it was handed
	until   int64           // its per-try timeout, shard time; 0: none

	// The response, held until it is judged.
	head []*hpack.Field // response headers; one reference each
	held []byte         // of DATA; owned, from the shard's buffers
	out  grpc.MessageCounter

	breaker, fallen      *breaker.Breaker // asked for it; nil: none
	probe, probeOfFallen bool

	rec      decision.Attempt // what is told of it
	pushback pushback         // that came with its end
	start    int64            // shard time
	first    int64            // when the first frame of a response came; 0: none yet
	sent     int64            // when it got a stream; 0: never
	end      int64            // 0: not yet
}

// alive says whether something may still come of it.
func (a *Attempt) alive() bool { return a.up != nil || a.waitsAt != nil }

// place picks an endpoint and a connection to it: steps 7 and 8.
func (c *Call) place(kind decision.Kind) {
	f := c.f
	if len(c.attempts) >= maxDials {
		if c.live == 0 {
			c.refuse(c.exhausted())
		}
		return
	}
	p := f.pick(c)
	switch {
	case kind == decision.Hedge && (p.ep == nil || c.tried(p.ep)):
		p.giveBack(f.shard.Now())
		c.note(decision.Note{Kind: decision.NoteHedge, A: int64(hedge.NoEndpoint)})
	case p.ep == nil:
		c.nobody(p)
	default:
		c.placeAt(p, kind)
	}
}

// noteOdd notes a pick that needs an explanation: a breaker's probe, or an endpoint that nobody would pick but in a panic.
func (c *Call) noteOdd(p *picked) {
	now := c.f.shard.Now()
	probe := func(b *breaker.Breaker, name string) {
		v := b.View(now)
		c.note(decision.Note{Kind: decision.NoteProbe, Name: name, Text: v.Reason, A: int64(v.Opened)})
	}
	if p.probe {
		probe(p.breaker, p.ep.Address+" x "+c.rules.Full)
	}
	if p.probeOfFallen {
		probe(p.fallen, p.ep.Address)
	}
	if p.reason == balance.ReasonPanic {
		ready := 0
		for _, ep := range c.e.target.Endpoints {
			if ep.State() == 0 {
				ready++
			}
		}
		c.note(decision.Note{Kind: decision.NotePanic, A: int64(ready), B: int64(len(c.e.target.Endpoints))})
	}
}

// tried says whether an attempt of the call went to ep.
func (c *Call) tried(ep *upstream.Endpoint) bool {
	return slices.ContainsFunc(c.attempts, func(a *Attempt) bool { return a.at == ep })
}

// giveBack gives the places of probes back that were taken for a pick that is not used.
func (p *picked) giveBack(now int64) {
	if p.breaker != nil {
		p.breaker.Done(now, breaker.Neutral, p.probe)
	}
	if p.fallen != nil {
		p.fallen.Done(now, breaker.Neutral, p.probeOfFallen)
	}
}

// placeAt makes an attempt at the endpoint that was picked: step 8.
func (c *Call) placeAt(p picked, kind decision.Kind) bool {
	f, t := c.f, c.e.target
	a := f.newAttempt(c)
	a.at, a.member, a.start = p.ep, p.member, f.shard.Now()
	a.breaker, a.fallen, a.probe, a.probeOfFallen = p.breaker, p.fallen, p.probe, p.probeOfFallen
	a.rec.Kind, a.rec.Pick, a.rec.Of = kind, p.reason, uint16(len(t.Endpoints))
	a.see(t, p.watched)
	if n := len(c.attempts); n > 0 {
		if last := c.attempts[n-1]; kind == decision.Hedge {
			a.rec.Wait = time.Duration(a.start - last.start)
		} else if !last.open {
			a.rec.Wait = time.Duration(a.start - last.end)
		}
	}
	c.attempts = append(c.attempts, a)
	if len(c.attempts) == 1 {
		c.rules.Cluster.Budget.Deposit()
		if c.rules.Hedge != nil {
			c.rules.Cluster.Hedges.Deposit()
		}
	}
	if p.probe || p.probeOfFallen || p.reason == balance.ReasonPanic {
		c.noteOdd(&p)
	}
	p.ep.InFlight.Add(1)
	p.ep.Picks.Add(1)
	a.open = true
	pool := p.ep.Pool(f.shard.ID)
	conn, err := pool.Reserve(a)
	switch {
	case err != nil:
		a.over(ending{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, evidence: retry.NeverSent})
		if kind == decision.Hedge && c.live > 0 {
			return false
		}
		c.pendingOverflow(a, err)
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

// pendingOverflow refuses a call for which there was no place among those that wait for a connection.
func (c *Call) pendingOverflow(a *Attempt, err error) {
	c.refuse(refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, reason: "PENDING_OVERFLOW",
		message: "cluster " + c.e.target.Cluster + ", endpoint " + a.at.Address + ": " + err.Error()})
}

// see notes the candidates of the pick that was just made, the picked one last.
func (a *Attempt) see(t *Target, watched bool) {
	seen := 1
	for i, ep := range t.Endpoints {
		if i == a.member {
			continue
		}
		if seen++; seen > decision.MaxCandidates {
			break
		}
		a.consider(i, ep, watched)
	}
	a.consider(a.member, a.at, watched)
}

func (a *Attempt) consider(i int, ep *upstream.Endpoint, watched bool) {
	cand := decision.Candidate{Load: int32(ep.InFlight.Load()), Member: uint16(i), State: uint8(ep.State())}
	if !ep.Ready() {
		cand.Warm = uint16(ep.Warm() % 1000)
	}
	for _, o := range a.c.attempts {
		cand.Failed = cand.Failed || o.at == ep && !o.alive()
	}
	if i != a.member && watched {
		cand.Closed = a.c.closed(i)
	}
	a.rec.Consider(cand)
}

// Party implements upstream.Waiter: a client's connection.
func (a *Attempt) Party() any { return a.c.d }

// HandleConn implements upstream.Waiter.
func (a *Attempt) HandleConn(conn *upstream.Conn, err error) {
	if a.waitsAt == nil {
		return // given up, by what came of another that was told before it
	}
	c := a.c
	if c.d.Sess.Failed() != nil {
		// Its client is going, this call with it in a moment: nothing is begun that would be cancelled at once.
		a.abandon(h2.Cancel, ending{status: grpc.Canceled, outcome: telemetry.OutcomeDownstreamEnd, evidence: retry.NeverSent})
		return
	}
	a.waitsAt = nil
	if err == nil {
		a.send(conn)
		return
	}
	c.live--
	if errors.Is(err, upstream.ErrPending) {
		// It lost its place to a client that has fewer; there is none for it elsewhere.
		a.over(ending{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, evidence: retry.NeverSent})
		if c.live == 0 {
			c.pendingOverflow(a, err)
		}
		return
	}
	a.failed(failure{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamConnectFailure, evidence: retry.NeverSent,
		reason: "UPSTREAM_CONNECT_FAILURE", message: err.Error()})
}

// send opens the attempt's stream and says what there is of the request: step 9.
func (a *Attempt) send(conn *upstream.Conn) {
	c := a.c
	f := c.f
	a.conn, a.handed = conn, 0
	now := f.shard.Now()
	a.sent, a.gone = now, true
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
		c.outgrows(0) // it may have grown beyond what is kept while it had nowhere to go
	}
	if c.trailers != nil && a.up != nil {
		conn.Sess.SendHeaders(a.up, c.trailers, true)
	}
}

// time settles what deadline the attempt is given, and whether grpc-timeout must be written for it.
func (a *Attempt) time(now int64) (rewrite bool) {
	c := a.c
	perTry := c.rules.PerTryTimeout
	left := time.Duration(max(1, c.deadline-now))
	given, bounded := deadline.ForAttempt(perTry, left, c.deadline != 0)
	if !bounded {
		return false
	}
	a.rec.Given, a.rec.PerTry = given, perTry
	if perTry > 0 && (c.deadline == 0 || perTry < left) {
		a.until = now + int64(perTry)
		c.alarm(a.until)
	}
	return given != c.carries || c.sentRound != c.round
}

// attemptsBefore is how many attempts the server must be told of (gRFC A6: those that may have reached a server's application; not transparent ones).
func (c *Call) attemptsBefore(a *Attempt) (n int) {
	for _, o := range c.attempts {
		if o == a {
			break
		}
		if o.gone && !transparent(o.rec.Evidence) {
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
	a.end = c.f.shard.Now()
	a.rec.Status, a.rec.Outcome, a.rec.Evidence = e.status, e.outcome, e.evidence
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
	if a.gone {
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
	tell := func(b *breaker.Breaker, faults grpc.StatusSet, probe bool) {
		if result == breaker.Fault && !faults.Has(e.status) {
			b.Done(now, breaker.OK, probe)
			return
		}
		b.Done(now, result, probe)
	}
	if a.breaker != nil {
		tell(a.breaker, c.rules.Breaker.Faults, a.probe)
	}
	if a.fallen != nil {
		tell(a.fallen, cl.Breaker.Faults, a.probeOfFallen)
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
		if !s.RecvClosed() || !s.SendClosed() {
			a.conn.Sess.Reset(s, code)
		}
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
		// Not if the client itself is not done with its request, nor if most of the time had passed before this attempt.
		c := a.c
		if had := c.f.shard.Now() - a.sent; a.gone && c.ended && (had >= hungTime || c.limit.Source == deadline.Policy && had >= int64(c.limit.Limit)/2) {
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
		a.c.d.Budget.Release(int64(len(a.held)))
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
