package breaker

import (
	"testing"
	"time"
)

const second = int64(time.Second)

// call sends one call and says whether it was admitted.
func call(b *Breaker, now int64, r Result) bool {
	ok, probe := b.Admit(now)
	if ok {
		b.Done(now, r, probe)
	}
	return ok
}

func calls(b *Breaker, now int64, n int, r Result) {
	for range n {
		call(b, now, r)
	}
}

func expect(t *testing.T, b *Breaker, now int64, s State, reason string) {
	t.Helper()
	if v := b.View(now); v.State != s || v.Reason != reason {
		t.Fatalf("at %v: %s %q, want %s %q", time.Duration(now), v.State, v.Reason, s, reason)
	}
}

func TestFaultsInARowOpenItAndAnOKBetweenThemDoesNot(t *testing.T) {
	b := New(&Settings{Consecutive: 3})
	calls(b, 0, 2, Fault)
	calls(b, 0, 1, OK)
	calls(b, 0, 2, Fault)
	calls(b, 0, 5, Neutral)
	if !b.Closed() {
		t.Fatal("opened by 2 faults in a row")
	}
	call(b, 0, Fault)
	expect(t, b, 0, StateOpen, "3 calls in a row failed (limit 3)")
	if v := b.View(0); v.OpenUntil != 5*second || v.Opened != 1 || v.Consecutive != 3 || v.Volume != 6 {
		t.Fatalf("%+v", v)
	}
	if b.Admits(5*second-1) || call(b, 5*second-1, OK) {
		t.Fatal("admits while open")
	}
}

func TestTheErrorRateOpensItOnceThereIsVolumeAndSaysItsFigures(t *testing.T) {
	b := New(&Settings{ErrorRate: 0.5, Window: 10 * time.Second})
	calls(b, 0, 8, OK)
	calls(b, second, 11, Fault)
	if !b.Closed() {
		t.Fatal("opened by 19 results")
	}
	call(b, 2*second, Fault)
	expect(t, b, 2*second, StateOpen, "12 of 20 calls failed in 10s (limit 50%)")
	if v := b.View(0); v.Rate != 0.6 || v.Volume != 20 {
		t.Fatalf("%+v", v)
	}
}

func TestResultsLeaveTheWindow(t *testing.T) {
	b := New(&Settings{ErrorRate: 0.5, Window: 10 * time.Second})
	calls(b, 0, 10, OK)
	calls(b, 0, 9, Fault)
	calls(b, 10*second, 19, Fault)
	if v := b.View(10 * second); !b.Closed() || v.Volume != 19 || v.Rate != 1 {
		t.Fatalf("%+v", v)
	}
	if v := b.View(20 * second); v.Volume != 0 || v.Rate != 0 {
		t.Fatalf("%+v", v)
	}
}

func TestProbesAreCountedAndClosingForgetsTheOldFaults(t *testing.T) {
	b := New(&Settings{Consecutive: 5, ErrorRate: 0.5, MinVolume: 5, Probes: 2})
	calls(b, 0, 5, Fault)
	now := 5 * second
	if first := b.Admits(now); !first || !b.Admits(now) {
		t.Fatal("Admits took something")
	}
	for range 2 {
		if ok, probe := b.Admit(now); !ok || !probe {
			t.Fatal("no probe")
		}
	}
	if ok, _ := b.Admit(now); ok || b.Admits(now) {
		t.Fatal("a third probe")
	}
	b.Done(now, Neutral, true)
	expect(t, b, now, StateHalfOpen, "5 calls in a row failed (limit 5); probing: 0 of 2 succeeded, 1 under way")
	b.Done(now, OK, true)
	call(b, now, OK)
	expect(t, b, now, StateClosed, "")
	calls(b, now, 4, Fault)
	if !b.Closed() {
		t.Fatal("it remembers faults from before")
	}
}

