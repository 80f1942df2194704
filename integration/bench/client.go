package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
)

const pingSize = 64 // bytes of the message that Ping echoes

// call is one call under way.
type call struct {
	id      uint32
	live    bool
	replied bool // response headers came
	got     int  // bytes of the response body
	recvd   int  // since the last WINDOW_UPDATE
	start   int64
	body    body // what Upload sends
}

// clientConn is one connection of a load. Guarded by link.mu.
type clientConn struct {
	*link
	load       *load
	enc        *requestEncoder
	dec        *decoder
	fields     fields
	ring       []call // call id is at (id/2) modulo its length; an occupied place skips the id
	nextID     uint32
	limit      int // the peer's MAX_CONCURRENT_STREAMS
	live       int
	gone       bool // the peer takes no more calls
	wanted     int  // size of a whole response body
	expect     []byte
	late       []byte // DATA frames that wait for the last HEADERS of a batch
	at         int64  // when this batch of frames was read
	done       uint64
	freed      int // places freed in this batch, for the pacer
	counted    int // live calls that load.active knows of
	streamStep int // give a stream's window back in such steps
	// noGrant never gives stream window back: a client that stops reading its calls.
	noGrant bool
	ready   chan struct{} // closed at the first SETTINGS
	isReady bool
	closed  chan struct{}
}

func newClientConn(l *load, addr string, i int) *clientConn {
	size := 4
	for size < 2*l.spec.streams {
		size *= 2
	}
	c := &clientConn{load: l, dec: newDecoder(), ring: make([]call, size), nextID: 1, limit: 1 << 30,
		expect: message(pingSize), ready: make(chan struct{}), closed: make(chan struct{})}
	length := len(c.expect)
	switch l.spec.method {
	case methodPing:
		c.wanted = length
		binary.BigEndian.PutUint32(c.expect[5:], uint32(i))
	case methodDownload:
		c.wanted = 5 + messageSize
	case methodUpload:
		length, c.wanted = len(l.upload), 5+8
	}
	c.enc = newRequestEncoder(l.spec.style, l.spec.vary, methodPaths[l.spec.method], addr, length, uint64(i)+1)
	return c
}

// startCall puts one request into the output; start is when it was due.
func (c *clientConn) startCall(start int64) {
	mask := uint32(len(c.ring) - 1)
	for c.ring[c.nextID>>1&mask].live {
		c.nextID += 2
	}
	id := c.nextID
	c.nextID += 2
	p := &c.ring[id>>1&mask]
	*p = call{id: id, live: true, start: start}
	c.live++
	at := len(c.out)
	c.out = c.enc.append(appendFrame(c.out, 0, frameHeaders, flagEndHeaders, id))
	n := len(c.out) - at - 9
	c.out[at+1], c.out[at+2] = byte(n>>8), byte(n)
	if c.load.spec.method == methodUpload {
		p.body = body{id: id, data: c.load.upload, window: c.initWindow}
		c.enqueue(&p.body)
		return
	}
	// 69 bytes: no server's windows are too small for that, and the check at the
	// other end would show it.
	c.connWindow -= int64(len(c.expect))
	binary.BigEndian.PutUint32(c.expect[9:], id)
	if c.load.spec.style == styleH2load { // all HEADERS of a batch, then all DATA
		c.late = appendFrame(c.late, len(c.expect), frameData, flagEndStream, id)
		c.late = append(c.late, c.expect...)
		return
	}
	c.out = appendFrame(c.out, len(c.expect), frameData, flagEndStream, id)
	c.out = append(c.out, c.expect...)
}

func (c *clientConn) find(id uint32) *call {
	p := &c.ring[id>>1&uint32(len(c.ring)-1)]
	if p.live && p.id == id {
		return p
	}
	return nil
}

func (c *clientConn) batchBegins() { c.at = c.load.now() }

func (c *clientConn) batchEnds() {
	if c.done > 0 {
		c.load.done.Add(c.done)
		c.done = 0
	}
	for ; c.freed > 0 && c.load.pace != nil && !c.gone; c.freed-- {
		c.load.pace.freed(c)
	}
	c.batchCalls()
}

// batchCalls ends a batch of started and finished calls: late DATA goes out, and
// the load learns how many calls are live (once per batch, so that a call
// replaced by the next costs nothing).
func (c *clientConn) batchCalls() {
	if len(c.late) > 0 {
		c.out = append(c.out, c.late...)
		c.late = c.late[:0]
	}
	if d := c.live - c.counted; d != 0 {
		c.load.active.Add(int64(d))
		c.counted = c.live
	}
}

