// Package outlier owns the judgement which endpoints of a cluster do worse than they should or than their equals, and for
// how long they are taken out; it must not take them out itself, know methods, or read a clock.
package outlier

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// Settings of a cluster's outlier detection (the words are those of gRFC A50 and of Envoy). Immutable. A criterion that is
// nil or 0 is not looked at.
type Settings struct {
	Interval     time.Duration // between sweeps; default 1s
	BaseEjection time.Duration // times how often it was ejected lately, up to MaxEjection; default 30s
	MaxEjection  time.Duration // default 300s
	// MaxEjectedShare of the cluster's endpoints, 0 to 1; default 0.5. One of several may always be ejected.
	MaxEjectedShare float64
	// Consecutive faults eject at once, between sweeps; 0: not looked at. Default 5.
	Consecutive int
	SuccessRate *SuccessRate
	Failures    *FailureShare
	Latency     *Latency
	Faults      grpc.StatusSet // that count; default grpc.ServerFaults
}

// SuccessRate ejects who succeeds less often than the mean of all less so many standard deviations. One bad endpoint of n
// equals is never further from the mean than the square root of n-1 deviations: with the default factor it takes 5.
type SuccessRate struct {
	StdevFactor float64 // default 1.9
	MinHosts    int     // with MinVolume, else nobody is judged; default 5
	MinVolume   int     // results in the interval; default 100
}

// FailureShare ejects who fails more often than an absolute share.
type FailureShare struct {
	Threshold float64 // 0 to 1; default 0.85
	MinHosts  int     // default 5
	MinVolume int     // default 50
}

// Latency ejects who is slower than the median of all by a factor.
type Latency struct {
	Factor    float64       // over 1; default 3
	Min       time.Duration // a mean latency below this is never an outlier; default 50ms
	MinHosts  int           // default 3
	MinVolume int           // default 50
}
