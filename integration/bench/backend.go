package main

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

const (
	// maxStreams is what a backend advertises, and enforces with REFUSED_STREAM.
	maxStreams = 1000
	// bulkWindow is the initial window of a stream that receives, in bytes.
	bulkWindow = 1 << 20
	// bulkConnWindow is the window of a connection that receives, in bytes.
	bulkConnWindow = 16 << 20
	messageSize    = 1 << 20
)

// message returns a gRPC message: the five-byte prefix and n bytes of a pattern.
func message(n int) []byte {
	m := make([]byte, 5+n)
	binary.BigEndian.PutUint32(m[1:], uint32(n))
	for i := range m[5:] {
		m[5+i] = byte(i * 7)
	}
	return m
}

// backend is a gRPC server that costs next to nothing: unary echo, downloads,
// uploads; to any other path it answers an empty message, so that it can also
// be the sink for traces.
type backend struct {
	ln       net.Listener
	addr     string
	download []byte // set once in startBackend
	endless  []byte // set once in startBackend

	accepted atomic.Int64 // connections since the start
	open     atomic.Int64 // connections now
	peak     atomic.Int64 // most connections open at a time
	calls    atomic.Int64

	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu; nil once stopped
}

// startBackend listens on a free loopback port.
func startBackend() (*backend, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{ln: ln, addr: ln.Addr().String(), conns: map[net.Conn]struct{}{},
		download: message(messageSize), endless: message(64 << 10)}
	b.wg.Go(b.accept)
	return b, nil
}

// stop closes the listener and every connection and waits for their goroutines.
func (b *backend) stop() {
	b.ln.Close()
	b.mu.Lock()
	for c := range b.conns {
		c.Close()
	}
	b.conns = nil
	b.mu.Unlock()
	b.wg.Wait()
}

func (b *backend) accept() {
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		if b.conns == nil {
			c.Close()
		} else {
			b.conns[c] = struct{}{}
			b.wg.Go(func() { b.serve(c.(*net.TCPConn)) })
		}
		b.mu.Unlock()
	}
}

func (b *backend) serve(c *net.TCPConn) {
	b.accepted.Add(1)
	if n := b.open.Add(1); n > b.peak.Load() {
		b.peak.Store(n)
	}
	defer func() {
		_ = c.Close()
		b.open.Add(-1)
		b.mu.Lock()
		delete(b.conns, c)
		b.mu.Unlock()
	}()
	s := &serverConn{backend: b, dec: newDecoder(), far: map[uint32]*serverStream{}}
	s.enc.max = defaultTable
	l, err := newLink(c, s, false, 256<<10, bulkConnWindow/4)
	if err != nil {
		return
	}
	s.link = l
	hello := appendSettings(nil, settingMaxStreams, maxStreams, settingInitialWindow, bulkWindow)
	hello = appendWindowUpdate(hello, 0, bulkConnWindow-defaultWindow)
	if _, err := c.Write(hello); err != nil {
		return
	}
	var got [len(preface)]byte
	if _, err := io.ReadFull(c, got[:]); err != nil || string(got[:]) != preface {
		return
	}
	_ = l.serve() // the client's end notices and reports
}

// serverStream is a call whose request has not ended, or whose reply has not gone.
type serverStream struct {
	method  method
	request []byte // what Ping echoes
	count   uint64 // bytes of the request
	recvd   int    // since the last WINDOW_UPDATE
	reply   body
}

// serverConn is one connection of a backend. Guarded by link.mu.
type serverConn struct {
	*link
	backend *backend
	dec     *decoder
	enc     replyEncoder
	fields  fields
	last    uint32
	// A stream is at near[(id/2) modulo its length], or in far if that is taken.
	near [256]*serverStream
	far  map[uint32]*serverStream
	live int
	// fresh is a call of which only HEADERS were read: nearly always its one DATA
	// frame follows, and it never enters the map. 0: none.
	fresh       uint32
	freshMethod method
	free        []*serverStream
	served      int64
}

// settleFresh moves the fresh call into the map.
func (s *serverConn) settleFresh() {
	if s.fresh == 0 {
		return
	}
	s.newStream(s.fresh, s.freshMethod)
	s.fresh = 0
}

func (s *serverConn) newStream(id uint32, m method) *serverStream {
	var st *serverStream
	if n := len(s.free); n > 0 {
		st, s.free = s.free[n-1], s.free[:n-1]
		*st = serverStream{request: st.request[:0]}
	} else {
		st = &serverStream{}
	}
	st.method = m
	st.reply.id = id
	st.reply.window = s.initWindow
	s.live++
	if at := s.place(id); *at == nil {
		*at = st
	} else {
		s.far[id] = st
	}
	return st
}

func (s *serverConn) place(id uint32) **serverStream {
	return &s.near[id>>1&uint32(len(s.near)-1)]
}

