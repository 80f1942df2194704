package breaker

import (
	"sync/atomic"
	"time"
)

// Result is what the end of a call says about the endpoint and the method it went to.
type Result uint8

const (
	Neutral Result = iota // says nothing: the caller's fault, a cancellation, Trunkline's own refusal
	OK                    // the server did its work, whatever the answer
	Fault                 // one of Settings.Faults
)

// State of a breaker.
type State uint8

const (
	StateClosed   State = iota // calls pass
	StateOpen                  // no call passes
	StateHalfOpen              // a counted number of calls pass as probes
)

// String is the state's name as configuration, metrics and the admin API spell it.
func (s State) String() string {
	switch s {
	case StateClosed:
		return "closed"
	case StateOpen:
		return "open"
	case StateHalfOpen:
		return "half_open"
	}
	return "unknown"
}

// Breaker judges whether calls of one method may go to one endpoint. It is shared by all shards: every method may be called
// by any goroutine at any time, none blocks, and none allocates but where the state changes.
//
// The results of calls that were admitted while it was closed and end while it is not are dropped: they tell of the time
// before it opened. Done cannot tell such a call from a new one once the breaker is closed again; then it counts.
type Breaker struct {
	phase atomic.Pointer[phase] // atomic; nil: closed
	s     Settings              // set once in New, defaults filled in
	table *Table                // set once by the table before anybody else has it; nil: none
	left  atomic.Bool           // atomic; the table forgot it
	told  atomic.Bool           // atomic; the table counts it among those that are not closed

	opened  atomic.Uint64 // atomic; how often it opened
	closed  atomic.Int64  // atomic; when it closed last, in shard time
	lastFor atomic.Int64  // atomic; for how long it was open before it closed last, in ns; 0: never, or long ago

	_ [64]byte // what each call reads stays off the cache line that each result writes

	consecutive atomic.Int64 // atomic; faults since the last OK, while closed
	window      window       // atomic; the results while closed
}

// phase is one time of being open or half-open; immutable but for the probes.
type phase struct {
	state   State
	cause   cause
	until   int64         // open: when the first probe may go
	openFor time.Duration // open: how long it is; half-open: how long it was
	again   int           // how often in a row a probe failed

	places    atomic.Int64 // atomic; half-open: probes under way
	granted   atomic.Int64 // atomic; half-open: when the last place was given
	successes atomic.Int64 // atomic; half-open
}

// cause is the figures that opened a breaker.
type cause struct {
	consecutive   int64 // faults in a row, if they were it
	total, faults int   // of the window
}

// New returns a closed breaker. Settings that are 0 get their defaults; s is copied.
func New(s *Settings) *Breaker {
	b := &Breaker{s: s.filled()}
	b.window.init(b.s.Window)
	return b
}

func (s *Settings) filled() Settings {
	f := *s
	orDuration(&f.Window, 10*time.Second)
	orDuration(&f.OpenFor, 5*time.Second)
	orDuration(&f.MaxOpenFor, 60*time.Second)
	f.MaxOpenFor = max(f.MaxOpenFor, f.OpenFor)
	if f.MinVolume <= 0 {
		f.MinVolume = 20
	}
	if f.Probes <= 0 {
		f.Probes = 3
	}
	return f
}

func orDuration(d *time.Duration, otherwise time.Duration) {
	if *d <= 0 {
		*d = otherwise
	}
}

// Closed says whether calls pass without being asked for: one atomic load.
func (b *Breaker) Closed() bool { return b.phase.Load() == nil }

// Admits says what Admit would say, and takes nothing. Another shard may take the last place in between.
func (b *Breaker) Admits(now int64) bool {
	p := b.phase.Load()
	switch {
	case p == nil:
		return true
	case p.state == StateOpen:
		return now >= p.until
	}
	return p.places.Load() < int64(b.s.Probes) || b.timedOut(p, now)
}

