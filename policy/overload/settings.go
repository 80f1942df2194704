// Package overload owns the judgement whether this process is too short of memory or CPU to take new calls; it must not
// measure anything itself, refuse anything, or read a clock.
package overload

import "time"

// Settings of the judgement. Immutable. A share of 0 is not looked at.
type Settings struct {
	MemoryBytes uint64        // the most that the process should use; 0: not looked at
	MemoryShare float64       // of MemoryBytes from which new calls are refused; default 0.9
	CPUShare    float64       // of the cores at hand, from which new calls are refused; default 0: off
	QueueDelay  time.Duration // of runnable goroutines (95th percentile) from which new calls are refused; default 0: off
	Pushback    time.Duration // told to who is refused; default 1s
}
