package balance

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever counts against whom, whoever is avoided, closed, warming up, and however loaded: a pick is never somebody who is not
// available or closed, never an avoided one while there is another, and always somebody while anybody is left.
func FuzzAPickIsAlwaysAvailable(f *testing.F) {
	f.Add(uint64(1), uint8(2), uint8(0), uint8(7))
	f.Add(uint64(2), uint8(9), uint8(3), uint8(1))
	f.Add(uint64(3), uint8(255), uint8(1), uint8(7))
	f.Add(uint64(4), uint8(1), uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, seed uint64, n, equal, mask uint8) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		ms := members(make([]uint32, n)...)
		var g Group
		g.SetMask(uint32(mask))
		for i := range ms {
			ms[i].Weight = uint32(equal)
			if equal == 0 {
				ms[i].Weight = rnd.Uint32() >> rnd.IntN(32)
			}
			ms[i].Endpoint.InFlight.Store(rnd.Int64N(100))
			if rnd.IntN(3) == 0 {
				ms[i].Endpoint.Mark(1 << rnd.IntN(3))
			}
			if rnd.IntN(4) == 0 {
				ms[i].Endpoint.SetWarm(rnd.IntN(1001))
			}
		}
		for _, policy := range policies {
			p, err := New(policy, ms, &g)
			if err != nil {
				t.Fatal(err)
			}
			for range 30 {
				var ask *Ask
				shut := make([]bool, n)
				asked := map[int]int{}
				if rnd.IntN(4) > 0 && n > 0 {
					ask = &Ask{}
					for range rnd.IntN(4) {
						ask.Avoid = append(ask.Avoid, ms[rnd.IntN(len(ms))].Endpoint)
					}
					share := rnd.IntN(4)
					for i := range shut {
						shut[i] = rnd.IntN(3) < share
					}
					ask.Closed = func(i int) bool { asked[i]++; return shut[i] }
				}
				available, open, others := 0, 0, 0
				for i, m := range ms {
					if m.Endpoint.State()&g.Mask() != 0 {
						continue
					}
					if available++; !shut[i] {
						if open++; ask == nil || !slices.Contains(ask.Avoid, m.Endpoint) {
							others++
						}
					}
				}
				i, why, ok := p.Pick(rnd.Uint64(), ask)
				if ok != (open > 0) {
					t.Fatalf("%s: %d available, %d open, picked %v", policy, available, open, ok)
				}
				for k, times := range asked {
					if ms[k].Endpoint.State()&g.Mask() != 0 || shut[k] && k < 64 && times > 1 {
						t.Fatalf("asked %d times about member %d in state %d", times, k, ms[k].Endpoint.State())
					}
				}
				if !ok {
					if (why == ReasonAllClosed) != (available > 0) || why != ReasonAllClosed && why != ReasonNone {
						t.Fatalf("%s: nothing picked of %d available because %v", policy, available, why)
					}
					continue
				}
				e := ms[i].Endpoint
				if e.State()&g.Mask() != 0 || shut[i] {
					t.Fatalf("%s: picked %d in state %q, closed %v (%v)", policy, i, StateString(e.State()), shut[i], why)
				}
				if ask != nil && slices.Contains(ask.Avoid, e) && others > 0 {
					t.Fatalf("%s: picked %d which is avoided, of %d others (%v)", policy, i, others, why)
				}
				if (why == ReasonPanic) != (e.State() != 0) {
					t.Fatalf("%s: picked one in state %q because %v", policy, StateString(e.State()), why)
				}
				if ask != nil && asked[i] == 0 {
					t.Fatalf("%s: picked %d without asking whether it is closed (%v)", policy, i, why)
				}
			}
		}
	})
}

func TestAnyOfTheReasonsTakesAnEndpointOut(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		for _, bit := range []uint32{Down, Unhealthy, Ejected} {
			ms := members(1, 1, 1)
			p := mustNew(t, policy, ms)
			e := ms[1].Endpoint
			if !e.Mark(bit) || e.Mark(bit) || e.State() != bit || e.Ready() || e.Down() != (bit == Down) {
				t.Errorf("bit %d: state %d", bit, e.State())
			}
			for rnd, n := seeded(), 0; n < 200; n++ {
				if i, _, _ := p.Pick(rnd.Uint64(), nil); i == 1 {
					t.Fatalf("picked one that is %s", StateString(bit))
				}
			}
			if !e.Unmark(bit) || e.Unmark(bit) || !e.Ready() {
				t.Errorf("bit %d cleared: state %d", bit, e.State())
			}
		}
	})
}

