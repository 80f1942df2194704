package session

import (
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// Open opens a stream and sends its header block (Client). Whoever calls has seen Closing() == false and a free place below
// PeerMaxStreams. The fields' references stay the caller's.
func (c *Conn) Open(fields []*hpack.Field, end bool, b *Budget) *Stream {
	if c.lastID == 0 {
		c.lastID = 1
	} else {
		c.lastID += 2
	}
	s := c.newStream(c.lastID)
	s.budget = b
	c.appendBlock(s.ID, fields, end)
	s.HeadersAt = c.total
	s.sendClosed = end
	return s
}

// SendHeaders sends a header block, after the data that still waits on the stream. With end it is the last thing said (a
// response without body, or trailers); without end it must not follow SendData. The fields' references stay the caller's.
func (c *Conn) SendHeaders(s *Stream, fields []*hpack.Field, end bool) {
	if s.Ending() {
		return
	}
	if s.pend != nil {
		kept := make([]*hpack.Field, len(fields)) // rare: the peer is slower than the sender
		for i, f := range fields {
			c.env.Interner.Retain(f)
			kept[i] = f
		}
		s.trailers = kept
		return
	}
	c.appendBlock(s.ID, fields, end)
	if end {
		c.endSend(s)
	}
}

// endSend notes that we have ended our side; the caller may be inside a handler, so that the stream is dropped only when the
// peer has ended too.
func (c *Conn) endSend(s *Stream) {
	s.sendClosed = true
	c.ended()
	if s.resetSet {
		code := s.resetTo
		c.appendReset(s.ID, code)
		c.drop(s, resetByUs)
		return
	}
	if s.recvClosed {
		c.drop(s, endedByBoth)
	}
}

// appendBlock encodes a header block into the output: the encoder's table changes in write order by that.
func (c *Conn) appendBlock(id uint32, fields []*hpack.Field, end bool) {
	size := h2.HeaderLen + 16
	for _, f := range fields {
		size += f.Size()
	}
	c.control(size)
	at := len(c.out)
	c.out = append(c.out, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	c.out = c.enc.Append(c.out, fields)
	n := len(c.out) - at - h2.HeaderLen
	flags := uint8(h2.FlagEndHeaders)
	if end {
		flags |= h2.FlagEndStream
	}
	if n <= int(c.peerFrame) {
		h2.PutHeader(c.out[at:], n, h2.Headers, flags, id)
	} else {
		c.splitBlock(at, n, flags, id)
	}
	c.total += int64(len(c.out) - at)
}

// splitBlock turns an encoded block that is larger than the peer's frames into HEADERS and CONTINUATION (section 6.10).
func (c *Conn) splitBlock(at, n int, flags uint8, id uint32) {
	block := append([]byte(nil), c.out[at+h2.HeaderLen:]...)
	c.out = c.out[:at]
	c.reserve(n + h2.HeaderLen*(n/int(c.peerFrame)+1))
	t := h2.Headers
	f := flags &^ h2.FlagEndHeaders
	for len(block) > 0 {
		m := min(len(block), int(c.peerFrame))
		if m == len(block) {
			f |= h2.FlagEndHeaders
		}
		c.out = h2.AppendHeader(c.out, m, t, f, id)
		c.out = append(c.out, block[:m]...)
		block = block[m:]
		t, f = h2.Continuation, 0
	}
}

// SendData sends p, borrowed, on the stream; what windows or the socket do not allow now is kept and sent later. It returns
// how many bytes were handed to the output at once (HandleHanded tells of the rest), and false if the client's budget does
// not allow to keep the rest: the stream is then to be reset.
func (c *Conn) SendData(s *Stream, p []byte, end bool) (handed int, ok bool) {
	if s.Ending() {
		return len(p), true
	}
	if s.pend == nil {
		n := min(len(p), c.room(s))
		if n == len(p) {
			c.appendData(s, p, end)
			if end {
				c.endSend(s)
			}
			return n, true
		}
		if n > 0 {
			c.appendData(s, p[:n], false)
			c.dribble(n)
			handed, p = n, p[n:]
		}
	}
	if s.budget != nil && !s.budget.Hold(int64(len(p))) {
		return handed, false
	}
	if s.pend == nil {
		s.since = c.env.Now
		c.holding++
	}
	if s.pendOff > 0 && cap(s.pend)-len(s.pend) < len(p) {
		m := copy(s.pend, s.pend[s.pendOff:])
		s.pend, s.pendOff = s.pend[:m], 0
	}
	s.pend = append(c.env.Buffers.Grow(s.pend, len(p)), p...)
	s.pendEnd = end
	if s.sendWin > 0 {
		c.queue(s)
	}
	return handed, true
}

// room is how many bytes of DATA may be appended for s now; at most 0 means none.
func (c *Conn) room(s *Stream) int {
	mark := c.cfg.OutputMark
	if c.Blocked {
		mark = mark / 8
	}
	n := int64(mark - (len(c.out) - c.outOff))
	return int(max(0, min(n, int64(s.sendWin), c.sendWin)))
}

// appendData appends DATA frames; the windows have been asked.
func (c *Conn) appendData(s *Stream, p []byte, end bool) {
	c.touch()
	c.purse[idle].earned += dataEarns
	s.spoke = true
	s.sendWin -= int32(len(p))
	c.sendWin -= int64(len(p))
	if c.joinData(s.ID, p, end) {
		return
	}
	for {
		n := min(len(p), int(c.peerFrame))
		var flags uint8
		if end && n == len(p) {
			flags = h2.FlagEndStream
		}
		c.reserve(h2.HeaderLen + n)
		c.out = h2.AppendHeader(c.out, n, h2.Data, flags, s.ID)
		c.out = append(c.out, p[:n]...)
		c.total += int64(h2.HeaderLen + n)
		if p = p[n:]; len(p) == 0 {
			c.lastData = lastData{id: s.ID, n: n, end: c.total}
			return
		}
	}
}

// lastData is the frame of DATA that was appended last.
type lastData struct {
	id  uint32
	n   int   // bytes of data
	end int64 // Conn.total after it
}

// smallData is how long a frame may become by data that is joined to it, in bytes: of longer ones the header costs nothing.
const smallData = 1024

// joinData appends p to the last frame, if that is of the same stream, the last thing said, not seen by the carrier yet, and both are small: one who
// says a message a byte at a time does not make the other side take it so.
func (c *Conn) joinData(id uint32, p []byte, end bool) bool {
	l := &c.lastData
	if l.end != c.total || l.id != id || l.n+len(p) > min(smallData, int(c.peerFrame)) || len(c.out)-c.outOff < h2.HeaderLen+l.n {
		return false
	}
	c.reserve(len(p))
	at := len(c.out) - l.n - h2.HeaderLen
	c.out = append(c.out, p...)
	l.n += len(p)
	var flags uint8
	if end {
		flags = h2.FlagEndStream
	}
	h2.PutHeader(c.out[at:], l.n, h2.Data, flags, id)
	c.total += int64(len(p))
	l.end = c.total
	return true
}

func (c *Conn) queue(s *Stream) {
	if !s.queued {
		s.queued = true
		s.prev, s.next = c.waiting.prev, &c.waiting
		s.prev.next, s.next.prev = s, s
	}
}

func (c *Conn) unqueue(s *Stream) {
	if s.queued {
		s.queued = false
		s.prev.next, s.next.prev = s.next, s.prev
		s.prev, s.next = nil, nil
	}
}

// Pump sends what waits, a frame of each stream in turn, as far as windows and the output's mark allow. The carrier calls it
// when the socket takes more; the session itself when a window opened.
func (c *Conn) Pump() {
	for c.waiting.next != &c.waiting {
		s := c.waiting.next
		n := min(c.room(s), s.Held(), int(c.peerFrame))
		if n <= 0 && s.sendWin > 0 {
			return // the connection's window or the output is full
		}
		c.unqueue(s)
		if n <= 0 {
			continue // its own window is shut: its WINDOW_UPDATE queues it again
		}
		id := s.ID
		last := n == s.Held()
		c.appendData(s, s.pend[s.pendOff:s.pendOff+n], last && s.pendEnd && s.trailers == nil)
		s.pendOff += n
		s.since, c.movedAt = c.env.Now, c.env.Now
		if s.budget != nil {
			s.budget.Release(int64(n))
		}
		if last {
			c.env.Buffers.Put(s.pend)
			s.pend, s.pendOff = nil, 0
			c.holding--
		} else {
			c.dribble(n)
			if s.sendWin > 0 {
				c.queue(s)
			}
		}
		c.h.HandleHanded(s, n)
		if last && s.conn == c && s.ID == id && s.pend == nil { // the handler may have sent more
			c.finishSend(s)
		}
	}
}

// finishSend sends what had to wait for the last data: END_STREAM was on it, or trailers follow.
func (c *Conn) finishSend(s *Stream) {
	switch {
	case s.trailers != nil:
		t := s.trailers
		s.trailers = nil
		c.appendBlock(s.ID, t, true)
		for _, f := range t {
			c.env.Interner.Release(f)
		}
		c.endSend(s)
	case s.pendEnd:
		c.endSend(s)
	case s.resetSet:
		c.Reset(s, s.resetTo)
	}
}

// Credit gives n bytes of stream-level window back to the peer: they have been handed over.
func (c *Conn) Credit(s *Stream, n int) {
	s.recvCredit += int32(n)
	if s.recvClosed || s.recvCredit < s.recvMax/2 {
		return
	}
	inc := s.recvCredit
	s.recvCredit = 0
	if grow := min(s.recvMax, c.cfg.MaxStreamWindow-s.recvMax); grow > 0 && s.budget != nil && s.budget.grant(int64(grow)) {
		// The stream drains: it may have more on its way.
		s.recvMax += grow
		inc += grow
	}
	s.recvWin += inc
	c.control(13)
	c.out = h2.AppendWindowUpdate(c.out, s.ID, uint32(inc))
	c.total += 13
}

func (c *Conn) appendReset(id uint32, code h2.Code) {
	c.control(13)
	c.out = h2.AppendRSTStream(c.out, id, code)
	c.total += 13
}

// Reset ends the stream at once with RST_STREAM; what waits on it is thrown away. In HandleReset nothing more is sent: the
// peer has reset the stream, or was told of its fault already.
func (c *Conn) Reset(s *Stream, code h2.Code) {
	if s.conn != c {
		return // in HandleClosed: it is over
	}
	if !s.told {
		c.appendReset(s.ID, code)
		if code == h2.EnhanceYourCalm && c.role == Server {
			c.wasteReset(1) // the peer made us do it
		}
	}
	c.drop(s, resetByUs)
}

// ResetAfter ends the stream with RST_STREAM once what waits on it has been sent.
func (c *Conn) ResetAfter(s *Stream, code h2.Code) {
	if s.sendClosed || s.pend == nil {
		c.Reset(s, code)
		return
	}
	s.resetSet, s.resetTo = true, code
}

// Ping sends a PING; the answer comes as HandlePong.
func (c *Conn) Ping(data [8]byte) {
	c.control(17)
	c.out = h2.AppendPing(c.out, false, data)
	c.total += 17
}

// GoAway begins a graceful end, in two steps (RFC 9113 section 6.8): the first says that no more streams are wanted, the
// second, when the PING sent with it came back (or FinalGoAway is called), names the last one that is carried.
func (c *Conn) GoAway(debug string) {
	if c.goAwayOut || c.failed != nil {
		return
	}
	c.goAwayOut = true
	c.control(h2.HeaderLen + 8 + len(debug))
	n := len(c.out)
	id := uint32(h2.MaxStreamID)
	if c.role == Client {
		id = 0 // the peer opens none
	}
	c.out = h2.AppendGoAway(c.out, id, h2.NoError, debug)
	c.total += int64(len(c.out) - n)
	if c.role == Server {
		c.Ping(c.drainPing)
	}
}

// FinalGoAway is the second step of GoAway, where the peer does not answer the PING in time.
func (c *Conn) FinalGoAway() {
	if !c.goAwayOut || c.goAwayFinal || c.role == Client || c.failed != nil {
		return
	}
	c.goAwayFinal, c.finalID = true, c.lastID
	c.control(h2.HeaderLen + 8)
	c.out = h2.AppendGoAway(c.out, c.lastID, h2.NoError, "")
	c.total += h2.HeaderLen + 8
}

// Final says whether the second step of GoAway is out.
func (c *Conn) Final() bool { return c.goAwayFinal }
