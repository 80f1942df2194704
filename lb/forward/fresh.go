package forward

import (
	"time"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
)

// A call that came is fresh until the end of its round: whatever else its client has said by then is known before anybody is asked
// about the call, or an endpoint picked. A call that is given up, or broken, in the batch that began it reaches no endpoint (rapid
// reset, CVE-2023-44487, and its kin).
//
// Clients take turns: one that begins many calls at once keeps nobody else's waiting. And they start slowly: of a new
// connection's calls only so many are under way at once; each that an endpoint has ended makes that one more, and so does time. An
// endpoint that all clients share is not to be flooded by one of whom nothing is known yet, and who may be cut off in a moment.

// How many fresh calls begin in one round: of one client, and of all. The others' turn is in the next, which others than those who bring calls
// come before.
const (
	turn    = 64
	allTurn = 256
)

// A connection starts with startCalls calls under way, wary one that was accepted so. After each startWait in which fresh ones wait for
// that it may have twice as many if an endpoint has ended any in that time, else startCalls more: a thousand calls at once, none of which
// ends soon, are under way within 100 ms. Calls with a deadline wait for a tenth of their time at most.
const (
	startCalls  = 50
	waryCalls   = 5
	waryStreams = 100      // that such a connection may have in all
	waryChunk   = 16 << 10 // bytes that are read of it at once: what comes after its abuse costs us nothing
	startWait   = int64(5 * time.Millisecond)
	startShare  = 10
	// A client that leaves so many bytes of answers unread gets only startLess more, and so does one to which so many came in that time
	// without that any answer was whole: endpoints are busy with what it has.
	startUnread = 1 << 20
	startBusy   = 128 << 10
	startLess   = 5
)

// Of a client that wastes (see session.Conn.Wasteful) only wastefulTurn calls begin, and then none for startWait: a refusal costs as much as a
// call, with its answer, its record and its line in the log, and a thousand of them in a row would be felt by everybody else. It can still
// waste more than it gains, and be cut off, by default.
const wastefulTurn = 8

// How much request data, in bytes, has a fresh call begin without waiting for its turn.
const (
	largeBody  = 2 << 10 // of one frame: copying it would cost more than a look at what comes after it is worth
	freshBytes = 1 << 20 // of all fresh calls of the client: what is held of them must not come near its budget
)

// fresh is the calls of a client that came and have not begun, in their order. Guarded by the shard.
type fresh struct {
	line
	listed   bool   // the client stands in Forwarder.fresh
	round    uint64 // in which it began calls last
	begun    int    // how many, in that round
	few      int    // begun since it was known to waste
	pause    int64  // until when nothing begins, of a client that wastes
	bytes    int    // of request data that its calls have brought
	counted  int    // calls that began and have not ended
	most     int    // how many of them there may be
	progress bool   // an endpoint has ended one since the last moreFresh
	came     int    // bytes of answers since then
	more     shard.Timer
}

// later has the call begin at the end of the round.
func (c *Call) later() {
	d := c.d
	q := &d.fresh
	c.fresh = true
	q.push(c)
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
	q.remove(c)
}

// due says whether the first of the calls may begin.
func (q *fresh) due() bool { return q.first != nil && (q.counted < q.most || q.bytes > freshBytes) }

// grown counts n more bytes of a fresh call's request, and begins calls if that is better than to hold them.
func (c *Call) grown(n int) {
	d := c.d
	q := &d.fresh
	q.bytes += n
	if alone := q.first == c && q.last == c; alone && n >= largeBody && q.counted < q.most && d.mayBegin() {
		c.begin()
	}
	for q.bytes > freshBytes && q.first != nil && d.mayBegin() {
		q.first.begin()
	}
}

// mayBegin takes one of the client's begins in this round.
func (d *Down) mayBegin() bool {
	q := &d.fresh
	if round := d.f.shard.Round(); q.round != round {
		q.round, q.begun = round, 0
	}
	q.begun++
	return q.begun <= turn && !d.pausing()
}