func TestReasonsOfSeveralOwnersDoNotDisturbEachOther(t *testing.T) {
	e := NewEndpoint("a")
	e.SetWarm(250)
	e.MarkDown()
	e.Mark(Ejected)
	e.MarkUp()
	if e.State() != Ejected || e.Warm() != 250 || StateString(e.State()|Down) != "down, ejected" {
		t.Error(e.State(), e.Warm(), StateString(e.State()|Down))
	}
	e.SetWarm(2000)
	e.Unmark(Reasons)
	if !e.Ready() || e.Warm() != 1000 || StateString(0) != "" {
		t.Error(e.State(), e.Warm())
	}
	e.SetWarm(-1)
	if e.Warm() != 0 || e.Ready() || e.State() != 0 {
		t.Error(e.State(), e.Warm())
	}
}

func TestInPanicOnlyTheDeadAreLeftOut(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		var g Group
		ms := members(1, 1, 1, 1)
		p, _ := New(policy, ms, &g)
		ms[0].Endpoint.Mark(Unhealthy)
		ms[1].Endpoint.Mark(Ejected)
		ms[2].Endpoint.Mark(Down)
		g.SetMask(Down)
		counts := make([]int, 4)
		for rnd, n := seeded(), 0; n < 3000; n++ {
			i, why, _ := p.Pick(rnd.Uint64(), nil)
			if counts[i]++; (why == ReasonPanic) != (i < 2) {
				t.Fatalf("member %d because %v", i, why)
			}
		}
		if !g.Panic() || counts[2] != 0 || slices.Min([]int{counts[0], counts[1], counts[3]}) < 900 {
			t.Errorf("in panic: %v", counts)
		}
		g.SetMask(Reasons)
		if i, why, ok := p.Pick(1, nil); i != 3 || why == ReasonPanic || !ok || g.Panic() {
			t.Errorf("after it: %d, %v, %v", i, why, ok)
		}
		for _, m := range ms {
			m.Endpoint.MarkDown()
		}
		g.SetMask(Down)
		if _, _, ok := p.Pick(1, nil); ok {
			t.Error("a dead one is picked in panic")
		}
	})
}

func TestAClosedMemberIsNeverChosenAndTheReasonSaysSo(t *testing.T) {
	ms := members(1, 1)
	p := mustNew(t, LeastRequest, ms)
	ask := &Ask{Closed: func(i int) bool { return i == 0 }}
	seen := map[Reason]bool{}
	for rnd, n := seeded(), 0; n < 100; n++ {
		i, why, ok := p.Pick(rnd.Uint64(), ask)
		if seen[why] = true; i != 1 || !ok {
			t.Fatal(i, why, ok)
		}
	}
	if !seen[ReasonP2COtherClosed] || !seen[ReasonP2CTie] || len(seen) != 2 {
		t.Error(seen)
	}
	forEachPolicy(t, func(t *testing.T, policy string) {
		for n := 1; n < 5; n++ {
			ms := members(make([]uint32, n)...)
			p := mustNew(t, policy, ms)
			all := &Ask{Closed: func(int) bool { return true }}
			if _, why, ok := p.Pick(1, all); ok || why != ReasonAllClosed {
				t.Errorf("%d members, all closed: %v, %v", n, why, ok)
			}
			all.Avoid = []*Endpoint{ms[0].Endpoint}
			ms[n-1].Endpoint.Mark(Down)
			if _, why, ok := p.Pick(1, all); ok || (why == ReasonAllClosed) != (n > 1) {
				t.Errorf("%d members, one down, the others closed: %v, %v", n, why, ok)
			}
		}
	})
}

func TestOnlyWhoWouldBeChosenIsAskedWhetherItIsClosed(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		p := mustNew(t, policy, members(1, 1, 1, 1, 1))
		asked := -1
		ask := &Ask{Closed: func(i int) bool {
			if asked >= 0 {
				t.Fatal("a second one is asked about, and the first was open")
			}
			asked = i
			return false
		}}
		for rnd, n := seeded(), 0; n < 100; n++ {
			asked = -1
			if i, _, _ := p.Pick(rnd.Uint64(), ask); i != asked {
				t.Fatalf("asked about %d, chose %d", asked, i)
			}
		}
	})
}

func TestSeveralAreAvoided(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		ms := members(1, 1, 1, 1)
		p := mustNew(t, policy, ms)
		ask := &Ask{Avoid: []*Endpoint{ms[0].Endpoint, ms[2].Endpoint, ms[3].Endpoint}}
		for rnd, n := seeded(), 0; n < 100; n++ {
			if i, _, _ := p.Pick(rnd.Uint64(), ask); i != 1 {
				t.Fatal(i)
			}
		}
		ms[1].Endpoint.Mark(Unhealthy)
		if i, why, ok := p.Pick(3, ask); i == 1 || why != ReasonOnlyAvoided || !ok {
			t.Error(i, why, ok)
		}
	})
}