func TestAFailedProbeOpensItForTwiceAsLongUpToTheMaximum(t *testing.T) {
	b := New(&Settings{Consecutive: 1, OpenFor: 10 * time.Second, MaxOpenFor: 35 * time.Second})
	now := int64(0)
	call(b, now, Fault)
	for _, want := range []int64{10, 20, 35, 35} {
		v := b.View(now)
		if v.OpenUntil != now+want*second {
			t.Fatalf("open for %v, want %d s", time.Duration(v.OpenUntil-now), want)
		}
		now = v.OpenUntil
		call(b, now, Fault)
	}
	expect(t, b, now, StateOpen, "1 call failed (limit 1); then 4 probes failed")
	if v := b.View(now); v.Opened != 5 {
		t.Fatalf("%+v", v)
	}
}

func TestOpeningAgainSoonAfterClosingTakesTwiceAsLongAndLaterDoesNot(t *testing.T) {
	for later, want := range map[int64]int64{10*second - 1: 20, 10 * second: 10} {
		b := New(&Settings{Consecutive: 1, OpenFor: 10 * time.Second, Probes: 1})
		call(b, 0, Fault)
		call(b, 10*second, OK)
		now := 10*second + later
		call(b, now, Fault)
		if v := b.View(now); v.OpenUntil != now+want*second {
			t.Errorf("%v after closing: open for %v, want %d s", time.Duration(later), time.Duration(v.OpenUntil-now), want)
		}
	}
}

func TestProbesThatNeverComeBackLoseTheirPlaces(t *testing.T) {
	b := New(&Settings{Consecutive: 1, Probes: 2})
	call(b, 0, Fault)
	now := 5 * second
	b.Admit(now)
	b.Admit(now + second)
	if ok, _ := b.Admit(now + 6*second - 1); ok {
		t.Fatal("a place before the last one timed out")
	}
	now += 6 * second
	if !b.Admits(now) {
		t.Fatal("blocked for ever")
	}
	b.Admit(now)
	b.Admit(now)
	if b.Admits(now) {
		t.Fatal("a third place")
	}
	b.Done(now, OK, true)
	b.Done(now, OK, true)
	expect(t, b, now, StateClosed, "")
}

func TestACallFromBeforeItOpenedSaysNothingToAHalfOpenOne(t *testing.T) {
	b := New(&Settings{Consecutive: 1})
	b.Admit(0)
	call(b, 0, Fault)
	b.Admit(5 * second)
	b.Done(5*second, Fault, false)
	expect(t, b, 5*second, StateHalfOpen, "1 call failed (limit 1); probing: 0 of 3 succeeded, 1 under way")
}

func TestProbesThatComeBackTooLateMakeNoRoom(t *testing.T) {
	b := New(&Settings{Consecutive: 1, Probes: 3})
	call(b, 0, Fault)
	for range 3 {
		b.Admit(5 * second)
	}
	b.Done(5*second, Fault, true) // open again; two are still under way
	now := 15 * second
	if !call(b, now, Neutral) {
		t.Fatal("not half-open")
	}
	b.Done(now, OK, true)
	b.Done(now, OK, true)
	for range 3 {
		b.Admit(now)
	}
	if b.Admits(now) {
		t.Fatal("a fourth place")
	}
	expect(t, b, now, StateHalfOpen, "1 call failed (limit 1); then 1 probe failed; probing: 0 of 3 succeeded, 3 under way")
}

func TestAResultFromAShardWhoseClockIsBehindCounts(t *testing.T) {
	b := New(&Settings{ErrorRate: 1, Window: 10 * time.Millisecond})
	calls(b, int64(20*time.Millisecond), 5, OK)
	call(b, int64(10*time.Millisecond), OK)
	if v := b.View(int64(20 * time.Millisecond)); v.Volume != 6 {
		t.Fatalf("%+v", v)
	}
	if v := b.View(int64(19 * time.Millisecond)); v.Volume != 6 {
		t.Fatalf("%+v", v)
	}
}

func TestAFullBucketKeepsItsShare(t *testing.T) {
	b := New(&Settings{ErrorRate: 1})
	b.window.buckets[0].Store(fullBucket/4<<countBits | fullBucket)
	call(b, 0, OK)
	if v := b.View(0); v.Volume != fullBucket/2+1 || v.Rate < 0.2499 || v.Rate > 0.2501 {
		t.Fatalf("%+v", v)
	}
}
