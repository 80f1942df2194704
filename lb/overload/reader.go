package overload

import (
	"math"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

// reader reads the runtime's metrics (https://pkg.go.dev/runtime/metrics) and the process' CPU time. Owned by the monitor's
// goroutine.
type reader struct {
	samples []metrics.Sample
	counts  []uint64 // of the scheduling latencies, at the last reading
	delta   []uint64
}

// The indexes in samples.
const (
	total = iota
	objects
	unused
	free
	released
	live
	cycles
	cores
	latencies
)

func newReader() *reader {
	names := [...]string{
		total:     "/memory/classes/total:bytes",
		objects:   "/memory/classes/heap/objects:bytes",
		unused:    "/memory/classes/heap/unused:bytes",
		free:      "/memory/classes/heap/free:bytes",
		released:  "/memory/classes/heap/released:bytes",
		live:      "/gc/heap/live:bytes",
		cycles:    "/gc/cycles/total:gc-cycles",
		cores:     "/sched/gomaxprocs:threads",
		latencies: "/sched/latencies:seconds",
	}
	r := &reader{samples: make([]metrics.Sample, len(names))}
	for i, name := range names {
		r.samples[i].Name = name
	}
	return r
}

func (r *reader) read() reading {
	metrics.Read(r.samples)
	value := func(i int) uint64 {
		if r.samples[i].Value.Kind() != metrics.KindUint64 {
			return 0 // a runtime that does not know it
		}
		return r.samples[i].Value.Uint64()
	}
	// All but the heap of objects: stacks, and what the runtime needs to manage the rest. (Saturating: the classes are
	// not all read at one instant.)
	rest := value(total) - min(value(total), value(objects)+value(unused)+value(free)+value(released))
	return reading{
		at: time.Now(),
		// Live is what the last collection marked. Beside it there are garbage, new objects, and the free room in spans
		// (unused), which is used first for new objects; free and released are nobody's.
		kept:   value(live) + rest,
		used:   value(objects) + value(unused) + rest,
		cycles: value(cycles),
		cores:  int(value(cores)), // GOMAXPROCS, which follows a cgroup's CPU limit
		cpu:    cpuTime(),
		queue:  r.queueDelay(),
	}
}

// cpuTime is user and system time of the process.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// queueDelay is the 95th percentile of the scheduling latencies since the last reading.
func (r *reader) queueDelay() time.Duration {
	if r.samples[latencies].Value.Kind() != metrics.KindFloat64Histogram {
		return 0
	}
	h := r.samples[latencies].Value.Float64Histogram()
	if len(r.counts) != len(h.Counts) {
		r.counts = append([]uint64(nil), h.Counts...)
		r.delta = make([]uint64, len(h.Counts))
		return 0
	}
	for i, n := range h.Counts {
		r.delta[i] = n - r.counts[i]
		r.counts[i] = n
	}
	return percentile(r.delta, h.Buckets, 0.95)
}

// percentile is the upper end of the bucket in which the percentile lies (of the last, which has none, the lower).
func percentile(counts []uint64, ends []float64, q float64) time.Duration {
	sum := uint64(0)
	for _, n := range counts {
		sum += n
	}
	if sum == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(sum)))
	for i, n := range counts {
		if n < rank {
			rank -= n
			continue
		}
		end := ends[i+1]
		if math.IsInf(end, 1) {
			end = ends[i]
		}
		return time.Duration(end * float64(time.Second))
	}
	return 0
}
