package hedge

import (
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/latency"
	"github.com/trunkline/trunkline/policy/retry"
	"pgregory.net/rapid"
)

// However its copies fare, a call is sent at most five times, a call that is not idempotent once, and never more than the
// caller's earlier attempts leave; and what all calls send in addition stays within the budget.
func TestLawHedgesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ratio := rapid.Float64Range(0.001, 1).Draw(t, "ratio")
		budget := retry.NewBudget(retry.BudgetSettings{Ratio: ratio, Burst: rapid.IntRange(1, 60).Draw(t, "burst")})
		p := &Policy{MaxAttempts: rapid.IntRange(-1, 10).Draw(t, "max attempts"), NonFatal: grpc.SetOf(grpc.Unavailable)}
		most := budget.Tokens()
		calls := rapid.IntRange(1, 30).Draw(t, "calls")
		extra := 0
		for range calls {
			budget.Deposit()
			f := Facts{Sent: 1, Live: 1, Replayable: true, Budget: budget,
				Idempotent: rapid.Bool().Draw(t, "idempotent"), Previous: rapid.IntRange(-3, 8).Draw(t, "previous")}
			for range 20 {
				if f.Live > 0 && rapid.Bool().Draw(t, "one fails") {
					f.Live--
				}
				f.NoMore = f.NoMore || rapid.Uint8Range(0, 9).Draw(t, "no more") == 0
				d := Decide(p, &f)
				if d.Send && f.NoMore {
					t.Fatal("sent after all was said")
				}
				if d.Send {
					f.Sent, f.Live, extra = f.Sent+1, f.Live+1, extra+1
				}
			}
			limit := max(min(p.MaxAttempts, 5)-max(f.Previous, 0), 1)
			if !f.Idempotent {
				limit = 1
			}
			if f.Sent > limit {
				t.Fatalf("sent %d times of %d", f.Sent, limit)
			}
		}
		if most += ratio * float64(calls); float64(extra) > most+1e-6 {
			t.Fatalf("%d hedges, at most %v", extra, most)
		}
	})
}

func TestDecidingDoesNotAllocate(t *testing.T) {
	const now = int64(time.Hour)
	w := latency.New()
	for range 100 {
		w.Record(now, time.Millisecond)
	}
	p := &Policy{MaxAttempts: 3, Percentile: 90}
	f := Facts{Sent: 1, Live: 1, Idempotent: true, Replayable: true, Budget: retry.NewBudget(retry.BudgetSettings{})}
	if n := testing.AllocsPerRun(100, func() { Delay(p, w, now); Decide(p, &f) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	f := Facts{Sent: 1, Live: 1, Idempotent: true, Replayable: true, Throttle: retry.NewThrottle(retry.ThrottleSettings{MaxTokens: 10, TokenRatio: 1}),
		Budget: retry.NewBudget(retry.BudgetSettings{Ratio: 1, Burst: 10})}
	b.ReportAllocs()
	for b.Loop() {
		f.Budget.Deposit()
		Decide(usual, &f)
	}
}
