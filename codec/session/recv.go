package session

import (
	"encoding/binary"
	"fmt"

	"github.com/trunkline/trunkline/codec/h2"
)

// Recv takes what came from the peer and returns how many bytes it consumed: whole frames only. The caller keeps the rest
// (at most a frame) and presents it again, in front of what comes next. A *h2.ConnError says that the connection must end,
// after its output (the GOAWAY is in it) was flushed; Recv must not be called again.
func (c *Conn) Recv(p []byte) (int, error) {
	off := 0
	if c.preface > 0 {
		n := min(c.preface, len(p))
		at := len(h2.Preface) - c.preface
		if string(p[:n]) != h2.Preface[at:at+n] {
			return n, c.fail(&h2.ConnError{Code: h2.ProtocolError, Reason: "no HTTP/2 preface: this listener speaks HTTP/2 by prior knowledge"})
		}
		c.preface -= n
		off = n
	}
	for len(p)-off >= h2.HeaderLen {
		h := h2.ParseHeader(p[off:])
		if h.Length > h2.MinMaxFrameSize {
			return off, c.fail(&h2.ConnError{Code: h2.FrameSizeError, Reason: fmt.Sprintf("%s of %d bytes, above SETTINGS_MAX_FRAME_SIZE", h.Type, h.Length)})
		}
		end := off + h2.HeaderLen + int(h.Length)
		if end > len(p) {
			break
		}
		payload := p[off+h2.HeaderLen : end]
		off = end
		if c.partial > 0 {
			c.keep(0)
		}
		if e := c.frame(h, payload); e != nil {
			return off, c.fail(e)
		}
		if c.failed != nil {
			return off, c.failed
		}
	}
	c.keep(len(p) - off)
	return off, nil
}

