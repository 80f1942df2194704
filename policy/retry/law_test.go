package retry

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"pgregory.net/rapid"
)

func drawPolicy(t *rapid.T) *Policy {
	if rapid.IntRange(0, 9).Draw(t, "no policy") == 0 {
		return nil
	}
	duration := rapid.Int64Range(1, 10) // so small that waits and deadlines meet
	return &Policy{
		MaxAttempts:       rapid.IntRange(0, 7).Draw(t, "max attempts"),
		InitialBackoff:    time.Duration(duration.Draw(t, "initial")),
		MaxBackoff:        time.Duration(duration.Draw(t, "max")),
		BackoffMultiplier: rapid.Float64Range(0.001, 1000).Draw(t, "multiplier"),
		Retryable:         grpc.StatusSet(rapid.Uint32Range(0, 1<<grpc.NumStatuses-1).Draw(t, "retryable")) | grpc.SetOf(grpc.Unavailable),
	}
}

// drawFailure draws mostly what is retried, so that calls get as far as their limits.
func drawFailure(t *rapid.T) *Failure {
	f := &Failure{
		Evidence:   rapid.SampledFrom([]Evidence{ByStatus, ByStatus, ByStatus, ByStatus, ByStatus, Ambiguous, Refused, NeverSent}).Draw(t, "evidence"),
		Status:     rapid.SampledFrom([]grpc.Status{grpc.Unavailable, grpc.Unavailable, grpc.Unavailable, grpc.Aborted, grpc.OK, 20}).Draw(t, "status"),
		Idempotent: rapid.Bool().Draw(t, "idempotent"),
		Previous:   rapid.IntRange(-1, 4).Draw(t, "previous"),
		Replayable: rapid.IntRange(0, 19).Draw(t, "not replayable") > 0,
		Random:     rapid.Uint64().Draw(t, "random"),
		Left:       time.Duration(rapid.Int64Range(-2, 30).Draw(t, "left")),
	}
	f.HasDeadline = rapid.IntRange(0, 3).Draw(t, "has deadline") == 0
	f.PerTry = f.Evidence == Ambiguous && rapid.Bool().Draw(t, "per try")
	f.NoRetry = rapid.IntRange(0, 19).Draw(t, "no retry") == 0
	f.Local = rapid.IntRange(0, 19).Draw(t, "local") == 0
	if f.HasPushback = !f.NoRetry && rapid.IntRange(0, 3).Draw(t, "has pushback") == 0; f.HasPushback {
		f.Pushback = time.Duration(rapid.Int64Range(0, 30).Draw(t, "pushback"))
	}
	return f
}

// A call as an engine makes it, with an adversary for servers: however its attempts fail, it is executed at most five times, at
// most once more than it may be if it is not idempotent and a failure was ambiguous, and never beyond what its caller left.
func TestLawACallIsNotMultiplied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		first := drawFailure(t)
		idempotent, previous := first.Idempotent, first.Previous
		executed, sent, transparent, pushedAt, ambiguous := 0, 0, 0, 0, false
		for range 50 { // the engine's own bound on what was never sent
			if ambiguous && !idempotent {
				t.Fatal("sent again after an ambiguous failure without idempotency")
			}
			f := drawFailure(t)
			f.Idempotent, f.Previous, f.Transparent, f.PushedAt = idempotent, previous, transparent, pushedAt
			sent++
			if f.Evidence == ByStatus || f.Evidence == Ambiguous {
				executed++
			}
			ambiguous = ambiguous || f.Evidence == Ambiguous
			f.Attempts = executed
			d := Decide(p, f, nil, nil)
			if !d.Retry {
				if d.After != 0 {
					t.Fatalf("a wait of %v without a retry", d.After)
				}
				break
			}
			switch {
			case f.Local:
				t.Fatal("Trunkline's own refusal was retried")
			case f.NoRetry && f.Evidence != NeverSent:
				t.Fatal("retried though pushback forbids")
			case !f.Replayable && f.Evidence != NeverSent:
				t.Fatal("retried without the request")
			case f.HasDeadline && d.After >= f.Left:
				t.Fatalf("waits %v of %v left", d.After, f.Left)
			case d.After < 0:
				t.Fatalf("waits %v", d.After)
			}
			if f.Evidence == NeverSent || f.Evidence == Refused {
				transparent++
				continue
			}
			if f.HasPushback {
				if d.After != f.Pushback {
					t.Fatalf("waits %v, pushed back by %v", d.After, f.Pushback)
				}
				pushedAt = f.Attempts
			} else if most := time.Duration(float64(p.MaxBackoff) * 1.2); d.After > most+1 {
				t.Fatalf("waits %v, more than %v", d.After, most)
			}
		}
		limit := 1
		if p != nil {
			limit = max(min(p.MaxAttempts, MaxAttempts)-max(previous, 0), 1)
		}
		if executed > limit || executed > MaxAttempts {
			t.Fatalf("executed %d times of %d, with %d before", executed, limit, previous)
		}
	})
}

