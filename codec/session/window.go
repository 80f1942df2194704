package session

import (
	"encoding/binary"

	"github.com/trunkline/trunkline/codec/h2"
)

// shiftWindows applies a change of the peer's initial window to the open streams (section 6.9.2).
func (c *Conn) shiftWindows(d int64) *h2.ConnError {
	if e := c.idleFrame(float64(c.streams.n / 16)); e != nil {
		return e
	}
	for _, s := range c.streams.slots {
		if s == nil {
			continue
		}
		w := int64(s.sendWin) + d
		if w > h2.MaxWindow {
			return connErr(h2.FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE lifts stream %d above 2^31-1", s.ID)
		}
		s.sendWin = int32(w)
		if w > 0 && s.Held() > 0 && !s.queued {
			s.since = c.env.Now
			c.queue(s)
		}
	}
	return nil
}

func (c *Conn) windowUpdate(h h2.Header, p []byte) *h2.ConnError {
	if len(p) != 4 {
		return connErr(h2.FrameSizeError, "WINDOW_UPDATE of %d bytes", len(p))
	}
	n := binary.BigEndian.Uint32(p) & h2.MaxWindow
	if e := c.idleFrame(1); e != nil {
		return e
	}
	if h.StreamID == 0 {
		if n == 0 {
			return connErr(h2.ProtocolError, "WINDOW_UPDATE of 0 for the connection")
		}
		if c.sendWin += int64(n); c.sendWin > h2.MaxWindow {
			return connErr(h2.FlowControlError, "the connection's window rises above 2^31-1")
		}
		c.Pump()
		return nil
	}
	s := c.streams.get(h.StreamID)
	if s == nil {
		if c.idle(h.StreamID) {
			return connErr(h2.ProtocolError, "WINDOW_UPDATE on idle stream %d", h.StreamID)
		}
		return nil
	}
	if n == 0 {
		c.kill(s, h2.ProtocolError, connErr(h2.ProtocolError, "WINDOW_UPDATE of 0"))
		return nil
	}
	if int64(s.sendWin)+int64(n) > h2.MaxWindow {
		c.kill(s, h2.FlowControlError, connErr(h2.FlowControlError, "the stream's window rises above 2^31-1"))
		return nil
	}
	s.sendWin += int32(n)
	if s.sendWin > 0 && s.Held() > 0 {
		if !s.queued {
			s.since = c.env.Now
		}
		c.queue(s)
		c.Pump()
	}
	return nil
}
