package forward

import (
	"math"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
)

// Call is one stream as we carry it. Guarded by the shard.
type Call struct {
	f    *Forwarder // set once
	d    *Down
	down *session.Stream // nil once it is closed
	gen  *Generation
	e    *entry // nil if no route matched

	// The request, kept until commit.
	req      []*hpack.Field // one reference each
	trailers []*hpack.Field // request trailers (nearly never there); one reference each
	replay   []byte         // request data so far; owned, from the shard's buffers
	noReplay bool           // the request is not whole any more: committed, or larger than may be kept
	ended    bool           // the client has ended its side
	path     *hpack.Field   // in req; nil after commit
	auth     string         // :authority, or host; borrowed from told[0]
	// told are fields that the call's record names: authority, user-agent, traceparent. One reference each, until the call
	// is told of; nil where absent.
	told [3]*hpack.Field

	// The current attempt.
	conn    *upstream.Conn
	up      *session.Stream // nil once it is closed
	ep      *upstream.Endpoint
	waitsAt *upstream.Pool // the pool in which we wait for a connection
	handed  int64          // bytes of request data that this attempt was handed
	credit  int64          // bytes of request data for which the client got its window back: never twice for one byte

	tries    []try
	started  bool // response headers went down: committed
	complete bool // the upstream's last word came

	timer    shard.Timer
	deadline int64 // shard time; 0 none

	status  grpc.Status
	message string
	local   bool
	outcome telemetry.Outcome
	stats   *telemetry.Method
	trace   *telemetry.Trace
	inject  []string // name, value, ...: header fields that tracing sets

	arrived, sent, upEnded    int64  // shard times
	round, sentRound, upRound uint64 // the rounds they fell into
	in, out                   grpc.MessageCounter
	messagesIn, messagesOut   uint32
	bytesIn, bytesOut         uint64

	prev, next *Call // in Forwarder.live
}

// The places of Call.told.
const (
	host = iota
	agent
	parent
)

// heard is the value of one of the told fields, borrowed; "" if it was absent.
func (c *Call) heard(i int) string {
	if h := c.told[i]; h != nil {
		return h.Value
	}
	return ""
}

// try is one attempt, as it is told to traces.
type try struct {
	ep         *upstream.Endpoint
	reason     balance.Reason
	start, end int64
	status     grpc.Status
	outcome    telemetry.Outcome
	evidence   string
}

// maxTries bounds how often a call that was provably not processed is placed again; maxDials how often in all, with the
// endpoints that could not even be dialled (each is out of the pick from then on).
const (
	maxTries = 8
	maxDials = 32
)

// start takes a new call from its request's header block: steps 4 to 8 of a call's way.
func (f *Forwarder) start(d *Down, s *session.Stream, b *session.Block) {
	c := f.newCall()
	c.d, c.down, c.gen = d, s, f.gen.Load()
	s.Owner = c
	s.SetBudget(&d.Budget)
	c.arrived, c.round, c.ended = f.shard.Now(), f.shard.Round(), b.End
	f.shard.Timed()
	if b.TooLarge {
		f.rec.Start(nil)
		c.refuse(refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeDownstreamProtocolError, reason: "METADATA_TOO_LARGE",
			message: "the request's metadata exceed the limit of " + d.limitText()})
		return
	}
	b.Taken = true
	c.req = append(c.req, b.Fields...)
	c.path = b.Path
	c.told[host] = b.Authority
	var timeout, traceparent string
	for _, h := range c.req {
		switch h.ID {
		case hpack.GrpcTimeout:
			timeout = h.Value
		case hpack.Traceparent:
			traceparent = h.Value
			c.told[parent] = h
		case hpack.UserAgent:
			c.told[agent] = h
		case hpack.Host:
			if b.Authority == nil {
				c.told[host] = h
			}
		}
	}
	for _, h := range c.told {
		if h != nil {
			f.shard.Env.Interner.Retain(h)
		}
	}
	c.auth = c.heard(host)
	if b.Path != nil && b.Method.Value != "CONNECT" {
		c.e = f.lookup(c.gen, b.Path, c.auth)
	}
	if c.e != nil {
		c.stats = c.e.stats
	}
	f.rec.Start(c.stats)
	f.cur = c
	c.trace = f.tel.StartTrace(traceparent, f.lookupField, f.shard.Rand())
	if c.e == nil {
		c.refuse(c.noRoute(b))
		return
	}
	if timeout != "" {
		d, err := grpc.ParseTimeout(timeout)
		if err != nil {
			// grpc-go and grpc-java answer so, too.
			c.refuse(refusal{status: grpc.Internal, outcome: telemetry.OutcomeDownstreamProtocolError, reason: "BAD_TIMEOUT", message: err.Error()})
			return
		}
		if int64(d) < math.MaxInt64-c.arrived {
			c.deadline = c.arrived + int64(d)
			if d <= 0 {
				c.expire()
				return
			}
			f.shard.Timer.Set(&c.timer, c.deadline)
		}
	}
	// Place for admission: authorisation, limits, breakers decide here, before an endpoint is picked.
	c.place(nil)
}

