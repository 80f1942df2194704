package latency

import (
	"math"
	"sync"
	"testing"
	"time"
)

const second = int64(time.Second)

func near(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= 0.1*float64(want)
}

func TestAnEmptyWindowKnowsNothing(t *testing.T) {
	if d, n := New().Quantile(0, 0.5); d != 0 || n != 0 {
		t.Fatalf("%v from %d", d, n)
	}
}

func TestQuantilesAreWithinATenth(t *testing.T) {
	w := New()
	for i := 1; i <= 1000; i++ {
		w.Record(5*second, time.Duration(i)*time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.001: time.Millisecond, 0.5: 500 * time.Millisecond, 0.95: 950 * time.Millisecond,
		0.99: 990 * time.Millisecond, 0.999: 999 * time.Millisecond} { // one more than answers are remembered for
		if d, n := w.Quantile(5*second, q); !near(d, want) || n != 1000 {
			t.Errorf("%v: %v from %d, want %v", q, d, n, want)
		}
	}
}

func TestEveryLatencyIsWithinATenthOfItsBucket(t *testing.T) {
	for d := time.Microsecond * 11 / 10; d < 4*time.Minute; d += 1 + d/97 {
		if got := middle(bucket(d)); !near(got, d) {
			t.Fatalf("%v is told as %v", d, got)
		}
	}
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, time.Microsecond, time.Hour, math.MaxInt64} {
		if i := bucket(d); i < 0 || i >= buckets {
			t.Errorf("%v is in bucket %d", d, i)
		}
	}
}

func TestOldLatenciesAreForgotten(t *testing.T) {
	w := New()
	w.Record(9*second, time.Millisecond)
	for _, step := range []struct {
		at      int64
		samples int
	}{{9, 1}, {15, 1}, {19, 1}, {20, 0}, {29, 0}} {
		if _, n := w.Quantile(step.at*second, 0.5); n != step.samples {
			t.Errorf("at %ds: %d samples, want %d", step.at, n, step.samples)
		}
	}
	w.Record(29*second, 2*time.Millisecond) // takes the place of the first
	if d, n := w.Quantile(30*second, 0.5); n != 1 || !near(d, 2*time.Millisecond) {
		t.Errorf("%v from %d", d, n)
	}
	w.Record(31*second, 3*time.Millisecond)
	w.Record(29*second, 3*time.Millisecond) // a shard whose clock reading is a little old
	if _, n := w.Quantile(32*second, 0.5); n != 3 {
		t.Errorf("%d samples, want 3", n)
	}
}

func TestAnAnswerIsRememberedForATenthOfASecond(t *testing.T) {
	w := New()
	w.Record(second, time.Millisecond)
	if _, n := w.Quantile(second, 0.5); n != 1 {
		t.Fatal(n)
	}
	w.Record(second, time.Millisecond)
	if _, n := w.Quantile(second+fresh-1, 0.5); n != 1 {
		t.Fatalf("worked out again within 100ms: %d samples", n)
	}
	if _, n := w.Quantile(second+fresh, 0.5); n != 2 {
		t.Fatalf("not worked out again after 100ms: %d samples", n)
	}
}

func TestManyShardsRecordAtOnce(t *testing.T) {
	w := New()
	w.Record(second, time.Millisecond) // the half is begun: only in that moment may a call be missed (see Window)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 10000 {
				w.Record(second, time.Duration(i)*time.Microsecond)
				w.Quantile(second+int64(i)*fresh/1000, 0.5)
			}
		})
	}
	wg.Wait()
	if d, n := w.Quantile(5*second, 0.5); n != 40001 || !near(d, 5*time.Millisecond) {
		t.Fatalf("%v from %d", d, n)
	}
}

func TestTheWindowDoesNotAllocate(t *testing.T) {
	w, now := New(), int64(0)
	if n := testing.AllocsPerRun(1000, func() { now += second / 3; w.Record(now, time.Millisecond); w.Quantile(now, 0.5) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	w, now := New(), int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 1000
		w.Record(now, time.Duration(now&0xffffff))
	}
}

func BenchmarkRecordByAll(b *testing.B) {
	w := New()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		now := int64(0)
		for pb.Next() {
			now += 1000
			w.Record(now, time.Millisecond) // all in one bucket: the worst
		}
	})
}

func BenchmarkQuantile(b *testing.B) {
	for name, step := range map[string]int64{"remembered": 0, "worked out": fresh} {
		b.Run(name, func(b *testing.B) {
			w, now := New(), int64(0)
			for i := range 1000 {
				w.Record(now, time.Duration(i)*time.Millisecond)
			}
			b.ReportAllocs()
			for b.Loop() {
				now = (now + step) % period
				w.Quantile(now, 0.5)
			}
		})
	}
}
