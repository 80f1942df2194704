package session

import "github.com/trunkline/trunkline/codec/h2"

// touch tells the carrier that there is output.
func (c *Conn) touch() {
	if !c.dirty {
		c.dirty = true
		c.env.Dirty = append(c.env.Dirty, c.carrier)
	}
}

// Touch asks the carrier for a Flush though there may be no output.
func (c *Conn) Touch() { c.touch() }

// Clean is for the carrier: it has seen the output, the next append tells it again.
func (c *Conn) Clean() { c.dirty = false }

// reserve makes room for n more bytes of output.
func (c *Conn) reserve(n int) {
	if cap(c.out)-len(c.out) < n {
		if c.outOff > 0 {
			// What is written already need not be carried into the larger buffer.
			m := copy(c.out, c.out[c.outOff:])
			c.out, c.outOff = c.out[:m], 0
		}
		c.out = c.env.Buffers.Grow(c.out, n)
	}
}

// control makes room for a frame that is not held back by windows; a peer that makes us say much and reads nothing is
// given up.
func (c *Conn) control(n int) {
	c.reserve(n)
	c.touch()
	if len(c.out)-c.outOff > c.outMost {
		c.overflow()
	}
}

// spareOutput is how much control frames may add to the output whatever the client's budget says, in bytes.
const spareOutput = 64 << 10

// overflow takes output beyond the mark into the client's budget, and gives the peer up when there is too much of it.
func (c *Conn) overflow() {
	n := len(c.out) - c.outOff
	if more := int64(n-c.cfg.OutputMark) - c.outHeld; n <= maxOutput {
		if n <= c.cfg.OutputMark+spareOutput && more > 0 {
			// A client whose streams hold all that it may is no attacker yet.
			c.held += more
			c.budget.add(more)
			c.outHeld += more
			c.outMost = min(maxOutput, c.cfg.OutputMark+int(c.outHeld))
			return
		}
		for _, step := range []int64{outStep, 0} { // as seldom as it can be
			if more+step <= 0 || c.hold(more+step) {
				c.outHeld += max(0, more+step)
				c.outMost = min(maxOutput, c.cfg.OutputMark+int(c.outHeld))
				return
			}
		}
	}
	if c.failed == nil {
		c.failed = &h2.ConnError{Code: h2.EnhanceYourCalm, Reason: "the peer asks much and reads nothing"}
	}
}

// ebb is called when output was taken: what is in the budget for it goes back.
func (c *Conn) ebb() {
	if c.outHeld > 0 && len(c.out)-c.outOff <= c.cfg.OutputMark {
		c.letGo(c.outHeld)
		c.outHeld = 0
		c.outMost = min(maxOutput, c.cfg.OutputMark)
	}
}

// Output is what is to be written, borrowed: valid until the next call of any method. It is final: a carrier may have encrypted it
// before it can say that it was written.
func (c *Conn) Output() []byte {
	c.lastData = lastData{}
	return c.out[c.outOff:]
}

// TakeOutput hands the whole output over to the caller, who writes it and returns it to Env.Buffers. It counts as written.
func (c *Conn) TakeOutput() []byte {
	b := c.out[c.outOff:]
	c.out, c.outOff = nil, 0
	c.ebb()
	return b
}

// Advance says that the first n bytes of Output were written.
func (c *Conn) Advance(n int) {
	c.outOff += n
	if c.outOff == len(c.out) {
		c.env.Buffers.Put(c.out)
		c.out, c.outOff = nil, 0
	}
	c.ebb()
}

// Written is how many bytes of output have been written since the connection began.
func (c *Conn) Written() int64 { return c.total - int64(len(c.out)-c.outOff) }

// Appended is how many bytes of output there have been since the connection began.
func (c *Conn) Appended() int64 { return c.total }