// pausing says whether the client has to wait because what it does leads to nothing. Whose calls bring so much that it cannot be held pays by that.
func (d *Down) pausing() bool {
	q := &d.fresh
	switch now := d.f.shard.Now(); {
	case q.bytes > freshBytes:
		return false
	case now < q.pause:
		return true
	case !d.Sess.Wasteful():
		q.few = 0
		return false
	default:
		if q.few++; q.few > wastefulTurn {
			q.few, q.pause = 0, now+startWait
		}
		return now < q.pause
	}
}

// begin goes on with a fresh call.
func (c *Call) begin() {
	c.notFresh()
	c.counted = true
	c.d.fresh.counted++
	c.f.shard.Timed()
	if g := c.f.gen.Load(); g != c.gen {
		if c.reroute(g); c.down == nil {
			return
		}
	}
	c.knock()
}

// reroute has a call that met nobody yet see another generation: what is in no generation any more (an endpoint, a gate) must not be met. How
// long it may take stays as it was.
func (c *Call) reroute(g *Generation) {
	f := c.f
	request, end := c.replay, c.ended
	c.replay = nil
	if w := c.watch; w != nil {
		request, end, w.buf = w.buf, w.end, nil
		c.dropWatch()
	} else {
		f.replaying -= int64(len(request))
	}
	c.d.Budget.Release(int64(len(request)))
	c.gen, c.ended = g, end
	c.strip()
	if c.e = nil; c.path != nil && c.field(":method") != "CONNECT" {
		c.e = f.lookup(g, c.path, c.auth)
	}
	if c.e == nil {
		c.rules, c.late, c.deadline, c.idle = nil, nil, 0, 0
		f.shard.Env.Buffers.Put(request)
		return
	}
	if c.e.stats != c.stats {
		f.rec.Rename(c.stats, c.e.stats)
		c.stats = c.e.stats
	}
	if c.rules = c.e.rules; c.look(end) {
		c.ended = end && len(request) == 0
		c.watch.take(request, end)
	} else {
		c.keep(request)
	}
	f.shard.Env.Buffers.Put(request)
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
		q.progress = true
	}
	if !c.wasted {
		c.d.isUsed() // by a reply of ours, too: a client is not to blame that no endpoint is there
	}
	if q.first != nil {
		c.d.list()
	}
}

// moreFresh lets more calls begin though those before them have not ended.
func (d *Down) moreFresh() {
	q := &d.fresh
	if q.first == nil {
		return
	}
	if q.due() { // it has paused: not for too many calls under way
		d.list()
		return
	}
	switch unread := d.unread() >= startUnread; {
	case q.progress && !unread:
		q.most *= 2
	case unread || q.came >= startBusy:
		q.most += startLess
	default:
		q.most += startCalls
	}
	q.progress, q.came = false, 0
	now, late := d.f.shard.Now(), 0
	for c := q.first; c != nil; c = c.qnext {
		if c.deadline != 0 && now-c.arrived >= (c.deadline-c.arrived)/startShare {
			late++
		}
	}
	q.most = max(q.most, q.counted+late)
	d.list()
}

// unread is how many bytes wait for the client to take them.
func (d *Down) unread() int {
	n := len(d.Sess.Output())
	d.Sess.EachStream(func(s *session.Stream) { n += s.Held() })
	return n
}

// beginFresh begins the calls whose round ends, as many as have their turn.
func (f *Forwarder) beginFresh() {
	i, n, left := 0, len(f.fresh), allTurn
	for ; i < n && left > 0; i++ {
		d := f.fresh[i]
		q := &d.fresh
		for left > 0 && q.due() && d.Sess.Failed() == nil && d.mayBegin() {
			q.first.begin()
			left--
		}
		switch q.listed = false; {
		case q.first == nil || d.Sess.Failed() != nil:
		case q.due() && (q.pause <= f.shard.Now() || q.bytes > freshBytes):
			q.listed = true
			f.fresh = append(f.fresh, d)
		case !q.more.Pending():
			f.shard.Timer.Set(&q.more, f.shard.Now()+startWait)
		}
	}
	rest := copy(f.fresh, f.fresh[i:])
	clear(f.fresh[rest:])
	if f.fresh = f.fresh[:rest]; rest > 0 {
		f.shard.Again()
	}
}
