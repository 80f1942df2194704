package retry

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// MaxAttempts is the most attempts of a call that count, whatever a policy says (gRFC A6, "Limits on Retries and Hedges").
const MaxAttempts = 5

// MaxRefusals bounds the re-dispatches of one call after [Refused]: a fleet that refuses so often is full, not restarting.
const MaxRefusals = 5

// MaxPushback is the longest pushback that is waited out here. A6 allows 24 days: a proxy that keeps a call and its request for
// as long as a server pleases could be filled by it. The reply goes down instead, its pushback with it, and the caller decides.
const MaxPushback = time.Minute

// Failure is the facts about one failed attempt of a call. Owned by the caller of [Decide]; not kept.
type Failure struct {
	Evidence Evidence
	Status   grpc.Status // with ByStatus and Ambiguous
	PerTry   bool        // cut by its per-try timeout; its evidence is Ambiguous

	Pushback    time.Duration // with HasPushback: as [grpc.ParsePushback] has it
	HasPushback bool
	NoRetry     bool // pushback forbids: negative, malformed, or several fields of it

	Attempts    int // made so far that count, this one included; those never sent or refused do not count
	PushedAt    int // what Attempts was when a pushback was last obeyed; 0: never. The backoff begins anew from there
	Transparent int // re-dispatches of this call after never sent or refused, so far
	Previous    int // grpc-previous-rpc-attempts that the caller sent: what it has spent of the attempts already

	Idempotent bool // declared so: the call may be executed twice
	Replayable bool // all that was sent of the request can be sent again, and nothing was sent to the caller yet
	Local      bool // Trunkline's own refusal, not an endpoint's

	Left        time.Duration // until the call's deadline
	HasDeadline bool
	Random      uint64 // for the jitter; all bits uniform
}

// Decision is what becomes of the call. With Retry another attempt begins After from now.
type Decision struct {
	Retry bool
	After time.Duration
	Why   Why
}

// Decide says whether the call is sent again, by evidence first (see [Evidence]) and then by gRFC A6
// (https://github.com/grpc/proposal/blob/master/A6-client-retries.md):
//
//   - never sent: always, and at once. Nothing limits it here: the caller bounds how many endpoints it tries.
//   - refused: at once, the first re-dispatch of a call for nothing, later ones from the budget, with or without a policy (A6,
//     "Transparent Retries", allows one, and leaves the others to the policy; through a proxy many more streams meet one GOAWAY).
//   - by status: if the policy lists the status, and attempts, pushback, time, throttle and budget allow.
//   - ambiguous: the same, and only if the call is idempotent; it matches as UNAVAILABLE, whatever status was made of it,
//     for that is what a gRPC client calls a lost connection. A per-try timeout matches as DEADLINE_EXCEEDED, too.
//
// p, b and t may be nil: no policy, no budget (unbounded by it), no throttle.
// Decide withdraws from b when all else has said yes, and only then. It tells t of the failure where A6 counts it: its caller tells
// t of calls that succeeded, and of nothing else. It does not allocate.
func Decide(p *Policy, f *Failure, b *Budget, t *Throttle) Decision {
	if f.Local {
		return no(NoOwn)
	}
	switch f.Evidence {
	case NeverSent:
		if f.HasDeadline && f.Left <= 0 {
			return no(NoTime)
		}
		return Decision{Retry: true, Why: RetryUnsent}
	case Refused:
		return redispatch(f, b)
	case ByStatus, Ambiguous:
	default:
		return no(NoFailure)
	}

	matches := p != nil && p.matches(f)
	if matches || f.NoRetry && f.Evidence == ByStatus {
		t.Failed() // A6, "Throttling": a retryable status, or a pushback that forbids
	}
	switch {
	case p == nil:
		return no(NoPolicy)
	case !matches:
		return no(NoStatus)
	case f.Evidence == Ambiguous && !f.Idempotent:
		return no(NoIdempotency)
	case f.NoRetry:
		return no(NoPushback)
	case f.Attempts >= p.limit(f.Previous):
		return no(NoAttempts)
	case !f.Replayable:
		return no(NoReplay)
	}
	d := Decision{Retry: true, Why: RetryStatus}
	if f.Evidence == Ambiguous {
		d.Why = RetryAmbiguousIdempotent
	}
	if f.HasPushback {
		if f.Pushback > MaxPushback {
			return no(NoPatience)
		}
		d.After, d.Why = max(f.Pushback, 0), RetryPushback
	} else {
		d.After = p.Backoff(f.Attempts-f.PushedAt, f.Random)
	}
	switch {
	case f.HasDeadline && d.After >= f.Left:
		return no(NoTime)
	case !t.Allows():
		return no(NoThrottle)
	case !b.Withdraw():
		return no(NoBudget)
	}
	return d
}

// redispatch decides after a provable refusal: the call was not executed, so neither policy nor idempotency matters.
func redispatch(f *Failure, b *Budget) Decision {
	switch {
	case f.NoRetry: // cannot come with RST_STREAM or GOAWAY; obeyed all the same
		return no(NoPushback)
	case !f.Replayable:
		return no(NoReplay)
	case f.HasDeadline && f.Left <= 0:
		return no(NoTime)
	case f.Transparent >= MaxRefusals:
		return no(NoAttempts)
	case f.Transparent > 0 && !b.Withdraw():
		return no(NoBudget)
	}
	return Decision{Retry: true, Why: RetryRefused}
}

func no(w Why) Decision { return Decision{Why: w} }

// matches says whether the policy lists how f failed.
func (p *Policy) matches(f *Failure) bool {
	if f.Evidence == Ambiguous {
		return p.Retryable.Has(grpc.Unavailable) || f.PerTry && p.Retryable.Has(grpc.DeadlineExceeded)
	}
	return f.Status != grpc.OK && p.Retryable.Has(f.Status)
}

// limit is how many attempts the call may have in all, at least one: those that the caller made before it are taken off, so that
// retries do not multiply from hop to hop.
func (p *Policy) limit(previous int) int {
	return max(min(p.MaxAttempts, MaxAttempts)-max(previous, 0), 1)
}

// Backoff is how long to wait before the nth retry since the beginning or the last pushback, n from 1:
// min(InitialBackoff * BackoffMultiplier^(n-1), MaxBackoff) * random(0.8, 1.2), so up to a fifth more than MaxBackoff. That is A6's
// "Exponential Backoff" since 2024 (https://github.com/grpc/proposal/pull/452, grpc-go#7869); before, it was random(0, that).
func (p *Policy) Backoff(n int, random uint64) time.Duration {
	wait, most := float64(p.InitialBackoff), float64(p.MaxBackoff)
	for range min(n, MaxAttempts) - 1 {
		wait *= p.BackoffMultiplier
	}
	wait = min(wait, most) * (0.8 + 0.4*float64(random>>11)/(1<<53))
	// Durations near 292 years would overflow; so many nanoseconds fit a float64 and an int64.
	return time.Duration(min(wait, 1<<62))
}
