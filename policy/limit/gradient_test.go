package limit

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// server simulates a cluster in logical time: it gives each of up to knee calls its whole speed, beyond that they share.
type server struct {
	knee            float64
	service         time.Duration                 // of one call that is alone
	noise           func(rnd *rand.Rand) float64  // factor of one call's work
	offered         float64                       // calls per second that come
	fails           func(took time.Duration) bool // nil: none
	quick           float64                       // share of the calls that fail at once
	work            []float64                     // left, in ns
	began           []int64
	refused, served int
}

// run lets time pass in steps of a millisecond, and returns the limit every 10 ms.
func (s *server) run(g *Gradient, rnd *rand.Rand, from int64, d time.Duration) (now int64, limits []int64) {
	const step = int64(time.Millisecond)
	for now = from; now < from+int64(d); now += step {
		for arrivals := poisson(rnd, s.offered*float64(step)/1e9); arrivals > 0; arrivals-- {
			if int64(len(s.work)) >= g.Limit() {
				s.refused++
				continue
			}
			if rnd.Float64() < s.quick {
				g.Record(time.Millisecond, false)
				continue
			}
			s.work = append(s.work, float64(s.service)*s.noise(rnd))
			s.began = append(s.began, now)
		}
		speed := min(1, s.knee/float64(max(len(s.work), 1)))
		for i := 0; i < len(s.work); {
			s.work[i] -= speed * float64(step)
			if s.work[i] > 0 {
				i++
				continue
			}
			took := time.Duration(now + step - s.began[i])
			g.Record(took, s.fails == nil || !s.fails(took))
			s.served++
			last := len(s.work) - 1
			s.work[i], s.began[i] = s.work[last], s.began[last]
			s.work, s.began = s.work[:last], s.began[:last]
		}
		if now/step%10 == 0 {
			limits = append(limits, g.Adjust(now, int64(len(s.work))))
		}
	}
	return now, limits
}

// poisson draws how many come (Knuth's way: fit for small means).
func poisson(rnd *rand.Rand, mean float64) (n int) {
	for l, p := math.Exp(-mean), rnd.Float64(); p > l; p *= rnd.Float64() {
		n++
	}
	return n
}

func steady(*rand.Rand) float64        { return 1 }
func exponential(r *rand.Rand) float64 { return r.ExpFloat64() }
func heavyTailed(r *rand.Rand) float64 { return math.Exp(r.NormFloat64() - 0.5) } // lognormal, mean 1

func median(v []int64) int64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// Under twice the load that it can serve, a cluster with a knee gets a limit near it: between the knee and three times the
// knee, whatever the noise, and from too high a start as well as from too low a one.
func TestGradientSettlesNearTheKnee(t *testing.T) {
	for _, noise := range []struct {
		name string
		of   func(*rand.Rand) float64
	}{{"steady", steady}, {"exponential", exponential}, {"heavy-tailed", heavyTailed}} {
		for _, knee := range []float64{10, 60} {
			for _, initial := range []int{5, 500} {
				g := NewGradient(Adaptive{Initial: initial})
				rnd := rand.New(rand.NewPCG(6, uint64(initial)))
				s := &server{knee: knee, service: 20 * time.Millisecond, noise: noise.of}
				s.offered = 2 * knee / s.service.Seconds()
				now, _ := s.run(g, rnd, 0, 25*time.Second)
				s.served = 0
				_, limits := s.run(g, rnd, now, 15*time.Second)
				m := float64(median(limits))
				share := float64(s.served) / 15 / (knee / s.service.Seconds())
				t.Logf("%s, knee %v, from %d: limit %v (%v to %v), %.0f %% of what it can serve", noise.name, knee, initial, m, slices.Min(limits), slices.Max(limits), 100*share)
				if m < knee || m > 3*knee {
					t.Errorf("%s, knee %v, from %d: the limit settles at %v", noise.name, knee, initial, m)
				}
				if share < 0.9 {
					t.Errorf("%s, knee %v, from %d: only %.0f %% of what the cluster can serve is let in", noise.name, knee, initial, 100*share)
				}
			}
		}
	}
}

// A cluster that loses most of what it can serve gets a limit that fits within seconds, and its old limit back within seconds
// when it has recovered.
func TestGradientFollowsASlowdownAndRecovers(t *testing.T) {
	g := NewGradient(Adaptive{})
	rnd := rand.New(rand.NewPCG(1, 2))
	s := &server{knee: 100, service: 20 * time.Millisecond, noise: exponential, offered: 6000}
	now, limits := s.run(g, rnd, 0, 20*time.Second)
	before := median(limits[1500:])
	s.knee = 15
	now, limits = s.run(g, rnd, now, 20*time.Second)
	during := median(limits[800:])
	if during > before/3 || during < 15 {
		t.Errorf("the knee fell from 100 to 15: the limit from %d to %d", before, during)
	}
	s.knee = 100
	_, limits = s.run(g, rnd, now, 8*time.Second)
	after := median(limits[600:])
	if after < 100 {
		t.Errorf("the knee is at 100 again: the limit was %d, fell to %d and is %d", before, during, after)
	}
	t.Logf("limit before %d, during %d, after %d", before, during, after)
}

