package overload

import (
	"fmt"
	"time"
)

// Facts are what was measured of this process. A zero was not measured, or is nothing.
type Facts struct {
	// Memory in bytes that the garbage collector could not give back now: live objects as of the last collection, stacks,
	// and the runtime's own. Garbage is no shortage: it only waits for a collection.
	Memory uint64
	// CPUShare is the CPU time of the process since the last sample, as a share of all the cores that it may use.
	CPUShare float64
	// QueueDelay is the 95th percentile of how long goroutines that could run waited for a core since the last sample.
	QueueDelay time.Duration
}

// Kind is what is short. The order is that of danger: if several are short, the first is told.
type Kind uint8

// The kinds.
const (
	Nothing Kind = iota
	Memory
	CPU
	Queue
)

// String is the kind for metrics and logs.
func (k Kind) String() string {
	return [...]string{"nothing", "memory", "cpu", "queue"}[min(k, Queue)]
}

// Verdict is what follows. The zero Verdict: new calls are taken.
type Verdict struct {
	Short Kind   // Nothing: new calls are taken
	Why   string // in words, with the figures as they were when it began or rose, and what to change
}

// Judge decides, sample by sample, with hysteresis, so that the border is not crossed back and forth with every sample:
// memory counts at once, for the process dies of it; CPU and queue must be too high in Enter samples in a row; and a shortage
// is over after Leave samples in a row below nine tenths of its limit. The zero Judge is ready. One goroutine uses it.
type Judge struct {
	verdict Verdict
	states  [Queue + 1]state
}

type state struct {
	short bool
	row   int // samples in a row that speak against short
}

// How many samples in a row change the judgement.
const (
	Enter = 5
	Leave = 10
	// LeaveAt is the part of its limit below which a shortage is over.
	LeaveAt = 0.9
)

// Judge takes one more sample.
func (j *Judge) Judge(s Settings, f Facts) Verdict {
	memory := s.MemoryShare * float64(s.MemoryBytes)
	j.see(Memory, float64(f.Memory), memory, 1)
	j.see(CPU, f.CPUShare, s.CPUShare, Enter)
	j.see(Queue, float64(f.QueueDelay), float64(s.QueueDelay), Enter)
	for k := Memory; k <= Queue; k++ {
		if !j.states[k].short {
			continue
		}
		if j.verdict.Short != k { // the words stay while the cause does
			j.verdict = Verdict{Short: k, Why: why(k, s, f)}
		}
		return j.verdict
	}
	j.verdict = Verdict{}
	return j.verdict
}

// see moves one kind's state. A limit of 0 is not looked at.
func (j *Judge) see(k Kind, value, limit float64, enter int) {
	st := &j.states[k]
	switch {
	case limit <= 0:
		*st = state{}
	case !st.short && value >= limit:
		st.row++
		if st.row >= enter {
			*st = state{short: true}
		}
	case st.short && value < LeaveAt*limit:
		st.row++
		if st.row >= Leave {
			*st = state{}
		}
	default:
		st.row = 0
	}
}

func why(k Kind, s Settings, f Facts) string {
	const tail = "new calls are refused, calls under way go on"
	switch k {
	case Memory:
		return fmt.Sprintf("Trunkline is short of memory: %s of %s are in use and cannot be collected (%.0f%%, limit %.0f%%); %s; to change: overload.memoryShare or overload.memoryBytes, or more memory",
			size(f.Memory), size(s.MemoryBytes), 100*float64(f.Memory)/float64(s.MemoryBytes), 100*s.MemoryShare, tail)
	case CPU:
		return fmt.Sprintf("Trunkline is short of CPU: it uses %.0f%% of its cores (limit %.0f%%); %s; to change: overload.cpuShare, or more cores",
			100*f.CPUShare, 100*s.CPUShare, tail)
	case Queue:
		return fmt.Sprintf("Trunkline is short of CPU: work waits %v for a core (95th percentile, limit %v); %s; to change: overload.queueDelay, or more cores",
			f.QueueDelay.Round(10*time.Microsecond), s.QueueDelay, tail)
	}
	return ""
}

// size is a number of bytes for people.
func size(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
}
