package forward

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
)

// Forwarder carries the calls of one shard. Guarded by the shard.
type Forwarder struct {
	shard *shard.Shard                // set once
	log   *slog.Logger                // set once
	tel   *telemetry.Telemetry        // set once
	rec   *telemetry.Recorder         // set once
	gen   *atomic.Pointer[Generation] // set once

	live         Call // ring of the calls under way
	nLive        int
	started      uint64 // calls ever
	free         []*Call
	freeAttempts []*Attempt
	done         []*Call        // finished in this batch
	fresh        []*Down        // clients that have fresh calls, each once
	scratch      []*hpack.Field // the block that is being put together
	made         []*hpack.Field // fields in scratch that we interned for it
	conns        map[*Down]struct{}
	held         session.Total // what all clients make us hold

	// lookupField serves telemetry's reads of request headers without a closure per call.
	cur         *Call
	lookupField func(name string) string
	wholeField  func(name string) string
	anyField    func(name string) (value string, there bool) // the same
	setField    func(name, value string)
	eachField   func(yield func(name, value string) bool) // the same
	query       gate.Request                              // of the call that knocks
	statusOK    *hpack.Field                              // :status 200
	contentType *hpack.Field                              // application/grpc
	record      telemetry.Finish
	suggested   uint64 // the batch in which a nearest method was last looked for

	lastGiven   time.Duration // see timeoutField
	lastTimeout *hpack.Field

	replaying int64             // bytes of requests kept for another attempt
	queues    map[string]*queue // by cluster; only those that somebody waits in
	queued    int               // in all of them
	poll      shard.Timer
	serving   bool     // queues are being served
	wakes     []string // clusters that want it meanwhile
	polling   bool     // each call in them is looked at
	serves    uint64   // how often any was

	// The question to the picker that is being asked, and what it met.
	ask        balance.Ask
	asker      *Call
	isClosed   func(member int) bool
	full, shut bool

	shedding func() (why string, pushback time.Duration) // set once; may be nil
	tripped  func(cluster, address string)               // set once: outlier detection wants to look at an endpoint now
	book     *decision.Book                              // set once
}

// Options are what a forwarder works with beside its shard.
type Options struct {
	// Shedding says why no new calls are taken at the moment, and when it is worth trying again; "": they are. Nil: always. It is
	// called for every call, and must not block.
	Shedding func() (why string, pushback time.Duration)
	// Tripped is told, inside the shard, of an endpoint that failed too often in a row: it must not block.
	Tripped func(cluster, address string)
	// Book takes the records of finished calls; nil: a small one of its own.
	Book *decision.Book
}

// maxFreeCalls bounds what an idle shard keeps.
const maxFreeCalls = 4096

// New returns the forwarder of a shard; gen is read once per call.
func New(s *shard.Shard, gen *atomic.Pointer[Generation], tel *telemetry.Telemetry, log *slog.Logger, o Options) *Forwarder {
	f := &Forwarder{shard: s, log: log, tel: tel, rec: tel.NewRecorder(Lock(s)), gen: gen, conns: map[*Down]struct{}{}, queues: map[string]*queue{},
		shedding: o.Shedding, tripped: o.Tripped, book: o.Book}
	if f.tripped == nil {
		f.tripped = func(string, string) {}
	}
	if f.book == nil {
		f.book = decision.NewBook(1, 1, 0, Lock(s))
	}
	f.isClosed, f.poll.Do = f.closed, f.pollQueues
	f.live.next, f.live.prev = &f.live, &f.live
	f.lookupField = func(name string) string {
		for _, h := range f.cur.req {
			if h.Name == name {
				return h.Value
			}
		}
		return ""
	}
	f.wholeField = func(name string) string {
		value, _ := f.cur.whole(name)
		return value
	}
	f.anyField = func(name string) (string, bool) { return f.cur.whole(name) }
	f.setField = f.override
	f.eachField = func(yield func(name, value string) bool) {
		for _, h := range f.cur.req {
			if h.Flags&hpack.Pseudo == 0 && !yield(h.Name, h.Value) {
				return
			}
		}
	}
	f.statusOK = s.Env.Interner.Intern(":status", "200")
	f.contentType = s.Env.Interner.Intern("content-type", "application/grpc")
	s.BeforeFlush, s.AfterFlush = f.beginFresh, f.afterFlush
	return f
}

// Lock is a shard's lock for those who only look: nothing is flushed.
func Lock(s *shard.Shard) sync.Locker { return lockOf{s} }

type lockOf struct{ s *shard.Shard }

func (l lockOf) Lock()   { l.s.Lock() }
func (l lockOf) Unlock() { l.s.Unlock() }

func (f *Forwarder) newCall() *Call {
	var c *Call
	if n := len(f.free); n > 0 {
		c = f.free[n-1]
		f.free = f.free[:n-1]
	} else {
		c = &Call{f: f}
		c.timer.Do = c.ring
	}
	c.prev, c.next = f.live.prev, &f.live
	c.prev.next, c.next.prev = c, c
	f.nLive++
	f.started++
	return c
}

// recycle clears a finished call for the next; slices keep their memory.
func (f *Forwarder) recycle(c *Call) {
	if len(f.free) >= maxFreeCalls {
		return
	}
	for _, a := range c.attempts {
		f.forget(a)
	}
	clear(c.attempts)
	*c = Call{f: f, timer: c.timer, req: c.req[:0], attempts: c.attempts[:0], notes: c.notes[:0], inject: c.inject[:0], ticket: c.ticket + 1}
	f.free = append(f.free, c)
}

// SetTotal bounds what all clients of the shard may make us hold together, in bytes; 0: no limit. Inside the shard.
func (f *Forwarder) SetTotal(most int64) { f.held.Max = most }

// Live is how many calls are under way. Inside the shard, or for a glance.
func (f *Forwarder) Live() int { return f.nLive }

// Started is how many calls there have been.
func (f *Forwarder) Started() uint64 { return f.started }

// EachDown calls do for every downstream connection. Inside the shard.
func (f *Forwarder) EachDown(do func(*Down)) {
	for d := range f.conns {
		do(d)
	}
}
