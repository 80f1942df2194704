package outlier

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const second = int64(time.Second)

// cluster is endpoints a, b, c, ... under one detector.
type cluster struct {
	t     *testing.T
	s     *Settings
	d     *Detector
	hosts []Subject
}

func newCluster(t *testing.T, n int, s Settings) *cluster {
	c := &cluster{t: t, s: &s, d: NewDetector(&s)}
	for i := range n {
		c.hosts = append(c.hosts, Subject{string(rune('a' + i)), NewHost()})
	}
	return c
}

// calls records ok successes, then faults, at one endpoint.
func (c *cluster) calls(i, ok, faults int, took time.Duration) (tripped int) {
	for range ok {
		c.hosts[i].Host.Record(c.s, false, took)
	}
	for range faults {
		if c.hosts[i].Host.Record(c.s, true, took) {
			tripped++
		}
	}
	return tripped
}

func (c *cluster) sweep(now int64) string { return say(c.d.Sweep(now, c.hosts)) }

func (c *cluster) trip(now int64, i int) string {
	return say(c.d.Trip(now, c.hosts[i].Key, c.hosts))
}

func say(changes []Change) string {
	var b strings.Builder
	for _, ch := range changes {
		if ch.Eject {
			fmt.Fprintf(&b, "out %s until %v: %s\n", ch.Key, time.Duration(ch.Until), ch.Why)
		} else {
			fmt.Fprintf(&b, "in %s: %s\n", ch.Key, ch.Why)
		}
	}
	return b.String()
}

func (c *cluster) expect(got, want string) {
	c.t.Helper()
	if got != want {
		c.t.Fatalf("got:\n%swant:\n%s", got, want)
	}
}

func TestFaultsInARowEjectAtOnceAndForAWhile(t *testing.T) {
	c := newCluster(t, 3, Settings{Consecutive: 5, MaxEjectedShare: 0.5})
	if n := c.calls(0, 0, 4, 0) + c.calls(0, 1, 4, 0); n != 0 {
		t.Fatal("tripped by 4 in a row")
	}
	c.expect(c.sweep(second), "")
	if n := c.calls(0, 0, 1, 0); n != 1 {
		t.Fatal("not tripped by 5 in a row")
	}
	c.expect(c.trip(2*second, 0), "out a until 32s: 5 calls in a row failed (limit 5)\n")
	c.expect(c.trip(2*second, 0), "")
	if e := c.d.Ejected(); len(e) != 1 || e[0] != (Ejection{"a", 2 * second, 32 * second, "5 calls in a row failed (limit 5)", 1}) {
		t.Fatalf("%+v", e)
	}
	c.calls(0, 0, 9, 0) // those under way
	c.expect(c.sweep(32*second-1), "")
	c.expect(c.sweep(32*second), "in a: its 30s are over\n")
	c.expect(c.sweep(33*second), "")
}

func TestALostTripIsFoundByTheSweep(t *testing.T) {
	c := newCluster(t, 2, Settings{Consecutive: 5})
	c.calls(1, 0, 7, 0)
	c.expect(c.sweep(0), "out b until 30s: 7 calls in a row failed (limit 5)\n")
}

func TestTheSuccessRateIsJudgedByMeanAndDeviation(t *testing.T) {
	// The example in Envoy's successRateEjectionThreshold: 50, 100, 100, 100, 100 have a mean of 90 and a deviation of 20.
	c := newCluster(t, 5, Settings{SuccessRate: &SuccessRate{StdevFactor: 1.9, MinHosts: 5, MinVolume: 100}})
	for i := range 5 {
		c.calls(i, 100, 0, 0)
	}
	c.calls(2, 0, 100, 0)
	c.expect(c.sweep(0), "out c until 30s: success rate 50% of 200 calls in 1s, below 52% (mean 90% of 5 endpoints less 1.9 x standard deviation 20%)\n")
}

func TestTheSuccessRateIsNotJudgedWithoutVolumeOrHosts(t *testing.T) {
	c := newCluster(t, 5, Settings{SuccessRate: &SuccessRate{}})
	for i := range 4 {
		c.calls(i, 100, 0, 0)
	}
	c.calls(4, 0, 99, 0)
	c.expect(c.sweep(0), "")
}

func TestEqualEndpointsAreNoOutliersHoweverTheirMeanRounds(t *testing.T) {
	for n := 2; n < 40; n++ {
		for faults := 1; faults < 100; faults += 7 {
			c := newCluster(t, n, Settings{SuccessRate: &SuccessRate{StdevFactor: 0.001, MinHosts: 1}})
			for i := range n {
				c.calls(i, 100, faults, 0)
			}
			c.expect(c.sweep(0), "")
		}
	}
}

func TestTheShareOfFailuresIsJudgedByItself(t *testing.T) {
	c := newCluster(t, 5, Settings{Failures: &FailureShare{}, MaxEjectedShare: 1})
	c.calls(0, 15, 85, 0)
	c.calls(1, 16, 84, 0)
	c.calls(2, 0, 49, 0)
	c.expect(c.sweep(0), "out a until 30s: 85 of 100 calls failed in 1s (85%, limit 85%)\n")
	c = newCluster(t, 4, Settings{Failures: &FailureShare{}})
	c.calls(0, 0, 100, 0)
	c.expect(c.sweep(0), "")
}

