package latency

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets are logarithmic with 8 steps per doubling, so that the middle of a bucket is within 1/16 (6.25 %) of what is in it. They
// begin at 2^10 ns; 28 doublings reach 2^38 ns, 4 minutes and a half.
const (
	steps   = 8
	lowest  = 10
	octaves = 28
	buckets = steps * octaves
)

// period is how long each of the two halves is filled: the window reaches back one to two periods.
const period = int64(10 * time.Second)

// fresh is how long an answer of Quantile is given again.
const fresh = int64(100 * time.Millisecond)

// Window remembers the latencies of the last 10 to 20 seconds. Less than 1us counts as about 1us, more than 4 minutes as 4
// minutes. Record and Quantile are safe for use by all shards at once and allocate nothing; a few calls may be missed or counted a
// period too long at the moment when the older half is thrown away. About 2 KiB.
type Window struct {
	halves  [2]half
	answers [4]answer
}

// half is the counts of one period.
type half struct {
	period atomic.Int64 // its number from 1; 0: never used
	counts [buckets]atomic.Uint32
}

// answer is a remembered answer for one quantile.
type answer struct {
	q     atomic.Uint64 // its bits; 0: free. Claimed once: a window is asked for few different ones
	value atomic.Uint64 // until (in units of fresh, 32 bits) | bucket (8 bits) | samples (24 bits, at most)
}

const maxSamples = 1<<24 - 1

// New returns an empty window.
func New() *Window { return new(Window) }

// Record counts a call that took d and ended at now (nanoseconds of one monotonic clock for all users, from 0).
func (w *Window) Record(now int64, d time.Duration) {
	n := now/period + 1
	h := &w.halves[n&1]
	if was := h.period.Load(); was < n && h.period.CompareAndSwap(was, n) {
		for i := range h.counts {
			h.counts[i].Store(0)
		}
	}
	h.counts[bucket(d)].Add(1)
}

// Quantile is the latency below which the share q (over 0, below 1) of the window's calls was, to within 10 %, and how many calls that is
// known from; without any it is 0. Answers for up to 4 different q are remembered for up to 100ms; others are worked out each time.
func (w *Window) Quantile(now int64, q float64) (d time.Duration, samples int) {
	tick := uint64(now/fresh+1) & math.MaxUint32
	a := w.answer(q)
	if a != nil {
		if v := a.value.Load(); v>>32 == tick {
			return told(int(v>>24&0xff), int(v&maxSamples))
		}
	}
	i, n := w.find(now, q)
	n = min(n, maxSamples)
	if a != nil {
		a.value.Store(tick<<32 | uint64(i)<<24 | uint64(n))
	}
	return told(i, n)
}

func told(i, n int) (time.Duration, int) {
	if n == 0 {
		return 0, 0
	}
	return middle(i), n
}

// answer is the place where answers for q are remembered, nil if all belong to others.
func (w *Window) answer(q float64) *answer {
	want := math.Float64bits(q)
	for i := range w.answers {
		a := &w.answers[i]
		have := a.q.Load()
		if have == want || have == 0 && (a.q.CompareAndSwap(0, want) || a.q.Load() == want) {
			return a
		}
	}
	return nil
}

// find works out the bucket in which quantile q lies, and the number of calls in the window.
func (w *Window) find(now int64, q float64) (i, n int) {
	var counts [buckets]uint32
	current := now/period + 1
	for h := range w.halves {
		h := &w.halves[h]
		// Another shard's clock reading may be a little ahead.
		if p := h.period.Load(); p < current-1 || p > current+1 || p == 0 {
			continue
		}
		for i := range counts {
			c := h.counts[i].Load()
			counts[i] += c
			n += int(c)
		}
	}
	rank := int(math.Ceil(q * float64(n))) // from 1; q outside of its bounds ends at the first or the last
	for i < buckets-1 {
		if rank -= int(counts[i]); rank <= 0 {
			break
		}
		i++
	}
	return i, n
}

// bucket is the index for d.
func bucket(d time.Duration) int {
	v := uint64(max(d, 1<<lowest))
	e := bits.Len64(v) - 1
	return min((e-lowest)*steps+int(v>>(e-3)&(steps-1)), buckets-1)
}

// middle is the latency in the middle of bucket i.
func middle(i int) time.Duration {
	width := time.Duration(1) << (i/steps + lowest - 3)
	return width*time.Duration(steps+i%steps) + width/2
}
