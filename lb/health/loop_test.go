package health

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

func outliers() serviceconfig.Cluster {
	return serviceconfig.Cluster{PanicShare: 0.5, Outlier: &outlier.Settings{Interval: time.Second, BaseEjection: 10 * time.Second,
		MaxEjection: time.Minute, MaxEjectedShare: 1, Consecutive: 5}}
}

func TestWhoTripsIsEjectedAtOnceAndReturnsInTime(t *testing.T) {
	story(t, outliers(), func(r *rig) {
		r.set("a:1", "b:1", "c:1")
		after(300 * time.Millisecond)
		began := time.Now()
		r.faults("b:1", 4)
		r.expect("b:1", Unchecked, 0, "")
		r.faults("b:1", 1)
		r.expect("b:1", Unchecked, balance.Ejected, "")
		r.logged("endpoint is ejected", "cluster=c", "endpoint=b:1", "why=", "5", "until=", "for=10s")
		s := r.state("b:1")
		if !s.Ejected || s.Times != 1 || s.Why == "" || !s.EjectedSince.Equal(began) || !s.EjectedUntil.Equal(began.Add(10*time.Second)) {
			t.Errorf("%+v, began %v", s, began)
		}
		after(9900 * time.Millisecond)
		r.expect("b:1", Unchecked, balance.Ejected, "")
		after(1100 * time.Millisecond)
		r.expect("b:1", Unchecked, 0, "")
		r.logged("endpoint returns from ejection", "cluster=c", "endpoint=b:1", "10s")

		r.faults("b:1", 5) // again, and longer
		if s := r.state("b:1"); s.Times != 2 || !s.EjectedUntil.Equal(time.Now().Add(20*time.Second)) {
			t.Errorf("%+v", s)
		}
		if s := r.state("a:1"); s.Ejected || s.Bits != 0 || s.WarmPerMille != 1000 {
			t.Errorf("%+v", s)
		}
	})
}

func TestTheSweepFindsWhoFailsTooOften(t *testing.T) {
	cfg := outliers()
	cfg.Outlier = &outlier.Settings{Interval: 2 * time.Second, MaxEjectedShare: 0.5, Failures: &outlier.FailureShare{Threshold: 0.5, MinHosts: 2, MinVolume: 10}}
	story(t, cfg, func(r *rig) {
		r.set("a:1", "b:1", "c:1")
		for i := range 30 {
			r.member("a:1").Host.Record(r.cfg.Outlier, i%3 > 0, time.Millisecond)
			r.member("b:1").Host.Record(r.cfg.Outlier, false, time.Millisecond)
			r.member("c:1").Host.Record(r.cfg.Outlier, false, time.Millisecond)
		}
		after(1900 * time.Millisecond)
		r.expect("a:1", Unchecked, 0, "")
		after(200 * time.Millisecond)
		r.expect("a:1", Unchecked, balance.Ejected, "")
		r.logged("endpoint is ejected", "endpoint=a:1")
	})
}