func (c *clientConn) headers(id uint32, block []byte, end bool) error {
	if err := c.dec.decode(block, &c.fields); err != nil {
		return err
	}
	p, f := c.find(id), &c.fields
	if p == nil {
		return nil
	}
	if !p.replied {
		if !f.ok {
			c.load.fail("stream %d: not 200: %s", id, f.problem)
			c.finished(p)
			if !end {
				c.out = appendReset(c.out, id, codeCancel)
			}
			return nil
		}
		p.replied = true
	}
	if !end {
		return nil
	}
	switch {
	case !f.grpcOK:
		c.load.fail("stream %d: %s", id, f.problem)
	case p.got != c.wanted:
		c.load.fail("stream %d: %d bytes of response body instead of %d", id, p.got, c.wanted)
	default:
		c.done++
		if c.load.record.Load() {
			c.load.hist.record(c.at - p.start)
		}
	}
	c.finished(p)
	return nil
}

// finished frees the call's place and, in a closed loop, starts the next call.
func (c *clientConn) finished(p *call) {
	c.forget(&p.body)
	p.live = false
	c.live--
	if c.load.spec.rate > 0 {
		c.freed++
	} else if !c.gone && !c.load.stopped.Load() {
		c.startCall(c.at)
	}
}

func (c *clientConn) data(id uint32, b []byte, flow int, end bool) error {
	p := c.find(id)
	if p == nil {
		return nil
	}
	switch c.load.spec.method {
	case methodPing:
		binary.BigEndian.PutUint32(c.expect[9:], id)
		if p.got+len(b) > c.wanted || !bytes.Equal(b, c.expect[p.got:p.got+len(b)]) {
			c.load.fail("stream %d: the echo differs", id)
			p.got = -1 << 30 // do not count it as done
		}
	case methodDownload:
		// The pattern repeats every 256 bytes: the ends of each frame tell a shift.
		if n := len(b); n > 0 && p.got >= 5 && (b[0] != byte((p.got-5)*7) || b[n-1] != byte((p.got-5+n-1)*7)) {
			c.load.fail("stream %d: the download differs at %d", id, p.got)
			p.got = -1 << 30
		}
	case methodUpload:
		if p.got == 0 && len(b) == c.wanted && binary.BigEndian.Uint64(b[5:]) != uint64(len(c.load.upload)) {
			c.load.fail("stream %d: the backend counted %d bytes", id, binary.BigEndian.Uint64(b[5:]))
			p.got = -1 << 30
		}
	}
	p.got += len(b)
	if end {
		c.load.fail("stream %d: ended without trailers", id)
		c.finished(p)
		return nil
	}
	if p.recvd += flow; p.recvd >= c.streamStep && !c.noGrant {
		c.out = appendWindowUpdate(c.out, id, p.recvd)
		p.recvd = 0
	}
	return nil
}

func (c *clientConn) reset(id, code uint32) {
	if p := c.find(id); p != nil {
		c.load.fail("stream %d: RST_STREAM %d", id, code)
		c.finished(p)
	}
}

func (c *clientConn) goAway(last, code uint32, debug []byte) {
	c.gone = true
	c.load.fail("GOAWAY last %d code %d %q", last, code, debug)
}

func (c *clientConn) window(id uint32, inc int64) {
	if p := c.find(id); p != nil {
		p.body.window += inc
		if p.body.pos < len(p.body.data) {
			c.enqueue(&p.body)
		}
	}
}

func (c *clientConn) settings(tableSize, maxStreams, delta int64) {
	if tableSize >= 0 {
		c.enc.setMax(uint32(min(tableSize, 1<<30)))
	}
	if maxStreams >= 0 {
		c.limit = int(min(maxStreams, 1<<30))
	}
	for i := range c.ring {
		if p := &c.ring[i]; p.live && delta != 0 && len(p.body.data) > 0 {
			p.body.window += delta
			if p.body.pos < len(p.body.data) {
				c.enqueue(&p.body)
			}
		}
	}
	if !c.isReady {
		c.isReady = true
		close(c.ready)
	}
}

func (c *clientConn) bodySent(*body) {}

// ended is called when the connection is over. It is a failure if the load still
// wanted it, or if calls were under way and it was not us who closed.
func (c *clientConn) ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.closed)
	_ = c.conn.Close()
	lost := !c.load.stopped.Load() || c.live > 0 && !errors.Is(err, net.ErrClosed)
	if c.isReady && lost {
		c.load.failed.Add(uint64(max(c.live-1, 0)))
		c.load.fail("connection lost with %d calls: %v", c.live, err)
	}
	c.gone, c.live = true, 0
	c.batchCalls()
}
