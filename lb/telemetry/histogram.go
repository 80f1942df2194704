package telemetry

import (
	"math"
	"math/bits"
	"time"
)

// buckets is the size of every histogram, its last bucket being +Inf; shorter ones leave their tail empty.
const buckets = 22

// bounds are the fixed upper bounds of a histogram, inclusive as Prometheus has it. Each is at least twice the one before,
// so between two powers of two there is at most one, and the bucket is found by one table lookup and one comparison.
type bounds struct {
	ns   [buckets]uint64 // nanoseconds; math.MaxUint64 from n on
	base [65]uint8       // by bits.Len64: the first bound not below the smallest value of that length
	n    int             // number of finite bounds
	sec  []float64       // the finite bounds in seconds, as the exposition shows them
}

// newBounds takes at most buckets-1 bounds, each at least twice the one before.
func newBounds(upper ...time.Duration) *bounds {
	b := &bounds{n: len(upper)}
	for i := range b.ns {
		b.ns[i] = math.MaxUint64
		if i < len(upper) {
			b.ns[i] = uint64(upper[i])
			b.sec = append(b.sec, upper[i].Seconds())
		}
	}
	for l := range b.base {
		smallest := uint64(0)
		if l > 0 {
			smallest = 1 << (l - 1)
		}
		i := 0
		for b.ns[i] < smallest {
			i++
		}
		b.base[l] = uint8(i)
	}
	return b
}

// index returns the bucket of a duration.
func (b *bounds) index(ns uint64) int {
	i := int(b.base[bits.Len64(ns)]) % buckets // never changes it; spares the bounds checks
	if ns > b.ns[i] {
		i++
	}
	return i
}

// callBounds suit whole calls and the upstream's part: 10 us to 60 s.
func callBounds() *bounds {
	const us, ms, s = time.Microsecond, time.Millisecond, time.Second
	return newBounds(10*us, 25*us, 50*us, 100*us, 250*us, 500*us, ms, 2500*us, 5*ms, 10*ms, 25*ms, 50*ms,
		100*ms, 250*ms, 500*ms, s, 2500*ms, 5*s, 10*s, 25*s, 60*s)
}

// addedBounds suit what a frame engine adds: 1 us to 10 s (waiting for a connection or for window counts as added).
func addedBounds() *bounds {
	const us, ms, s = time.Microsecond, time.Millisecond, time.Second
	return newBounds(us, 2500, 5*us, 10*us, 25*us, 50*us, 100*us, 250*us, 500*us, ms, 2500*us, 5*ms, 10*ms, 25*ms,
		50*ms, 100*ms, 250*ms, s, 10*s)
}
