package upstream

import (
	"errors"
	"fmt"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/transport"
)

// quietPings is how many PINGs a peer gets while it says nothing, and pingPause how far apart the later ones are: grpc
// servers take more, or more frequent ones, for abuse (gRFC A8, A9: two strikes, five minutes).
const (
	quietPings = 2
	pingPause  = 5*time.Minute + 10*time.Second
)

// Conn is one upstream connection. Guarded by the shard.
type Conn struct {
	StreamHandler   // set once; what happens on streams is the forwarder's business
	*transport.Conn // set once

	pool      *Pool // set once
	ready     bool
	lastUsed  int64 // when the last stream was opened or closed
	tendTimer shard.Timer
	pinged    int64 // when a PING went out; 0 if it is answered
	lastPing  int64
	pings     int // since bytes other than the answer came
}

var _ session.Handler = (*Conn)(nil)

// Endpoint is whose connection it is.
func (c *Conn) Endpoint() *Endpoint { return c.pool.ep }

// open says whether a stream may be opened now.
func (c *Conn) open(o *Options) bool {
	return c.ready && !c.Sess.Closing() && c.Sess.Streams() < o.FillMark && uint32(c.Sess.Streams()) < c.Sess.PeerMaxStreams()
}

// HandleSettings implements session.Handler: the first make the connection ready, later ones may free places.
func (c *Conn) HandleSettings() {
	if !c.ready {
		c.ready = true
		c.pool.ep.up()
		c.tendLater()
	}
	c.pool.serve()
	if c.pool.ep.retired.Load() && c.Sess.Streams() == 0 {
		c.leave(errRemoved.Error()) // those who waited have gone
	}
}

// HandleClosed implements session.Handler: a place is free.
func (c *Conn) HandleClosed(s *session.Stream) {
	c.StreamHandler.HandleClosed(s)
	if len(c.pool.waiting) > 0 {
		c.pool.serve()
	}
	if c.Sess.Streams() > 0 {
		return
	}
	c.lastUsed = c.Shard.Now()
	if c.Sess.Closing() || c.pool.ep.retired.Load() {
		c.leave("no longer needed")
	}
}

// HandleGoAway implements session.Handler: no new streams here; those above its last id are elsewhere already.
func (c *Conn) HandleGoAway(code h2.Code, debug string) {
	if code != h2.NoError {
		c.pool.ep.reg.Log.Warn("endpoint sent GOAWAY", "cluster", c.pool.ep.Cluster, "endpoint", c.pool.ep.Address, "code", code.String(), "debug", debug)
	}
	if c.Sess.Streams() == 0 {
		c.leave("")
	}
	c.pool.serve()
}

// HandlePong implements session.Handler.
func (c *Conn) HandlePong([8]byte) {
	c.pinged = 0
}

// leave closes a connection that carries nothing.
func (c *Conn) leave(why string) {
	c.Sess.GoAway(why)
	c.Finish()
}

// handleGone: the connection is over; its streams have been told.
func (c *Conn) handleGone(err error) {
	c.Shard.Timer.Clear(&c.tendTimer)
	c.pool.remove(c)
	if !c.ready {
		hint := ""
		if c.pool.ep.opts.Load().Secure == nil {
			hint = "; if it speaks TLS, write clusters[].tls for " + c.pool.ep.Cluster
		}
		c.pool.refused(fmt.Errorf("%s closed the connection before it spoke HTTP/2: %w%s", c.pool.ep.Address, err, hint))
		return
	}
	if len(c.pool.waiting) > 0 {
		c.pool.serve()
	}
}

// errSilent is the end of a connection whose peer does not answer.
var errSilent = errors.New("no answer to PING")

// tend looks after the connection from time to time: too long without SETTINGS, without use, or without an answer.
func (c *Conn) tend() {
	o := c.pool.ep.opts.Load()
	now := c.Shard.Now()
	switch {
	case !c.ready:
		c.End(fmt.Errorf("no SETTINGS within %v", o.ConnectTimeout))
		return
	case c.Sess.Streams() == 0:
		if now-c.lastUsed >= int64(o.IdleTimeout) {
			c.leave("idle")
			return
		}
	case c.pinged != 0:
		// What came since the PING was on its way perhaps; silence after it is silence.
		if now-max(c.pinged, c.LastRead) >= int64(o.KeepaliveTimeout) {
			c.End(fmt.Errorf("%w for %v", errSilent, o.KeepaliveTimeout))
			return
		}
	case now-c.LastRead >= int64(o.KeepaliveInterval):
		if c.LastRead > c.lastPing+int64(o.KeepaliveTimeout) {
			c.pings = 0 // it has spoken since
		}
		if c.pings < quietPings || now-c.lastPing >= int64(pingPause) {
			c.pings++
			c.pinged, c.lastPing = now, now
			c.Sess.Ping([8]byte{'a', 'l', 'i', 'v', 'e', '?'})
		}
	}
	c.tendLater()
}

// tendLater sets the timer for the next look: often enough for the shortest of the settings.
func (c *Conn) tendLater() {
	o := c.pool.ep.opts.Load()
	d := min(o.IdleTimeout, o.KeepaliveInterval)
	if c.pinged != 0 {
		d = min(d, o.KeepaliveTimeout)
	}
	c.Shard.Timer.Set(&c.tendTimer, c.Shard.Now()+int64(max(d/2, 10*time.Millisecond)))
}