// Calls that simply take longer from now on, without queueing, cost throughput only until the base is measured again.
func TestGradientAcceptsNewLatency(t *testing.T) {
	g := NewGradient(Adaptive{})
	rnd := rand.New(rand.NewPCG(3, 4))
	s := &server{knee: 50, service: 10 * time.Millisecond, noise: exponential, offered: 10_000}
	now, _ := s.run(g, rnd, 0, 10*time.Second)
	for _, service := range []time.Duration{60 * time.Millisecond, 5 * time.Millisecond, 400 * time.Millisecond} {
		s.service = service
		now, _ = s.run(g, rnd, now, 10*time.Second+60*service)
		var limits []int64
		now, limits = s.run(g, rnd, now, 20*time.Second)
		m := median(limits)
		if m < 45 || m > 150 {
			t.Errorf("calls now take %v, the knee is still 50: the limit is %d", service, m)
		}
		base, recent := g.Latency()
		t.Logf("%v: limit %d, base %v, recent %v", service, m, base, recent)
	}
}

// A cluster with little to do keeps its limit whatever the noise; nothing is refused.
func TestGradientLeavesIdleClustersAlone(t *testing.T) {
	g := NewGradient(Adaptive{})
	rnd := rand.New(rand.NewPCG(5, 6))
	s := &server{knee: 100, service: 20 * time.Millisecond, noise: heavyTailed, offered: 200} // 4 under way
	_, limits := s.run(g, rnd, 0, 3*time.Minute)
	steadyAt := 0
	for _, l := range limits {
		if l == 50 {
			steadyAt++
		}
	}
	if steadyAt < len(limits)*9/10 || s.refused > 0 {
		t.Errorf("the limit was %d in %d of %d looks, %d calls refused", 50, steadyAt, len(limits), s.refused)
	}
}

// When all calls run into their timeouts the limit falls; when calls fail fast it does not move, and quick
// errors are not taken for a quick server.
func TestGradientAndFailures(t *testing.T) {
	g := NewGradient(Adaptive{})
	rnd := rand.New(rand.NewPCG(7, 8))
	s := &server{knee: 100, service: 20 * time.Millisecond, noise: steady, offered: 20_000}
	now, _ := s.run(g, rnd, 0, 10*time.Second)
	before := g.Limit()
	base, _ := g.Latency()

	s.service, s.fails = time.Millisecond, func(time.Duration) bool { return true }
	now, _ = s.run(g, rnd, now, 10*time.Second)
	if b, _ := g.Latency(); b != base || g.Limit() != before {
		t.Errorf("errors after 1ms: base %v to %v, limit %d to %d", base, b, before, g.Limit())
	}

	s.service, s.fails, s.quick = 20*time.Millisecond, nil, 0.7
	now, _ = s.run(g, rnd, now, 10*time.Second)
	if l := g.Limit(); l < before/2 || l > 2*before {
		t.Errorf("two of three calls fail at once, the others queue: limit %d to %d", before, l)
	}

	s.service, s.fails, s.quick = 2*time.Second, func(time.Duration) bool { return true }, 0
	now, _ = s.run(g, rnd, now, 60*time.Second)
	if g.Limit() > before/5 {
		t.Errorf("everything times out, and the limit was %d and is %d", before, g.Limit())
	}
	if b, _ := g.Latency(); b > 2*base {
		t.Errorf("failures after 2s moved the base from %v to %v", base, b)
	}

	s.service, s.fails = 20*time.Millisecond, nil
	_, limits := s.run(g, rnd, now, 20*time.Second)
	if m := median(limits[1000:]); m < 100 {
		t.Errorf("all is well again, and the limit is %d", m)
	}
}

// The limit stays between Min and Max, whatever is recorded.
func TestGradientBounds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for range 20 {
		g := NewGradient(Adaptive{Min: 3, Max: 20, Initial: 1 + rnd.IntN(40), MinSamples: 1})
		for now := int64(0); now < 100*second; now += second / 20 {
			for range rnd.IntN(20) {
				g.Record(time.Duration(rnd.Uint64()>>rnd.IntN(64)), rnd.IntN(4) > 0) // negative ones too
			}
			if l := g.Adjust(now, rnd.Int64N(40)); l < 3 || l > 20 || l != g.Limit() {
				t.Fatalf("the limit is %d, said to be %d", l, g.Limit())
			}
		}
	}
}

// Shards record while another goroutine adjusts; nothing allocates.
func TestGradientShared(t *testing.T) {
	g := NewGradient(Adaptive{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				g.Record(time.Duration(i)*time.Microsecond, i%7 > 0)
			}
		})
	}
	now := int64(0)
	for range 200 {
		now += second / 10
		g.Adjust(now, 100)
	}
	wg.Wait()
	if n := testing.AllocsPerRun(100, func() {
		now += second / 10
		g.Record(time.Millisecond, true)
		g.Adjust(now, 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The histogram's median is within 4 % of the true one, over its whole range.
func TestHistogramMedian(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	for scale := 2 * time.Microsecond; scale < 10*time.Minute; scale *= 3 {
		h := &histogram{}
		var all []int64
		for range 501 {
			d := time.Duration(float64(scale) * (0.5 + rnd.Float64()))
			h.add(d)
			all = append(all, int64(d))
		}
		want := median(all)
		got, n := h.take()
		if off := math.Abs(float64(got)/float64(want) - 1); off > 0.04 || n != 501 {
			t.Errorf("median %v of %d, want %v: %.1f %% off", got, n, time.Duration(want), 100*off)
		}
		if m, n := h.take(); m != 0 || n != 0 {
			t.Errorf("after it was emptied: %v of %d", m, n)
		}
	}
}

func BenchmarkGradientRecord(b *testing.B) {
	g := NewGradient(Adaptive{})
	b.ReportAllocs()
	i := time.Duration(0)
	for b.Loop() {
		i++
		g.Record(i, true)
	}
}

func BenchmarkGradientAdjust(b *testing.B) {
	g := NewGradient(Adaptive{})
	now := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += second
		for i := range 20 {
			g.Record(time.Duration(i)*time.Millisecond, true)
		}
		g.Adjust(now, 50)
	}
}
