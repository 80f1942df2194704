package forward

import (
	"errors"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/transport"
	"github.com/trunkline/trunkline/policy/authn"
)

// Down is one downstream connection. Guarded by the shard.
type Down struct {
	*transport.Conn // set once
	Budget          session.Budget
	Known           *authn.Peer // what is known about the client beside its address; nil: nothing. Set once

	f        *Forwarder       // set once
	who      *authn.Principal // by its certificate; nil: nobody knows. Set once
	from     net.Addr         // where it comes from; nil: Net's address
	cfg      *session.Config
	peer     string // host:port; "" until somebody asks
	host     string // without the port; the same
	onGone   func(abuse string)
	used     *atomic.Int64 // where isUsed is to be counted; nil: it was, or nowhere
	draining bool
	fresh    fresh
	final    shard.Timer
	tick     shard.Timer
}

// isUsed counts the connection's first call that was not refused for its own fault, when its answer begins or it has ended.
func (d *Down) isUsed() {
	if u := d.used; u != nil {
		u.Add(1)
		d.used = nil
	}
}

// tickEvery is how often a connection is looked at for what takes too long.
const tickEvery = int64(time.Second)

// goAwayWait is how long a client gets to answer the PING between the two steps of a drain.
const goAwayWait = 2 * time.Second

// deadlineSlack is by how much a client may be before us when its deadline comes: the way of its words, and the two clocks' grain.
const deadlineSlack = 5 * time.Millisecond

// Guest is a client's connection on its way to a shard.
type Guest struct {
	Conn    net.Conn      // a *transport.Secured for TLS
	Address net.Addr      // where it comes from, if that is not Conn's address
	Peer    *authn.Peer   // what the handshake told; nil: nothing
	First   []byte        // what has been read of it already
	Wary    bool          // its address was cut off for abuse lately
	Used    *atomic.Int64 // counts connections of which a call was answered; nil: nobody asks
}

// Accept makes a downstream connection of a socket; call its Serve in a goroutine of its own. budget bounds what the client
// may make us hold, in bytes; onGone is called inside the shard at the end; abuse is for what the client was cut off, as it was told; "": it was not. Call it outside
// of the shard.
func (f *Forwarder) Accept(g *Guest, cfg *session.Config, budget int64, onGone func(abuse string)) *Down {
	if g.Wary {
		small := *cfg
		small.MaxStreams = min(small.MaxStreams, waryStreams)
		cfg = &small
	}
	d := &Down{f: f, cfg: cfg, Budget: session.Budget{Max: budget}, onGone: onGone, Known: g.Peer, from: g.Address, used: g.Used}
	if name := g.Peer.Name(); name != "" {
		d.who = &authn.Principal{Kind: "certificate", Name: name}
	}
	f.shard.Enter()
	d.Conn = transport.New(f.shard, g.Conn, session.Server, cfg, d)
	d.Before(g.First)
	d.OnGone = d.gone
	d.Budget.Total = &f.held
	d.Sess.SetBudget(&d.Budget)
	d.fresh.most, d.fresh.more.Do = startCalls, d.moreFresh
	if g.Wary {
		d.fresh.most, d.Chunk = waryCalls, waryChunk
		d.Sess.Wary()
	}
	d.tick.Do = d.look
	f.shard.Timer.Set(&d.tick, f.shard.Now()+tickEvery)
	d.final.Do = func() { d.Sess.FinalGoAway(); d.HandlePong([8]byte{}) }
	f.conns[d] = struct{}{}
	f.shard.Leave()
	return d
}

func (d *Down) gone(error) {
	d.f.shard.Timer.Clear(&d.final)
	d.f.shard.Timer.Clear(&d.tick)
	d.f.shard.Timer.Clear(&d.fresh.more)
	delete(d.f.conns, d)
	abuse := ""
	if f := d.Sess.Failed(); f != nil && f.Code == h2.EnhanceYourCalm {
		abuse = f.Reason
	}
	d.onGone(abuse)
}

// CutAll ends every call under way with UNAVAILABLE and every downstream connection once that is said. Inside the shard.
func (f *Forwarder) CutAll(why string) {
	f.serving = true // what one leaves is for nobody
	defer func() { f.serving, f.wakes = false, f.wakes[:0] }()
	for f.live.next != &f.live {
		c := f.live.next
		if c.endAnswered() {
			continue
		}
		c.abandon(h2.Cancel, grpc.Unavailable, telemetry.OutcomeLocalReset)
		c.refuse(refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeLocalReset, reason: "SHUTDOWN", message: why})
		if c.prev == nil {
			continue // it has ended
		}
		if c.down != nil {
			c.d.Sess.Reset(c.down, h2.Cancel) // the client does not read: the reply would wait for ever
		}
		c.settle()
		if c.prev != nil {
			break // cannot be: neither end is left
		}
	}
	for d := range f.conns {
		d.Finish()
	}
}

// look ends what takes too long: a preface, a frame, a stream that nobody reads.
func (d *Down) look() {
	if d.Sess.Expired(d.f.shard.Now()) != nil {
		d.Sess.Touch() // the GOAWAY that says why is flushed, and the connection closed
		return
	}
	d.f.shard.Timer.Set(&d.tick, d.f.shard.Now()+tickEvery)
}

// Drain begins the two-step end of the connection: it closes when its last stream has ended. Inside the shard.
func (d *Down) Drain() {
	if d.draining {
		return
	}
	d.draining = true
	d.Sess.GoAway("Trunkline drains")
	d.f.shard.Timer.Set(&d.final, d.f.shard.Now()+int64(goAwayWait))
}

