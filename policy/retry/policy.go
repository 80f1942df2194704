// Package retry owns the decision whether a failed attempt of a call is followed by another, and the budgets that bound how
// often that may be; it must not make the attempt, wait, or read a clock.
package retry

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// Policy is a retryPolicy of gRPC's service config (gRFC A6). Immutable.
type Policy struct {
	MaxAttempts       int           // 2 to 5, the first attempt included
	InitialBackoff    time.Duration // over 0
	MaxBackoff        time.Duration // over 0
	BackoffMultiplier float64       // over 0
	Retryable         grpc.StatusSet
}

// Evidence is what is known about a failed attempt: whether the server may have begun to work on the call.
type Evidence uint8

// The evidence, from harmless to unclear.
const (
	EvidenceNone Evidence = iota // it did not fail
	NeverSent                    // its headers never left: the dial failed, or the connection died before
	Refused                      // provably not processed: REFUSED_STREAM, or above the last id of a GOAWAY
	ByStatus                     // the server answered with a gRPC status other than OK
	Ambiguous                    // it may have been processed: reset, connection lost, no answer in time
)

// evidenceNames is never written.
var evidenceNames = [...]string{"", "never sent", "refused", "status", "ambiguous"}

// String is the evidence as it stands in spans, records and messages.
func (e Evidence) String() string {
	if int(e) < len(evidenceNames) {
		return evidenceNames[e]
	}
	return "unknown"
}

// BudgetSettings bound the retries of one cluster in proportion to its calls, whatever the policies of its methods say.
// Immutable.
type BudgetSettings struct {
	// Ratio is how many retries each call pays in for, over 0 to 1. Default 0.1.
	Ratio float64
	// Burst is the most that can be saved up, in retries; the budget begins with a fifth of it. Default 50.
	Burst int
}

// ThrottleSettings are the retryThrottling of gRPC's service config (gRFC A6). Immutable.
type ThrottleSettings struct {
	MaxTokens  int     // 1 to 1000
	TokenRatio float64 // over 0; three decimals count
}
