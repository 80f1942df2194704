// Package breaker owns the circuit breaker: whether calls of one method may go to one endpoint, by how such calls ended
// lately; it must not choose an endpoint, keep track of who exists, or read a clock.
package breaker

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// Settings of a breaker. Immutable. At least one of Consecutive and ErrorRate is set.
type Settings struct {
	// Consecutive faults open it; 0: not looked at.
	Consecutive int
	// ErrorRate, over 0 to 1, is the share of faults over Window that opens it, once Window holds MinVolume results; 0: not
	// looked at. Only a fault opens it: the one by which, or after which, both are reached.
	ErrorRate float64
	Window    time.Duration // of the error rate, to a tenth: the oldest tenth goes at once; default 10s
	MinVolume int           // default 20
	// OpenFor is how long it stays open at first; each time that a probe fails it doubles, up to MaxOpenFor, and also if it
	// opens again sooner after closing than it had been open before. A probe's place is held for no longer than OpenFor.
	OpenFor    time.Duration // default 5s
	MaxOpenFor time.Duration // default 60s
	// Probes is how many calls a half-open breaker lets through at a time, and how many must succeed to close it; default 3.
	Probes int
	// Faults are the statuses that count; default grpc.ServerFaults.
	Faults grpc.StatusSet
}
