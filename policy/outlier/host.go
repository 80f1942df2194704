package outlier

import (
	"sync/atomic"
	"time"
)

// Host is what the calls to one endpoint tell of it, until the next sweep takes it. All shards record into it at once; it
// fills a cache line, so that two endpoints never share one.
type Host struct {
	results  atomic.Uint64 // atomic; since the last sweep: faults in the upper half, all in the lower
	row      atomic.Int64  // atomic; faults since the last success
	took     atomic.Int64  // atomic; ns, the sum of those measured since the last sweep
	measured atomic.Int64  // atomic; successes with a time since the last sweep
	_        [32]byte
}

const faultUnit = 1<<32 | 1

// NewHost returns a host of which nothing is known.
func NewHost() *Host { return &Host{} }

// Record takes in how a call ended: with one of Settings.Faults or not, and how long the endpoint took to answer (0 or less:
// not measured, as for long streams; that of a fault is not looked at, for a refusal is quick). tripped says that just now as
// many faults in a row came as Settings.Consecutive, or a multiple of it: the caller then has Detector.Trip called. What says
// nothing about the endpoint is not recorded at all. A few atomic operations; never blocks.
func (h *Host) Record(s *Settings, fault bool, took time.Duration) (tripped bool) {
	if fault {
		h.results.Add(faultUnit)
		row := h.row.Add(1)
		return s.Consecutive > 0 && row%int64(s.Consecutive) == 0
	}
	h.results.Add(1)
	if h.row.Load() != 0 { // nearly always 0: spare the write
		h.row.Store(0)
	}
	if s.Latency != nil && took > 0 {
		h.took.Add(int64(took))
		h.measured.Add(1)
	}
	return false
}

// take returns what was recorded since the last take.
func (h *Host) take() (all, faults int, mean time.Duration, measured int) {
	r := h.results.Swap(0)
	n := h.measured.Swap(0)
	took := h.took.Swap(0)
	if n > 0 {
		mean = time.Duration(took / n)
	}
	return int(r & (1<<32 - 1)), int(r >> 32), mean, int(n)
}