// Whatever the order of calls and retries: never more retries than what was saved up, plus the ratio of the calls.
func TestLawTheBudgetIsNeverExceeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := BudgetSettings{Ratio: rapid.Float64Range(0.001, 1).Draw(t, "ratio"), Burst: rapid.IntRange(1, 100).Draw(t, "burst")}
		b := NewBudget(s)
		saved, calls, retries := b.Tokens(), 0, 0
		for _, retry := range rapid.SliceOfN(rapid.Bool(), 0, 300).Draw(t, "steps") {
			if !retry {
				calls++
				b.Deposit()
			} else if b.Withdraw() {
				retries++
			}
			if got := b.Tokens(); got < 0 || got > float64(s.Burst) {
				t.Fatalf("%v tokens of %d", got, s.Burst)
			}
		}
		if most := saved + s.Ratio*float64(calls); float64(retries) > most+1e-6 {
			t.Fatalf("%d retries, at most %v", retries, most)
		}
	})
}

func TestTheBudgetHoldsWhenAllShardsTakeFromIt(t *testing.T) {
	b := NewBudget(BudgetSettings{Ratio: 0.25, Burst: 100})
	const shards, calls = 4, 20000
	var retries atomic.Int64
	var wg sync.WaitGroup
	for range shards {
		wg.Go(func() {
			for range calls {
				b.Deposit()
				if b.Withdraw() {
					retries.Add(1)
				}
			}
		})
	}
	wg.Wait()
	// Nobody ever found it full here, so nothing was lost either.
	if got, want := float64(retries.Load())+b.Tokens(), 20+0.25*shards*calls; math.Abs(got-want) > 1e-6 {
		t.Fatalf("%v retries and tokens, want %v", got, want)
	}
}

func TestLawTheThrottleStaysInItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := ThrottleSettings{MaxTokens: rapid.IntRange(1, 1000).Draw(t, "max"), TokenRatio: rapid.Float64Range(0.001, 3).Draw(t, "ratio")}
		throttle := NewThrottle(s)
		for _, failed := range rapid.SliceOfN(rapid.Bool(), 0, 300).Draw(t, "steps") {
			if failed {
				throttle.Failed()
			} else {
				throttle.Succeeded()
			}
			got := throttle.Tokens()
			if got < 0 || got > float64(s.MaxTokens) {
				t.Fatalf("%v tokens of %d", got, s.MaxTokens)
			}
			if throttle.Allows() != (got > float64(s.MaxTokens)/2) {
				t.Fatalf("allows %v with %v of %d", throttle.Allows(), got, s.MaxTokens)
			}
		}
	})
}

func TestDecidingDoesNotAllocate(t *testing.T) {
	b, throttle := NewBudget(BudgetSettings{}), NewThrottle(ThrottleSettings{MaxTokens: 10, TokenRatio: 0.1})
	f := Failure{Evidence: ByStatus, Status: grpc.Unavailable, Attempts: 1, Replayable: true}
	if n := testing.AllocsPerRun(100, func() {
		b.Deposit()
		throttle.Succeeded()
		d := Decide(usual, &f, b, throttle)
		_, _ = d.Why.String(), d.Why.Code()
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	budget, throttle := NewBudget(BudgetSettings{}), NewThrottle(ThrottleSettings{MaxTokens: 10, TokenRatio: 1})
	f := Failure{Evidence: ByStatus, Status: grpc.Unavailable, Attempts: 3, Replayable: true, Random: middling}
	b.ReportAllocs()
	for b.Loop() {
		Decide(usual, &f, budget, throttle)
		throttle.Succeeded()
	}
}

func BenchmarkDeposit(b *testing.B) {
	for name, settings := range map[string]BudgetSettings{"full": {Burst: 1}, "filling": {Ratio: 0.001, Burst: math.MaxInt32}} {
		b.Run(name, func(b *testing.B) {
			budget := NewBudget(settings)
			for range 100 {
				budget.Deposit()
			}
			b.ReportAllocs()
			for b.Loop() {
				budget.Deposit()
			}
		})
	}
}
