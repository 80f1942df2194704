package forward

import (
	"log/slog"
	"sync/atomic"

	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
)

// Forwarder carries the calls of one shard. Guarded by the shard.
type Forwarder struct {
	shard *shard.Shard                // set once
	log   *slog.Logger                // set once
	tel   *telemetry.Telemetry        // set once
	rec   *telemetry.Recorder         // set once
	gen   *atomic.Pointer[Generation] // set once

	live    Call // ring of the calls under way
	nLive   int
	started uint64 // calls ever
	free    []*Call
	done    []*Call        // finished in this batch
	scratch []*hpack.Field // the block that is being put together
	made    []*hpack.Field // fields in scratch that we interned for it
	conns   map[*Down]struct{}

	// lookupField serves telemetry's reads of request headers without a closure per call.
	cur         *Call
	lookupField func(name string) string
	setField    func(name, value string)
	statusOK    *hpack.Field // :status 200
	contentType *hpack.Field // application/grpc
	record      telemetry.Finish
	suggested   uint64 // the batch in which a nearest method was last looked for
}

// maxFreeCalls bounds what an idle shard keeps.
const maxFreeCalls = 4096

// New returns the forwarder of a shard; gen is read once per call.
func New(s *shard.Shard, gen *atomic.Pointer[Generation], tel *telemetry.Telemetry, log *slog.Logger) *Forwarder {
	f := &Forwarder{shard: s, log: log, tel: tel, rec: tel.NewRecorder(lockOf{s}), gen: gen, conns: map[*Down]struct{}{}}
	f.live.next, f.live.prev = &f.live, &f.live
	f.lookupField = func(name string) string {
		for _, h := range f.cur.req {
			if h.Name == name {
				return h.Value
			}
		}
		return ""
	}
	f.setField = f.override
	f.statusOK = s.Env.Interner.Intern(":status", "200")
	f.contentType = s.Env.Interner.Intern("content-type", "application/grpc")
	s.AfterFlush = f.afterFlush
	return f
}

// lockOf makes the recorder look at a shard without flushing it.
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
		c.timer.Do = c.expire
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
	clear(c.tries)
	*c = Call{f: f, timer: c.timer, req: c.req[:0], tries: c.tries[:0]}
	f.free = append(f.free, c)
}

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
