// Package shard owns the lock domain of the data plane: a mutex over some downstream connections and their own upstream
// connections, and what those share (interner, buffers, read buffer, clock, timers); it must not know what a call is.
//
// Whoever touches a connection of a shard does so between Enter and Leave. Nothing in between blocks, calls out of the
// process's own memory (but for non-blocking reads and writes of sockets), or takes another lock. What was dirtied is flushed
// at the end of a round, with one non-blocking write for each connection: by Leave at once, by LeaveBatch for several
// readers together.
package shard

import (
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
)

// ReadChunk is how many bytes one read may bring: large reads are what makes bulk transfers cheap.
const ReadChunk = 256 << 10

const spans = 1024 // rounds whose flush is remembered

// Shard is one lock domain.
type Shard struct {
	ID int // set once

	mu sync.Mutex

	// The rest is guarded by mu.

	Env   session.Env
	Timer Wheel
	// AfterFlush is called after a flush when Timed was called since the last one, with the time of the flush's end.
	AfterFlush func(now int64)

	epoch   time.Time // set once
	now     int64
	round   uint64
	batches int // read batches in this round
	paying  int // how well it has paid lately to wait for others before a flush
	timed   bool
	flushed [spans]int64
	rnd     *rand.PCG
	read    []byte
	conns   uint64
}

// New returns shard number id. The seed makes its random choices reproducible in tests.
func New(id int, epoch time.Time, seed uint64) *Shard {
	s := &Shard{ID: id, epoch: epoch, round: 1, rnd: rand.NewPCG(seed, uint64(id))}
	s.Env.Interner = hpack.NewInterner()
	s.Timer.init(s)
	return s
}

// Enter takes the lock and the time.
func (s *Shard) Enter() {
	s.mu.Lock()
	s.Tick()
}

// Tick begins a batch, for who has the lock already: a reader knows only after its read whether there is one.
func (s *Shard) Tick() {
	s.now = s.Clock()
	s.batches++
}

// Leave flushes what was dirtied and gives the lock back.
func (s *Shard) Leave() {
	s.flush()
	s.mu.Unlock()
}

// LeaveBatch is Leave for a reader that has consumed a batch: where other readers are about to run, as on a busy shard, it
// lets them go first, and one of them flushes for all. A write costs more than all the rest of a small call: this makes
// few large ones of many small ones. Where nobody else is ready it costs nothing: it is tried only where it paid lately,
// and now and then.
func (s *Shard) LeaveBatch() {
	if len(s.Env.Dirty) == 0 || s.paying == 0 && s.round%probe != 0 {
		s.Leave()
		return
	}
	round := s.round
	s.mu.Unlock()
	runtime.Gosched()
	s.mu.Lock()
	if s.round == round {
		s.flush()
	}
	s.mu.Unlock()
}

// How LeaveBatch learns: a flush that served several batches counts for maxPaying that did not; every probe'th is tried anyhow.
const (
	maxPaying = 16
	probe     = 32
)

// flush writes what every dirty connection has to say, and ends the round.
func (s *Shard) flush() {
	for i := 0; i < len(s.Env.Dirty); i++ { // flushing one may dirty another
		s.Env.Dirty[i].Flush()
	}
	clear(s.Env.Dirty)
	s.Env.Dirty = s.Env.Dirty[:0]
	if s.batches > 1 {
		s.paying = maxPaying
	} else if s.paying > 0 {
		s.paying--
	}
	s.batches = 0
	if s.timed {
		s.timed = false
		end := s.Clock()
		s.flushed[s.round%spans] = end
		s.AfterFlush(end)
	}
	s.round++
}

// Lock and Unlock are for those who only look (metrics, admin): nothing is flushed.
func (s *Shard) Lock() { s.mu.Lock() }

// Unlock gives the lock back.
func (s *Shard) Unlock() { s.mu.Unlock() }

// Clock is the time now in nanoseconds since the process began, monotonic. It needs no lock.
func (s *Shard) Clock() int64 { return int64(time.Since(s.epoch)) }

// Now is the time of the last Enter or Tick: one clock reading for a whole batch.
func (s *Shard) Now() int64 { return s.now }

// Wall converts a time of this shard to the calendar's.
func (s *Shard) Wall(at int64) time.Time { return s.epoch.Add(time.Duration(at)) }

// Round is the number of the current round: what is done between two flushes.
func (s *Shard) Round() uint64 { return s.round }

// Timed asks for AfterFlush at the end of this round, and for its time to be kept.
func (s *Shard) Timed() { s.timed = true }

// FlushedAt is when round r was flushed; 0 if it was not timed or is long forgotten.
func (s *Shard) FlushedAt(r uint64) int64 {
	if s.round-r >= spans {
		return 0
	}
	return s.flushed[r%spans]
}

// ConnID is a fresh number for a connection, unique in the process.
func (s *Shard) ConnID() uint64 {
	s.conns++
	return s.conns<<8 | uint64(s.ID)
}

// Rand is 64 random bits; not for secrets.
func (s *Shard) Rand() uint64 { return s.rnd.Uint64() }

// ReadBuffer is the shard's one read buffer, with room for a partial frame in front of a full read.
func (s *Shard) ReadBuffer() []byte {
	if s.read == nil {
		s.read = make([]byte, ReadChunk+h2.HeaderLen+h2.MinMaxFrameSize)
	}
	return s.read
}

