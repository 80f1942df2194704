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
)

// up is the forwarder as the handler of what comes on upstream streams.
type up struct{ f *Forwarder }

// Upstream is the handler for the upstream connections of this shard.
func (f *Forwarder) Upstream() upstream.StreamHandler { return up{f} }

// owner is the call whose current attempt s is; nil if the attempt was given up.
func owner(s *session.Stream) *Call {
	c, _ := s.Owner.(*Call)
	return c
}

// HandleHeaders implements session.Handler: response headers, a Trailers-Only reply, or trailers. Steps 10 to 12.
func (u up) HandleHeaders(s *session.Stream, b *session.Block) {
	if c := owner(s); c != nil {
		c.response(b)
	}
}

func (c *Call) response(b *session.Block) {
	f := c.f
	if b.TooLarge {
		c.upstreamFailed(failure{status: grpc.Internal, outcome: telemetry.OutcomeUpstreamProtocolError, reason: "RESPONSE_METADATA_TOO_LARGE",
			message: "the response's metadata exceed the limit", code: h2.Cancel, reset: true})
		return
	}
	if !c.started && !b.Informational {
		// Place for retry policies: a Trailers-Only reply, or headers held until the trailers are seen, is decided here.
		c.commit()
	}
	if b.End {
		c.complete = true
		c.upEnded, c.upRound = f.shard.Now(), f.shard.Round()
		c.judge(b)
	}
	if c.down == nil {
		return
	}
	fields := b.Fields
	for _, h := range fields {
		if h.Flags&hpack.ConnectionSpecific != 0 {
			fields = f.withoutHopByHop(fields)
			break
		}
	}
	c.d.Sess.SendHeaders(c.down, fields, b.End)
}

// withoutHopByHop drops what is of one connection only (RFC 9113 section 8.2.2): the response is better saved than refused.
func (f *Forwarder) withoutHopByHop(fields []*hpack.Field) []*hpack.Field {
	f.scratch = f.scratch[:0]
	for _, h := range fields {
		if h.Flags&hpack.ConnectionSpecific == 0 {
			f.scratch = append(f.scratch, h)
		}
	}
	return f.scratch
}

// judge reads the gRPC status of the block that ends the response.
func (c *Call) judge(b *session.Block) {
	c.status = grpc.Unknown
	for _, h := range b.Fields {
		switch h.ID {
		case hpack.GrpcStatus:
			if st, ok := grpc.ParseStatus(h.Value); ok {
				c.status = st
			}
		case hpack.GrpcMessage:
			if h.Value != "" {
				c.message = strings.Clone(grpc.DecodeMessage(h.Value))
			}
		case hpack.Status:
			if h.Value != "200" {
				c.status = fromHTTP(h.Value)
			}
		}
	}
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
	c := owner(s)
	if c == nil {
		return
	}
	c.bytesOut += uint64(len(p))
	c.messagesOut += uint32(c.out.Add(p))
	if end {
		// No trailers: not gRPC, or a server that died in style. Clients say UNKNOWN or INTERNAL to that.
		c.complete, c.status = true, grpc.Unknown
		c.upEnded, c.upRound = u.f.shard.Now(), u.f.shard.Round()
	}
	if c.down == nil {
		return
	}
	n, ok := c.d.Sess.SendData(c.down, p, end)
	if !ok {
		c.overBudget()
		return
	}
	if c.up != nil {
		c.conn.Sess.Credit(c.up, n)
	}
}