// place picks an endpoint and a connection to it: steps 7 and 8. avoid has just failed this call.
func (c *Call) place(avoid *upstream.Endpoint) {
	f, t := c.f, c.e.target
	if len(c.tries) >= maxDials {
		c.refuse(c.exhausted())
		return
	}
	ep, reason, ok := f.pick(t, avoid)
	if !ok {
		c.refuse(c.noEndpoint())
		return
	}
	ep.InFlight.Add(1)
	ep.Picks.Add(1)
	c.ep = ep
	c.tries = append(c.tries, try{ep: ep, reason: reason, start: f.shard.Now()})
	pool := ep.Pool(f.shard.ID)
	conn, err := pool.Reserve(c)
	switch {
	case err != nil:
		c.endTry(grpc.Unavailable, telemetry.OutcomeUpstreamOverflow, "never sent")
		c.refuse(refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, reason: "PENDING_OVERFLOW",
			message: "cluster " + t.Cluster + ", endpoint " + ep.Address + ": " + err.Error()})
	case conn == nil:
		c.waitsAt = pool
	default:
		c.send(conn)
	}
}

// HandleConn implements upstream.Waiter.
func (c *Call) HandleConn(conn *upstream.Conn, err error) {
	c.waitsAt = nil
	if err != nil {
		ep := c.ep
		c.message = err.Error()
		c.endTry(grpc.Unavailable, telemetry.OutcomeUpstreamConnectFailure, "never sent")
		c.place(ep)
		return
	}
	c.send(conn)
}

// send opens the attempt's stream and says what there is of the request: step 9.
func (c *Call) send(conn *upstream.Conn) {
	f := c.f
	c.conn, c.handed = conn, 0
	c.sent, c.sentRound = f.shard.Now(), f.shard.Round()
	f.shard.Timed()
	fields := c.req
	// In the batch in which the call came, the time left is the time given: the field goes on as it came.
	if stale := c.deadline != 0 && c.sentRound != c.round; stale || c.trace != nil {
		fields = f.rewrite(c, stale)
	}
	end := c.ended && len(c.replay) == 0 && c.trailers == nil
	c.up = conn.Sess.Open(fields, end, &c.d.Budget)
	c.up.Owner = c
	f.releaseMade()
	if end {
		return
	}
	if len(c.replay) > 0 {
		n, ok := conn.Sess.SendData(c.up, c.replay, c.ended && c.trailers == nil)
		if !ok {
			c.overBudget()
			return
		}
		c.wasHanded(n)
	}
	if c.trailers != nil && c.up != nil {
		conn.Sess.SendHeaders(c.up, c.trailers, true)
	}
}

// rewrite puts the request's fields together where they differ from how they came: the time left, the attempt's trace context.
func (f *Forwarder) rewrite(c *Call, stale bool) []*hpack.Field {
	in := f.shard.Env.Interner
	f.scratch, f.cur = f.scratch[:0], c
	c.inject = c.inject[:0]
	if c.trace != nil {
		at := c.trace.StartAttempt()
		for at < len(c.tries)-1 { // attempts that came to no stream have spans, too
			at = c.trace.StartAttempt()
		}
		c.trace.Inject(at, f.setField)
	}
	for _, h := range c.req {
		if stale && h.ID == hpack.GrpcTimeout {
			var b [16]byte
			left := grpc.AppendTimeout(b[:0], time.Duration(max(1, c.deadline-f.shard.Now())))
			h = in.InternBytes([]byte(h.Name), left)
			f.made = append(f.made, h)
		} else if c.injected(h.Name) {
			continue
		}
		f.scratch = append(f.scratch, h)
	}
	for i := 0; i < len(c.inject); i += 2 {
		if c.inject[i+1] == "" {
			continue // to be removed
		}
		h := in.Intern(c.inject[i], c.inject[i+1])
		f.made = append(f.made, h)
		f.scratch = append(f.scratch, h)
	}
	return f.scratch
}

func (f *Forwarder) override(name, value string) {
	f.cur.inject = append(f.cur.inject, name, value)
}

func (c *Call) injected(name string) bool {
	for i := 0; i < len(c.inject); i += 2 {
		if c.inject[i] == name {
			return true
		}
	}
	return false
}

func (f *Forwarder) releaseMade() {
	for _, h := range f.made {
		f.shard.Env.Interner.Release(h)
	}
	f.made = f.made[:0]
}

