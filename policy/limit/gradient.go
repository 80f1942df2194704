package limit

import (
	"math"
	"sync/atomic"
	"time"
)

// Gradient is a concurrency limit that follows the latency: while calls take what they take when nobody queues it grows, when
// they take longer it shrinks. It is a blend of two known controllers:
//
//   - Envoy's gradient controller (adaptive_concurrency filter,
//     https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/adaptive_concurrency_filter):
//     every window limit = limit*gradient + sqrt(limit), with gradient = tolerated latency / median latency; the
//     base latency is measured now and then while the limit is cut, and at once when the limit lay at its minimum for
//     five windows.
//   - Netflix' Gradient2 (https://github.com/Netflix/concurrency-limits, Gradient2Limit.java): the gradient stays within 0.5
//     to 1, the change is smoothed, and a limit that is not half used is left alone: then the latency is not its doing.
//
// Other than Envoy it does not cut to 3 to measure, which refuses most calls of a busy cluster for that time, but to half; or
// to a quarter, and again soon, while there is reason to doubt the base: because it was measured at the start, under who
// knows what load, or because measurements do not agree. A cluster that does not use half its limit is not cut at all.
//
// With the tolerance T and a cluster that serves n calls at once without queueing, it settles a little above T*n (by about
// the square root, so most with small n), in simulations with T = 1.5 between 1.3 and 2.9 times n within 25 s,
// whatever the noise and the beginning; 98 % of what the cluster can serve is let in.
//
// One limit sees one kind of latency: where methods of very different duration share a cluster, a change in their
// mix looks like a change in latency.
type Gradient struct {
	settings Adaptive  // with its defaults. set once in NewGradient
	seen     histogram // of this window. atomic
	slow     atomic.Uint32
	limit    atomic.Int64 // atomic
	base     atomic.Int64 // latency without queueing; 0: not known yet. atomic
	recent   atomic.Int64 // median of the last window. atomic

	// What follows is owned by the goroutine that calls Adjust.
	exact    float64 // the limit, with its fraction, that holds when nothing is measured
	phase    phase
	begun    int64 // when this window or phase began
	nextBase int64 // when the base is to be measured again
	doubt    int   // the base may be quite wrong, until so many measurements in a row agree
	cut      bool  // the limit was cut for this measurement
	atMin    int   // windows in a row at the minimum, though too slow
	fast     int   // windows in a row in which the latency was far below the base
}

type phase uint8

const (
	starting  phase = iota // before the first Adjust
	measuring              // the base latency
	draining               // the limit was cut; what comes now still queued before that
	adjusting
)

const (
	smoothing = 0.3 // how much of a new limit is taken over at once
	inARow    = 5   // windows that make a pattern
	agree     = 2   // measurements of the base that remove a doubt
	basePart  = 10  // how many times MinSamples make a base; and how many windows are spent at most
)

// NewGradient makes one that begins with Initial. What is not set gets its default.
func NewGradient(a Adaptive) *Gradient {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&a.Min, 4)
	def(&a.Max, 1000)
	def(&a.Initial, 50)
	def(&a.MinSamples, 10)
	a.Max = max(a.Max, a.Min)
	a.Initial = min(max(a.Initial, a.Min), a.Max)
	if a.Window <= 0 {
		a.Window = 100 * time.Millisecond
	}
	if a.Rebase <= 0 {
		a.Rebase = 30 * time.Second
	}
	if !(a.Tolerance >= 1) {
		a.Tolerance = 1.5
	}
	g := &Gradient{settings: a, exact: float64(a.Initial)}
	g.limit.Store(int64(a.Initial))
	return g
}

// Record tells what a call took upstream. A call that failed (ok is false) says something only if it took long: timeouts
// are a sign of queueing, but a quick error is no sign of a quick server. Any goroutine; it allocates nothing.
func (g *Gradient) Record(took time.Duration, ok bool) {
	if !ok {
		if base := g.base.Load(); base == 0 || int64(took) < base {
			return
		}
		g.slow.Add(1)
	}
	g.seen.add(took)
}

