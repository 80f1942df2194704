package session

import (
	"errors"
	"strconv"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// block handles one whole header block. It is decoded in any case, also for refused and dead streams: the compression state
// is the connection's.
func (c *Conn) block(id uint32, frag []byte, end bool) *h2.ConnError {
	b := &c.env.block
	*b = Block{End: end, size: len(frag)}
	fields, err := c.dec.Decode(c.env.fields[:0], frag)
	if errors.Is(err, hpack.ErrListTooLarge) {
		b.TooLarge = true
		fields = fields[:0]
	} else if err != nil {
		return connErr(h2.CompressionError, "%v", err)
	}
	b.Fields = fields
	var e *h2.ConnError
	if c.role == Server {
		e = c.request(id, b)
	} else {
		e = c.response(id, b)
	}
	if !b.Taken {
		for _, f := range fields {
			c.env.Interner.Release(f)
		}
	}
	c.env.fields = fields[:0]
	b.Fields = nil
	return e
}

func (c *Conn) request(id uint32, b *Block) *h2.ConnError {
	if s := c.streams.get(id); s != nil {
		if s.recvClosed {
			c.kill(s, h2.StreamClosed, connErr(h2.StreamClosed, "HEADERS after END_STREAM"))
			return nil
		}
		b.Trailers = true
		return c.deliver(s, b, c.checkTrailers(s, b))
	}
	if id&1 == 0 {
		return connErr(h2.ProtocolError, "HEADERS on stream %d: a client's streams are odd", id)
	}
	if id <= c.lastID {
		if e := c.late(id, b); e != nil {
			return e
		}
		return c.idleFrame(1 + float64(b.size/smallPiece))
	}
	c.lastID = id
	if c.goAwayFinal && id > c.finalID {
		c.appendReset(id, h2.RefusedStream) // we said that we would not look at it
		c.wasteReset(1)
		return nil
	}
	if uint32(c.streams.n) >= c.cfg.MaxStreams {
		c.appendReset(id, h2.RefusedStream)
		c.wasteReset(1)
		return nil
	}
	c.purse[idle].earned += streamEarns
	if b.TooLarge && !c.take(refused, float64(b.size/costlyBytes+c.dec.Read()/costlyFields)) { // beside what Wasted will take
		return connErr(h2.EnhanceYourCalm, "more than %g refused calls per second beyond those that are not, their metadata weighed (limits.abuse.refusedPerSecond)", c.cfg.Abuse.Refused)
	}
	s := c.newStream(id)
	return c.deliver(s, b, c.checkRequest(s, b))
}

// late judges a header block on a stream that is over (RFC 9113 sections 5.1 and 5.1.1).
func (c *Conn) late(id uint32, b *Block) *h2.ConnError {
	switch c.howClosed(id) {
	case resetByUs:
		return nil // was on its way when we reset the stream
	case resetByPeer:
		c.appendReset(id, h2.StreamClosed)
		c.wasteReset(1)
		return nil
	case endedByBoth:
		return connErr(h2.StreamClosed, "HEADERS on stream %d, which has ended", id)
	}
	for _, f := range b.Fields {
		if f.Flags&hpack.Pseudo != 0 {
			return connErr(h2.ProtocolError, "new stream %d below stream %d", id, c.lastID)
		}
	}
	return nil // trailers of a stream that was closed long ago
}

func (c *Conn) response(id uint32, b *Block) *h2.ConnError {
	s := c.streams.get(id)
	if s == nil {
		if c.idle(id) {
			return connErr(h2.ProtocolError, "HEADERS on idle stream %d", id)
		}
		return c.idleFrame(1 + float64(b.size/smallPiece))
	}
	if s.recvClosed {
		c.kill(s, h2.StreamClosed, connErr(h2.StreamClosed, "HEADERS after END_STREAM"))
		return nil
	}
	if s.headersIn {
		b.Trailers = true
		return c.deliver(s, b, c.checkTrailers(s, b))
	}
	bad := c.checkResponse(s, b)
	if b.Informational {
		if e := c.idleFrame(1); e != nil {
			return e
		}
	}
	return c.deliver(s, b, bad)
}

// deliver hands a checked block to the handler, or resets the stream that it came on: "malformed" is a stream error
// (section 8.1.1), and nothing of it reaches a connection that others share.
func (c *Conn) deliver(s *Stream, b *Block, bad string) *h2.ConnError {
	if bad != "" {
		c.kill(s, h2.ProtocolError, connErr(h2.ProtocolError, "%s", bad))
		return nil
	}
	id := s.ID
	if !b.Informational {
		s.headersIn = true
	}
	s.recvClosed = b.End
	c.h.HandleHeaders(s, b)
	c.settle(s, id)
	return nil
}

// checkRequest finds the pseudo-header fields of a request and returns what is malformed about it (section 8.3.1), or "".
func (c *Conn) checkRequest(s *Stream, b *Block) string {
	if b.TooLarge {
		return ""
	}
	regular := false
	for _, f := range b.Fields {
		if f.Flags&^(hpack.Sensitive|hpack.Protected) != 0 {
			if f.Flags&hpack.Pseudo == 0 {
				return "field " + strconv.Quote(f.Name) + " is malformed or of one connection only"
			}
			if regular {
				return "pseudo-header field after a regular one"
			}
			var at **hpack.Field
			switch f.ID {
			case hpack.Method:
				at = &b.Method
			case hpack.Scheme:
				at = &b.Scheme
			case hpack.Path:
				at = &b.Path
			case hpack.Authority:
				at = &b.Authority
			}
			if at == nil || *at != nil || f.Flags&hpack.BadValue != 0 {
				return "pseudo-header field " + strconv.Quote(f.Name) + " is unknown, doubled or malformed"
			}
			*at = f
			continue
		}
		regular = true
		switch f.ID {
		case hpack.TE:
			if f.Value != "trailers" {
				return "te is not \"trailers\"" // section 8.2.2
			}
		case hpack.ContentLength:
			if bad := s.declare(f.Value); bad != "" {
				return bad
			}
		}
	}
	if b.Method == nil {
		return "no :method"
	}
	if b.Method.Value == "CONNECT" {
		return "" // has neither :scheme nor :path (section 8.5)
	}
	if b.Scheme == nil || b.Path == nil || b.Path.Value == "" {
		return "no :scheme or no :path"
	}
	if b.End && s.declared > 0 {
		return "content-length without content"
	}
	return ""
}

func (s *Stream) declare(v string) string {
	n, err := strconv.ParseUint(v, 10, 62)
	if err != nil || s.declared >= 0 && s.declared != int64(n) {
		return "content-length is malformed or contradicts another"
	}
	s.declared = int64(n)
	return ""
}

// checkResponse is checkRequest for a response (section 8.3.2). Fields of one connection only are left to the handler to
// drop: they hurt nobody, and the call is better saved.
func (c *Conn) checkResponse(s *Stream, b *Block) string {
	if b.TooLarge {
		return ""
	}
	regular := false
	for _, f := range b.Fields {
		if f.Flags&hpack.Pseudo != 0 {
			if regular || f.ID != hpack.Status || b.Status != nil || !threeDigits(f.Value) {
				return "pseudo-header field " + strconv.Quote(f.Name) + " is unknown, doubled or misplaced"
			}
			b.Status = f
			continue
		}
		regular = true
		if f.Flags&(hpack.BadName|hpack.BadValue) != 0 {
			return "field " + strconv.Quote(f.Name) + " is malformed"
		}
		if f.ID == hpack.ContentLength {
			if bad := s.declare(f.Value); bad != "" {
				return bad
			}
		}
	}
	if b.Status == nil {
		return "no :status"
	}
	if b.Status.Value[0] == '1' {
		s.declared = -1
		b.Informational = true
		if b.End || b.Status.Value == "101" {
			return "informational response that ends the stream or switches protocols"
		}
	}
	return ""
}

func threeDigits(v string) bool {
	return len(v) == 3 && v[0]-'0' < 10 && v[1]-'0' < 10 && v[2]-'0' < 10
}

// checkTrailers is checkRequest for trailers (section 8.1).
func (c *Conn) checkTrailers(s *Stream, b *Block) string {
	if !b.End {
		return "a second header block that does not end the stream"
	}
	if s.declared >= 0 && s.declared != s.received {
		return "content is not as long as content-length says"
	}
	bad := hpack.Pseudo | hpack.BadName | hpack.BadValue
	if c.role == Server {
		bad |= hpack.ConnectionSpecific
	}
	for _, f := range b.Fields {
		if f.Flags&bad != 0 {
			return "trailer field " + strconv.Quote(f.Name) + " is malformed or a pseudo-header field"
		}
	}
	return ""
}
