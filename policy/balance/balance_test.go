package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

func members(weights ...uint32) []Member {
	var ms []Member
	for i, w := range weights {
		ms = append(ms, Member{NewEndpoint(fmt.Sprintf("127.0.0.1:%d", 7000+i)), w})
	}
	return ms
}

func mustNew(t testing.TB, policy string, ms []Member) Picker {
	t.Helper()
	p, err := New(policy, ms, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// avoiding asks for another than e, which may be nil.
func avoiding(e *Endpoint) *Ask {
	if e == nil {
		return nil
	}
	return &Ask{Avoid: []*Endpoint{e}}
}

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

var policies = []string{LeastRequest, RoundRobin}

func forEachPolicy(t *testing.T, f func(t *testing.T, policy string)) {
	for _, p := range policies {
		t.Run(p, func(t *testing.T) { f(t, p) })
	}
}

func TestAnUnknownPolicyIsRefusedWithTheKnownOnes(t *testing.T) {
	_, err := New("rund_robin", members(1), nil)
	if err == nil || !strings.Contains(err.Error(), "rund_robin") || !strings.Contains(err.Error(), LeastRequest) || !strings.Contains(err.Error(), RoundRobin) {
		t.Errorf("got %v", err)
	}
	if _, err := New("", []Member{{Weight: 1}}, nil); err == nil {
		t.Error("a member without endpoint is accepted")
	}
	if p := mustNew(t, "", members(1)); p.Policy() != LeastRequest {
		t.Errorf("the default is %s", p.Policy())
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := ReasonNone; r <= ReasonAllClosed; r++ {
		if seen[r.String()] || r.String() == "unknown" {
			t.Errorf("reason %d is %q", r, r)
		}
		seen[r.String()] = true
	}
	if Reason(200).String() != "unknown" {
		t.Error(Reason(200).String())
	}
}

func TestAnEndpointFillsOneCacheLine(t *testing.T) {
	if n := unsafe.Sizeof(Endpoint{}); n != 64 {
		t.Errorf("%d bytes", n)
	}
}

func TestNothingIsPickedFromNothingOrFromTheDead(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		rnd := seeded()
		for n := range 6 {
			ms := members(make([]uint32, n)...)
			p := mustNew(t, policy, ms)
			for _, m := range ms {
				m.Endpoint.MarkDown()
			}
			for range 20 {
				if _, why, ok := p.Pick(rnd.Uint64(), nil); ok || why != ReasonNone {
					t.Fatalf("%d members, all down: picked, %v", n, why)
				}
			}
			if n > 0 {
				ms[n-1].Endpoint.MarkUp()
				if i, _, ok := p.Pick(rnd.Uint64(), nil); !ok || i != n-1 {
					t.Fatalf("%d members, the last is up again: %d, %v", n, i, ok)
				}
			}
		}
	})
}

func TestTheOnlyEndpointIsPickedEvenIfItIsToBeAvoided(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		ms := members(3)
		p := mustNew(t, policy, ms)
		if i, why, ok := p.Pick(7, avoiding(ms[0].Endpoint)); i != 0 || why != ReasonOnlyOne || !ok {
			t.Errorf("%d, %v, %v", i, why, ok)
		}
		ms = members(1, 1, 1)
		p = mustNew(t, policy, ms)
		ms[0].Endpoint.MarkDown()
		ms[2].Endpoint.MarkDown()
		for rnd, i := seeded(), 0; i < 50; i++ {
			if i, why, ok := p.Pick(rnd.Uint64(), avoiding(ms[1].Endpoint)); i != 1 || why != ReasonOnlyAvoided || !ok {
				t.Fatalf("the last one up is the avoided one: %d, %v, %v", i, why, ok)
			}
		}
	})
}

func TestPickersAreSafeFromManyShards(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		ms := members(1, 2, 3, 4)
		p := mustNew(t, policy, ms)
		var wg sync.WaitGroup
		for s := range uint64(4) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(s, 4))
				for k := range 1000 {
					i, _, ok := p.Pick(rnd.Uint64(), nil)
					if !ok {
						continue
					}
					e := p.Members()[i].Endpoint
					e.InFlight.Add(1)
					if k%10 == 0 {
						e.MarkDown()
					} else {
						e.MarkUp()
					}
					e.InFlight.Add(-1)
				}
			})
		}
		wg.Wait()
	})
}

func TestPickDoesNotAllocateAndChangesNoEndpoint(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		for _, ms := range [][]Member{members(1), members(1, 1, 1), members(1, 5, 9)} {
			p := mustNew(t, policy, ms)
			rnd := seeded()
			for _, down := range []bool{false, true} {
				if down {
					ms[len(ms)-1].Endpoint.MarkDown()
				}
				ask := avoiding(ms[0].Endpoint)
				if n := testing.AllocsPerRun(100, func() { p.Pick(rnd.Uint64(), ask) }); n != 0 {
					t.Errorf("%d members: %v allocations", len(ms), n)
				}
			}
			for _, m := range ms {
				if m.Endpoint.InFlight.Load() != 0 || m.Endpoint.Picks.Load() != 0 {
					t.Error("Pick changed an endpoint")
				}
			}
		}
	})
}

func TestANewPickerDoesNotSeeLaterChangesOfTheSlice(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		ms := members(0, 2)
		p := mustNew(t, policy, ms)
		ms[1] = Member{}
		if got := p.Members(); len(got) != 2 || got[0].Weight != 1 || got[1].Endpoint == nil {
			t.Errorf("%+v", got)
		}
	})
}

// within fails unless each share is within tol (relative) of its weight's.
func within(t *testing.T, counts []int, weights []uint32, tol float64) {
	t.Helper()
	var calls, total float64
	for i := range counts {
		calls += float64(counts[i])
		total += float64(weights[i])
	}
	for i, c := range counts {
		want := calls * float64(weights[i]) / total
		if math.Abs(float64(c)-want) > tol*want {
			t.Errorf("weights %v: counts %v: member %d has %d, want %.0f", weights, counts, i, c, want)
		}
	}
}

func TestIdleEndpointsGetCallsByWeight(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		for _, weights := range [][]uint32{{1, 1}, {1, 1, 1, 1, 1}, {9, 1}, {1, 2, 3}, {100, 50, 25, 25}, {math.MaxUint32, math.MaxUint32 / 2}} {
			p := mustNew(t, policy, members(weights...))
			counts := make([]int, len(weights))
			rnd := seeded()
			for range 100000 {
				i, _, _ := p.Pick(rnd.Uint64(), nil)
				counts[i]++
			}
			within(t, counts, weights, 0.03)
		}
	})
}

func BenchmarkPick(b *testing.B) {
	for _, policy := range policies {
		for _, n := range []int{1, 2, 10, 1000} {
			for _, weighted := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/n=%d/weighted=%v", policy, n, weighted), func(b *testing.B) {
					ms := members(make([]uint32, n)...)
					for i := range ms {
						ms[i].Weight = 1
						if weighted {
							ms[i].Weight += uint32(i % 3)
						}
					}
					p := mustNew(b, policy, ms)
					rnd := seeded()
					b.ReportAllocs()
					for b.Loop() {
						p.Pick(rnd.Uint64(), nil)
					}
				})
			}
		}
	}
}
