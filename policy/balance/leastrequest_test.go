package balance

import (
	"fmt"
	"testing"
)

// A closed loop: so many calls are open at any time, each pick ends the oldest. From one call to many more than weights.
func TestLoadedEndpointsGetCallsByWeightAtAnyConcurrency(t *testing.T) {
	for _, c := range []struct {
		weights []uint32
		tol     float64
	}{{[]uint32{1, 1, 1}, 0.02}, {[]uint32{3, 1}, 0.25}, {[]uint32{9, 1}, 0.35}, {[]uint32{4, 2, 1, 1}, 0.25}} {
		for _, open := range []int{1, 2, 4, 16, 64, 512} {
			t.Run(fmt.Sprint(c.weights, open), func(t *testing.T) {
				p := mustNew(t, LeastRequest, members(c.weights...))
				counts := make([]int, len(c.weights))
				rnd := seeded()
				var queue []int
				for range 50000 {
					if len(queue) == open { // any one of the open calls ends
						k := rnd.IntN(open)
						p.Members()[queue[k]].Endpoint.InFlight.Add(-1)
						queue[k] = queue[open-1]
						queue = queue[:open-1]
					}
					i, _, _ := p.Pick(rnd.Uint64(), nil)
					p.Members()[i].Endpoint.InFlight.Add(1)
					queue = append(queue, i)
					counts[i]++
				}
				t.Log(counts)
				within(t, counts, c.weights, c.tol)
			})
		}
	}
}

// The guided search finds what a plain walk finds, for every place in small weights and at the edges of large ones.
func TestADrawFindsItsStretch(t *testing.T) {
	rnd := seeded()
	for round := range 200 {
		weights := make([]uint32, 2+rnd.IntN(40))
		for i := range weights {
			weights[i] = 1 + rnd.Uint32N(7)
			if round%2 == 1 {
				weights[i] = 1 + rnd.Uint32()>>rnd.IntN(32)
			}
		}
		weights[0], weights[1] = 1, 2 // never all equal
		p := newLeastRequest(members(weights...), nil)
		walk := func(x uint64) (i int) {
			for ; p.ends[i] <= x; i++ {
			}
			return i
		}
		for i, end := range p.ends {
			for _, x := range []uint64{end - 1, end - uint64(weights[i]), rnd.Uint64N(p.total)} {
				if got, want := p.at(x), walk(x); got != want {
					t.Fatalf("%v: %d is member %d's, got %d", weights, x, want, got)
				}
			}
		}
		for range 100 {
			if a, b := p.draw(rnd.Uint64()); a == b {
				t.Fatalf("%v: %d drawn twice", weights, a)
			}
		}
	}
}

func TestLeastRequestAvoidsTheLoaded(t *testing.T) {
	ms := members(1, 1)
	p := mustNew(t, LeastRequest, ms)
	ms[0].Endpoint.InFlight.Store(1)
	rnd := seeded()
	for range 1000 {
		if i, why, _ := p.Pick(rnd.Uint64(), nil); i != 1 || why != ReasonP2CLessLoaded {
			t.Fatalf("of two, the loaded one was picked: %d, %v", i, why)
		}
	}
	ms = members(1, 1, 1, 1, 1)
	p = mustNew(t, LeastRequest, ms)
	ms[3].Endpoint.InFlight.Store(50)
	for range 1000 {
		if i, _, _ := p.Pick(rnd.Uint64(), nil); i == 3 {
			t.Fatal("the most loaded one was picked")
		}
	}
	ms = members(10, 1)
	p = mustNew(t, LeastRequest, ms)
	ms[0].Endpoint.InFlight.Store(9)
	ms[1].Endpoint.InFlight.Store(2)
	for range 1000 {
		if i, _, _ := p.Pick(rnd.Uint64(), nil); i != 0 {
			t.Fatal("2 calls on weight 1 are more than 9 on weight 10")
		}
	}
}

func TestReasonsSayWhatHappenedToTheOther(t *testing.T) {
	ms := members(1, 1)
	p := mustNew(t, LeastRequest, ms)
	if _, why, _ := p.Pick(1, nil); why != ReasonP2CTie {
		t.Error(why)
	}
	if i, why, _ := p.Pick(1, avoiding(ms[0].Endpoint)); i != 1 || why != ReasonP2COtherAvoided {
		t.Error(i, why)
	}
	ms[1].Endpoint.MarkDown()
	if i, why, _ := p.Pick(1, nil); i != 0 || why != ReasonP2COtherDown {
		t.Error(i, why)
	}
	ms = members(1, 1, 1, 1, 1, 1)
	p = mustNew(t, LeastRequest, ms)
	for _, m := range ms[1:] {
		m.Endpoint.MarkDown()
	}
	seen := map[Reason]bool{}
	rnd := seeded()
	for range 200 {
		_, why, _ := p.Pick(rnd.Uint64(), nil)
		seen[why] = true
	}
	if !seen[ReasonScanAvailable] || !seen[ReasonP2COtherDown] || len(seen) != 2 {
		t.Error(seen)
	}
}