// HandleReset implements session.Handler.
func (u up) HandleReset(s *session.Stream, code h2.Code, why error) {
	c := owner(s)
	if c == nil {
		return
	}
	at := c.ep.Address
	fl := failure{code: code}
	var broke *h2.ConnError
	switch {
	case why == session.ErrUnprocessed:
		fl.unprocessed, fl.evidence = true, "refused"
		fl.status, fl.outcome, fl.reason, fl.message = grpc.Unavailable, telemetry.OutcomeUpstreamReset, "UPSTREAM_GOAWAY", "endpoint "+at+" went away before it processed the call"
	case why == nil && code == h2.RefusedStream && !c.started:
		fl.unprocessed, fl.evidence = true, "refused"
		fl.status, fl.outcome, fl.reason, fl.message = grpc.Unavailable, telemetry.OutcomeUpstreamReset, "UPSTREAM_REFUSED_STREAM", "endpoint "+at+" refused the stream"
	case why == nil:
		fl.relay = true
		fl.status, fl.outcome, fl.evidence = grpc.FromH2Code(uint32(code)), telemetry.OutcomeUpstreamReset, "ambiguous"
		fl.message = "endpoint " + at + " reset the stream with " + code.String()
	case errors.As(why, &broke):
		fl.status, fl.outcome, fl.reason, fl.evidence = grpc.Internal, telemetry.OutcomeUpstreamProtocolError, "UPSTREAM_PROTOCOL_ERROR", "ambiguous"
		fl.message = "endpoint " + at + " broke HTTP/2: " + broke.Error()
	case s.HeadersAt > c.conn.Sess.Written():
		fl.unprocessed, fl.evidence = true, "never sent"
		fl.status, fl.outcome, fl.reason, fl.message = grpc.Unavailable, telemetry.OutcomeUpstreamConnectionEnd, "UPSTREAM_CONNECTION_LOST", "the connection to endpoint "+at+" was lost before the call was sent: "+why.Error()
	default:
		fl.status, fl.outcome, fl.reason, fl.evidence = grpc.Unavailable, telemetry.OutcomeUpstreamConnectionEnd, "UPSTREAM_CONNECTION_LOST", "ambiguous"
		fl.message = "the connection to endpoint " + at + " was lost " + c.phase() + ": " + why.Error()
	}
	// From here on the stream is not the call's any more.
	c.up, s.Owner = nil, nil
	if c.complete {
		// The reply is whole, and its status stands: the endpoint only reads no more. The client is told to send no more, after
		// what still waits for it.
		c.endTry(c.status, c.outcome, "")
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
		c.expire()
		return
	}
	c.upstreamFailed(fl)
}

// failure is how an attempt failed.
type failure struct {
	status      grpc.Status
	outcome     telemetry.Outcome
	reason      string
	message     string
	evidence    string
	code        h2.Code
	unprocessed bool // provably: another endpoint may have the call
	relay       bool // the endpoint's own RST_STREAM: the client gets its code
	reset       bool // the attempt's stream is open still
}

// upstreamFailed decides what becomes of a call whose attempt failed: step 11.
func (c *Call) upstreamFailed(fl failure) {
	c.f.shard.Timed()
	c.upEnded, c.upRound = c.f.shard.Now(), c.f.shard.Round()
	ep := c.ep
	if fl.reset {
		c.abandon(fl.code, fl.status, fl.outcome)
	} else {
		c.endTry(fl.status, fl.outcome, fl.evidence)
	}
	c.message = fl.message
	if c.down == nil {
		c.settle()
		return
	}
	// Place for retry policies: failures that are not "unprocessed" are decided here, by evidence and idempotency.
	if fl.unprocessed && !c.noReplay && len(c.tries) < maxTries {
		c.place(ep)
		return
	}
	if fl.relay {
		c.status, c.outcome = fl.status, fl.outcome
		c.complete = true
		c.d.Sess.Reset(c.down, fl.code)
		return
	}
	c.refuse(refusal{status: fl.status, outcome: fl.outcome, reason: fl.reason, message: fl.message})
}

// HandleHanded implements session.Handler: request data was handed over, the client may send more.
func (u up) HandleHanded(s *session.Stream, n int) {
	if c := owner(s); c != nil {
		c.wasHanded(n)
	}
}

// HandleClosed implements session.Handler: the attempt has run to its end.
func (u up) HandleClosed(s *session.Stream) {
	c := owner(s)
	if c == nil {
		return
	}
	c.up = nil
	c.endTry(c.status, telemetry.OutcomeOK, "")
	c.settle()
}
