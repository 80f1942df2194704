package session

import (
	"errors"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
)

// ErrStalled is the why of a stream that was reset because the peer took nothing of the data that waited on it for
// Config.StallTimeout.
var ErrStalled = errors.New("the peer opened no window for data that waits for longer than limits.stallTimeout allows")

// ErrShare is the why of a stream that was reset because its client held more than its share of what all may hold (Total).
var ErrShare = errors.New("all clients together hold more than limits.bufferBytesTotal, and this one more than its share")

// Partial says that the carrier keeps n bytes of a frame that has not come whole (0: of none). Recv says it itself, of what it
// did not consume; a carrier says it only where bytes do not reach Recv. FrameTimeout counts from the first call with n > 0.
func (c *Conn) Partial(n int) { c.keep(n) }

// keep notes that n bytes of a partial frame are kept.
func (c *Conn) keep(n int) {
	if n > 0 && c.partial == 0 {
		c.frameAt = c.env.Now
	}
	if d := int64(n) - c.partial; d != 0 {
		c.partial += d
		if c.budget != nil { // at most a frame: not worth a refusal
			c.held += d
			c.budget.add(d)
		}
	}
}

// Expired judges whether something takes too long; the carrier calls it about once a second, outside of a handler. It resets
// streams that have stalled, or that hold too much while all clients together do (ENHANCE_YOUR_CALM, with ErrStalled or ErrShare
// for the handler), and returns what must end the connection, if anything; the GOAWAY that says so is in the output.
//
// It costs a few comparisons unless data waits.
func (c *Conn) Expired(now int64) *h2.ConnError {
	if c.failed != nil {
		return c.failed
	}
	if t := c.cfg.FrameTimeout; t > 0 {
		if c.partial > 0 && now-c.frameAt >= int64(t) {
			return c.fail(connErr(h2.EnhanceYourCalm, "a frame did not come to its end within %v (limits.frameTimeout)", t))
		}
		if c.contID != 0 && now-c.blockAt >= int64(t) {
			return c.fail(connErr(h2.EnhanceYourCalm, "a header block did not come to its end within %v (limits.frameTimeout)", t))
		}
	}
	if t := c.cfg.PrefaceTimeout; t > 0 && !c.gotSettings && now-c.born >= int64(t) {
		return c.fail(connErr(h2.SettingsTimeout, "no SETTINGS within %v (limits.prefaceTimeout)", t))
	}
	if t := c.cfg.StallTimeout; t > 0 && (c.Blocked || c.holding > 0) {
		if e := c.stalled(now, t); e != nil {
			return e
		}
	} else {
		c.watching = false
	}
	if b := c.budget; b != nil && b.Total.full(0) && b.Held > minShare {
		c.shrink(b)
	}
	return c.failed
}

// stalled finds the streams whose data does not move, and a connection that takes nothing at all.
func (c *Conn) stalled(now int64, t time.Duration) *h2.ConnError {
	if w := c.Written(); !c.Blocked || !c.watching || w != c.wrote {
		if c.watching && w != c.wrote {
			c.movedAt = now // slowly, but something moves
		}
		c.watching, c.wrote, c.wroteAt = c.Blocked, w, now
	} else if now-c.wroteAt >= int64(t) {
		return c.fail(connErr(h2.EnhanceYourCalm, "nothing of what was sent was taken within %v (limits.stallTimeout)", t))
	}
	if c.holding == 0 || now < c.scanAt {
		return nil
	}
	first := now
	c.streams.each(func(s *Stream) {
		if s.pend == nil {
			return
		}
		since := s.since
		if s.sendWin > 0 {
			since = max(since, c.movedAt) // it waits for its turn: others of its connection move
		}
		if now-since >= int64(t) {
			c.giveUp(s, ErrStalled)
			return
		}
		first = min(first, since)
	})
	c.scanAt = first + int64(t)
	return c.failed
}

// shrink resets the streams that hold most until the client is back at its share of what all may hold.
func (c *Conn) shrink(b *Budget) {
	for b.Held > b.share() {
		var most *Stream
		for _, s := range c.streams.slots {
			if s != nil && s.Held() > 0 && (most == nil || s.Held() > most.Held()) {
				most = s
			}
		}
		if most == nil {
			return // endpoints do not read what it sent: it gets no more
		}
		c.giveUp(most, ErrShare)
	}
}

// giveUp resets a stream because the peer does not read.
func (c *Conn) giveUp(s *Stream, why error) {
	c.appendReset(s.ID, h2.EnhanceYourCalm)
	c.die(s, h2.EnhanceYourCalm, why, resetByUs)
	c.wasteReset(1)
}