// Wheel holds timers by the millisecond: setting and clearing one is O(1). Two levels: about 4 seconds of millisecond
// slots, and about 36 minutes of coarse ones that are dealt out to the fine ones in their turn.
type Wheel struct {
	shard *Shard
	near  [slots]Timer // list heads
	far   [farSlots]Timer
	used  [slots / 64]uint64
	pos   int64 // the last near slot (absolute number) that has been served
	armed int64 // when the runtime timer will fire; 0 if it is not set
	timer *time.Timer
	n     int
	// firing: timers are being served, slot pos is; what they set is filed after it.
	firing bool
}

const (
	slotBits  = 20 // 1.05 ms
	slots     = 4096
	farSlots  = 512
	slotNanos = 1 << slotBits
)

// Timer is one timer; embed it in what it is for. The zero value is not set. Guarded by the shard.
type Timer struct {
	prev, next *Timer
	at         int64
	slot       int16 // of near; -1 in far
	Do         func()
}

// Pending says whether the timer is set.
func (t *Timer) Pending() bool { return t.next != nil }

func (w *Wheel) init(s *Shard) {
	w.shard = s
	for i := range w.near {
		w.near[i].prev, w.near[i].next = &w.near[i], &w.near[i]
	}
	for i := range w.far {
		w.far[i].prev, w.far[i].next = &w.far[i], &w.far[i]
	}
}

// Set arms t to call t.Do, inside the shard, at time at (nanoseconds, as Now) or up to 2 ms later.
func (w *Wheel) Set(t *Timer, at int64) {
	w.Clear(t)
	if w.n == 0 && !w.firing {
		w.pos = w.shard.now >> slotBits // nothing was waiting: the slots in between are empty
	}
	w.n++
	t.at = at
	w.file(t, w.pos+1)
	w.arm(at)
}

// file puts t into the slot of its time, the slot numbered first at the earliest.
func (w *Wheel) file(t *Timer, first int64) {
	slot := max(t.at>>slotBits+1, first)
	var head *Timer
	if slot < w.pos+slots {
		i := slot % slots
		head, t.slot = &w.near[i], int16(i)
		w.used[i/64] |= 1 << (i % 64)
	} else {
		// Into the coarse slot that its fine one belongs to, never the present one, which has been dealt out. What is too
		// far for the coarse level, too, will be dealt out again.
		block := min(slot/slots, w.pos/slots+farSlots-1)
		head, t.slot = &w.far[block%farSlots], -1
	}
	t.prev, t.next = head.prev, head
	t.prev.next, head.prev = t, t
}

// Clear unsets t, if it is set.
func (w *Wheel) Clear(t *Timer) {
	if t.next == nil {
		return
	}
	w.n--
	w.unlink(t)
}

func (w *Wheel) unlink(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	if t.slot >= 0 && t.prev == t.next && t.prev == &w.near[t.slot] {
		w.used[t.slot/64] &^= 1 << (t.slot % 64)
	}
	t.prev, t.next = nil, nil
}

// arm sees to it that the runtime timer fires at or before at.
func (w *Wheel) arm(at int64) {
	at += slotNanos // the slot is served when it has passed
	if w.armed != 0 && w.armed <= at {
		return
	}
	w.armed = at
	d := time.Duration(max(0, at-w.shard.now))
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.fire)
		return
	}
	w.timer.Reset(d)
}

// Stop ends the wheel's runtime timer; timers that are set never fire.
func (w *Wheel) Stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.armed = 1 // never armed again
}

func (w *Wheel) fire() {
	s := w.shard
	s.Enter()
	defer s.Leave()
	if w.armed == 1 {
		return
	}
	w.armed = 0
	target := s.now >> slotBits
	w.firing = true
	for w.n > 0 {
		next := w.next()
		if next > target {
			break
		}
		w.pos = next
		if w.pos%slots == 0 {
			w.deal()
		}
		w.serve(&w.near[w.pos%slots])
	}
	w.firing = false
	if w.n == 0 {
		return
	}
	w.arm(w.next() << slotBits)
}

// deal moves the coarse slot that begins now to the fine level.
func (w *Wheel) deal() {
	head := &w.far[(w.pos/slots)%farSlots]
	t := head.next
	head.prev, head.next = head, head
	for t != head {
		next := t.next
		t.prev, t.next = nil, nil
		w.file(t, w.pos) // the present slot is served after this
		t = next
	}
}

func (w *Wheel) serve(head *Timer) {
	for head.next != head {
		t := head.next
		w.n--
		w.unlink(t)
		t.Do()
	}
}

// next is the number of the next slot with something in it, or of the next one to deal.
func (w *Wheel) next() int64 {
	end := (w.pos/slots + 1) * slots // the coarse slot after this one must be dealt out then
	for p := w.pos + 1; p < w.pos+slots; {
		i := p % slots
		word := w.used[i/64] >> (i % 64)
		if word == 0 {
			p += 64 - i%64
			continue
		}
		if p += int64(bits.TrailingZeros64(word)); p < w.pos+slots {
			return min(p, end)
		}
	}
	return end
}
