package limit

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Bucket is a token bucket as one atomic word: GCRA, the virtual scheduling form of ITU-T I.371 annex A. Instead of
// tokens it keeps the theoretical arrival time, at which the bucket will be full again; a token moves it by one interval,
// and it may be at most burst-1 intervals ahead when a token is taken. It starts full.
//
// Over any span t it grants at most Burst + PerSecond*t. The interval is a whole number of nanoseconds, rounded up, so that
// up to a million per second a bucket is at most 0.1 % slower than asked, and never faster.
type Bucket struct {
	tat  atomic.Int64 // when it is full again, in the time of Take's now. atomic
	pace pace         // set once in NewBucket
}

// pace is a rate in nanoseconds.
type pace struct {
	interval  int64 // between two tokens
	tolerance int64 // how far ahead the theoretical arrival time may be: burst-1 intervals
}

// longest bounds an interval and the tolerance, so that no sum with a sane now overflows: 73 years.
const longest = math.MaxInt64 / 4

// newPace takes nonsense as the nearest sense: what is not over 0 per second grants its burst once in 73 years.
func newPace(r Rate) pace {
	p := pace{interval: longest}
	if ns := math.Ceil(float64(time.Second) / r.PerSecond); r.PerSecond > 0 && ns < longest {
		p.interval = max(int64(ns), 1)
	}
	hi, lo := bits.Mul64(uint64(p.interval), uint64(max(r.Burst, 1)-1))
	p.tolerance = longest
	if hi == 0 && lo < longest {
		p.tolerance = int64(lo)
	}
	return p
}

// NewBucket makes a full bucket.
func NewBucket(r Rate) *Bucket {
	b := &Bucket{pace: newPace(r)}
	b.tat.Store(math.MinInt64)
	return b
}

// Take takes a token at now (nanoseconds, monotonic; two callers' clocks need not agree exactly). If there is none,
// nothing is taken, and after says how long until there is one, over 0. It neither blocks nor allocates.
func (b *Bucket) Take(now int64) (ok bool, after time.Duration) {
	for {
		tat := b.tat.Load()
		// Without the first test the subtraction could overflow in a bucket that nobody has used yet.
		if tat > now && tat-now > b.pace.tolerance {
			return false, time.Duration(tat - now - b.pace.tolerance)
		}
		if b.tat.CompareAndSwap(tat, max(tat, now)+b.pace.interval) {
			return true, 0
		}
	}
}

// Tokens says how many whole tokens are there at now, for people.
func (b *Bucket) Tokens(now int64) int {
	tat := b.tat.Load()
	if tat <= now {
		return int(b.pace.tolerance/b.pace.interval) + 1
	}
	if tat-now > b.pace.tolerance {
		return 0
	}
	return int((b.pace.tolerance-(tat-now))/b.pace.interval) + 1
}
