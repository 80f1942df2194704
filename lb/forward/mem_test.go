package forward

import (
	"io"
	"net"
	"sync"
	"time"
)

// half is one direction of a connection in memory, with room for all that is written (or limit bytes).
type half struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	limit  int
	closed bool
}

func newHalf(limit int) *half {
	h := &half{limit: limit}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 {
		if h.closed {
			return 0, io.EOF
		}
		h.cond.Wait()
	}
	n := copy(p, h.buf)
	h.buf = h.buf[n:]
	h.cond.Broadcast()
	return n, nil
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if h.closed {
			return n, io.ErrClosedPipe
		}
		k := len(p)
		if h.limit > 0 {
			k = min(k, h.limit-len(h.buf))
		}
		h.buf = append(h.buf, p[:k]...)
		n, p = n+k, p[k:]
		h.cond.Broadcast()
		if len(p) == 0 {
			return n, nil
		}
		h.cond.Wait()
	}
}

func (h *half) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cond.Broadcast()
}

// mem is one end of a connection in memory.
type mem struct{ in, out *half }

func memPair(limit int) (mem, mem) {
	a, b := newHalf(limit), newHalf(limit)
	return mem{a, b}, mem{b, a}
}

func (m mem) Read(p []byte) (int, error)       { return m.in.read(p) }
func (m mem) Write(p []byte) (int, error)      { return m.out.write(p) }
func (m mem) CloseWrite() error                { m.out.close(); return nil }
func (m mem) Close() error                     { m.in.close(); m.out.close(); return nil }
func (m mem) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (m mem) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }
func (m mem) SetDeadline(time.Time) error      { return nil }
func (m mem) SetReadDeadline(time.Time) error  { return nil }
func (m mem) SetWriteDeadline(time.Time) error { return nil }
