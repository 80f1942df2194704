package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = int64(time.Second)

// A bucket grants its burst at once, then one token an interval, and says truly how long to wait.
func TestBucketStory(t *testing.T) {
	b := NewBucket(Rate{PerSecond: 10, Burst: 3})
	now := 5 * second
	for i := range 3 {
		if ok, _ := b.Take(now); !ok {
			t.Fatalf("token %d of the burst was refused", i+1)
		}
	}
	ok, after := b.Take(now)
	if ok || after != 100*time.Millisecond {
		t.Fatalf("beyond the burst: %v, after %v; want a refusal for 100ms", ok, after)
	}
	if ok, _ := b.Take(now + int64(after) - 1); ok {
		t.Fatal("granted a nanosecond before it said")
	}
	if ok, _ := b.Take(now + int64(after)); !ok {
		t.Fatal("refused at the time that it had named")
	}
	if n := b.Tokens(now + int64(after)); n != 0 {
		t.Fatalf("%d tokens left, want 0", n)
	}
	if n := b.Tokens(now + 10*second); n != 3 {
		t.Fatalf("%d tokens after a long rest, want the burst of 3 and no more", n)
	}
}

// Settings that make no sense neither divide by zero nor overflow, and grant at least one token and not for ever.
func TestBucketNonsense(t *testing.T) {
	for _, r := range []Rate{{}, {-1, -1}, {math.NaN(), 5}, {math.Inf(1), 1}, {1e-300, math.MaxInt}, {1e300, math.MaxInt}, {1, 0}} {
		for _, now := range []int64{math.MinInt64 / 8, -1, 0, 1, math.MaxInt64 / 8} {
			if ok, _ := NewBucket(r).Take(now); !ok {
				t.Errorf("%+v at %d refuses the first token", r, now)
			}
			if ok, _ := NewKeyed(r, 1, 1).Take(now, "k"); !ok {
				t.Errorf("%+v at %d, keyed, refuses the first token", r, now)
			}
		}
	}
	b := NewBucket(Rate{})
	b.Take(0)
	if ok, after := b.Take(3600 * second); ok || after <= 0 {
		t.Error("a bucket without a rate refills within the hour")
	}
}

func drawRate(t *rapid.T) Rate {
	return Rate{
		PerSecond: rapid.OneOf(rapid.Float64Range(0.001, 10), rapid.Float64Range(10, 1e6)).Draw(t, "rate"),
		Burst:     rapid.IntRange(1, 50).Draw(t, "burst"),
	}
}

// drawStep is a time step around the interval: that is where the edges are.
func drawStep(t *rapid.T, r Rate) int64 {
	interval := float64(second) / r.PerSecond
	return int64(interval * rapid.OneOf(rapid.Just(0.0), rapid.Just(1.0), rapid.Float64Range(0, 2), rapid.Float64Range(0, 60)).Draw(t, "step"))
}

// Law: in every span a bucket grants at most burst + rate*t; and who waits as told is not refused.
func TestBucketLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRate(t)
		b := NewBucket(r)
		now := rapid.Int64Range(-1e15, 1e15).Draw(t, "begin")
		var granted []int64
		for range rapid.IntRange(1, 120).Draw(t, "calls") {
			now += drawStep(t, r)
			ok, after := b.Take(now)
			if !ok {
				if after <= 0 {
					t.Fatalf("refused, and told to wait %v", after)
				}
				if !rapid.Bool().Draw(t, "waits") {
					continue
				}
				now += int64(after)
				if ok, again := b.Take(now); !ok {
					t.Fatalf("waited %v as told, and is told to wait %v", after, again)
				}
			}
			granted = append(granted, now)
		}
		withinLaw(t, r, granted, 1e-6)
	})
}

// withinLaw checks every span that begins and ends with a grant: others are no stricter.
func withinLaw(t *rapid.T, r Rate, granted []int64, extra float64) {
	for i := range granted {
		for j := i; j < len(granted); j++ {
			span := float64(granted[j]-granted[i]) / float64(second)
			if n := j - i + 1; float64(n) > float64(r.Burst)+extra+r.PerSecond*span {
				t.Fatalf("%d grants in %.9fs at %+v: more than burst + rate*t (+%g)", n, span, r, extra)
			}
		}
	}
}

// A bucket under steady pressure grants its rate, not much less: rounding costs at most one in a thousand.
func TestBucketReachesItsRate(t *testing.T) {
	for _, rate := range []float64{0.5, 3, 999, 7919, 333_333, 1e6} {
		b, k := NewBucket(Rate{rate, 10}), NewKeyed(Rate{rate, 10}, 100, 1)
		step := int64(float64(second)/rate/7) + 1
		plain, keyed := 0, 0
		now := int64(0)
		for range 200_000 {
			now += step
			if ok, _ := b.Take(now); ok {
				plain++
			}
			if ok, _ := k.Take(now, "key"); ok {
				keyed++
			}
		}
		want := 0.995 * rate * float64(now) / float64(second)
		if float64(plain) < want || float64(keyed) < want {
			t.Errorf("at %v per second: %d, keyed %d granted, want at least %.0f", rate, plain, keyed, want)
		}
	}
}

// Many shards with clocks of their own drain one bucket: together they get burst + rate*t, to the last token.
func TestBucketShared(t *testing.T) {
	r := Rate{PerSecond: 1000, Burst: 100}
	b, k := NewBucket(r), NewKeyed(r, 10, 1)
	var plain, keyed atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20_000 {
				now := int64(i)*int64(25*time.Microsecond) + int64(g)*int64(time.Millisecond) // half a second in all, each a little off
				if ok, _ := b.Take(now); ok {
					plain.Add(1)
				}
				if ok, _ := k.Take(now, "key"); ok {
					keyed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	const most = 100 + 507 + 1 // half a second, and 7 ms of clocks that differ
	for what, n := range map[string]int64{"bucket": plain.Load(), "keyed": keyed.Load()} {
		if n > most || n < 550 {
			t.Errorf("%s granted %d, want at most %d and hardly less", what, n, most)
		}
	}
}

func BenchmarkBucketGranted(b *testing.B) {
	bucket := NewBucket(Rate{1e6, 10})
	now := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 1000
		bucket.Take(now)
	}
}

func BenchmarkBucketRefused(b *testing.B) {
	bucket := NewBucket(Rate{1, 1})
	b.ReportAllocs()
	for b.Loop() {
		bucket.Take(1)
	}
}

func BenchmarkBucketParallel(b *testing.B) {
	bucket := NewBucket(Rate{1e6, 10})
	b.RunParallel(func(pb *testing.PB) {
		now := int64(0)
		for pb.Next() {
			now += 1000
			bucket.Take(now)
		}
	})
}
