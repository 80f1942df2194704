package deadline

import (
	"math"
	"time"
)

// MinSamples is how many recent calls of a method there must be before their median is believed.
const MinSamples = 20

// Source is whose time limit holds.
type Source uint8

// The sources.
const (
	None   Source = iota // no limit
	Caller               // grpc-timeout
	Policy               // the service config's timeout
)

// String is the source as it stands in spans, records and messages.
func (s Source) String() string {
	switch s {
	case None:
		return "none"
	case Caller:
		return "caller"
	case Policy:
		return "policy"
	}
	return "unknown"
}

// Facts are what is known of a call's time when it arrives.
type Facts struct {
	Received    time.Duration // the caller's grpc-timeout
	HasReceived bool
	Policy      time.Duration // the policy's timeout; 0 or less: none
	Hopeless    bool          // the policy refuses calls that have too little time left
	Median      time.Duration // of the method's recent latency
	Samples     int           // that Median is made of
}

// Decision is what holds for the call.
type Decision struct {
	Limit  time.Duration // from arrival; 0: none. At least 1ns otherwise: a time that was up on arrival is 1ns
	Source Source
	Refuse bool // it came too late: it would hardly be done in the time that the caller left
}

// Decide takes the shorter of caller's and policy's time (the caller's if they are equal), as a gRPC client does with its own
// service config. It refuses only by what the caller left, not by the policy's timeout: a policy below the median would else refuse
// every call. Refusals stop by themselves: with no calls the samples run out, and the next calls are let through.
func Decide(f Facts) Decision {
	d := Decision{}
	if f.HasReceived {
		d.Limit, d.Source = max(f.Received, 1), Caller
	}
	if f.Policy > 0 && (!f.HasReceived || f.Policy < d.Limit) {
		d.Limit, d.Source = f.Policy, Policy
	}
	d.Refuse = f.Hopeless && f.HasReceived && f.Samples >= MinSamples && f.Received < f.Median
	return d
}

// ForAttempt is the time that one attempt is given, from when its stream is assigned: the shorter of perTry (0 or less: none) and what
// is left of the call's, at least 0. Not bounded: it has none, and no grpc-timeout is sent.
func ForAttempt(perTry, left time.Duration, hasDeadline bool) (d time.Duration, bounded bool) {
	d = math.MaxInt64
	if perTry > 0 {
		d, bounded = perTry, true
	}
	if hasDeadline {
		d, bounded = min(d, max(left, 0)), true
	}
	if !bounded {
		return 0, false
	}
	return d, true
}
