package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Frame types, flags and the few codes in use (RFC 9113 sections 6 and 7).
const (
	frameData         = 0
	frameHeaders      = 1
	frameRSTStream    = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindowUpdate = 8
	frameContinuation = 9

	flagEndStream  = 1
	flagAck        = 1
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 0x20

	settingTableSize     = 1
	settingEnablePush    = 2
	settingMaxStreams    = 3
	settingInitialWindow = 4
	settingMaxFrame      = 5

	codeRefusedStream = 7
	codeCancel        = 8

	defaultWindow = 65535
	defaultFrame  = 16384

	// outCap bounds the bytes of bodies that wait in memory for the socket.
	outCap = 256 << 10
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func appendFrame(b []byte, length int, typ, flags byte, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), typ, flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendWindowUpdate(b []byte, id uint32, inc int) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameWindowUpdate, 0, id), uint32(inc))
}

func appendReset(b []byte, id, code uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameRSTStream, 0, id), code)
}

func appendSettings(b []byte, pairs ...uint32) []byte {
	b = appendFrame(b, len(pairs)/2*6, frameSettings, 0, 0)
	for i := 0; i < len(pairs); i += 2 {
		b = binary.BigEndian.AppendUint16(b, uint16(pairs[i]))
		b = binary.BigEndian.AppendUint32(b, pairs[i+1])
	}
	return b
}

// body is what one stream sends, as the windows allow.
type body struct {
	id      uint32
	data    []byte // borrowed: never written to
	pos     int
	window  int64 // of the stream
	endless bool
	queued  bool
}

// handler is one role of a link. Every method is called with link.mu held.
type handler interface {
	batchBegins()
	batchEnds()
	headers(id uint32, block []byte, end bool) error
	// data gets the payload; flow is what it takes of the windows (with padding).
	data(id uint32, payload []byte, flow int, end bool) error
	reset(id, code uint32)
	goAway(last, code uint32, debug []byte)
	window(id uint32, inc int64)
	// settings is called once per SETTINGS frame, after the link took its part;
	// delta is the change of the initial window.
	settings(tableSize, maxStreams int64, delta int64)
	// bodySent is called when the last byte of b is in the output; for a client
	// the frame ended the stream.
	bodySent(b *body)
}

// link is one HTTP/2 connection, either end: frames in, frames out, windows.
// One mutex covers everything; whoever holds it calls settle before letting go.
type link struct {
	conn     *net.TCPConn
	raw      syscall.RawConn
	h        handler
	client   bool
	bufMax   int     // bytes of the read buffer, at most
	recvStep int     // give connection window back in such steps
	secret   *secret // nil: no TLS

	mu         sync.Mutex
	out        []byte // guarded by mu
	draining   bool   // guarded by mu: drain owns the socket's write side
	writeErr   error  // guarded by mu
	bodies     []*body
	connWindow int64
	initWindow int64
	maxFrame   int
	recvd      int

	block      []byte // header block spread over CONTINUATION
	blockID    uint32
	blockFlags byte

	write func(fd uintptr) bool // set once in newLink: raw.Write's argument
	wrote int
	werr  error
}

func newLink(conn *net.TCPConn, h handler, client bool, bufMax, recvStep int) (*link, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, raw: raw, h: h, client: client, bufMax: bufMax, recvStep: recvStep,
		connWindow: defaultWindow, initWindow: defaultWindow, maxFrame: defaultFrame}
	l.write = func(fd uintptr) bool {
		for {
			l.wrote, l.werr = syscall.Write(int(fd), *l.wire())
			if !errors.Is(l.werr, syscall.EINTR) {
				return true
			}
		}
	}
	return l, nil
}

// wire is what goes to the socket.
func (l *link) wire() *[]byte {
	if l.secret != nil {
		return &l.secret.pipe.out
	}
	return &l.out
}

// seal makes records of the output, if there is TLS.
func (l *link) seal() {
	if l.secret == nil {
		return
	}
	if err := l.secret.seal(&l.out); err != nil {
		l.writeErr = err
		l.look()
	}
}

// flush writes what the kernel takes at once and leaves the rest to drain.
func (l *link) flush() {
	if l.draining || l.writeErr != nil {
		return
	}
	l.seal()
	out := l.wire()
	if len(*out) == 0 || l.writeErr != nil {
		return
	}
	if err := l.raw.Write(l.write); err != nil {
		l.werr = err
	}
	n := max(l.wrote, 0)
	if l.werr != nil && !errors.Is(l.werr, syscall.EAGAIN) {
		l.writeErr = l.werr
		l.look()
		return
	}
	if n == len(*out) {
		*out = (*out)[:0]
		return
	}
	*out = (*out)[:copy(*out, (*out)[n:])]
	l.draining = true
	go l.drain()
}

