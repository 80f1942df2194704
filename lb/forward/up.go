package forward

import (
	"errors"
	"strings"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/retry"
)

// up is the forwarder as the handler of what comes on upstream streams.
type up struct{ f *Forwarder }

// Upstream is the handler for the upstream connections of this shard.
func (f *Forwarder) Upstream() upstream.StreamHandler { return up{f} }

// owner is the attempt whose stream s is; nil if it was given up.
func owner(s *session.Stream) *Attempt {
	a, _ := s.Owner.(*Attempt)
	return a
}

// HandleHeaders implements session.Handler: response headers, a Trailers-Only reply, or trailers. Steps 10 to 12.
func (u up) HandleHeaders(s *session.Stream, b *session.Block) {
	if a := owner(s); a != nil {
		a.response(b)
	}
}

func (a *Attempt) response(b *session.Block) {
	c := a.c
	f := c.f
	c.seen = f.shard.Now()
	if a.first == 0 {
		a.first = c.seen
	}
	if b.TooLarge {
		a.failed(failure{status: grpc.Internal, outcome: telemetry.OutcomeUpstreamProtocolError, reason: "RESPONSE_METADATA_TOO_LARGE",
			message: "the response's metadata exceed the limit", evidence: retry.ByStatus, code: h2.Cancel})
		return
	}
	var status grpc.Status
	var message string
	if b.End {
		if status, message = c.read(b); status == grpc.DeadlineExceeded && a.cutItself() {
			a.timedOut()
			return
		}
	}
	if c.winner == nil {
		switch {
		case b.Informational && c.canRepeat:
			return // gRPC has none, and it may not be this attempt's response that the client gets
		case b.End:
			if a.judged(b, status, message) {
				return // another attempt follows, or goes on
			}
		case !b.Informational && a.hold(b):
			return
		}
		if !b.Informational {
			if a.commit(); c.down == nil {
				return
			}
		}
	}
	if b.End {
		c.complete = true
		c.upEnded, c.upRound = f.shard.Now(), f.shard.Round()
		c.status, c.message = status, message
	}
	if c.down == nil {
		return
	}
	c.started = c.started || !b.Informational
	fields := f.withoutHopByHop(b.Fields)
	if c.forCaller != nil && !b.Informational {
		c.sendTold(fields, b.End)
		return
	}
	c.d.Sess.SendHeaders(c.down, fields, b.End)
}

// withoutHopByHop drops what is of one connection only (RFC 9113 section 8.2.2): the response is better saved than refused.
func (f *Forwarder) withoutHopByHop(fields []*hpack.Field) []*hpack.Field {
	for _, h := range fields {
		if h.Flags&hpack.ConnectionSpecific != 0 {
			f.scratch = f.scratch[:0]
			for _, h := range fields {
				if h.Flags&hpack.ConnectionSpecific == 0 {
					f.scratch = append(f.scratch, h)
				}
			}
			return f.scratch
		}
	}
	return fields
}

// read takes the gRPC status from the block that ends a response.
func (c *Call) read(b *session.Block) (status grpc.Status, message string) {
	status = grpc.Unknown
	for _, h := range b.Fields {
		switch h.ID {
		case hpack.GrpcStatus:
			if st, ok := grpc.ParseStatus(h.Value); ok {
				status = st
			}
		case hpack.GrpcMessage:
			if h.Value != "" {
				message = strings.Clone(grpc.DecodeMessage(h.Value))
			}
		case hpack.Status:
			if h.Value != "200" {
				status = fromHTTP(h.Value)
			}
		}
	}
	return status, message
}

func fromHTTP(v string) grpc.Status {
	n := 0
	for i := range len(v) {
		n = n*10 + int(v[i]-'0')
	}
	return grpc.FromHTTPStatus(n)
}

// HandleData implements session.Handler.
func (u up) HandleData(s *session.Stream, p []byte, end bool) {
	a := owner(s)
	if a == nil {
		return
	}
	c := a.c
	c.seen = u.f.shard.Now()
	n := a.out.Add(p)
	if most := c.rules.MaxResponseBytes; most >= 0 && int64(a.out.Longest()) > most {
		c.tooLong("response", a.out.Longest(), most)
		return
	}
	if x := c.e.payload; x != nil && !c.fits("response", x.MaxResponseMessage, x.MaxResponse, a.out.Longest(), c.bytesOut+uint64(len(p))) {
		return
	}
	if c.winner == nil {
		if n == 0 && !end && a.holdData(p) {
			return
		}
		if a.commit(); c.down == nil {
			return
		}
	}
	c.bytesOut += uint64(len(p))
	c.messagesOut += uint32(n)
	c.d.fresh.came += len(p)
	if end {
		// No trailers: not gRPC, or a server that died in style. Clients say UNKNOWN or INTERNAL to that.
		c.complete, c.status = true, grpc.Unknown
		c.upEnded, c.upRound = u.f.shard.Now(), u.f.shard.Round()
	}
	a.relay(p, end)
}