// Load follows the calls: each pick opens one, the oldest of open ones ends.
func shares(t *testing.T, p Picker, open, calls int) []int {
	t.Helper()
	counts := make([]int, len(p.Members()))
	var queue []int
	for rnd := seeded(); calls > 0; calls-- {
		if len(queue) == open {
			k := rnd.IntN(open)
			p.Members()[queue[k]].Endpoint.InFlight.Add(-1)
			queue[k] = queue[open-1]
			queue = queue[:open-1]
		}
		i, why, ok := p.Pick(rnd.Uint64(), nil)
		if !ok {
			t.Fatal(why)
		}
		p.Members()[i].Endpoint.InFlight.Add(1)
		queue = append(queue, i)
		counts[i]++
	}
	return counts
}

// A new endpoint is idle, so least_request would give it more than its share: twice at most, as one of two drawn.
func TestAnEndpointThatWarmsUpGetsALittle(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		for _, n := range []int{2, 5, 10} {
			for _, warm := range []int{100, 500, 900} {
				for _, open := range []int{1, 64} {
					ms := members(make([]uint32, n)...)
					ms[n-1].Endpoint.SetWarm(warm)
					counts := shares(t, mustNew(t, policy, ms), open, 40000)
					got := float64(counts[n-1]) / (40000 / float64(n)) * 1000
					if got < 0.85*float64(warm) || got > 2.2*float64(warm) {
						t.Errorf("%d endpoints, %d open calls, one at %d per mille has %.0f of its share: %v", n, open, warm, got, counts)
					}
				}
			}
		}
	})
}

func TestWhereAllWarmUpTheyShareAlike(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		for _, warm := range []int{0, 100, 500} {
			ms := members(1, 1, 1, 1)
			for _, m := range ms {
				m.Endpoint.SetWarm(warm)
			}
			within(t, shares(t, mustNew(t, policy, ms), 16, 40000), []uint32{1, 1, 1, 1}, 0.1)
		}
	})
}

// 2 of 20 endpoints were there before: while the other 18 warm up, the two must not carry everything.
func TestFewWarmEndpointsAreNotLeftAloneWithTheLoad(t *testing.T) {
	forEachPolicy(t, func(t *testing.T, policy string) {
		ms := members(make([]uint32, 20)...)
		for _, m := range ms[2:] {
			m.Endpoint.SetWarm(100)
		}
		counts := shares(t, mustNew(t, policy, ms), 64, 40000)
		if most := slices.Max(counts); most > 40000*2/5 {
			t.Errorf("%v", counts)
		}
	})
}

func TestReasonsNameWhatStoodAgainstTheOther(t *testing.T) {
	for why, spoil := range map[Reason]func(*Endpoint){
		ReasonP2COtherDown:      func(e *Endpoint) { e.Mark(Down | Ejected) },
		ReasonP2COtherUnhealthy: func(e *Endpoint) { e.Mark(Unhealthy) },
		ReasonP2COtherEjected:   func(e *Endpoint) { e.Mark(Ejected) },
		ReasonP2COtherWarming:   func(e *Endpoint) { e.SetWarm(0) },
	} {
		ms := members(1, 1)
		spoil(ms[0].Endpoint)
		if i, got, ok := mustNew(t, LeastRequest, ms).Pick(1, nil); i != 1 || got != why || !ok {
			t.Errorf("%v: %d, %v, %v", why, i, got, ok)
		}
	}
	ms := members(1, 1, 1)
	ms[0].Endpoint.SetWarm(100)
	ms[1].Endpoint.Mark(Down)
	ms[2].Endpoint.Mark(Ejected)
	for rnd, n := seeded(), 0; n < 50; n++ {
		i, why, ok := mustNew(t, RoundRobin, ms).Pick(rnd.Uint64(), nil)
		if i != 0 || !ok || why != ReasonOnlyWarming && why != ReasonRoundRobinSkipped && why != ReasonRoundRobin {
			t.Fatal(i, why, ok)
		}
	}
}

func BenchmarkPickSearching(b *testing.B) {
	for _, policy := range policies {
		for name, spoil := range map[string]func(ms []Member){
			"one avoided": func([]Member) {},
			"one ejected": func(ms []Member) { ms[0].Endpoint.Mark(Ejected) },
			"one warming": func(ms []Member) { ms[0].Endpoint.SetWarm(100) },
		} {
			b.Run(policy+"/"+name, func(b *testing.B) {
				ms := members(make([]uint32, 10)...)
				spoil(ms)
				p := mustNew(b, policy, ms)
				var ask *Ask
				if name == "one avoided" {
					ask = avoiding(ms[0].Endpoint)
				}
				rnd := seeded()
				b.ReportAllocs()
				for b.Loop() {
					p.Pick(rnd.Uint64(), ask)
				}
			})
		}
	}
}