// drain writes, blocking, until the output is empty. A stopped peer blocks only it.
func (l *link) drain() {
	var chunk []byte
	for {
		l.mu.Lock()
		l.seal()
		out := l.wire()
		if len(*out) == 0 || l.writeErr != nil {
			l.draining = false
			l.settle()
			l.mu.Unlock()
			return
		}
		chunk, *out = *out, chunk[:0]
		l.mu.Unlock()
		if _, err := l.conn.Write(chunk); err != nil {
			l.mu.Lock()
			l.writeErr, l.draining = err, false
			l.mu.Unlock()
			l.look()
			return
		}
	}
}

// settle puts as much of the bodies out as windows and outCap allow, and flushes.
func (l *link) settle() {
	for {
		l.pump()
		l.flush()
		if l.draining || l.writeErr != nil || len(l.bodies) == 0 || l.connWindow <= 0 {
			return
		}
	}
}

func (l *link) enqueue(b *body) {
	if !b.queued && b.window > 0 {
		b.queued = true
		l.bodies = append(l.bodies, b)
	}
}

// pump takes one frame of each queued body in turn.
func (l *link) pump() {
	for len(l.bodies) > 0 && l.connWindow > 0 && len(l.out) < outCap {
		b := l.bodies[0]
		l.bodies = l.bodies[1:]
		n := min(len(b.data)-b.pos, int(b.window), int(l.connWindow), l.maxFrame)
		if n <= 0 {
			b.queued = false
			continue
		}
		end := b.pos+n == len(b.data) && !b.endless
		flags := byte(0)
		if end && l.client {
			flags = flagEndStream
		}
		l.out = appendFrame(l.out, n, frameData, flags, b.id)
		l.out = append(l.out, b.data[b.pos:b.pos+n]...)
		b.pos += n
		b.window -= int64(n)
		l.connWindow -= int64(n)
		if end {
			b.queued = false
			l.h.bodySent(b)
			continue
		}
		if b.pos == len(b.data) {
			b.pos = 0
		}
		l.bodies = append(l.bodies, b)
	}
	if len(l.bodies) == 0 {
		l.bodies = nil
	}
}

// forget takes a body out of the queue, when its stream was reset.
func (l *link) forget(b *body) {
	if !b.queued {
		return
	}
	for i, x := range l.bodies {
		if x == b {
			l.bodies = append(l.bodies[:i], l.bodies[i+1:]...)
			break
		}
	}
	b.queued = false
}

// serve reads until the connection ends and returns why; io.EOF is a clean end.
//
// The whole loop runs inside one RawConn.Read, so that a read which did not fill
// the buffer is followed by waiting and not by a second read that finds nothing:
// a quarter of the system calls of small calls. The price: an end of connection
// that arrives in the same instant as data goes unseen, until a write fails or
// load.finish looks.
func (l *link) serve() error {
	if l.secret != nil {
		return l.serveSecret()
	}
	buf := make([]byte, min(l.bufMax, 8<<10)) // it grows when a read fills it
	w := 0
	var end error
	read := func(fd uintptr) bool {
		for {
			n, again, err := readSocket(fd, buf[w:])
			if again {
				return false
			}
			if err != nil {
				end = err
				if w > 0 && errors.Is(err, io.EOF) {
					end = io.ErrUnexpectedEOF
				}
				return true
			}
			w += n
			full := w == len(buf)
			used, err := l.batch(buf[:w])
			if err != nil {
				end = err
				return true
			}
			w = copy(buf, buf[used:w])
			if !full {
				return false
			}
			if len(buf) < l.bufMax {
				grown := make([]byte, l.bufMax)
				copy(grown, buf[:w])
				buf = grown
			}
		}
	}
	if err := l.awaitReads(read); err != nil {
		return err
	}
	return end
}

// readSocket reads what is there; again: nothing is.
func readSocket(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err := syscall.Read(int(fd), b)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, true, nil
		case err != nil:
			return 0, false, err
		case n == 0:
			return 0, false, io.EOF
		}
		return n, false, nil
	}
}

// awaitReads calls read now and whenever there may be something, until it says that it is over.
func (l *link) awaitReads(read func(fd uintptr) bool) error {
	for {
		err := l.raw.Read(read) // it reads before it waits
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = l.conn.SetReadDeadline(time.Time{})
			if err == nil {
				continue
			}
		}
		return err
	}
}

