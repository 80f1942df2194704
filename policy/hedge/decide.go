package hedge

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/latency"
	"github.com/trunkline/trunkline/policy/retry"
)

// MinSamples is how many recent calls there must be before [Policy.Percentile] counts; and twice as many as it takes for one of them to
// lie beyond the percentile.
const MinSamples = 20

// Facts are what is known of a call that could be hedged. Owned by the caller of [Decide]; not kept.
type Facts struct {
	Sent     int // attempts sent so far that count
	Live     int // of those, not failed yet: with none, what [Decide] allows is the last hope and not an addition
	Previous int // grpc-previous-rpc-attempts that the caller sent

	Idempotent bool // declared so: the call may be executed more than once
	Replayable bool // all that was sent of the request can be sent again, and nothing was sent to the caller yet
	NoMore     bool // a fatal status, or a pushback that forbids, was seen

	Throttle *retry.Throttle // nil: none
	Budget   *retry.Budget   // the hedge budget; nil: none

	Left        time.Duration // until the call's deadline
	HasDeadline bool
}

// Decision is whether one more copy is sent now.
type Decision struct {
	Send bool
	Why  Why
}

// Decide is asked when the delay has passed without an answer, and when an attempt failed with a status that is not fatal,
// which gRFC A6 ("Hedging Policy") lets the next one follow at once, or after its pushback. What A6 leaves to the service's
// owner is a gate here: a call is hedged only if it is declared idempotent, for each copy may be executed.
//
// It withdraws from the budget when all else has said yes, and only then. It only asks the throttle: its caller tells that of a
// success, and of a failure that is not [Fatal] or whose pushback forbids. It does not allocate.
func Decide(p *Policy, f *Facts) Decision {
	switch {
	case p == nil:
		return Decision{Why: NoPolicy}
	case !f.Idempotent:
		return Decision{Why: NoIdempotency}
	case f.NoMore:
		return Decision{Why: NoMore}
	case f.Sent >= max(min(p.MaxAttempts, retry.MaxAttempts)-max(f.Previous, 0), 1):
		return Decision{Why: NoAttempts}
	case !f.Replayable:
		return Decision{Why: NoReplay}
	case f.HasDeadline && f.Left <= 0:
		return Decision{Why: NoTime}
	case !f.Throttle.Allows():
		return Decision{Why: NoThrottle}
	case !f.Budget.Withdraw():
		return Decision{Why: NoBudget}
	case f.Live == 0:
		return Decision{Send: true, Why: SendFailed}
	}
	return Decision{Send: true, Why: SendSlow}
}

// Delay is how long to wait for an answer before the next copy: the policy's percentile of recent latency if it has one and there
// are enough samples to know it, else its fixed delay. recent may be nil. now is in nanoseconds, of recent's clock.
func Delay(p *Policy, recent *latency.Window, now int64) time.Duration {
	if p.Percentile > 0 && p.Percentile < 100 && recent != nil {
		q := p.Percentile / 100
		if d, n := recent.Quantile(now, q); n >= MinSamples && float64(n)*(1-q) >= 2 {
			return d
		}
	}
	return p.Delay
}

// Fatal says whether the status of one attempt ends the whole call: any but OK that the policy does not list as non-fatal. OK
// ends it too, but as a success.
func Fatal(p *Policy, status grpc.Status) bool {
	return status != grpc.OK && (p == nil || !p.NonFatal.Has(status))
}