// find returns nil for a stream that is over.
func (s *serverConn) find(id uint32) *serverStream {
	if st := *s.place(id); st != nil && st.reply.id == id {
		return st
	}
	if len(s.far) == 0 {
		return nil
	}
	return s.far[id]
}

func (s *serverConn) each(do func(st *serverStream)) {
	for _, st := range s.near {
		if st != nil {
			do(st)
		}
	}
	for _, st := range s.far {
		do(st)
	}
}

func (s *serverConn) drop(id uint32, st *serverStream) {
	s.forget(&st.reply)
	s.live--
	if at := s.place(id); *at == st {
		*at = nil
	} else {
		delete(s.far, id)
	}
	s.free = append(s.free, st)
}

func (s *serverConn) batchBegins() {}

func (s *serverConn) batchEnds() {
	s.settleFresh()
	s.backend.calls.Add(s.served)
	s.served = 0
}

func (s *serverConn) headers(id uint32, block []byte, end bool) error {
	if err := s.dec.decode(block, &s.fields); err != nil {
		return err
	}
	s.settleFresh()
	if id <= s.last {
		if st := s.find(id); st != nil && end { // request trailers
			s.requestEnded(id, st)
		}
		return nil
	}
	if id&1 == 0 {
		return errFrame
	}
	s.last = id
	if s.live >= maxStreams {
		s.out = appendReset(s.out, id, codeRefusedStream)
		return nil
	}
	if end {
		s.requestEnded(id, s.newStream(id, s.fields.method))
		return nil
	}
	s.fresh, s.freshMethod = id, s.fields.method
	return nil
}

func (s *serverConn) data(id uint32, p []byte, flow int, end bool) error {
	if id == s.fresh && end && s.freshMethod == methodPing &&
		len(p) <= s.maxFrame && int64(len(p)) <= min(s.initWindow, s.connWindow) {
		s.fresh = 0
		s.replyHeaders(id)
		s.out = appendFrame(s.out, len(p), frameData, 0, id)
		s.out = append(s.out, p...)
		s.connWindow -= int64(len(p))
		s.replyTrailers(id)
		return nil
	}
	s.settleFresh()
	st := s.find(id)
	if st == nil {
		return nil // reset meanwhile
	}
	st.count += uint64(len(p))
	if st.method == methodPing {
		st.request = append(st.request, p...)
	}
	if end {
		s.requestEnded(id, st)
		return nil
	}
	if st.recvd += flow; st.recvd >= bulkWindow/2 {
		s.out = appendWindowUpdate(s.out, id, st.recvd)
		st.recvd = 0
	}
	return nil
}

func (s *serverConn) requestEnded(id uint32, st *serverStream) {
	b := &st.reply
	switch st.method {
	case methodPing:
		b.data = st.request
	case methodDownload:
		b.data = s.backend.download
	case methodUpload:
		b.data = binary.BigEndian.AppendUint64([]byte{0, 0, 0, 0, 8}, st.count)
	case methodEndless:
		b.data, b.endless = s.backend.endless, true
	default:
		b.data = []byte{0, 0, 0, 0, 0}
	}
	s.replyHeaders(id)
	if len(b.data) == 0 {
		s.bodySent(b)
		return
	}
	s.enqueue(b)
}

func (s *serverConn) replyHeaders(id uint32) {
	at := len(s.out)
	s.out = s.enc.appendHeaders(appendFrame(s.out, 0, frameHeaders, flagEndHeaders, id))
	s.out[at+2] = byte(len(s.out) - at - 9)
}

func (s *serverConn) replyTrailers(id uint32) {
	at := len(s.out)
	s.out = s.enc.appendTrailers(appendFrame(s.out, 0, frameHeaders, flagEndHeaders|flagEndStream, id))
	s.out[at+2] = byte(len(s.out) - at - 9)
	s.served++
}

func (s *serverConn) bodySent(b *body) {
	s.replyTrailers(b.id)
	s.drop(b.id, s.find(b.id))
}

func (s *serverConn) reset(id, _ uint32) {
	s.settleFresh()
	if st := s.find(id); st != nil {
		s.drop(id, st)
	}
}

func (s *serverConn) goAway(_, _ uint32, _ []byte) {}

func (s *serverConn) window(id uint32, inc int64) {
	s.settleFresh()
	if st := s.find(id); st != nil {
		st.reply.window += inc
		if len(st.reply.data) > 0 {
			s.enqueue(&st.reply)
		}
	}
}

func (s *serverConn) settings(tableSize, _ int64, delta int64) {
	s.settleFresh()
	if tableSize >= 0 {
		s.enc.setMax(uint32(min(tableSize, 1<<30)))
	}
	if delta == 0 {
		return
	}
	s.each(func(st *serverStream) {
		st.reply.window += delta
		if len(st.reply.data) > 0 {
			s.enqueue(&st.reply)
		}
	})
}
