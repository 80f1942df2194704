package breaker

import (
	"sync/atomic"
	"time"
)

// A window counts results over the last numBuckets slots of time, the current one included. Each slot has a bucket, which is
// one word, so that it is emptied and counted in without a lock: from the top 20 bits of slot number, 22 of faults, 22 of
// results. 0 is an empty bucket (slot 0 without results).
type window struct {
	width   int64                     // ns per slot; set once in init
	used    atomic.Int64              // atomic; when the last bucket was begun
	buckets [numBuckets]atomic.Uint64 // atomic
}

const (
	numBuckets = 10

	countBits = 22
	countMask = 1<<countBits - 1
	slotShift = 2 * countBits
	slotMask  = 1<<(64-slotShift) - 1
	faultUnit = 1 << countBits

	// A bucket with so many results is halved: the share stays, and as many goroutines may add at once before it overflows.
	fullBucket = 1 << (countBits - 1)
)

func (w *window) init(d time.Duration) { w.width = max(1, int64(d)/numBuckets) }

func (w *window) slot(now int64) uint64 { return uint64(now / w.width) }

// add counts a result. One that arrives with an older now than others (the shards' times differ a little) counts in the
// bucket that is there.
func (w *window) add(now int64, fault bool) {
	unit := uint64(1)
	if fault {
		unit += faultUnit
	}
	slot := w.slot(now)
	b := &w.buckets[slot%numBuckets]
	for {
		old := b.Load()
		switch {
		case old&countMask >= fullBucket:
			half := old&^(1<<slotShift-1) | (old>>countBits&countMask)/2<<countBits | old&countMask/2
			b.CompareAndSwap(old, half)
		case old>>slotShift == slot&slotMask:
			b.Add(unit) // if it was begun anew in between, it counts there
			return
		case (old>>slotShift-slot)&slotMask <= numBuckets:
			b.Add(unit)
			return
		default:
			if b.CompareAndSwap(old, slot&slotMask<<slotShift|unit) {
				w.used.Store(now)
				return
			}
		}
	}
}

// sum is the results of the window that ends now.
func (w *window) sum(now int64) (total, faults int) {
	slot := w.slot(now)
	for i := range w.buckets {
		v := w.buckets[i].Load()
		if (slot-v>>slotShift)&slotMask < numBuckets || (v>>slotShift-slot)&slotMask <= numBuckets {
			total += int(v & countMask)
			faults += int(v >> countBits & countMask)
		}
	}
	return total, faults
}

func (w *window) clear() {
	for i := range w.buckets {
		w.buckets[i].Store(0)
	}
}
