package transport

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"
)

// Secured is a connection over TLS whose handshake is done. It is a net.Conn for those who want addresses, or to close it; what
// it carries goes through New.
type Secured struct {
	net.Conn // the socket itself: bytes that are read or written there are TLS's
	// Explain puts into words what ends the connection; nil: nothing does. By TLS 1.3 a server judges its client's certificate after the
	// client's handshake is done, so that what it finds comes as an error of reading. Set it before New.
	Explain func(error) error

	tls  *tls.Conn
	wire *wire
}

// State is what the handshake came to.
func (s *Secured) State() tls.ConnectionState { return s.tls.ConnectionState() }

// Blocking is the connection inside of TLS, with reads and writes that block: for who has but a few words to say, and does not give it to New.
func (s *Secured) Blocking() net.Conn { return s.tls }

// Slots bounds how many handshakes compute at the same time, so that a flood of them leaves the processor to calls. Who waits for
// its peer's next word holds none.
type Slots chan struct{}

// SecureServer shakes hands with a client. rest is what was read of the socket already. It blocks until ctx ends at most; the
// caller closes nc on an error.
func SecureServer(ctx context.Context, nc net.Conn, rest []byte, cfg *tls.Config, slots Slots) (*Secured, error) {
	w := &wire{Conn: nc, in: rest, slots: slots}
	return shake(ctx, w, tls.Server(w, cfg))
}

// SecureClient shakes hands with a server.
func SecureClient(ctx context.Context, nc net.Conn, cfg *tls.Config) (*Secured, error) {
	w := &wire{Conn: nc}
	return shake(ctx, w, tls.Client(w, cfg))
}

func shake(ctx context.Context, w *wire, t *tls.Conn) (*Secured, error) {
	if w.slots != nil {
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	err := t.HandshakeContext(ctx)
	if w.slots != nil {
		<-w.slots
		w.slots = nil
	}
	if err != nil {
		return nil, err
	}
	return &Secured{Conn: w.Conn, tls: t, wire: w}, nil
}

// wire is what crypto/tls takes for its connection. During the handshake it is the socket; then (inside) reads take from in and
// writes append to out, both without blocking, and crypto/tls is no more than a cipher.
type wire struct {
	net.Conn // the socket; set once
	slots    Slots
	inside   bool
	in       []byte  // sealed bytes that came; inside: borrowed for one batch
	left     int     // bytes of the present record that were not handed over yet
	head     [5]byte // of the next record's header, what was handed over: heads bytes
	heads    int
	idle     int    // records that brought no data, beyond those that did
	out      []byte // sealed bytes to be written; owned, from the shard's buffers
	grow     func(b []byte, n int) []byte
}

// Read implements net.Conn for crypto/tls.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.in) > 0 {
		if w.idle > maxIdle {
			return 0, errIdle
		}
		n := w.hand(w.in[:min(len(p), len(w.in))])
		copy(p, w.in[:n])
		w.in = w.in[n:]
		return n, nil
	}
	if w.inside {
		return 0, errDry
	}
	w.in = nil
	defer w.pause()()
	n, err := w.Conn.Read(p)
	for at := 0; at < n; {
		at += w.hand(p[at:n])
	}
	w.idle = 0 // crypto/tls itself watches over handshakes
	return n, err
}

// pause gives the slot back while the peer is waited for.
func (w *wire) pause() (resume func()) {
	if w.slots == nil {
		return func() {}
	}
	<-w.slots
	return func() { w.slots <- struct{}{} }
}

// maxIdle is how many records beyond those with data may bring none: changing keys (RFC 8446 section 4.6.3) costs us a hundred times
// what it costs the peer, and crypto/tls lets 16 of them pass for each byte of data.
const maxIdle = 64

var errIdle = errors.New("too many TLS records that bring no data")

// hand is how many bytes of b, which is not empty, are handed over at once: none beyond a record, so that records are counted.
func (w *wire) hand(b []byte) int {
	n := 0
	for n < len(b) && w.left == 0 {
		w.head[w.heads] = b[n]
		n++
		if w.heads++; w.heads == len(w.head) {
			w.heads, w.left = 0, int(binary.BigEndian.Uint16(w.head[3:])) // RFC 8446 section 5.1
			w.idle++
		}
	}
	k := min(len(b)-n, w.left)
	w.left -= k
	return n + k
}

// useful says that a record brought data.
func (w *wire) useful() { w.idle = max(0, w.idle-2) }

// Write implements net.Conn for crypto/tls.
func (w *wire) Write(p []byte) (int, error) {
	if !w.inside {
		defer w.pause()()
		return w.Conn.Write(p)
	}
	w.out = append(w.grow(w.out, len(p)), p...)
	return len(p), nil
}

// SetWriteDeadline implements net.Conn for crypto/tls, which sets one before its last word: inside, nothing waits.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.inside {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}

// dry says that nothing more is there for now. crypto/tls goes on after such an error, since it is temporary: its Conn.Read then keeps
// the part of a record that has come. (net.Error.Temporary is deprecated; a test here keeps watch over crypto/tls.)
type dry struct{}

var errDry net.Error = dry{}

func (dry) Error() string   { return os.ErrDeadlineExceeded.Error() }
func (dry) Timeout() bool   { return true }
func (dry) Temporary() bool { return true }
