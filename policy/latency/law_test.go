package latency

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// For any latencies and any quantile the answer is within a tenth of the exact one.
func TestLawQuantilesAreNearTheExactOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Logarithmically spread, as latencies are.
		exponents := rapid.SliceOfN(rapid.Float64Range(math.Log(1100), math.Log(200e9)), 1, 200).Draw(t, "latencies")
		w, exact := New(), make([]time.Duration, 0, len(exponents))
		now := rapid.Int64Range(0, 1<<55).Draw(t, "now")
		for _, e := range exponents {
			d := time.Duration(math.Exp(e))
			exact = append(exact, d)
			w.Record(now, d)
		}
		slices.Sort(exact)
		q := rapid.Float64Range(0.001, 0.999).Draw(t, "q")
		want := exact[int(math.Ceil(q*float64(len(exact))))-1]
		if got, n := w.Quantile(now, q); n != len(exact) || !near(got, want) {
			t.Fatalf("quantile %v: %v from %d, want %v from %d", q, got, n, want, len(exact))
		}
	})
}
