package retry

import (
	"math"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

var (
	usual = &Policy{MaxAttempts: 4, InitialBackoff: 100 * time.Millisecond, MaxBackoff: time.Second, BackoffMultiplier: 2,
		Retryable: grpc.SetOf(grpc.Unavailable, grpc.Aborted)}
	onlyTimeouts = &Policy{MaxAttempts: 2, InitialBackoff: 1, MaxBackoff: 1, BackoffMultiplier: 1, Retryable: grpc.SetOf(grpc.DeadlineExceeded)}
	greedy       = &Policy{MaxAttempts: 100, InitialBackoff: 1, MaxBackoff: 1, BackoffMultiplier: 1, Retryable: grpc.SetOf(grpc.Unavailable)}
)

// middling makes the jitter's factor exactly 1.
const middling = 1 << 63

func empty() *Budget {
	b := NewBudget(BudgetSettings{Ratio: 0.1, Burst: 5})
	b.Withdraw()
	return b
}

func TestWhatBecomesOfAFailure(t *testing.T) {
	failed := Failure{Evidence: ByStatus, Status: grpc.Unavailable, Attempts: 1, Replayable: true, Random: middling}
	unclear := Failure{Evidence: Ambiguous, Status: grpc.Internal, Attempts: 1, Replayable: true, Random: middling}
	refused := Failure{Evidence: Refused, Replayable: true}
	with := func(f Failure, change func(f *Failure)) Failure { change(&f); return f }
	throttled := NewThrottle(ThrottleSettings{MaxTokens: 2, TokenRatio: 0.1})
	throttled.Failed()
	const ms = time.Millisecond
	for _, c := range []struct {
		story string
		p     *Policy
		f     Failure
		b     *Budget
		t     *Throttle
		want  Decision
	}{
		{"a listed status is retried after the first backoff", usual, failed, nil, nil, Decision{true, 100 * ms, RetryStatus}},
		{"an unlisted one is not", usual, with(failed, func(f *Failure) { f.Status = grpc.NotFound }), nil, nil, Decision{Why: NoStatus}},
		{"an unknown number is in no list", usual, with(failed, func(f *Failure) { f.Status = 14 + 32 }), nil, nil, Decision{Why: NoStatus}},
		{"nothing is without a policy", nil, failed, nil, nil, Decision{Why: NoPolicy}},
		{"Trunkline's own refusal is not, whatever it looks like", usual, with(failed, func(f *Failure) { f.Local = true }), nil, nil, Decision{Why: NoOwn}},
		{"nor is its own refusal that never left", usual, Failure{Evidence: NeverSent, Local: true}, nil, nil, Decision{Why: NoOwn}},
		{"what did not fail is not", usual, Failure{}, nil, nil, Decision{Why: NoFailure}},
		{"a committed call is not", usual, with(failed, func(f *Failure) { f.Replayable = false }), nil, nil, Decision{Why: NoReplay}},
		{"the third backoff", usual, with(failed, func(f *Failure) { f.Attempts = 3 }), nil, nil, Decision{true, 400 * ms, RetryStatus}},
		{"four attempts are all", usual, with(failed, func(f *Failure) { f.Attempts = 4 }), nil, nil, Decision{Why: NoAttempts}},
		{"five are all, whatever the policy says", greedy, with(failed, func(f *Failure) { f.Attempts = 5 }), nil, nil, Decision{Why: NoAttempts}},
		{"the caller's attempts are taken off", usual, with(failed, func(f *Failure) { f.Attempts, f.Previous = 2, 2 }), nil, nil, Decision{Why: NoAttempts}},
		{"what is left of them is used", usual, with(failed, func(f *Failure) { f.Attempts, f.Previous = 1, 2 }), nil, nil, Decision{true, 100 * ms, RetryStatus}},
		{"a caller who claims a thousand gets one", usual, with(failed, func(f *Failure) { f.Previous = 1000 }), nil, nil, Decision{Why: NoAttempts}},
		{"a negative claim gives nothing", usual, with(failed, func(f *Failure) { f.Attempts, f.Previous = 4, -1000 }), nil, nil, Decision{Why: NoAttempts}},
		{"pushback replaces the backoff", usual, with(failed, func(f *Failure) { f.HasPushback, f.Pushback = true, 7*ms }), nil, nil, Decision{true, 7 * ms, RetryPushback}},
		{"pushback of 0 is at once", usual, with(failed, func(f *Failure) { f.HasPushback = true }), nil, nil, Decision{true, 0, RetryPushback}},
		{"after a pushback the backoff begins anew", usual, with(failed, func(f *Failure) { f.Attempts, f.PushedAt = 3, 2 }), nil, nil, Decision{true, 100 * ms, RetryStatus}},
		{"pushback gives no attempts", usual, with(failed, func(f *Failure) { f.HasPushback, f.Attempts = true, 4 }), nil, nil, Decision{Why: NoAttempts}},
		{"pushback makes no status retryable", usual, with(failed, func(f *Failure) { f.HasPushback, f.Status = true, grpc.Internal }), nil, nil, Decision{Why: NoStatus}},
		{"pushback forbids", usual, with(failed, func(f *Failure) { f.NoRetry = true }), nil, nil, Decision{Why: NoPushback}},
		{"a pushback of a day is the caller's to wait for", usual, with(failed, func(f *Failure) { f.HasPushback, f.Pushback = true, 24*time.Hour }), nil, nil, Decision{Why: NoPatience}},
		{"a wait up to the deadline is in vain", usual, with(failed, func(f *Failure) { f.HasDeadline, f.Left = true, 100*ms }), nil, nil, Decision{Why: NoTime}},
		{"a wait below it is not", usual, with(failed, func(f *Failure) { f.HasDeadline, f.Left = true, 101*ms }), nil, nil, Decision{true, 100 * ms, RetryStatus}},
		{"the throttle holds it back", usual, failed, nil, throttled, Decision{Why: NoThrottle}},
		{"the budget is spent", usual, failed, empty(), nil, Decision{Why: NoBudget}},

		{"an ambiguous failure is not repeated", usual, unclear, nil, nil, Decision{Why: NoIdempotency}},
		{"unless the method is idempotent; it counts as UNAVAILABLE", usual, with(unclear, func(f *Failure) { f.Idempotent = true }), nil, nil, Decision{true, 100 * ms, RetryAmbiguousIdempotent}},
		{"and the policy lists UNAVAILABLE", onlyTimeouts, with(unclear, func(f *Failure) { f.Idempotent, f.Status = true, grpc.DeadlineExceeded }), nil, nil, Decision{Why: NoStatus}},
		{"a per-try timeout counts as DEADLINE_EXCEEDED, too", onlyTimeouts, with(unclear, func(f *Failure) { f.Idempotent, f.PerTry = true, true }), nil, nil, Decision{true, 1, RetryAmbiguousIdempotent}},
		{"and as UNAVAILABLE", usual, with(unclear, func(f *Failure) { f.Idempotent, f.PerTry = true, true }), nil, nil, Decision{true, 100 * ms, RetryAmbiguousIdempotent}},
		{"but is as ambiguous as a reset", usual, with(unclear, func(f *Failure) { f.PerTry = true }), nil, nil, Decision{Why: NoIdempotency}},

		{"what never left goes again without policy, budget or throttle", nil, Failure{Evidence: NeverSent, Attempts: 9, Transparent: 9, Previous: 9}, empty(), throttled, Decision{Retry: true, Why: RetryUnsent}},
		{"but not past the deadline", nil, Failure{Evidence: NeverSent, HasDeadline: true}, nil, nil, Decision{Why: NoTime}},
		{"the first refused goes again at once, for nothing", nil, refused, empty(), throttled, Decision{Retry: true, Why: RetryRefused}},
		{"the second from the budget", nil, with(refused, func(f *Failure) { f.Transparent = 1 }), empty(), nil, Decision{Why: NoBudget}},
		{"which has something", nil, with(refused, func(f *Failure) { f.Transparent = 1 }), NewBudget(BudgetSettings{}), nil, Decision{Retry: true, Why: RetryRefused}},
		{"but not for ever", nil, with(refused, func(f *Failure) { f.Transparent = MaxRefusals }), nil, nil, Decision{Why: NoAttempts}},
		{"and not without the request", usual, Failure{Evidence: Refused}, nil, nil, Decision{Why: NoReplay}},
		{"nor past the deadline", usual, with(refused, func(f *Failure) { f.HasDeadline = true }), nil, nil, Decision{Why: NoTime}},
	} {
		if got := Decide(c.p, &c.f, c.b, c.t); got != c.want {
			t.Errorf("%s: got %v %v (%v), want %v %v (%v)", c.story, got.Retry, got.After, got.Why, c.want.Retry, c.want.After, c.want.Why)
		}
	}
}

func TestTheBudgetIsOnlyTouchedWhenAllElseSaysYes(t *testing.T) {
	b := NewBudget(BudgetSettings{Ratio: 0.1, Burst: 50})
	before := b.Tokens()
	f := Failure{Evidence: ByStatus, Status: grpc.Unavailable, Attempts: 1, HasDeadline: true, Left: time.Millisecond, Replayable: true}
	if d := Decide(usual, &f, b, nil); d.Why != NoTime || b.Tokens() != before {
		t.Fatalf("%v, %v tokens of %v", d.Why, b.Tokens(), before)
	}
	f.HasDeadline = false
	if d := Decide(usual, &f, b, nil); !d.Retry || b.Tokens() != before-1 {
		t.Fatalf("%v, %v tokens of %v", d.Why, b.Tokens(), before)
	}
}

func TestTheThrottleIsToldOfWhatA6Counts(t *testing.T) {
	for _, c := range []struct {
		story string
		f     Failure
		want  float64
	}{
		{"a listed status", Failure{Evidence: ByStatus, Status: grpc.Unavailable}, 9},
		{"a listed one that cannot be retried for other reasons", Failure{Evidence: ByStatus, Status: grpc.Unavailable, Attempts: 7}, 9},
		{"a lost connection", Failure{Evidence: Ambiguous}, 9},
		{"a pushback that forbids, with any status", Failure{Evidence: ByStatus, Status: grpc.NotFound, NoRetry: true}, 9},
		{"not: the caller's faults", Failure{Evidence: ByStatus, Status: grpc.NotFound}, 10},
		{"not: refused", Failure{Evidence: Refused}, 10},
		{"not: never sent", Failure{Evidence: NeverSent}, 10},
		{"not: Trunkline's own", Failure{Evidence: ByStatus, Status: grpc.Unavailable, Local: true}, 10},
	} {
		throttle := NewThrottle(ThrottleSettings{MaxTokens: 10, TokenRatio: 0.1})
		Decide(usual, &c.f, nil, throttle)
		if got := throttle.Tokens(); got != c.want {
			t.Errorf("%s: %v tokens, want %v", c.story, got, c.want)
		}
	}
}

func TestBackoffKeepsToItsJitter(t *testing.T) {
	for n, want := range []time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 3: 400 * time.Millisecond, 4: 800 * time.Millisecond, 5: time.Second} {
		if n == 0 {
			want = 100 * time.Millisecond // nobody asks so; it must not break
		}
		least, most := usual.Backoff(n, 0), usual.Backoff(n, math.MaxUint64)
		if least != want*8/10 || most > want*12/10 || most < want*12/10-time.Microsecond {
			t.Errorf("backoff %d: %v to %v, want %v +-20%%", n, least, most, want)
		}
	}
	huge := &Policy{InitialBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64, BackoffMultiplier: 1e300}
	if got := huge.Backoff(5, math.MaxUint64); got <= 0 {
		t.Errorf("the longest backoff overflows to %v", got)
	}
}

func TestEveryReasonHasItsWords(t *testing.T) {
	seen := map[string]bool{}
	for w := WhyNone + 1; int(w) < len(whys); w++ {
		if w.String() == "" || w.Code() == "" || seen[w.String()] || seen[w.Code()] {
			t.Errorf("%d: %q, %q", w, w.String(), w.Code())
		}
		seen[w.String()], seen[w.Code()] = true, true
	}
	if NoEndpoint != Why(len(whys)-1) || Why(200).String() != "unknown" || Why(200).Code() != "unknown" {
		t.Error("a reason without words")
	}
}