// Admit says whether a call may go now, and whether it goes as a probe. Each call it admits ends in one Done with the same
// probe. An open breaker whose time is over becomes half-open by this.
func (b *Breaker) Admit(now int64) (ok, probe bool) {
	for {
		p := b.phase.Load()
		if p == nil {
			return true, false
		}
		if p.state == StateHalfOpen {
			ok = b.takePlace(p, now)
			return ok, ok
		}
		if now < p.until {
			return false, false
		}
		b.phase.CompareAndSwap(p, &phase{state: StateHalfOpen, cause: p.cause, openFor: p.openFor, again: p.again})
	}
}

// takePlace takes a probe's place. Nobody knows which of the probes a Done gives back, so places time out together: if all
// are taken and none was given for OpenFor, they are given anew. A probe that comes back after that makes room for one more,
// so no more than Probes are admitted in any OpenFor beyond those that came back.
func (b *Breaker) takePlace(p *phase, now int64) bool {
	for {
		n := p.places.Load()
		if n < int64(b.s.Probes) {
			p.granted.Store(now) // before the place is taken: whoever finds none free must not find an old time
			if p.places.CompareAndSwap(n, n+1) {
				return true
			}
			continue
		}
		last := p.granted.Load()
		if now-last < int64(b.s.OpenFor) {
			return false
		}
		if p.granted.CompareAndSwap(last, now) && p.places.CompareAndSwap(n, 1) {
			return true
		}
	}
}

func (b *Breaker) timedOut(p *phase, now int64) bool {
	return now-p.granted.Load() >= int64(b.s.OpenFor)
}

// Done tells the end of a call that Admit admitted: r, and whether it was a probe.
func (b *Breaker) Done(now int64, r Result, probe bool) {
	p := b.phase.Load()
	switch {
	case p == nil:
		b.count(now, r)
	case probe && p.state == StateHalfOpen:
		b.probed(p, now, r)
	}
}

// count takes in a result of a closed breaker.
func (b *Breaker) count(now int64, r Result) {
	switch r {
	case OK:
		if b.consecutive.Load() != 0 { // nearly always 0: spare the write
			b.consecutive.Store(0)
		}
		b.window.add(now, false)
	case Fault:
		row := b.consecutive.Add(1)
		b.window.add(now, true)
		total, faults := b.window.sum(now)
		switch {
		case b.s.Consecutive > 0 && row >= int64(b.s.Consecutive):
			b.trip(now, cause{row, total, faults})
		case b.s.ErrorRate > 0 && total >= b.s.MinVolume && float64(faults)/float64(total) >= b.s.ErrorRate:
			b.trip(now, cause{0, total, faults})
		}
	}
}

// trip opens a closed breaker: for OpenFor, or if it had closed only lately (no longer ago than it had been open before), for
// twice as long as then.
func (b *Breaker) trip(now int64, c cause) {
	openFor := b.s.OpenFor
	if last := time.Duration(b.lastFor.Load()); last > 0 && now-b.closed.Load() < int64(last) {
		openFor = b.longer(last)
	}
	if b.phase.CompareAndSwap(nil, &phase{state: StateOpen, cause: c, until: now + int64(openFor), openFor: openFor}) {
		b.opened.Add(1)
		b.tell()
	}
}

func (b *Breaker) longer(d time.Duration) time.Duration {
	if d > b.s.MaxOpenFor/2 {
		return b.s.MaxOpenFor
	}
	return 2 * d
}

// probed takes in a probe's result. If no place is taken, the probe is one of those that timed out or of an earlier phase:
// its result is too old to say anything.
func (b *Breaker) probed(p *phase, now int64, r Result) {
	for {
		n := p.places.Load()
		if n <= 0 {
			return
		}
		if p.places.CompareAndSwap(n, n-1) {
			break
		}
	}
	switch r {
	case Fault:
		openFor := b.longer(p.openFor)
		if b.phase.CompareAndSwap(p, &phase{state: StateOpen, cause: p.cause, until: now + int64(openFor), openFor: openFor, again: p.again + 1}) {
			b.opened.Add(1)
		}
	case OK:
		if p.successes.Add(1) != int64(b.s.Probes) {
			return
		}
		b.consecutive.Store(0) // nobody counts while it is not closed
		b.window.clear()
		b.closed.Store(now)
		b.lastFor.Store(int64(p.openFor))
		if b.phase.CompareAndSwap(p, nil) {
			b.tell()
		}
	}
}
