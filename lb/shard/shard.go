// Package shard owns the lock domain of the data plane: a mutex over some downstream connections and their own upstream
// connections, and what those share (interner, buffers, read buffer, clock, timers); it must not know what a call is.
//
// Whoever touches a connection of a shard does so between Enter and Leave. Nothing in between blocks, calls out of the
// process's own memory (but for non-blocking reads and writes of sockets), or takes another lock. What was dirtied is flushed
// at the end of a round, with one non-blocking write for each connection: by Leave at once, by LeaveBatch for several
// readers together.
package shard

import (
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
	// BeforeFlush is called before a flush when Due was called since the last one.
	BeforeFlush func()
	// AfterFlush is called after a flush when Timed was called since the last one, with the time of the flush's end.
	AfterFlush func(now int64)

	epoch   time.Time // set once
	now     int64
	round   uint64
	batches int // read batches in this round
	paying  int // how well it has paid lately to wait for others before a flush
	timed   bool
	due     bool
	again   bool // somebody comes to flush once more
	flushed [spans]int64
	rnd     *rand.PCG
	read    []byte
	sealed  []byte
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
	s.Env.Now = s.now
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
	if len(s.Env.Dirty) == 0 && !s.due || s.paying == 0 && s.round%probe != 0 {
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
	if s.due {
		s.BeforeFlush()
		s.due = false
	}
	for i := 0; i < len(s.Env.Dirty); i++ { // flushing one may dirty another
		s.Env.Dirty[i].Flush()
	}
	clear(s.Env.Dirty)
	s.Env.Dirty = s.Env.Dirty[:0]
	if s.due { // a connection that ended in its flush asked for it
		s.Again()
	}
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

// Due asks for BeforeFlush at the end of this round.
func (s *Shard) Due() { s.due = true }

// Again asks for BeforeFlush in a further round, soon, once others who wait for the shard have had it. For BeforeFlush.
func (s *Shard) Again() {
	if s.again {
		return
	}
	s.again = true
	go func() {
		runtime.Gosched() // a new goroutine would run before those that are ready
		s.Enter()
		s.again, s.due = false, true
		s.Leave()
	}()
}

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

// SealedBuffer is the shard's one buffer for what is read of connections over TLS, before it is decrypted into the ReadBuffer.
func (s *Shard) SealedBuffer() []byte {
	if s.sealed == nil {
		s.sealed = make([]byte, ReadChunk)
	}
	return s.sealed
}
