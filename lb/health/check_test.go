package health

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

func checks() serviceconfig.Cluster {
	return serviceconfig.Cluster{HealthCheck: &serviceconfig.HealthCheck{Service: "p.S", Interval: 5 * time.Second, Timeout: time.Second,
		UnhealthyThreshold: 2, HealthyThreshold: 1}}
}

func TestAWatchedServerIsFollowedAtOnceOverOneConnection(t *testing.T) {
	story(t, checks(), func(r *rig) {
		h := newHealth("p.S", serving)
		r.serve("a:1", h)
		r.set("a:1")
		r.expect("a:1", Unknown, 0, "")
		after(time.Second)
		r.expect("a:1", Healthy, 0, "")
		if s := r.state("a:1"); !s.Watched || s.LastCheck.IsZero() {
			t.Errorf("%+v", s)
		}
		r.logged()

		h.SetServingStatus("p.S", notServing)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING")
		r.logged("endpoint is unhealthy", "cluster=c", "endpoint=a:1", "NOT_SERVING", "until=")
		after(time.Minute)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING")
		r.logged()

		h.SetServingStatus("p.S", serving)
		r.expect("a:1", Healthy, 0, "")
		r.logged("endpoint is healthy again", "cluster=c", "endpoint=a:1")
		if n := r.at("a:1").dials; n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestWithoutWatchTheServerIsCheckedEachIntervalUntilTheThresholds(t *testing.T) {
	cfg := checks()
	cfg.HealthCheck.HealthyThreshold = 3
	story(t, cfg, func(r *rig) {
		h := &checker{said: serving}
		r.serve("a:1", h)
		r.set("a:1")
		after(time.Minute)
		r.expect("a:1", Healthy, 0, "") // the first answer decided
		if n := h.asked(); n < 11 || n > 14 || r.at("a:1").dials != 1 || r.state("a:1").Watched {
			t.Errorf("%d checks in a minute, %d connections", n, r.at("a:1").dials)
		}
		gaps := map[time.Duration]bool{}
		for i, at := range h.times[1:] {
			gap := at.Sub(h.times[i])
			if gaps[gap] = true; gap < 4500*time.Millisecond || gap > 5500*time.Millisecond {
				t.Errorf("%v between two checks", gap)
			}
		}
		if len(gaps) < 5 {
			t.Errorf("no jitter: %v", gaps)
		}

		step := func(n int) {
			for h.asked() < n {
				after(10 * time.Millisecond)
			}
		}
		h.say(notServing, nil)
		n := h.asked()
		step(n + 1)
		r.expect("a:1", Healthy, 0, "NOT_SERVING")
		step(n + 2)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING")
		h.say(serving, nil)
		step(n + 4)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "")
		step(n + 5)
		r.expect("a:1", Healthy, 0, "")
		r.logged("is unhealthy", "failed=2", "healthy again", "passed=3")
	})
}

func TestAServerWithoutHealthServiceIsTakenAsHealthyWithANote(t *testing.T) {
	story(t, checks(), func(r *rig) {
		r.serve("a:1", nil)
		r.set("a:1")
		after(time.Second)
		r.expect("a:1", Healthy, 0, "no grpc.health.v1")
		r.logged("taken as healthy", "no grpc.health.v1")
		after(time.Minute)
		r.logged()
	})
}

func TestAServiceThatTheServerDoesNotKnowIsUnhealthyUntilItDoes(t *testing.T) {
	story(t, checks(), func(r *rig) {
		watched := newHealth("other", serving)
		r.serve("a:1", watched)
		checked := &checker{err: status.Error(codes.NotFound, "what?")}
		r.serve("b:1", checked)
		r.set("a:1", "b:1")
		after(time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, `does not know the service "p.S"`)
		r.expect("b:1", Unhealthy, balance.Unhealthy, `does not know the service "p.S"`)
		watched.SetServingStatus("p.S", serving)
		checked.say(serving, nil)
		r.expect("a:1", Healthy, 0, "")
		after(6 * time.Second)
		r.expect("b:1", Healthy, 0, "")
	})
}

func TestWhoCannotBeReachedIsUnhealthyAfterTheThresholdAndComesBack(t *testing.T) {
	story(t, checks(), func(r *rig) {
		r.set("a:1", "b:1")
		r.mu.Lock()
		r.host("b:1").hole = true
		r.mu.Unlock()
		after(2100 * time.Millisecond)
		r.expect("a:1", Unknown, 0, "connection refused")
		r.expect("b:1", Unknown, 0, "no answer within 1s")
		after(7 * time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "connection refused")
		r.expect("b:1", Unhealthy, balance.Unhealthy, "no answer within 1s")
		r.serve("a:1", newHealth("p.S", serving))
		after(6 * time.Second)
		r.expect("a:1", Healthy, 0, "")
	})
}

func TestARestartOfAServerIsNoFailureIfItAnswersAgainAtOnce(t *testing.T) {
	story(t, checks(), func(r *rig) {
		stop := r.serve("a:1", newHealth("p.S", serving))
		r.set("a:1")
		after(time.Minute)
		stop2 := r.serve("a:1", newHealth("p.S", serving)) // takes the address over
		stop()
		r.expect("a:1", Healthy, 0, "")
		if r.at("a:1").dials != 2 || r.at("a:1").open != 1 {
			t.Errorf("%+v", r.at("a:1"))
		}
		stop2()
		after(10 * time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "refused")
	})
}

func TestAServerThatHangsIsFoundThoughItsWatchSaysNothing(t *testing.T) {
	story(t, checks(), func(r *rig) {
		h := &checker{said: serving}
		r.serve("a:1", both{h, newHealth("p.S", serving)})
		r.set("a:1")
		after(time.Minute)
		r.expect("a:1", Healthy, 0, "")
		if n := h.asked(); n < 2 || n > 3 {
			t.Errorf("%d checks beside the watch in a minute", n)
		}
		h.mu.Lock()
		h.hang = true
		h.mu.Unlock()
		after(30 * time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "no answer within 1s")
		h.mu.Lock()
		h.hang = false
		h.mu.Unlock()
		after(10 * time.Second)
		r.expect("a:1", Healthy, 0, "")
	})
}

func TestAWatchWithoutFirstAnswerFails(t *testing.T) {
	story(t, checks(), func(r *rig) {
		r.serve("a:1", mute{})
		r.set("a:1")
		after(9 * time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "no answer within 1s")
	})
}

func TestWithAHealthyThresholdAWatchIsConfirmedByChecks(t *testing.T) {
	cfg := checks()
	cfg.HealthCheck.HealthyThreshold = 3
	story(t, cfg, func(r *rig) {
		h := newHealth("p.S", serving)
		r.serve("a:1", h)
		r.set("a:1")
		after(time.Second)
		h.SetServingStatus("p.S", notServing)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING")
		h.SetServingStatus("p.S", serving)
		after(9 * time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "")
		after(2 * time.Second)
		r.expect("a:1", Healthy, 0, "")
	})
}

func TestThereIsOneProberHoweverManyGenerationsAndItEndsWithTheEndpoint(t *testing.T) {
	story(t, checks(), func(r *rig) {
		r.serve("a:1", newHealth("p.S", serving))
		r.serve("b:1", newHealth("p.S", serving))
		for range 20 {
			r.set("a:1", "b:1")
			after(time.Second)
		}
		if a, b := r.at("a:1"), r.at("b:1"); a.dials != 1 || b.dials != 1 || a.open != 1 {
			t.Errorf("%+v %+v", a, b)
		}
		r.set("b:1")
		after(time.Millisecond)
		if a, b := r.at("a:1"), r.at("b:1"); a.open != 0 || b.open != 1 {
			t.Errorf("after a left: %+v %+v", a, b)
		}
		r.k.Retire(func(string) bool { return false })
		after(time.Millisecond)
		if b := r.at("b:1"); b.open != 0 || r.k.Snapshot("c") != nil {
			t.Errorf("after the cluster left: %+v", b)
		}
	})
}

func TestChecksThatAreSwitchedOffOrChangedTakeTheirBitsAlong(t *testing.T) {
	story(t, checks(), func(r *rig) {
		h := newHealth("p.S", notServing)
		h.SetServingStatus("", serving)
		r.serve("a:1", h)
		r.set("a:1")
		after(time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING")

		hc := *r.cfg.HealthCheck
		hc.Service = ""
		r.cfg.HealthCheck = &hc
		r.set("a:1")
		r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING") // still what we know
		after(time.Second)
		r.expect("a:1", Healthy, 0, "")

		hc2 := hc
		hc2.Service = "p.S"
		r.cfg.HealthCheck = &hc2
		r.set("a:1")
		after(time.Second)
		r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING")
		r.cfg.HealthCheck = nil
		r.set("a:1")
		r.expect("a:1", Unchecked, 0, "")
		if r.at("a:1").open != 0 {
			t.Error("it is still connected")
		}
	})
}

// 500 endpoints that answer no dial, and one that is well: it is not taken for ill because it had to wait for its turn.
func TestDialsAreBoundedAndWaitingIsNoFailure(t *testing.T) {
	story(t, checks(), func(r *rig) {
		var all []string
		for i := range 500 {
			a := fmt.Sprint("hole:", i)
			all = append(all, a)
			r.host(a).hole = true
		}
		r.serve("well:1", newHealth("p.S", serving))
		r.set(append(all, "well:1")...)
		for range 600 {
			after(100 * time.Millisecond)
			r.mu.Lock()
			dialing := 0
			for _, h := range r.known {
				dialing += h.dialing
			}
			r.mu.Unlock()
			if dialing > maxDials {
				t.Fatalf("%d dials at once", dialing)
			}
			if s := r.state("well:1"); s.Health == Unhealthy || s.Err != "" {
				t.Fatalf("%+v", s)
			}
		}
		r.expect("well:1", Healthy, 0, "")
	})
}

// A rack loses its power: all connections end at once.
func TestDialsAreBoundedAlsoWhenManyConnectionsAreLostAtOnce(t *testing.T) {
	for _, watched := range []bool{true, false} {
		t.Run(fmt.Sprint("watched=", watched), func(t *testing.T) { manyLost(t, watched) })
	}
}

func manyLost(t *testing.T, watched bool) {
	story(t, checks(), func(r *rig) {
		var all []string
		var stops []func()
		for i := range 60 {
			all = append(all, fmt.Sprint("a:", i))
			var h healthpb.HealthServer = newHealth("p.S", serving)
			if !watched {
				h = &checker{said: serving}
			}
			stops = append(stops, r.serve(all[i], h))
		}
		r.set(all...)
		after(time.Minute)
		r.mu.Lock()
		for _, h := range r.known {
			h.hole = true
		}
		r.mu.Unlock()
		for _, stop := range stops {
			stop()
		}
		for range 200 {
			after(100 * time.Millisecond)
			r.mu.Lock()
			dialing := 0
			for _, h := range r.known {
				dialing += h.dialing
			}
			r.mu.Unlock()
			if dialing > maxDials {
				t.Fatalf("%d dials at once", dialing)
			}
		}
		for _, a := range all {
			r.expect(a, Unhealthy, balance.Unhealthy, "no answer within 1s")
		}
	})
}

func TestPanicFollowsTheChecksAtOnce(t *testing.T) {
	cfg := checks()
	cfg.PanicShare = 0.5
	story(t, cfg, func(r *rig) {
		h := newHealth("p.S", serving)
		r.serve("a:1", h)
		r.set("a:1")
		after(time.Second)
		for range 3 {
			h.SetServingStatus("p.S", notServing)
			r.expect("a:1", Unhealthy, balance.Unhealthy, "NOT_SERVING")
			if !r.group.Panic() {
				t.Error("no panic, and nobody else is there")
			}
			r.logged("is unhealthy", "panic: too few")
			h.SetServingStatus("p.S", serving)
			r.expect("a:1", Healthy, 0, "")
			if r.group.Panic() {
				t.Error("still in panic")
			}
			r.logged("healthy again", "panic is over")
		}
	})
}

func TestWhatAProberFindsAfterItsEndpointLeftIsForgotten(t *testing.T) {
	story(t, checks(), func(r *rig) {
		h := &checker{hang: true}
		r.serve("a:1", h)
		r.set("a:1")
		for h.asked() == 0 {
			after(time.Millisecond)
		}
		e := r.member("a:1").Endpoint
		c := (*r.k.clusters.Load())["c"]
		m := c.members[0]
		p := m.prober
		r.set()
		// It may be about to report just now.
		if !c.checked(m, p, result{said: true, note: "late"}) || e.State() != 0 || m.err != "" {
			t.Error(e.State(), m.err)
		}
		after(time.Minute)
		if e.State() != 0 || len(r.k.Snapshot("c")) != 0 || h.asked() != 1 {
			t.Error(e.State(), h.asked())
		}
	})
}
