//go:build unix

package transport

import (
	"crypto/tls"
	"errors"
	"io"
)

// sealMark is how many bytes are encrypted before the kernel is asked to take them: what one connection may hold sealed beside its
// output.
const sealMark = 64 << 10

// maxRecord is more than one record can bring (RFC 8446 section 5.1: 16 KiB of plaintext).
const maxRecord = 17 << 10

// sealed is TLS over a kernel socket. crypto/tls encrypts and decrypts inside of the shard, between the shard's buffers; only the
// handshake was elsewhere. Fields are guarded by the shard.
type sealed struct {
	*raw
	c       *Conn // set once
	tls     *tls.Conn
	wire    *wire
	explain func(error) error // nil: errors are told as they are. Set once
	fresh   bool              // crypto/tls may hold records that came with the handshake's end
	owed    int               // bytes of output whose sealed form is in wire.out
	off     int               // bytes of wire.out that are written
}

func newSealed(c *Conn, r *raw, t *Secured) *sealed {
	t.wire.inside = true
	t.wire.grow = c.Shard.Env.Buffers.Grow
	return &sealed{c: c, raw: r, tls: t.tls, wire: t.wire, explain: t.Explain, fresh: true}
}

func (s *sealed) read(c *Conn) error { return s.each(c, func() (bool, error) { return s.turn(c) }) }

// turn is raw's, with decryption between the socket and the session.
func (s *sealed) turn(c *Conn) (done bool, err error) {
	began := int64(0)
	for i := range turns {
		c.Shard.Lock()
		if c.gone {
			c.Shard.Unlock()
			return true, errClosed
		}
		if c.drained > maxDrain {
			c.Shard.Unlock()
			return false, nil
		}
		n, room := 0, c.room()
		if !s.fresh {
			p := c.Shard.SealedBuffer()[:room]
			var err error
			n, err = s.take(p)
			if n <= 0 {
				c.Shard.Unlock()
				return err != nil, err
			}
			s.wire.in = p[:n]
		}
		s.fresh = false
		late := c.tooLong(&began)
		err = s.unseal(c)
		s.wire.in = nil
		late = c.ends(i, n, room, late)
		c.Shard.LeaveBatch()
		if err != nil {
			return true, err
		}
		if late {
			break
		}
	}
	return true, nil
}

// unseal decrypts what came and has the session parse it, as much at once as there is.
func (s *sealed) unseal(c *Conn) error {
	chunk := c.Shard.ReadBuffer()
	for {
		k := copy(chunk, c.rest)
		m := k
		var err error
		for err == nil && len(chunk)-m >= maxRecord {
			var n int
			n, err = s.tls.Read(chunk[m:])
			if m += n; n > 0 {
				s.wire.useful()
			}
		}
		if m > k {
			c.feed(chunk[:m])
		}
		switch {
		case c.gone:
			return errClosed
		case err == errDry:
			return s.reply()
		case err == io.EOF:
			return err
		case err != nil:
			_, _ = s.raw.write(s.wire.out[s.off:]) // the alert that says what is wrong, if there is room
			if s.explain != nil {
				err = s.explain(err)
			}
			return err
		}
	}
}

// reply writes what crypto/tls says by itself: that it changed keys, too. Where output waits it goes with that.
func (s *sealed) reply() error {
	switch {
	case len(s.wire.out) == 0:
		return nil
	case s.c.closed:
		s.drop()
		return nil
	case s.owed == 0:
		n, err := s.raw.write(s.wire.out[s.off:])
		if err != nil {
			return err
		}
		if s.off += n; s.off == len(s.wire.out) {
			s.drop()
			return nil
		}
	}
	if len(s.wire.out)-s.off > 2*sealMark {
		return errKeys
	}
	return nil
}

var errKeys = errors.New("the peer changes keys and reads nothing")

// write takes as much of p as was encrypted and written. Of what the kernel does not take it keeps the sealed form, and expects the
// same bytes again.
func (s *sealed) write(p []byte) (n int, err error) {
	for n < len(p) {
		if s.owed == 0 {
			take := min(len(p)-n, sealMark)
			if _, err := s.tls.Write(p[n : n+take]); err != nil {
				return n, err
			}
			s.owed = take
		}
		k, err := s.raw.write(s.wire.out[s.off:])
		if err != nil {
			return n, err
		}
		if s.off += k; s.off < len(s.wire.out) {
			return n, nil
		}
		n += s.owed
		s.wire.out, s.off, s.owed = s.wire.out[:0], 0, 0
	}
	s.drop()
	return n, nil
}

// drop gives the buffer of sealed bytes back.
func (s *sealed) drop() {
	s.c.Shard.Env.Buffers.Put(s.wire.out)
	s.wire.out, s.off = nil, 0
}

func (s *sealed) closeWrite() {
	_ = s.tls.CloseWrite() // appends the alert
	_, _ = s.raw.write(s.wire.out[s.off:])
	s.drop()
	s.raw.closeWrite()
}
