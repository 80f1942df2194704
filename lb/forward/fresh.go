package forward

import (
	"time"

	"github.com/trunkline/trunkline/lb/shard"
)

// A call that came is fresh until the end of its round: whatever else its client has said by then is known before anybody is asked
// about the call, or an endpoint picked. A call that is given up, or broken, in the batch that began it reaches no endpoint (rapid
// reset, CVE-2023-44487, and its kin).
//
// Clients take turns: one that begins many calls at once keeps nobody else's waiting. And they start slowly: of a new
// connection's calls only so many are under way at once; each that an endpoint has ended makes that one more, and so does time. An
// endpoint that all clients share is not to be flooded by one of whom nothing is known yet, and who may be cut off in a moment.

// turn is how many of its fresh calls a client may begin before others have theirs.
const turn = 64

// A connection starts with startCalls calls under way, wary one that was accepted so, and may have startCalls more after each startWait
// while fresh ones wait for that: a thousand calls at once, none of which ends soon, are under way within 200 ms.
const (
	startCalls = 50
	waryCalls  = 5
	// waryStreams is how many streams such a connection may have in all.
	waryStreams = 100
	startWait   = int64(10 * time.Millisecond)
	// A client that lets so many bytes of answers wait gets only startLess more.
	startHeld = 1 << 20
	startLess = 10
)

// How much request data, in bytes, has a fresh call begin without waiting for its turn.
const (
	largeBody  = 2 << 10 // of one frame: copying it would cost more than a look at what comes after it is worth
	freshBytes = 1 << 20 // of all fresh calls of the client: what is held of them must not come near its budget
)

// fresh is the calls of a client that came and have not begun, in their order. Guarded by the shard.
type fresh struct {
	first, last *Call
	listed      bool   // the client stands in Forwarder.fresh
	round       uint64 // in which it began calls last
	begun       int    // how many, in that round
	bytes       int    // of request data that its calls have brought
	counted     int    // calls that began and have not ended
	most        int    // how many of them there may be
	more        shard.Timer
}

// later has the call begin at the end of the round.
func (c *Call) later() {
	d := c.d
	q := &d.fresh
	c.fresh = true
	if c.qprev = q.last; q.last != nil {
		q.last.qnext = c
	} else {
		q.first = c
	}
	q.last = c
	d.list()
}

// list has the client's fresh calls looked at in the end of the round.
func (d *Down) list() {
	if !d.fresh.listed {
		d.fresh.listed = true
		d.f.fresh = append(d.f.fresh, d)
	}
	d.f.shard.Due()
}

// notFresh takes the call out of its client's list, if it is there.
func (c *Call) notFresh() {
	if !c.fresh {
		return
	}
	q := &c.d.fresh
	c.fresh = false
	q.bytes -= int(c.bytesIn)
	if c.qprev != nil {
		c.qprev.qnext = c.qnext
	} else {
		q.first = c.qnext
	}
	if c.qnext != nil {
		c.qnext.qprev = c.qprev
	} else {
		q.last = c.qprev
	}
	c.qprev, c.qnext = nil, nil
}

// grown counts n more bytes of a fresh call's request, and begins the call if that is better than to hold them.
func (c *Call) grown(n int) {
	q := &c.d.fresh
	q.bytes += n
	alone := q.first == c && q.last == c
	if q.bytes > freshBytes || n >= largeBody && alone && q.counted < q.most && c.d.mayBegin() {
		c.begin()
	}
}

// mayBegin takes one of the client's begins in this round.
func (d *Down) mayBegin() bool {
	q := &d.fresh
	if round := d.f.shard.Round(); q.round != round {
		q.round, q.begun = round, 0
	}
	q.begun++
	return q.begun <= turn
}

// begin goes on with a fresh call.
func (c *Call) begin() {
	c.notFresh()
	c.counted = true
	c.d.fresh.counted++
	c.f.shard.Timed()
	c.knock()
}

// hasEnded counts the end of a call.
func (c *Call) hasEnded() {
	if !c.counted {
		return
	}
	c.counted = false
	q := &c.d.fresh
	q.counted--
	if c.complete && !c.local {
		q.most++
	}
	if q.first != nil {
		c.d.list()
	}
}

// moreFresh lets more calls begin though those before them have not ended.
func (d *Down) moreFresh() {
	if d.fresh.first == nil {
		return
	}
	if d.Budget.Held < startHeld {
		d.fresh.most += startCalls
	} else {
		d.fresh.most += startLess
	}
	d.list()
}

// beginFresh begins the calls whose round ends, as many of each client as have their turn. The others' is in the next round.
func (f *Forwarder) beginFresh() {
	n := len(f.fresh)
	for i := range n {
		d := f.fresh[i]
		q := &d.fresh
		for q.first != nil && q.counted < q.most && d.Sess.Failed() == nil && d.mayBegin() {
			q.first.begin()
		}
		switch q.listed = false; {
		case q.first == nil || d.Sess.Failed() != nil:
		case q.counted < q.most:
			q.listed = true
			f.fresh = append(f.fresh, d)
		case !q.more.Pending():
			f.shard.Timer.Set(&q.more, f.shard.Now()+startWait)
		}
	}
	rest := copy(f.fresh, f.fresh[n:])
	clear(f.fresh[rest:])
	f.fresh = f.fresh[:rest]
	if rest > 0 {
		f.shard.Again()
	}
}
