package listener

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnAddressThatMakesConnectionsAndUsesNoneOfThemWaitsAndThenIsTurnedAway(t *testing.T) {
	const rate = 200
	synctest.Test(t, func(t *testing.T) {
		var n newcomers
		bad, good := party(netip.MustParseAddr("192.0.2.1")), party(netip.MustParseAddr("192.0.2.2"))
		come := func(p netip.Prefix, want time.Duration, allowed bool) {
			t.Helper()
			if wait, _, ok := n.come(p, rate, time.Now()); wait.Round(time.Microsecond) != want || ok != allowed {
				t.Errorf("waits %v, allowed %v; want %v, %v", wait, ok, want, allowed)
			}
		}
		for range unusedFree * rate {
			come(bad, 0, true)
		}
		for i := range int(unusedWait.Seconds()) * rate {
			come(bad, time.Duration(i+1)*time.Second/rate, true)
		}
		come(bad, 0, false)
		come(good, 0, true)
		time.Sleep(time.Second / rate)
		come(bad, unusedWait, true) // one place came free
		come(bad, 0, false)
		time.Sleep(time.Minute)
		come(bad, 0, true)
	})
}

func TestAConnectionWithAnAnsweredCallCostsItsAddressNothing(t *testing.T) {
	now := time.Now()
	var n newcomers
	at := party(netip.MustParseAddr("2001:db8::1"))
	for i := range 10_000 { // all at one moment
		wait, used, ok := n.come(at, 10, now)
		if wait != 0 || !ok {
			t.Fatalf("connection %d waits %v, allowed %v", i, wait, ok)
		}
		used.Add(1)
	}
	if k := n.by[at]; k.left > unusedFree*10 {
		t.Errorf("it saved up %g connections", k.left)
	}
}

func TestWithoutALimitNothingIsKeptInMindOfAnAddress(t *testing.T) {
	var n newcomers
	if wait, used, ok := n.come(party(netip.MustParseAddr("192.0.2.1")), 0, time.Now()); wait != 0 || used != nil || !ok || len(n.by) != 0 {
		t.Errorf("waits %v, counted %v, allowed %v, %d kept", wait, used != nil, ok, len(n.by))
	}
}

func TestAFloodOfAddressesIsNotCountedWithoutBound(t *testing.T) {
	var n newcomers
	now := time.Now()
	for i := range maxNewcomers + 100 {
		if wait, _, ok := n.come(party(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})), 1, now); wait != 0 || !ok {
			t.Fatal("the first connection of an address has to wait")
		}
	}
	if len(n.by) != maxNewcomers {
		t.Errorf("%d are kept", len(n.by))
	}
	n.come(party(netip.MustParseAddr("192.0.2.1")), 1, now.Add(2*time.Second))
	if len(n.by) != 1 {
		t.Errorf("%d are kept when they owe nothing", len(n.by))
	}
}
