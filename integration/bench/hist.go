package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts latencies in nanoseconds in log-linear buckets (32 to an
// octave, so a quantile is right within about 3 %). Every method may be called
// from any goroutine.
type histogram struct {
	buckets [60 * 32]atomic.Uint64
}

func bucketOf(ns int64) int {
	if ns < 0 {
		ns = 0
	}
	shift := max(bits.Len64(uint64(ns))-6, 0)
	return shift<<5 + int(uint64(ns)>>shift)
}

// bucketMiddle is the inverse of bucketOf, up to the bucket's width.
func bucketMiddle(i int) int64 {
	if i < 64 {
		return int64(i)
	}
	shift := i>>5 - 1
	low := int64(i-shift<<5) << shift
	return low + int64(1)<<shift/2
}

func (h *histogram) record(ns int64) { h.buckets[bucketOf(ns)].Add(1) }

func (h *histogram) reset() {
	for i := range h.buckets {
		h.buckets[i].Store(0)
	}
}

func (h *histogram) count() (n uint64) {
	for i := range h.buckets {
		n += h.buckets[i].Load()
	}
	return n
}

// quantile returns the latency that a share q (0 to 1) of the calls did not
// exceed, 0 when nothing was recorded.
func (h *histogram) quantile(q float64) time.Duration {
	total := h.count()
	if total == 0 {
		return 0
	}
	rank := uint64(q * float64(total))
	var seen uint64
	for i := range h.buckets {
		seen += h.buckets[i].Load()
		if seen > rank {
			return time.Duration(bucketMiddle(i))
		}
	}
	return time.Duration(bucketMiddle(len(h.buckets) - 1))
}