// relay says response data to the client, and gives the endpoint its window back for what was handed over.
func (a *Attempt) relay(p []byte, end bool) {
	c := a.c
	if c.down == nil {
		return
	}
	n, ok := c.d.Sess.SendData(c.down, p, end)
	if !ok {
		c.overBudget()
		return
	}
	if a.up != nil {
		a.conn.Sess.Credit(a.up, n)
	}
}

// HandleReset implements session.Handler.
func (u up) HandleReset(s *session.Stream, code h2.Code, why error) {
	a := owner(s)
	if a == nil {
		return
	}
	c := a.c
	at := a.at.Address
	fl := failure{code: code, evidence: retry.Ambiguous}
	var broke *h2.ConnError
	switch {
	case why == session.ErrUnprocessed && a.first == 0: // who has answered has processed, whatever it says later
		fl.evidence = retry.Refused
		fl.status, fl.outcome, fl.reason, fl.message = grpc.Unavailable, telemetry.OutcomeUpstreamReset, "UPSTREAM_GOAWAY", "endpoint "+at+" went away before it processed the call"
	case why == nil && code == h2.RefusedStream && a.first == 0:
		fl.evidence = retry.Refused
		fl.status, fl.outcome, fl.reason, fl.message = grpc.Unavailable, telemetry.OutcomeUpstreamReset, "UPSTREAM_REFUSED_STREAM", "endpoint "+at+" refused the stream"
	case why == nil:
		fl.relay = true
		fl.status, fl.outcome = grpc.FromH2Code(uint32(code)), telemetry.OutcomeUpstreamReset
		fl.message = "endpoint " + at + " reset the stream with " + code.String()
	case errors.As(why, &broke):
		fl.status, fl.outcome, fl.reason = grpc.Internal, telemetry.OutcomeUpstreamProtocolError, "UPSTREAM_PROTOCOL_ERROR"
		fl.message = "endpoint " + at + " broke HTTP/2: " + broke.Error()
	case s.HeadersAt > a.conn.Sess.Written():
		fl.evidence = retry.NeverSent
		fl.status, fl.outcome, fl.reason = grpc.Unavailable, telemetry.OutcomeUpstreamConnectionEnd, "UPSTREAM_CONNECTION_LOST"
		fl.message = "the connection to endpoint " + at + " was lost before the call was sent: " + why.Error()
	default:
		fl.status, fl.outcome, fl.reason = grpc.Unavailable, telemetry.OutcomeUpstreamConnectionEnd, "UPSTREAM_CONNECTION_LOST"
		fl.message = "the connection to endpoint " + at + " was lost " + c.phase() + ": " + why.Error()
	}
	// From here on the stream is not the attempt's any more.
	a.up, s.Owner = nil, nil
	c.live--
	if c.complete && c.winner == a {
		// The reply is whole, and its status stands: the endpoint only reads no more. The client is told to send no more, after
		// what still waits for it.
		a.over(a.answered())
		if !fl.relay {
			code = h2.NoError
		}
		if c.down != nil && !c.down.RecvClosed() {
			c.d.Sess.ResetAfter(c.down, code)
		}
		c.settle()
		return
	}
	if fl.relay && c.deadline != 0 && c.f.shard.Now() >= c.deadline {
		// The endpoint watches the same deadline and was first: the client hears of the deadline, not of a reset.
		a.dropHeld()
		c.expire()
		a.over(ending{status: grpc.DeadlineExceeded, outcome: telemetry.OutcomeUpstreamTimeout, verdict: a.verdict(grpc.DeadlineExceeded)})
		return
	}
	if fl.relay && a.cutItself() {
		fl = a.tooSlow()
	}
	a.failed(fl)
}

// HandleHanded implements session.Handler: request data was handed over, the client may send more.
func (u up) HandleHanded(s *session.Stream, n int) {
	if a := owner(s); a != nil {
		a.c.seen = u.f.shard.Now()
		a.wasHanded(n)
	}
}

// HandleClosed implements session.Handler: the attempt has run to its end.
func (u up) HandleClosed(s *session.Stream) {
	a := owner(s)
	if a == nil {
		return
	}
	c := a.c
	a.up = nil
	c.live--
	a.dropHeld()
	a.over(a.answered())
	c.settle()
}

// answered is the end of an attempt whose answer the client has, or gets.
func (a *Attempt) answered() ending {
	e := ending{status: a.c.status, outcome: telemetry.OutcomeOK, verdict: a.verdict(a.c.status)}
	if e.status != grpc.OK {
		e.evidence = retry.ByStatus
	}
	return e
}
