package balance

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func order(t *testing.T, p Picker, n int, ask *Ask) string {
	t.Helper()
	var b strings.Builder
	for range n {
		i, _, ok := p.Pick(0, ask)
		if !ok {
			t.Fatal("nothing picked")
		}
		b.WriteByte(byte('a' + i))
	}
	return b.String()
}

// The example of nginx's own commit message, and others worked out by hand.
func TestTurnsAreSmooth(t *testing.T) {
	for want, weights := range map[string][]uint32{
		"aabacaaaabacaa": {5, 1, 1}, "abcabc": {7, 7, 7}, "abaaba": {2000, 1000}, "abab": {0, 0},
	} {
		if got := order(t, mustNew(t, RoundRobin, members(weights...)), len(want), nil); got != want {
			t.Errorf("%v: got %s, want %s", weights, got, want)
		}
	}
}

func TestACycleOfTurnsIsExact(t *testing.T) {
	for _, weights := range [][]uint32{{5, 1, 1}, {10, 20, 30}, {7, 11, 13, 17}, {4000, 95, 1}} {
		p := mustNew(t, RoundRobin, members(weights...))
		cycle := len(p.(*roundRobin).order)
		rnd := seeded()
		for round := range 3 { // also when it does not begin at the beginning
			counts := make([]int, len(weights))
			for range cycle {
				i, why, _ := p.Pick(rnd.Uint64(), nil)
				if why != ReasonRoundRobin {
					t.Fatal(why)
				}
				counts[i]++
			}
			for i := range weights {
				if uint64(counts[i])*uint64(weights[0]) != uint64(counts[0])*uint64(weights[i]) {
					t.Errorf("weights %v, round %d: %v", weights, round, counts)
				}
			}
		}
	}
}

func TestANewPickerBeginsAnywhere(t *testing.T) {
	first := map[int]bool{}
	rnd := seeded()
	for range 100 {
		i, _, _ := mustNew(t, RoundRobin, members(1, 1, 1)).Pick(rnd.Uint64(), nil)
		first[i] = true
	}
	if len(first) != 3 {
		t.Errorf("first picks: %v", first)
	}
}

func TestTheTurnsOfADeadEndpointAreSharedByAll(t *testing.T) {
	ms := members(1, 1, 1, 1)
	p := mustNew(t, RoundRobin, ms)
	ms[1].Endpoint.MarkDown()
	ms[2].Endpoint.MarkDown()
	if got := order(t, p, 6, nil); got != "adadad" {
		t.Errorf("got %s: the next one carries the dead ones' load", got)
	}
	ms[1].Endpoint.MarkUp()
	if got := order(t, p, 6, avoiding(ms[0].Endpoint)); strings.Contains(got, "a") || strings.Count(got, "b") != 3 {
		t.Errorf("avoiding a: %s", got)
	}
}

func TestACycleIsBounded(t *testing.T) {
	rnd := seeded()
	for _, n := range []int{2, 100, 2100} {
		weights := make([]uint32, n)
		for i := range weights {
			weights[i] = 1 + rnd.Uint32()
		}
		order := smoothOrder(members(weights...))
		if len(order) > max(maxOrder, 2*n)+1 {
			t.Errorf("%d members: a cycle of %d", n, len(order))
		}
		for i := range n {
			if n <= 100 && !slices.Contains(order, uint32(i)) {
				t.Errorf("member %d of %d never has its turn", i, n)
			}
		}
	}
	counts := make([]int, 3)
	for _, i := range smoothOrder(members(math.MaxUint32, math.MaxUint32/3, 1)) {
		counts[i]++
	}
	if counts[2] != 1 || counts[0] < 29*counts[1]/10 || counts[0] > 31*counts[1]/10 {
		t.Errorf("scaled down to %v", counts)
	}
}

func BenchmarkNewRoundRobin(b *testing.B) {
	ms := members(make([]uint32, 1000)...)
	for i := range ms {
		ms[i].Weight = uint32(1 + i%100)
	}
	for b.Loop() {
		newRoundRobin(ms, nil)
	}
}
