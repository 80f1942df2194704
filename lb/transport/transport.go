// Package transport owns the sockets of HTTP/2 connections, both roles: it reads in large chunks, writes without blocking,
// and carries bytes between a socket and a codec/session; it must not know what the streams are for.
//
// One goroutine per connection reads. It takes the shard, reads into the shard's one buffer, lets the session parse in
// place, and leaves the shard, which flushes all that was dirtied. A second goroutine, the flusher, exists only while the
// kernel does not take what we have to say.
package transport

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
)

// linger is how long we wait for a peer to close after we have told it why we will.
const linger = time.Second

// socket is one way of moving bytes. There are three: raw (the kernel's, by file descriptor), sealed (TLS over raw) and stream (any
// net.Conn, as memory in tests).
type socket interface {
	// read runs the reading side until the connection has ended; in the reader's goroutine, outside of the shard.
	read(c *Conn) error
	// write writes what is taken without blocking; inside of the shard.
	write(p []byte) (int, error)
	// flush runs in a goroutine of its own, outside of the shard, until the output is gone or the connection is.
	flush(c *Conn)
	// closeWrite tells the peer that nothing more comes.
	closeWrite()
	// drop gives back what buffers it has, at the connection's end; inside of the shard.
	drop()
	// close ends both sides and wakes read and flush; it may block a little and is called outside of the shard.
	close()
}

// Conn is one connection: a socket and a session. Its fields are guarded by the shard, but for those set once.
type Conn struct {
	Shard *shard.Shard // set once
	Sess  *session.Conn
	Net   net.Conn // set once; for addresses
	// OnGone is called inside of the shard, once, when the connection is over: every stream has been reset before. Set once.
	OnGone func(err error)
	// ID is unique in the process. Set once.
	ID uint64
	// Since is when the connection began, LastRead when bytes last came; in the shard's time.
	Since, LastRead int64
	// Chunk is how many bytes are read at once at most, beside what is kept of the last chunk. Set once, before Serve.
	Chunk int
	// BytesIn is how many bytes have come.
	BytesIn uint64

	sock     socket
	chunk    int    // as many bytes are read at once
	wasteful bool   // the turn that ended was a wasteful peer's. Owned by the reader
	drained  int    // bytes that were thrown away
	first    []byte // what was read before the connection was made; nil once it is parsed
	rest     []byte // a partial frame; owned, from the shard's buffers
	gone     bool   // the socket is closed or will be at once
	lame     bool   // nothing more is read
	finish   bool   // to be closed when all is flushed
	closed   bool   // the session has ended
	flushing bool
	linger   shard.Timer
}

// New makes a connection of a socket (a *Secured for TLS); Serve reads it. Call it inside of the shard.
func New(s *shard.Shard, nc net.Conn, role session.Role, cfg *session.Config, h session.Handler) *Conn {
	c := &Conn{Shard: s, Net: nc, ID: s.ConnID(), Since: s.Now(), LastRead: s.Now(), Chunk: shard.ReadChunk, chunk: leastChunk}
	c.sock = newSocket(c, nc)
	c.linger.Do = func() { c.End(io.ErrClosedPipe) }
	c.Sess = session.New(&s.Env, role, cfg, h, c)
	return c
}

// Serve reads until the connection has ended. It runs in a goroutine of its own, the connection's one.
func (c *Conn) Serve() {
	if len(c.first) > 0 {
		c.Shard.Enter()
		if !c.gone {
			c.feed(c.first)
		}
		c.first = nil
		c.Shard.Leave()
	}
	err := c.sock.read(c)
	c.Shard.Enter()
	c.End(err)
	c.Shard.Leave()
	c.sock.close()
}

// Before gives what had been read of the socket already; before Serve. It must be short: less than a shard's read buffer.
func (c *Conn) Before(p []byte) { c.first = p }

// feed parses p, which is borrowed: what was kept of the last chunk, and what came now.
func (c *Conn) feed(p []byte) {
	if c.lame {
		before := c.drained
		if c.drained += len(p) - len(c.rest); before <= maxDrain && c.drained > maxDrain && !c.gone {
			c.Shard.Timer.Set(&c.linger, c.Shard.Now()+int64(hurry))
		}
		return
	}
	c.LastRead = c.Shard.Now()
	c.BytesIn += uint64(len(p) - len(c.rest))
	n, err := c.Sess.Recv(p)
	if c.gone {
		return
	}
	if err != nil {
		c.lame = true // Flush says goodbye, or the linger timer if the peer does not read
		c.lingerOn()
		return
	}
	if left := p[n:]; len(left) > 0 {
		c.rest = append(c.Shard.Env.Buffers.Grow(c.rest[:0], len(left)), left...)
	} else if c.rest != nil {
		c.Shard.Env.Buffers.Put(c.rest)
		c.rest = nil
	}
}

// Flush writes the output without blocking; what the socket does not take is left to the flusher. Called by Shard.Leave.
func (c *Conn) Flush() {
	c.Sess.Clean()
	if c.gone || c.closed {
		return
	}
	if c.Sess.Failed() != nil {
		c.lame = true
		c.lingerOn() // it may never read what we say about it
	}
	if c.flushing {
		return
	}
	for {
		out := c.Sess.Output()
		if len(out) == 0 {
			break
		}
		n, err := c.sock.write(out)
		if err != nil {
			c.End(err)
			return
		}
		c.Sess.Advance(n)
		if n < len(out) {
			c.flushing, c.Sess.Blocked = true, true
			go c.sock.flush(c)
			return
		}
		c.Sess.Pump() // data may have waited for the output's mark
	}
	c.goodbye()
}

// Finish ends an idle connection in order: what is still to be said is flushed, then our side is closed.
func (c *Conn) Finish() {
	if c.gone || c.finish {
		return
	}
	c.finish = true
	c.Sess.Touch() // Leave flushes; we may be in the middle of a frame
}

// goodbye closes our side after all has been written (the GOAWAY that says why is the last of it), and gives the peer time to
// read it: a close with unread input would destroy it on the way.
func (c *Conn) goodbye() {
	if c.closed || c.Sess.Failed() == nil && !c.finish {
		return
	}
	c.lame = true
	var err error = errFinished
	if f := c.Sess.Failed(); f != nil {
		err = f
	}
	c.shut(err)
	c.sock.closeWrite()
	c.lingerOn()
}

func (c *Conn) lingerOn() {
	if !c.linger.Pending() && !c.gone {
		c.Shard.Timer.Set(&c.linger, c.Shard.Now()+int64(linger))
	}
}

// shut ends the session, once.
func (c *Conn) shut(err error) {
	if c.closed {
		return
	}
	c.closed = true
	c.Sess.Close(h2.Cancel, err)
	if c.OnGone != nil {
		c.OnGone(err)
	}
}

// End ends the connection at once: its streams are reset, the socket is closed. Call it inside of the shard.
func (c *Conn) End(err error) {
	if c.gone {
		return
	}
	if err == nil {
		err = io.EOF
	}
	c.gone = true
	c.Shard.Timer.Clear(&c.linger)
	c.Shard.Env.Buffers.Put(c.rest)
	c.rest = nil
	c.sock.drop()
	c.shut(err)
	go c.sock.close() // it waits for the reader, which may be us
}

// errFinished is the end of a connection that was not needed any more.
var errFinished = errors.New("idle connection closed by Trunkline")

// errClosed is what a reader returns that found the connection closed by us.
var errClosed = errors.New("closed by Trunkline")