// A shard calls it with its lock held.
func TestTrippedDoesNotWaitForTheKeeper(t *testing.T) {
	story(t, outliers(), func(r *rig) {
		r.set("a:1", "b:1")
		c := (*r.k.clusters.Load())["c"]
		r.k.mu.Lock()
		c.mu.Lock()
		for range 10 {
			r.k.Tripped("c", "a:1")
			r.k.Moved("c")
		}
		r.k.Tripped("c", "nobody:1")
		r.k.Tripped("nothing", "a:1")
		c.mu.Unlock()
		r.k.mu.Unlock()
		if n := testing.AllocsPerRun(100, func() { r.k.Tripped("c", "a:1") }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestEjectionsLastOverGenerationsAndNewSettingsAndEndWithTheDetection(t *testing.T) {
	story(t, outliers(), func(r *rig) {
		r.set("a:1", "b:1", "c:1")
		r.faults("b:1", 5)
		r.set("a:1", "b:1", "d:1")
		s := *r.cfg.Outlier
		s.Consecutive = 7
		r.cfg.Outlier = &s
		r.set("a:1", "b:1", "d:1")
		after(5 * time.Second)
		r.expect("b:1", Unchecked, balance.Ejected, "")
		if s := r.state("b:1"); !s.Ejected {
			t.Errorf("forgotten: %+v", s)
		}

		old := r.member("b:1").Endpoint // the address is known by another object now
		r.set("a:1", "d:1", "b:1")
		r.all = []Member{r.member("a:1"), r.member("d:1"), {Address: "b:1", Endpoint: balance.NewEndpoint("b:1"), Host: outlier.NewHost()}}
		r.set("a:1", "d:1", "b:1")
		if e := r.member("b:1").Endpoint; e == old || e.State() != balance.Ejected {
			t.Error(e == old, e.State())
		}

		r.faults("d:1", 6)
		r.expect("d:1", Unchecked, 0, "")
		r.cfg.Outlier = nil
		r.set("a:1", "b:1", "d:1")
		r.expect("b:1", Unchecked, 0, "")
		if s := r.state("b:1"); s.Ejected {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhoLeavesAndComesBackIsNewToUs(t *testing.T) {
	story(t, outliers(), func(r *rig) {
		r.set("a:1", "b:1", "c:1")
		r.faults("b:1", 5)
		b := r.member("b:1")
		r.set("a:1", "c:1")
		after(2 * time.Second)
		if b.Endpoint.State() != balance.Ejected {
			t.Error("calls of earlier generations are sent to it again")
		}
		r.all = append(r.all, b)
		r.set("a:1", "b:1", "c:1")
		r.expect("b:1", Unchecked, 0, "")
	})
}

func slow() serviceconfig.Cluster {
	cfg := outliers()
	cfg.SlowStart = 30 * time.Second
	return cfg
}

// ramp fails unless the endpoint's share follows time from now on: a tenth at first, then linear, all of it in the end.
func (r *rig) ramp(address string) {
	r.t.Helper()
	for at := time.Duration(0); at <= 31*time.Second; at += time.Second {
		want := min(1000, max(100, int(at.Milliseconds()/30)))
		if got := r.state(address).WarmPerMille; got < want-25 || got > want {
			r.t.Errorf("after %v it is at %d per mille, expected %d", at, got, want)
		}
		after(time.Second)
	}
}

func TestTheFirstEndpointsHaveTheirWholeShareAndLaterOnesStartSlowly(t *testing.T) {
	story(t, slow(), func(r *rig) {
		r.set("a:1", "b:1")
		after(time.Second)
		r.set("a:1", "b:1", "n:1")
		for _, a := range []string{"a:1", "b:1"} {
			if w := r.state(a).WarmPerMille; w != 1000 {
				t.Errorf("%s is at %d", a, w)
			}
		}
		r.ramp("n:1")
		if e := r.member("n:1").Endpoint; !e.Ready() {
			t.Error("not ready in the end")
		}
	})
}

func TestWhoReturnsFromEjectionStartsSlowlyWithItsFirstCall(t *testing.T) {
	story(t, slow(), func(r *rig) {
		r.set("a:1", "b:1", "c:1")
		r.faults("a:1", 5)
		after(10*time.Second - time.Millisecond)
		r.expect("a:1", Unchecked, balance.Ejected, "")
		for r.state("a:1").Ejected {
			after(time.Millisecond)
		}
		r.ramp("a:1")
	})
}

func TestWhoWasDownStartsSlowlyWithOrWithoutBeingTold(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprint(told), func(t *testing.T) {
			story(t, slow(), func(r *rig) {
				r.set("a:1", "b:1")
				after(3 * time.Second)
				e := r.member("a:1").Endpoint
				e.MarkDown()
				if told {
					r.k.Moved("c")
				} else {
					after(time.Second)
				}
				synctest.Wait()
				if e.Warm() != coldest {
					t.Errorf("down, and at %d: its first calls would come all at once", e.Warm())
				}
				after(5 * time.Second)
				e.MarkUp()
				r.k.Moved("c")
				r.ramp("a:1")
				after(time.Minute)
				if !e.Ready() {
					t.Error(e.Warm())
				}
			})
		})
	}
}

func TestWhoReturnsFromAFailedCheckStartsSlowly(t *testing.T) {
	cfg := checks()
	cfg.SlowStart = 30 * time.Second
	story(t, cfg, func(r *rig) {
		h := newHealth("p.S", serving)
		r.serve("a:1", h)
		r.set("a:1")
		after(time.Second)
		if s := r.state("a:1"); s.WarmPerMille != 1000 {
			t.Errorf("its first answer: %+v", s)
		}
		h.SetServingStatus("p.S", notServing)
		synctest.Wait()
		h.SetServingStatus("p.S", serving)
		synctest.Wait()
		r.ramp("a:1")
	})
}

func TestSlowStartThatIsSwitchedOffGivesEverybodyAllAtOnce(t *testing.T) {
	story(t, slow(), func(r *rig) {
		r.set("a:1")
		r.set("a:1", "b:1")
		after(time.Second)
		r.cfg.SlowStart = 0
		r.set("a:1", "b:1")
		if w := r.state("b:1").WarmPerMille; w != 1000 {
			t.Error(w)
		}
		r.member("a:1").Endpoint.MarkDown()
		after(2 * time.Second)
		r.cfg.Outlier = nil
		r.set("a:1", "b:1")
		r.member("a:1").Endpoint.MarkUp()
		r.cfg.SlowStart = time.Minute
		r.set("a:1", "b:1")
		after(2 * time.Second)
		if w := r.state("a:1").WarmPerMille; w != 1000 {
			t.Errorf("what was before slow start was configured: %d", w)
		}
	})
}

func TestInPanicOnlyTheDeadAreLeftOutAndBeginAndEndAreSaid(t *testing.T) {
	story(t, outliers(), func(r *rig) {
		r.set("a:1", "b:1", "c:1", "d:1")
		r.faults("a:1", 5)
		r.faults("b:1", 5)
		r.logged("ejected", "ejected")
		if r.group.Panic() {
			t.Error("half of them are well, and it panics")
		}
		r.member("c:1").Endpoint.MarkDown()
		after(200 * time.Millisecond)
		if r.group.Mask() != balance.Down {
			t.Errorf("mask %b", r.group.Mask())
		}
		r.logged("panic: too few", "cluster=c", "healthy=1", "endpoints=4")
		r.member("c:1").Endpoint.MarkUp()
		after(200 * time.Millisecond)
		if r.group.Mask() != balance.Reasons {
			t.Errorf("mask %b", r.group.Mask())
		}
		r.logged("panic is over", "cluster=c")

		r.faults("c:1", 5)
		if !r.group.Panic() {
			t.Error("no panic with three of four ejected")
		}
		r.logged("ejected", "panic: too few")
		r.cfg.PanicShare = 0
		r.set("a:1", "b:1", "c:1", "d:1")
		if r.group.Panic() {
			t.Error("it was switched off")
		}
		r.cfg.PanicShare = 0.9
		r.set("a:1", "b:1", "c:1", "d:1")
		if !r.group.Panic() {
			t.Error("it was switched on")
		}
		other := new(balance.Group)
		old := r.group
		r.group = other
		r.set("a:1", "b:1", "c:1", "d:1")
		if old.Panic() || !other.Panic() {
			t.Error("another group took over")
		}
		r.cfg.Outlier = nil
		r.set("a:1", "b:1", "c:1", "d:1")
		if other.Panic() {
			t.Error("nothing is configured, and the panic stays")
		}
	})
}

func TestWhereAllAreOnlyDownThereIsNoPanic(t *testing.T) {
	story(t, slow(), func(r *rig) {
		r.set("a:1", "b:1")
		r.member("a:1").Endpoint.MarkDown()
		r.member("b:1").Endpoint.MarkDown()
		after(3 * time.Second)
		r.logged()
		if r.group.Panic() {
			t.Error("panic")
		}
	})
}

func TestAfterCloseNothingIsWatched(t *testing.T) {
	story(t, slow(), func(r *rig) {
		r.set("a:1", "b:1")
		r.k.Close()
		r.set("a:1", "b:1", "c:1")
		r.k.Tripped("c", "a:1")
		r.k.Close()
	})
}

func TestAKeeperIsSafeFromManySides(t *testing.T) {
	cfg := slow()
	cfg.HealthCheck = checks().HealthCheck
	story(t, cfg, func(r *rig) {
		r.serve("a:1", newHealth("p.S", serving))
		var all []Member
		for _, a := range []string{"a:1", "b:1", "c:1", "d:1"} {
			all = append(all, Member{a, balance.NewEndpoint(a), outlier.NewHost()})
		}
		p, _ := balance.New("", pickable(all), r.group)
		var wg sync.WaitGroup
		for s := range 3 {
			wg.Go(func() {
				for i := range 300 {
					m := all[(i+s)%4]
					if m.Host.Record(cfg.Outlier, i%10 != 0, time.Millisecond) {
						r.k.Tripped("c", m.Address)
					}
					p.Pick(uint64(i)<<40, nil)
					if i%7 == 0 {
						m.Endpoint.MarkDown()
					} else {
						m.Endpoint.MarkUp()
					}
					r.k.Moved("c")
					r.k.Snapshot("c")
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		for i := range 100 {
			now := cfg
			if i%3 == 0 {
				now.HealthCheck = nil
			}
			if i%5 == 0 {
				now.Outlier = nil
			}
			if i%4 == 0 {
				now.SlowStart = 0
			}
			r.k.Set("c", all[:1+i%4], r.group, &now)
			if i%20 == 19 {
				r.k.Retire(func(string) bool { return false })
			}
			time.Sleep(50 * time.Millisecond)
		}
		wg.Wait()
	})
}

func pickable(all []Member) (ms []balance.Member) {
	for _, m := range all {
		ms = append(ms, balance.Member{Endpoint: m.Endpoint, Weight: 1})
	}
	return ms
}