// body takes request data: p is borrowed.
func (c *Call) body(p []byte, end bool) {
	c.ended = c.ended || end
	c.bytesIn += uint64(len(p))
	c.messagesIn += uint32(c.in.Add(p))
	if !c.noReplay {
		c.keep(p)
	}
	if c.up != nil {
		n, ok := c.conn.Sess.SendData(c.up, p, end)
		c.wasHanded(n)
		if !ok {
			c.overBudget()
		}
	} else if c.waitsAt == nil {
		c.creditDown(int64(len(p))) // the reply is made already: what still comes is thrown away
	}
}

// keep copies request data for an attempt to come, as long as it is allowed.
func (c *Call) keep(p []byte) {
	// While no attempt has a stream the data must stay somewhere: the stream's window bounds it.
	if len(c.replay)+len(p) > c.gen.Limits.ReplayBytes && c.up != nil {
		c.dropReplay()
		return
	}
	if b := &c.d.Budget; b.Held+int64(len(p)) > b.Max {
		c.overBudget()
		return
	}
	c.d.Budget.Held += int64(len(p))
	c.replay = append(c.f.shard.Env.Buffers.Grow(c.replay, len(p)), p...)
}

func (c *Call) dropReplay() {
	c.noReplay = true
	if c.replay != nil {
		c.d.Budget.Held -= int64(len(c.replay))
		c.f.shard.Env.Buffers.Put(c.replay)
		c.replay = nil
	}
}

// wasHanded counts request data that the attempt's connection took, and gives the client its window back for it.
func (c *Call) wasHanded(n int) {
	if c.handed += int64(n); c.handed > c.credit {
		c.creditDown(c.handed - c.credit)
	}
}

func (c *Call) creditDown(n int64) {
	c.credit += n
	if c.down != nil {
		c.d.Sess.Credit(c.down, int(n))
	}
}

// commit: the response has begun, it is this attempt's. What was kept for another is given back.
func (c *Call) commit() {
	c.started = true
	c.dropRequest()
}

func (c *Call) dropRequest() {
	c.dropReplay()
	in := c.f.shard.Env.Interner
	for _, h := range c.req {
		in.Release(h)
	}
	c.req = c.req[:0]
	for _, h := range c.trailers {
		in.Release(h)
	}
	c.trailers, c.path = nil, nil
}

// endTry notes the end of the current attempt and takes its load off the endpoint.
func (c *Call) endTry(status grpc.Status, o telemetry.Outcome, evidence string) {
	if c.ep == nil {
		return
	}
	c.ep.InFlight.Add(-1)
	c.ep = nil
	t := &c.tries[len(c.tries)-1]
	t.end, t.status, t.outcome, t.evidence = c.f.shard.Now(), status, o, evidence
}

// abandon gives the current attempt up: its stream is reset and can touch the call no more.
func (c *Call) abandon(code h2.Code, status grpc.Status, o telemetry.Outcome) {
	if c.waitsAt != nil {
		c.waitsAt.Cancel(c)
		c.waitsAt = nil
	}
	if s := c.up; s != nil {
		c.up, s.Owner = nil, nil
		c.conn.Sess.Reset(s, code)
	}
	c.endTry(status, o, "")
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
		message: "the caller's deadline of " + time.Duration(c.deadline-c.arrived).String() + " passed " + phase})
}

// endAnswered ends a call whose client has all of the reply and only has not ended its own side; the reply's status stands. It
// says false for any other call.
func (c *Call) endAnswered() bool {
	if !c.complete || c.down == nil || !c.down.SendClosed() {
		return false
	}
	c.abandon(h2.Cancel, c.status, c.outcome)
	c.d.Sess.Reset(c.down, h2.NoError)
	return true
}

// phase says for people where a call is.
func (c *Call) phase() string {
	switch {
	case c.waitsAt != nil:
		return "while waiting for a connection to " + c.ep.Address
	case c.complete:
		return "before the client had read the response"
	case c.ep == nil:
		return "before it was sent to any endpoint"
	case c.started:
		return "amid the response of " + c.ep.Address
	}
	return "while waiting for the response of " + c.ep.Address
}

// overBudget: the client makes us hold more than it may.
func (c *Call) overBudget() {
	c.abandon(h2.Cancel, grpc.ResourceExhausted, telemetry.OutcomeOverloaded)
	c.status, c.outcome, c.local = grpc.ResourceExhausted, telemetry.OutcomeOverloaded, true
	c.message = "the client's connection holds more unread data than its budget"
	if c.down != nil {
		c.d.Sess.Reset(c.down, h2.EnhanceYourCalm)
	}
}

// settle finishes the call when neither end is left.
func (c *Call) settle() {
	if c.down != nil || c.up != nil || c.waitsAt != nil || c.prev == nil {
		return
	}
	f := c.f
	f.shard.Timer.Clear(&c.timer)
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	f.nLive--
	f.done = append(f.done, c)
	f.shard.Timed()
}
