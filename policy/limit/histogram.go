package limit

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets, eight to an octave, from a microsecond to 18 minutes. Adding is one atomic
// addition.
type histogram [(longestExp - shortestExp + 1) * 8]atomic.Uint32

const (
	shortestExp = 10 // 1 << 10 ns is a microsecond
	longestExp  = 40
)

func (h *histogram) add(d time.Duration) {
	ns := min(max(uint64(max(d, 0)), 1<<shortestExp), 1<<(longestExp+1)-1)
	exp := bits.Len64(ns) - 1
	h[(exp-shortestExp)*8+int(ns>>(exp-3)&7)].Add(1)
}

// count is how many were added since the last take.
func (h *histogram) count() (n uint64) {
	for i := range h {
		n += uint64(h[i].Load())
	}
	return n
}

// take empties it, and returns the median (0 of nothing), exact to about 3 %, and how many there were.
func (h *histogram) take() (median time.Duration, n int) {
	var counts [len(h)]uint32
	total := uint64(0)
	for i := range h {
		if h[i].Load() > 0 {
			counts[i] = h[i].Swap(0)
			total += uint64(counts[i])
		}
	}
	half := float64(total) / 2
	before := float64(0)
	for i, c := range counts {
		if c > 0 && before+float64(c) >= half {
			exp := i/8 + shortestExp
			width := float64(uint64(1) << (exp - 3))
			low := float64(8+i%8) * width
			return time.Duration(low + width*(half-before)/float64(c)), int(total)
		}
		before += float64(c)
	}
	return 0, 0
}