// Limit is the limit as of the last Adjust. Any goroutine.
func (g *Gradient) Limit() int64 { return g.limit.Load() }

// Latency is for people: what calls take without queueing as far as is known (0: not yet), and the last window's median.
func (g *Gradient) Latency() (base, recent time.Duration) {
	return time.Duration(g.base.Load()), time.Duration(g.recent.Load())
}

// Adjust looks at what was recorded and returns the limit from now on; inFlight is how many calls are under way. It is to
// be called at least once a window, by one goroutine at a time; calls between windows change nothing.
func (g *Gradient) Adjust(now, inFlight int64) (limit int64) {
	switch g.phase {
	case starting:
		g.enter(measuring, now)
	case measuring:
		g.measure(now)
	case draining:
		if now-g.begun >= int64(g.settings.Window)+2*g.recent.Load() {
			g.seen.take()
			g.slow.Store(0)
			g.enter(measuring, now)
		}
	case adjusting:
		g.adjust(now, inFlight)
	}
	return g.limit.Load()
}

func (g *Gradient) enter(p phase, now int64) { g.phase, g.begun = p, now }

// measure finds the base latency once there are enough calls that were not slowed down by a queue of our making.
func (g *Gradient) measure(now int64) {
	n := int(g.seen.count())
	old := g.base.Load()
	if n < basePart*g.settings.MinSamples {
		late := now-g.begun >= basePart*int64(g.settings.Window)+5*g.recent.Load()
		if !late || n < g.settings.MinSamples && old == 0 {
			return // wait for more; without any base there is nothing else to do
		}
	}
	slow := int(g.slow.Swap(0))
	median, n := g.seen.take()
	g.nextBase = now + int64(g.settings.Rebase)
	if n >= g.settings.MinSamples && 2*slow < n { // else it stays as it is: too few calls, or most of them failed
		g.base.Store(int64(median))
		lower := float64(median) < 0.75*float64(old)
		if lower && g.doubt > 0 && g.cut {
			// The limit came of a base that was too high, so it is too high itself; do not wait until it has sunk.
			g.exact = max(g.exact/2, float64(g.settings.Min))
		}
		if old == 0 || lower || float64(median) > 1.33*float64(old) {
			g.doubt = agree
		} else {
			g.doubt = max(g.doubt-1, 0)
		}
		if g.doubt > 0 {
			g.nextBase = now + basePart*max(int64(g.settings.Window), int64(median))
		}
	}
	g.atMin, g.fast = 0, 0
	g.publish(g.exact)
	g.enter(adjusting, now)
}

func (g *Gradient) adjust(now, inFlight int64) {
	if now-g.begun < int64(g.settings.Window) || int(g.seen.count()) < g.settings.MinSamples {
		return
	}
	g.slow.Store(0)
	median, n := g.seen.take()
	// The moment's number may be far off, as when calls come in step; so ask Little's law too.
	busy := max(float64(inFlight), float64(n)*float64(median)/float64(now-g.begun))
	g.begun = now
	g.recent.Store(int64(median))
	base := float64(g.base.Load())
	gradient := min(max(g.settings.Tolerance*base/max(float64(median), 1), 0.5), 1)

	g.fast++
	if 2*float64(median) >= base {
		g.fast = 0
	}
	g.atMin++
	if gradient == 1 || g.limit.Load() > int64(g.settings.Min) {
		g.atMin = 0
	}
	if 2*busy >= g.exact {
		next := g.exact*gradient + math.Sqrt(g.exact)
		g.exact += smoothing * (next - g.exact)
		g.exact = min(max(g.exact, float64(g.settings.Min)), float64(g.settings.Max))
		g.publish(g.exact)
	}
	if now >= g.nextBase || g.atMin >= inARow || g.fast >= inARow {
		cut := 2.0
		if g.doubt > 0 {
			cut = 4
		}
		g.cut = cut*busy >= g.exact // else there is no queue of our making, and a cut would only turn bursts away
		if g.cut {
			g.publish(max(g.exact/cut, float64(g.settings.Min)))
		}
		g.enter(draining, now)
	}
}

func (g *Gradient) publish(limit float64) { g.limit.Store(int64(limit)) }