// look makes serve read once more, in case it waits on a connection that has
// ended: the deadline, long past, ends the wait. A closed connection stays closed.
func (l *link) look() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }

// batch handles what one read brought and flushes what came of it.
func (l *link) batch(p []byte) (used int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.h.batchBegins()
	used, err = l.parse(p)
	l.h.batchEnds()
	l.settle()
	return used, err
}

// parse consumes whole frames and says how many bytes that were.
func (l *link) parse(p []byte) (used int, err error) {
	for len(p) >= 9 {
		n := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
		if n > defaultFrame {
			return used, fmt.Errorf("FRAME_SIZE_ERROR: %d bytes", n)
		}
		if len(p) < 9+n {
			return used, nil
		}
		id := binary.BigEndian.Uint32(p[5:]) & 0x7fffffff
		if err := l.frame(p[3], p[4], id, p[9:9+n]); err != nil {
			return used, err
		}
		p = p[9+n:]
		used += 9 + n
	}
	return used, nil
}

var errFrame = errors.New("PROTOCOL_ERROR: malformed frame")

func (l *link) frame(typ, flags byte, id uint32, p []byte) error {
	if l.blockID != 0 && (typ != frameContinuation || id != l.blockID) {
		return errFrame
	}
	switch typ {
	case frameData:
		flow := len(p)
		if flags&flagPadded != 0 {
			if len(p) < 1 || int(p[0]) >= len(p) {
				return errFrame
			}
			p = p[1 : len(p)-int(p[0])]
		}
		l.recvd += flow
		if l.recvd >= l.recvStep {
			l.out = appendWindowUpdate(l.out, 0, l.recvd)
			l.recvd = 0
		}
		return l.h.data(id, p, flow, flags&flagEndStream != 0)
	case frameHeaders:
		if flags&flagPadded != 0 {
			if len(p) < 1 || int(p[0]) >= len(p) {
				return errFrame
			}
			p = p[1 : len(p)-int(p[0])]
		}
		if flags&flagPriority != 0 {
			if len(p) < 5 {
				return errFrame
			}
			p = p[5:]
		}
		if flags&flagEndHeaders != 0 {
			return l.h.headers(id, p, flags&flagEndStream != 0)
		}
		l.block, l.blockID, l.blockFlags = append(l.block[:0], p...), id, flags
	case frameContinuation:
		if l.blockID == 0 || len(l.block) > 1<<20 {
			return errFrame
		}
		l.block = append(l.block, p...)
		if flags&flagEndHeaders != 0 {
			l.blockID = 0
			return l.h.headers(id, l.block, l.blockFlags&flagEndStream != 0)
		}
	case frameRSTStream:
		if len(p) != 4 {
			return errFrame
		}
		l.h.reset(id, binary.BigEndian.Uint32(p))
	case frameSettings:
		return l.settingsFrame(flags, p)
	case framePing:
		if len(p) != 8 {
			return errFrame
		}
		if flags&flagAck == 0 {
			l.out = append(appendFrame(l.out, 8, framePing, flagAck, 0), p...)
		}
	case frameGoAway:
		if len(p) < 8 {
			return errFrame
		}
		l.h.goAway(binary.BigEndian.Uint32(p)&0x7fffffff, binary.BigEndian.Uint32(p[4:]), p[8:])
	case frameWindowUpdate:
		if len(p) != 4 {
			return errFrame
		}
		inc := int64(binary.BigEndian.Uint32(p) & 0x7fffffff)
		if id == 0 {
			l.connWindow += inc
		} else {
			l.h.window(id, inc)
		}
	}
	return nil
}

func (l *link) settingsFrame(flags byte, p []byte) error {
	if flags&flagAck != 0 {
		return nil
	}
	if len(p)%6 != 0 {
		return errFrame
	}
	tableSize, maxStreams, delta := int64(-1), int64(-1), int64(0)
	for ; len(p) > 0; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingTableSize:
			tableSize = int64(v)
		case settingMaxStreams:
			maxStreams = int64(v)
		case settingInitialWindow:
			delta = int64(v) - l.initWindow
			l.initWindow = int64(v)
		case settingMaxFrame:
			l.maxFrame = int(min(v, 1<<20))
		}
	}
	l.out = appendFrame(l.out, 0, frameSettings, flagAck, 0)
	l.h.settings(tableSize, maxStreams, delta)
	return nil
}
