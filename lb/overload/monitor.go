// Package overload owns watching this process' own memory and CPU, and saying in one atomic load whether new calls are to be
// refused; it must not refuse them itself, nor decide what too short is: that is policy/overload.
package overload

import (
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/policy/overload"
)

// Every is how often the process is looked at.
const Every = 100 * time.Millisecond

// Reason is why new calls are to be refused. Immutable.
type Reason struct {
	Short    overload.Kind
	Why      string        // in words, with figures and the config key
	Pushback time.Duration // to be told to who is refused
	Since    time.Time
}

// Status is the last look, for people and metrics. Immutable.
type Status struct {
	Facts       overload.Facts
	MemoryBytes uint64 // the limit that is in force; 0: none
	MemoryFrom  string // who set it: "overload.memoryBytes", "GOMEMLIMIT", a cgroup's file; "" if none
	Collections uint64 // garbage collections that were asked for to learn the truth, since Start
	Reason      *Reason
}

// Monitor looks at the process in a goroutine of its own until Stop.
type Monitor struct {
	shedding atomic.Pointer[Reason] // atomic
	status   atomic.Pointer[Status] // atomic
	once     sync.Once
	stop     chan struct{} // set once in start
	stopped  chan struct{} // set once in start
}

// Start begins to look. settings is asked at every look, from the monitor's goroutine, so that a reload counts at once.
func Start(log *slog.Logger, settings func() overload.Settings) *Monitor {
	return start(&watch{
		// A ticker that nobody reads any more is the collector's.
		log: log, settings: settings, tick: time.NewTicker(Every).C,
		read: newReader().read, collect: runtime.GC, limit: func() (uint64, string) { return memoryLimit(os.DirFS("/")) },
	})
}

// Shedding is nil while new calls may be taken, else why not. One atomic load.
func (m *Monitor) Shedding() *Reason { return m.shedding.Load() }

// Status is the last look; the zero Status before the first.
func (m *Monitor) Status() Status {
	if s := m.status.Load(); s != nil {
		return *s
	}
	return Status{}
}

// Stop ends it and returns when its goroutine has ended. Nothing is refused any more.
func (m *Monitor) Stop() {
	m.once.Do(func() { close(m.stop) })
	<-m.stopped
	m.shedding.Store(nil)
}

// watch is the monitor's goroutine. What reads the world is a field, for the tests. Owned by its goroutine.
type watch struct {
	log      *slog.Logger
	settings func() overload.Settings
	tick     <-chan time.Time
	read     func() reading
	collect  func()
	limit    func() (bytes uint64, from string) // what the process may use if the config does not say

	judge overload.Judge
	last  reading

	limitBytes  uint64
	limitFrom   string
	limitAsked  time.Time
	collected   time.Time // when the last collection was seen or asked for
	cycles      uint64
	asked       bool // the last collection was our wish
	pause       time.Duration
	collections uint64
}

// reading is what was read at one moment. CPU time and cycles count since the process began, queue since the last reading.
type reading struct {
	at     time.Time
	kept   uint64 // bytes that a collection would not free, as of the last one
	used   uint64 // bytes in use, garbage included
	cycles uint64 // collections
	cpu    time.Duration
	cores  int
	queue  time.Duration
}

const (
	limitEvery  = 10 * time.Second // a container's limit can be changed while it runs
	pauseShort  = time.Second      // between collections that we ask for
	pauseLong   = 10 * time.Second // the same, where the last one did not help
	defPushback = time.Second
)

func start(w *watch) *Monitor {
	m := &Monitor{stop: make(chan struct{}), stopped: make(chan struct{})}
	w.last = w.read()
	w.pause = pauseShort
	go func() {
		defer close(m.stopped)
		for {
			select {
			case <-m.stop:
				return
			case <-w.tick:
				m.look(w)
			}
		}
	}()
	return m
}

func (m *Monitor) look(w *watch) {
	s := w.settings()
	from := "overload.memoryBytes"
	now := w.read()
	if s.MemoryBytes == 0 {
		if w.limitAsked.IsZero() || now.at.Sub(w.limitAsked) >= limitEvery {
			w.limitBytes, w.limitFrom = w.limit()
			w.limitAsked = now.at
		}
		s.MemoryBytes, from = w.limitBytes, w.limitFrom
	}
	now = w.learn(s, now, m.shedding.Load())
	facts := overload.Facts{Memory: now.kept, QueueDelay: now.queue}
	if wall := now.at.Sub(w.last.at); wall > 0 && now.cores > 0 {
		facts.CPUShare = float64(now.cpu-w.last.cpu) / float64(wall) / float64(now.cores)
	}
	w.last = now

	v := w.judge.Judge(s, facts)
	reason := m.shedding.Load()
	switch {
	case v.Short == overload.Nothing:
		if reason != nil {
			w.log.Info("overload is over: new calls are taken again", "was_short_of", reason.Short.String(), "for", now.at.Sub(reason.Since))
		}
		reason = nil
	case reason == nil || reason.Why != v.Why:
		next := &Reason{Short: v.Short, Why: v.Why, Pushback: s.Pushback, Since: now.at}
		if next.Pushback <= 0 {
			next.Pushback = defPushback
		}
		if reason != nil {
			next.Since = reason.Since
		}
		reason = next
		w.log.Warn("overload: new calls are refused", "why", v.Why, "memory_limit_from", from)
	}
	m.shedding.Store(reason)
	m.status.Store(&Status{Facts: facts, MemoryBytes: s.MemoryBytes, MemoryFrom: from, Collections: w.collections, Reason: reason})
}

// learn asks for a garbage collection where only that can tell. What is kept is known as of the last collection, so
// it is out of date in both directions: all that was allocated since may be live (without GOMEMLIMIT the collector waits until
// the heap has doubled, past what a cgroup allows), and once new calls are refused and nothing is allocated no collection
// would come to see that there is room again.
func (w *watch) learn(s overload.Settings, now reading, reason *Reason) reading {
	limit := uint64(s.MemoryShare * float64(s.MemoryBytes))
	if reason != nil && reason.Short == overload.Memory {
		limit = uint64(overload.LeaveAt * float64(limit))
	}
	if now.cycles != w.cycles {
		w.cycles, w.collected = now.cycles, now.at
		w.pause = pauseShort
		if w.asked && now.used >= limit && now.kept < limit {
			w.pause = pauseLong // so much is in use although it is not kept: spans half empty; asking again helps no more
		}
		w.asked = false
	}
	if limit == 0 || now.used < limit || now.at.Sub(w.collected) < w.pause {
		return now
	}
	w.collect()
	w.collections++
	w.asked = true
	queue := now.queue
	now = w.read()
	now.queue = max(queue, now.queue)
	return now
}
