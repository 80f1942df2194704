package forward

import (
	"fmt"
	"math"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
)

// queue is the calls of one cluster and shard that wait for a place, or with waitForReady for an endpoint, in the order in
// which they came. Guarded by the shard.
type queue struct {
	cluster string
	line
	n int
}

// line is calls in the order in which they came; a call stands in one at most. Guarded by the shard.
type line struct{ first, last *Call }

func (l *line) push(c *Call) {
	if c.qprev = l.last; l.last != nil {
		l.last.qnext = c
	} else {
		l.first = c
	}
	l.last = c
}

func (l *line) remove(c *Call) {
	if c.qprev != nil {
		c.qprev.qnext = c.qnext
	} else {
		l.first = c.qnext
	}
	if c.qnext != nil {
		c.qnext.qprev = c.qprev
	} else {
		l.last = c.qprev
	}
	c.qprev, c.qnext = nil, nil
}

// pollWait is how often queues are looked at beside the moments when this shard itself gives a place back: places come from
// other shards, too, and endpoints from elsewhere.
const pollWait = int64(5 * time.Millisecond)

// await has the call wait for a place, or refuses it.
func (c *Call) await(why *full) {
	r, f := c.rules, c.f
	c.note(decision.Note{Kind: why.kind, Name: why.name, A: why.inUse, B: why.limit, Refused: r.Cluster.Concurrency.MaxPending == 0})
	if most := r.Cluster.Concurrency.MaxPending; most == 0 || !r.Cluster.Enqueue(most) {
		by := telemetry.LimitConcurrency
		switch {
		case most > 0:
			by = telemetry.LimitQueue
		case why.kind == decision.NoteAdaptive:
			by = telemetry.LimitAdaptive
		}
		f.rec.Limited(r.Cluster.Name, by)
		text := fmt.Sprintf("%s is full: %d calls at once of at most %d", why.name, why.inUse, why.limit)
		if most > 0 {
			c.note(decision.Note{Kind: decision.NoteQueue, Name: r.Cluster.Name, A: int64(r.Cluster.Pending()), B: int64(most), Refused: true})
			text += fmt.Sprintf(", and its queue of %d, too", most)
		}
		c.refuse(refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, reason: "CONCURRENCY_LIMIT", message: text + " (" + why.key + ")"})
		return
	}
	c.join(int64(r.Cluster.Concurrency.PendingTimeout))
}

// join puts the call at the end of its cluster's queue. It has been counted by Enqueue.
func (c *Call) join(patience int64) {
	f := c.f
	name := c.rules.Cluster.Name
	q := f.queues[name]
	if q == nil {
		q = &queue{cluster: name}
		f.queues[name] = q
	}
	c.queue, c.queuedAt = q, f.shard.Now()
	c.hedgeAt = 0 // it is planned anew when there is something to hedge
	q.push(c)
	q.n++
	f.queued++
	if patience > 0 && patience < math.MaxInt64/2 {
		c.queueEnd = f.shard.Now() + patience
		c.alarm(c.queueEnd)
	}
	if !f.poll.Pending() {
		f.shard.Timer.Set(&f.poll, f.shard.Now()+pollWait)
	}
}

// leaveQueue takes the call out of its queue, if it is in one.
func (c *Call) leaveQueue() {
	q := c.queue
	if q == nil {
		return
	}
	q.remove(c)
	c.queue, c.queueEnd = nil, 0
	waited := c.f.shard.Now() - c.queuedAt
	q.n--
	c.f.queued--
	if q.n == 0 {
		delete(c.f.queues, q.cluster)
	}
	c.rules.Cluster.Dequeue()
	c.note(decision.Note{Kind: decision.NoteQueue, Name: q.cluster, A: int64(q.n), B: int64(c.rules.Cluster.Concurrency.MaxPending), Wait: time.Duration(waited)})
}

// overflow refuses a call that waited too long.
func (c *Call) overflow(how string) {
	c.stopWaiting()
	c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitQueue)
	c.refuse(refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeUpstreamOverflow, reason: "QUEUE_TIMEOUT",
		message: fmt.Sprintf("no place became free in cluster %s: the call %s (trunkline.cluster.concurrency.pendingTimeout)", c.rules.Cluster.Name, how)})
}

