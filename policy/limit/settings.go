// Package limit owns the counting that says "enough": token buckets, token buckets per key in bounded memory, limits on
// what runs at once, and one that adapts itself; it must not wait, keep calls, or read a clock.
package limit

import "time"

// Rate is a token bucket's settings. Immutable.
type Rate struct {
	PerSecond float64 // tokens that come back per second, over 0
	Burst     int     // tokens that it holds, at least 1
}

// Adaptive is the settings of a concurrency limit that follows the latency (the "gradient" algorithm). Immutable.
type Adaptive struct {
	Min, Max, Initial int           // of the limit; defaults 4, 1000, 50
	Window            time.Duration // between adjustments; default 100ms
	MinSamples        int           // in a window, else it is prolonged; default 10
	// Tolerance is by how much the recent latency may exceed the base before the limit shrinks, from 1; default 1.5.
	Tolerance float64
	// Rebase is how often the base latency is measured afresh; default 30s.
	Rebase time.Duration
}