func (d *Down) limitText() string {
	return strconv.Itoa(int(d.cfg.MaxHeaderBytes)) + " bytes or " + strconv.Itoa(int(d.cfg.MaxHeaderFields)) +
		" fields (limits.maxHeaderBytes, limits.maxHeaderFields): send fewer or shorter ones"
}

// HandleHeaders implements session.Handler: a new call, or request trailers.
func (d *Down) HandleHeaders(s *session.Stream, b *session.Block) {
	if !b.Trailers {
		d.f.start(d, s, b)
		return
	}
	c := s.Owner.(*Call)
	c.seen = d.f.shard.Now()
	if c.watch != nil && !b.TooLarge {
		c.watch.take(nil, true) // gRPC has no request trailers; where messages are looked at they would go on unseen
		return
	}
	c.ended = true
	if b.TooLarge {
		c.abandon(h2.Cancel, grpc.ResourceExhausted, telemetry.OutcomeDownstreamProtocolError)
		c.refuse(refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeDownstreamProtocolError, reason: "METADATA_TOO_LARGE",
			message: "the request's trailers have more than " + d.limitText()})
		return
	}
	if c.noTrailers {
		c.onward(nil, true)
		return
	}
	b.Taken = true
	fields := c.without(b.Fields, c.forged)
	if c.sending() {
		c.single() // rare enough not to be kept for another attempt
		for _, a := range c.attempts {
			if a.up != nil {
				a.conn.Sess.SendHeaders(a.up, fields, true)
			}
		}
	} else if c.live > 0 || c.waiting() {
		c.keepTrailers(fields)
		return
	}
	for _, h := range fields {
		d.f.shard.Env.Interner.Release(h)
	}
}

// keepTrailers keeps the request's trailers, whose references are the call's now, until it has an endpoint.
func (c *Call) keepTrailers(fields []*hpack.Field) {
	c.trailers = append([]*hpack.Field(nil), fields...)
	size := 0
	for _, h := range fields {
		size += h.Size()
	}
	if size > freeMetadata && !c.holdMetadata(size) {
		c.abandon(h2.Cancel, grpc.ResourceExhausted, telemetry.OutcomeOverloaded)
		c.refuse(noRoom("request trailers'", size))
	}
}

// HandleData implements session.Handler.
func (d *Down) HandleData(s *session.Stream, p []byte, end bool) {
	s.Owner.(*Call).body(p, end)
}

// HandleReset implements session.Handler: the client cancelled, or broke the rules, or its connection is gone. The attempt is
// cancelled at once, with the code that the client gave.
func (d *Down) HandleReset(s *session.Stream, code h2.Code, why error) {
	c, ok := s.Owner.(*Call)
	if !ok {
		return // refused before it became a call
	}
	if c.complete && why == nil {
		// The reply is on its way already; the client only ends its side.
		c.abandon(code, c.status, c.outcome)
		return
	}
	o := telemetry.OutcomeDownstreamEnd
	var broke *h2.ConnError
	if errors.As(why, &broke) && broke.Code != h2.NoError {
		o = telemetry.OutcomeDownstreamProtocolError
	}
	if why != nil {
		code = h2.Cancel
		c.message = why.Error()
	}
	if errors.Is(why, session.ErrStalled) || errors.Is(why, session.ErrShare) {
		c.status, c.outcome, c.local, c.reason = grpc.ResourceExhausted, telemetry.OutcomeOverloaded, true, "CONNECTION_BUDGET"
		c.abandon(code, grpc.ResourceExhausted, telemetry.OutcomeOverloaded)
		return
	}
	if why == nil && c.deadline != 0 && d.f.shard.Now() >= c.deadline-max(int64(deadlineSlack), (c.deadline-c.arrived)/50) {
		// The client watches the same deadline and was first: that is what it met, and what its caller hears.
		d.Sess.Due()
		c.status, c.outcome, c.local, c.reason = grpc.DeadlineExceeded, telemetry.OutcomeUpstreamTimeout, true, "DEADLINE_EXCEEDED"
		c.message = c.whoseTime() + " passed " + c.phase() + "; the client cancelled"
		c.abandon(code, grpc.DeadlineExceeded, telemetry.OutcomeUpstreamTimeout)
		return
	}
	c.status, c.outcome, c.local = grpc.Canceled, o, true
	c.abandon(code, grpc.Canceled, o)
}

// HandleHanded implements session.Handler: response data was handed over, the endpoint may send more.
func (d *Down) HandleHanded(s *session.Stream, n int) {
	c := s.Owner.(*Call)
	c.seen = d.f.shard.Now()
	if c.winner != nil && c.winner.up != nil {
		c.winner.conn.Sess.Credit(c.winner.up, n)
	}
}

// HandleClosed implements session.Handler.
func (d *Down) HandleClosed(s *session.Stream) {
	if c, ok := s.Owner.(*Call); ok {
		c.down = nil
		if w := c.winner; w != nil && w.up != nil && c.complete && !w.up.SendClosed() {
			// The client has all of the reply; nobody waits for what the endpoint still reads of the request.
			w.abandon(h2.Cancel, w.answered())
		}
		c.settle()
	}
	if d.draining && d.Sess.Streams() == 0 {
		d.HandlePong([8]byte{})
	}
}

// HandleSettings implements session.Handler.
func (d *Down) HandleSettings() {}

// HandleGoAway implements session.Handler: the client will open no more; it closes when it is done.
func (d *Down) HandleGoAway(h2.Code, string) {}

// HandlePong implements session.Handler. It is called, too, whenever a drain may be complete.
func (d *Down) HandlePong([8]byte) {
	if d.draining && d.Sess.Streams() == 0 && d.Sess.Final() {
		d.Finish()
	}
}