func TestTheSlowOneIsFoundAmongTwo(t *testing.T) {
	c := newCluster(t, 2, Settings{Latency: &Latency{MinHosts: 2}})
	c.calls(0, 50, 0, 60*time.Millisecond)
	c.calls(1, 50, 0, 180*time.Millisecond)
	c.expect(c.sweep(0), "")
	c.calls(0, 50, 0, 60*time.Millisecond)
	c.calls(1, 50, 0, 181*time.Millisecond)
	c.expect(c.sweep(0), "out b until 30s: mean latency 181ms of 50 calls in 1s, over 3 x the median 60ms of 2 endpoints\n")
}

func TestFastIsNeverTooSlowAndFaultsAndStreamsHaveNoLatency(t *testing.T) {
	c := newCluster(t, 3, Settings{Latency: &Latency{}})
	for i := range 2 {
		c.calls(i, 50, 0, time.Millisecond)
	}
	c.calls(2, 50, 0, 49*time.Millisecond)
	c.calls(2, 0, 50, time.Hour)
	c.calls(2, 50, 0, -1)
	c.expect(c.sweep(0), "")
}

func TestTheOnlyOneIsNeverEjectedAndOneOfSeveralAlwaysMayBe(t *testing.T) {
	c := newCluster(t, 1, Settings{Consecutive: 1, MaxEjectedShare: 1})
	c.calls(0, 0, 9, 0)
	c.expect(c.trip(0, 0)+c.sweep(0), "")
	c = newCluster(t, 2, Settings{Consecutive: 1, MaxEjectedShare: 0})
	c.calls(0, 0, 1, 0)
	c.calls(1, 0, 1, 0)
	c.expect(c.trip(0, 1)+c.trip(0, 0)+c.sweep(0), "out b until 30s: 1 call failed (limit 1)\n")
}

func TestTheWorstGoFirstAndNoMoreThanTheShare(t *testing.T) {
	c := newCluster(t, 5, Settings{Failures: &FailureShare{MinVolume: 1}, MaxEjectedShare: 0.59})
	for i, faults := range []int{90, 100, 95, 91, 94} {
		c.calls(i, 100-faults, faults, 0)
	}
	c.expect(c.sweep(0), "out b until 30s: 100 of 100 calls failed in 1s (100%, limit 85%)\nout c until 30s: 95 of 100 calls failed in 1s (95%, limit 85%)\n")
}

func TestEjectionsGrowToTheMaximumAndGoodConductTakesThemBack(t *testing.T) {
	c := newCluster(t, 2, Settings{Consecutive: 1, BaseEjection: 30 * time.Second, MaxEjection: 70 * time.Second})
	now := int64(0)
	eject := func(wantFor, wantTimes int) {
		t.Helper()
		c.calls(0, 0, 1, 0)
		c.trip(now, 0)
		e := c.d.Ejected()
		if len(e) != 1 || e[0].Until-now != int64(wantFor)*second || e[0].Times != wantTimes {
			t.Fatalf("%+v, want %d s, %d times", e, wantFor, wantTimes)
		}
		now = e[0].Until
		c.sweep(now)
	}
	eject(30, 1)
	eject(60, 2)
	eject(70, 3)
	eject(70, 3)
	for range 60 { // no calls, no conduct
		now += second
		c.sweep(now)
	}
	eject(70, 3)
	for range 10 {
		c.calls(0, 1, 0, 0)
		now += second
		c.sweep(now)
	}
	eject(70, 3) // 3 less 1, and 1 again
	for range 29 {
		c.calls(0, 1, 0, 0)
		now += second
		c.sweep(now)
	}
	eject(60, 2) // 3 less 2, and 1 again
	for range 30 {
		c.calls(0, 1, 0, 0)
		now += second
		c.sweep(now)
	}
	if len(c.d.records) != 0 {
		t.Fatal("something is kept of one that behaved")
	}
	eject(30, 1)
}

func TestWhoLeavesTheClusterIsForgottenAndMakesRoom(t *testing.T) {
	c := newCluster(t, 3, Settings{Consecutive: 1, MaxEjectedShare: 0.4})
	c.calls(0, 0, 1, 0)
	c.trip(0, 0)
	c.calls(1, 0, 1, 0)
	c.expect(c.trip(0, 1), "")
	all := c.hosts
	c.hosts = all[1:]
	c.expect(c.sweep(0), "out b until 30s: 1 call failed (limit 1)\n")
	c.hosts = all
	c.expect(c.sweep(second), "")
	if e := c.d.Ejected(); len(e) != 1 || e[0].Key != "b" {
		t.Fatalf("%+v", e)
	}
}

func TestNewSettingsKeepWhoIsOut(t *testing.T) {
	c := newCluster(t, 2, Settings{Consecutive: 1})
	c.calls(0, 0, 1, 0)
	c.trip(0, 0)
	c.d.Configure(&Settings{Failures: &FailureShare{}})
	c.expect(c.sweep(29*second), "")
	c.expect(c.sweep(30*second), "in a: its 30s are over\n")
}

func TestOneComesBackWhenAllWhoWereInHaveLeft(t *testing.T) {
	c := newCluster(t, 4, Settings{Consecutive: 1, MaxEjectedShare: 0.75})
	for i := range 3 {
		c.calls(i, 0, 1, 0)
		c.trip(int64(i), i)
	}
	c.hosts = c.hosts[:3]
	c.expect(c.sweep(second), "in a: nobody else is left, and its ejection was the first to end\n")
}