func connErr(code h2.Code, format string, args ...any) *h2.ConnError {
	return &h2.ConnError{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// frame handles one whole frame.
func (c *Conn) frame(h h2.Header, p []byte) *h2.ConnError {
	if c.contID != 0 && (h.Type != h2.Continuation || h.StreamID != c.contID) {
		return connErr(h2.ProtocolError, "%s amid the header block of stream %d", h.Type, c.contID)
	}
	if !c.gotSettings && (h.Type != h2.Settings || h.Has(h2.FlagAck)) {
		return connErr(h2.ProtocolError, "%s before the first SETTINGS", h.Type)
	}
	switch h.Type {
	case h2.Data:
		return c.data(h, p)
	case h2.Headers:
		return c.headers(h, p)
	case h2.Priority:
		if h.StreamID == 0 {
			return connErr(h2.ProtocolError, "PRIORITY on stream 0")
		}
		if len(p) != 5 {
			return c.streamError(h.StreamID, h2.FrameSizeError)
		}
		return c.idleFrame(1) // ignored: RFC 9113 section 5.3.2
	case h2.RSTStream:
		return c.rstStream(h, p)
	case h2.Settings:
		return c.settings(h, p)
	case h2.PushPromise:
		return connErr(h2.ProtocolError, "PUSH_PROMISE, which was never allowed")
	case h2.Ping:
		return c.ping(h, p)
	case h2.GoAway:
		return c.goAway(h, p)
	case h2.WindowUpdate:
		return c.windowUpdate(h, p)
	case h2.Continuation:
		return c.continuation(h, p)
	}
	return c.idleFrame(1 + float64(len(p)/costlyBytes)) // unknown frames are ignored: section 4.1
}

// streamError answers a fault on a stream that need not be in the table.
func (c *Conn) streamError(id uint32, code h2.Code) *h2.ConnError {
	if s := c.streams.get(id); s != nil {
		c.kill(s, code, connErr(code, "stream error"))
		return nil
	}
	if c.idle(id) {
		return connErr(code, "frame on idle stream %d", id)
	}
	c.appendReset(id, code)
	c.wasteReset(1)
	return nil
}

// kill resets a stream for a fault of the peer's and tells the handler. It counts as given up by the peer, which else could
// have as many as it likes by breaking rules (CVE-2025-8671).
func (c *Conn) kill(s *Stream, code h2.Code, why error) {
	c.appendReset(s.ID, code)
	c.die(s, code, why, resetByUs)
	c.wasteReset(1)
}

// unpad strips padding (section 6.1): p without it, or an error.
func unpad(h h2.Header, p []byte) ([]byte, *h2.ConnError) {
	if !h.Has(h2.FlagPadded) {
		return p, nil
	}
	if len(p) == 0 {
		return nil, connErr(h2.FrameSizeError, "padded %s without a pad length", h.Type)
	}
	pad := int(p[0])
	if pad >= len(p) {
		return nil, connErr(h2.ProtocolError, "padding of %d bytes in a %s of %d", pad, h.Type, len(p))
	}
	return p[1 : len(p)-pad], nil
}

func (c *Conn) data(h h2.Header, p []byte) *h2.ConnError {
	if h.StreamID == 0 {
		return connErr(h2.ProtocolError, "DATA on stream 0")
	}
	n := int64(len(p))
	if c.recvWin -= n; c.recvWin < 0 {
		return connErr(h2.FlowControlError, "DATA beyond the connection's window")
	}
	// Connection-level credit goes back on receipt, so that one stalled stream stalls no other.
	if c.recvCredit += n; c.recvCredit >= int64(c.cfg.ConnWindow)/2 {
		c.control(13)
		c.out = h2.AppendWindowUpdate(c.out, 0, uint32(c.recvCredit))
		c.total += 13
		c.recvWin += c.recvCredit
		c.recvCredit = 0
	}
	s := c.streams.get(h.StreamID)
	if s == nil {
		if c.idle(h.StreamID) {
			return connErr(h2.ProtocolError, "DATA on idle stream %d", h.StreamID)
		}
		if c.howClosed(h.StreamID) == endedByBoth {
			return connErr(h2.StreamClosed, "DATA on stream %d, which has ended", h.StreamID)
		}
		if n == 0 {
			return c.idleFrame(1)
		}
		return c.idleFrame(lateData) // of a stream that was reset (section 5.1)
	}
	if s.recvClosed {
		c.kill(s, h2.StreamClosed, connErr(h2.StreamClosed, "DATA after END_STREAM"))
		return nil
	}
	body, e := unpad(h, p)
	if e != nil {
		return e
	}
	if s.recvWin -= int32(n); s.recvWin < 0 {
		c.kill(s, h2.FlowControlError, connErr(h2.FlowControlError, "DATA beyond the stream's window"))
		return nil
	}
	end := h.Has(h2.FlagEndStream)
	if s.received += int64(len(body)); c.role == Client && !s.headersIn || s.declared >= 0 && (s.received > s.declared || end && s.received != s.declared) {
		c.kill(s, h2.ProtocolError, connErr(h2.ProtocolError, "DATA before the headers, or not as long as content-length says"))
		return nil
	}
	if len(body) >= tinyData || end && len(body) > 0 {
		c.purse[idle].earned += dataEarns
	} else if !end {
		if e := c.idleFrame(1); e != nil {
			return e
		}
	}
	id := s.ID
	s.recvClosed = end
	if pad := int(n) - len(body); pad > 0 {
		c.Credit(s, pad)
	}
	c.h.HandleData(s, body, end)
	c.settle(s, id)
	return nil
}

func (c *Conn) headers(h h2.Header, p []byte) *h2.ConnError {
	if h.StreamID == 0 {
		return connErr(h2.ProtocolError, "HEADERS on stream 0")
	}
	p, e := unpad(h, p)
	if e != nil {
		return e
	}
	if h.Has(h2.FlagPriority) {
		if len(p) < 5 {
			return connErr(h2.FrameSizeError, "HEADERS too short for its priority")
		}
		p = p[5:]
	}
	end := h.Has(h2.FlagEndStream)
	if h.Has(h2.FlagEndHeaders) {
		return c.block(h.StreamID, p, end)
	}
	c.contID, c.contEnd, c.contFrames, c.blockAt = h.StreamID, end, 0, c.env.Now
	return c.piece(p)
}

// piece keeps a piece of a header block that is not its last.
func (c *Conn) piece(p []byte) *h2.ConnError {
	if !c.hold(int64(len(p))) {
		return connErr(h2.EnhanceYourCalm, "a header block in pieces, while as much is held for this client as may be (limits.bufferBytesPerConnection, limits.bufferBytesTotal)")
	}
	c.contBlock = append(c.env.Buffers.Grow(c.contBlock, len(p)), p...)
	if len(p) < smallPiece {
		return c.idleFrame(1)
	}
	return nil
}

func (c *Conn) continuation(h h2.Header, p []byte) *h2.ConnError {
	if c.contID == 0 {
		return connErr(h2.ProtocolError, "CONTINUATION without HEADERS")
	}
	// A block may be a little larger than the list it encodes, never much: and frames that add nothing are an attack
	// (CVE-2024-27316).
	if c.contFrames++; len(c.contBlock)+len(p) > 2*int(c.cfg.MaxHeaderBytes)+h2.MinMaxFrameSize || c.contFrames > 64+int(c.cfg.MaxHeaderBytes)/1024 {
		return connErr(h2.EnhanceYourCalm, "header block of more than %d bytes", len(c.contBlock))
	}
	if !h.Has(h2.FlagEndHeaders) {
		return c.piece(p)
	}
	c.letGo(int64(len(c.contBlock)))
	id, b := c.contID, append(c.env.Buffers.Grow(c.contBlock, len(p)), p...)
	c.contID, c.contBlock = 0, nil
	e := c.block(id, b, c.contEnd)
	c.env.Buffers.Put(b)
	return e
}

func (c *Conn) rstStream(h h2.Header, p []byte) *h2.ConnError {
	if len(p) != 4 {
		return connErr(h2.FrameSizeError, "RST_STREAM of %d bytes", len(p))
	}
	if h.StreamID == 0 || c.idle(h.StreamID) {
		return connErr(h2.ProtocolError, "RST_STREAM on idle stream %d", h.StreamID)
	}
	s := c.streams.get(h.StreamID)
	if s == nil {
		return c.idleFrame(1)
	}
	cost, due := c.givenUp(s)
	c.due = false
	c.die(s, h2.Code(binary.BigEndian.Uint32(p)), nil, resetByPeer)
	if c.due {
		cost = due
	}
	c.wasteReset(cost)
	return nil
}

func (c *Conn) settings(h h2.Header, p []byte) *h2.ConnError {
	if h.StreamID != 0 {
		return connErr(h2.ProtocolError, "SETTINGS on stream %d", h.StreamID)
	}
	if h.Has(h2.FlagAck) {
		if len(p) != 0 {
			return connErr(h2.FrameSizeError, "SETTINGS ack with a payload")
		}
		return c.idleFrame(1)
	}
	if c.gotSettings {
		if e := c.idleFrame(1 + float64(len(p)/costlySettings)); e != nil {
			return e
		}
	}
	window := c.peerWindow
	err := h2.ParseSettings(p, func(s h2.Setting) error {
		switch s.ID {
		case h2.SettingEnablePush:
			if c.role == Client && s.Value != 0 {
				return connErr(h2.ProtocolError, "SETTINGS_ENABLE_PUSH of a server is %d, not 0", s.Value)
			}
		case h2.SettingHeaderTableSize:
			c.enc.SetPeerMaxTableSize(s.Value)
		case h2.SettingMaxConcurrentStreams:
			c.peerStreams = s.Value
		case h2.SettingMaxFrameSize:
			c.peerFrame = min(s.Value, 1<<16) // larger frames buy nothing and let one stream hold the connection long
		case h2.SettingInitialWindowSize:
			window = int32(s.Value)
		}
		return nil
	})
	if err != nil {
		return err.(*h2.ConnError) // ParseSettings returns no other
	}
	if window != c.peerWindow { // once, however often the frame says it
		if e := c.shiftWindows(int64(window) - int64(c.peerWindow)); e != nil {
			return e
		}
		c.peerWindow = window
	}
	c.control(h2.HeaderLen)
	c.out = h2.AppendSettingsAck(c.out)
	c.total += h2.HeaderLen
	c.gotSettings = true
	c.h.HandleSettings()
	c.Pump()
	return nil
}

func (c *Conn) ping(h h2.Header, p []byte) *h2.ConnError {
	if h.StreamID != 0 {
		return connErr(h2.ProtocolError, "PING on stream %d", h.StreamID)
	}
	if len(p) != 8 {
		return connErr(h2.FrameSizeError, "PING of %d bytes", len(p))
	}
	data := [8]byte(p)
	if !h.Has(h2.FlagAck) {
		c.control(17)
		c.out = h2.AppendPing(c.out, true, data)
		c.total += 17
		return c.idleFrame(1)
	}
	if c.goAwayOut && data == c.drainPing {
		c.FinalGoAway()
	}
	c.h.HandlePong(data)
	return c.idleFrame(1)
}

func (c *Conn) goAway(h h2.Header, p []byte) *h2.ConnError {
	if h.StreamID != 0 {
		return connErr(h2.ProtocolError, "GOAWAY on stream %d", h.StreamID)
	}
	if len(p) < 8 {
		return connErr(h2.FrameSizeError, "GOAWAY of %d bytes", len(p))
	}
	last := binary.BigEndian.Uint32(p) & h2.MaxStreamID
	code := h2.Code(binary.BigEndian.Uint32(p[4:]))
	c.goAwayIn = true
	if e := c.idleFrame(1 + float64(c.streams.n/16)); e != nil {
		return e
	}
	if c.role == Client {
		c.streams.each(func(s *Stream) {
			if s.ID > last {
				c.die(s, h2.RefusedStream, ErrUnprocessed, resetByPeer)
			}
		})
	}
	c.h.HandleGoAway(code, string(p[8:]))
	return nil
}