// wake lets those go on for whom there is a place now.
func (f *Forwarder) wake(cluster string) {
	if f.serving {
		f.wakes = append(f.wakes, cluster)
		return
	}
	f.serving = true
	f.serve(cluster)
	for len(f.wakes) > 0 {
		next := f.wakes[len(f.wakes)-1]
		f.wakes = f.wakes[:len(f.wakes)-1]
		f.serve(next)
	}
	f.serving = false
}

func (f *Forwarder) serve(cluster string) {
	q := f.queues[cluster]
	if q == nil {
		return
	}
	f.serves++
	looks, misses := maxLooks, maxMisses
	for c := q.first; c != nil && (looks > 0 || f.polling) && misses > 0; looks-- {
		next := c.qnext // nobody but c leaves the queue meanwhile: wake is not entered twice
		c.renew()
		if c.d.Sess.Failed() == nil && c.e.lacked != f.serves && !c.tryAgain() {
			if r := c.rules; r.Cluster.Streams != nil && c.permits&permitCluster == 0 && (r.Streams == nil || c.permits&permitMethod != 0) {
				break // the cluster is full for all
			}
			c.e.lacked = f.serves // other methods may have other endpoints, breakers and limits
			misses--
		}
		c = next
	}
}

// maxLooks bounds how far a queue is searched each time a place is given back; all of it is looked at when it is polled. maxMisses
// bounds the methods that are tried in vain: a client can invent names.
const (
	maxLooks  = 32
	maxMisses = 256
)

// renew has a waiting call see the newest generation.
func (c *Call) renew() {
	f := c.f
	if g := f.gen.Load(); g != c.gen && g != c.newest && c.countable() == 0 && c.path != nil {
		c.newest = g
		// It has met nobody yet: what became known meanwhile is for it, too.
		if e := f.lookup(g, c.path, c.auth); e != nil && e.rules.Cluster.Name == c.rules.Cluster.Name {
			c.giveUpPlaces()          // they may be of limits that hold no more
			c.rules.Cluster.Dequeue() // a cluster that was gone meanwhile counts anew
			e.rules.Cluster.Enqueue(math.MaxInt)
			c.gen, c.e = g, e
			c.obey(e.rules)
		}
	}
}

// tryAgain places a waiting call if that can be done now.
func (c *Call) tryAgain() bool {
	f := c.f
	f.shard.Timed()
	if c.permit() != nil {
		return false
	}
	p := f.pick(c)
	if p.ep == nil {
		return false
	}
	c.leaveQueue()
	kind := decision.First
	if len(c.attempts) > 0 {
		kind = decision.Redispatch
	}
	c.placeAt(p, kind)
	return true
}

// pollQueues is the timer's: see pollWait.
func (f *Forwarder) pollQueues() {
	f.polling = true
	for name := range f.queues {
		f.wake(name)
	}
	f.polling = false
	if f.queued > 0 {
		f.shard.Timer.Set(&f.poll, f.shard.Now()+pollWait)
	}
}

// maxReadyWaiters bounds the calls of a cluster that wait for an endpoint (waitForReady), where the policy does not say.
const maxReadyWaiters = 10000

// nobody deals with a call for which no endpoint could be picked.
func (c *Call) nobody(p picked) {
	r := c.rules
	conc := &r.Cluster.Concurrency
	switch {
	case c.countable() > 0: // it was tried elsewhere: what came of that is told
	case p.reason == balance.ReasonAllClosed && p.sawFull && conc.MaxPending > 0 && r.Cluster.Enqueue(conc.MaxPending):
		c.join(int64(conc.PendingTimeout))
		return
	case r.WaitForReady && r.Cluster.Enqueue(max(conc.MaxPending, maxReadyWaiters)):
		c.join(0) // until the deadline (gRPC, "Wait for Ready Semantics")
		return
	}
	c.refuse(c.noEndpoint(p))
}
