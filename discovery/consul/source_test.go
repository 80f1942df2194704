package consul

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Services that bear the tag become clusters, with those of their instances that bear it; others do not.
func TestTaggedServicesBecomeClusters(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 7002, 7001)
		s.consul.change(func() {
			s.consul.services["echo"] = append(s.consul.services["echo"], instance("echo", "http", 8080))
		})
		s.consul.set("web", "http", 80)
		s.start(Options{})
		s.want("echo", 0, 7001, 7002)
		s.wantGone("web")
		c := s.now("echo")
		if !c.WantReflection || c.Source != "consul" || c.Claim != discovery.ClaimNone || c.Err != "" || s.emitted() != 1 {
			t.Fatalf("after %d emits: %+v", s.emitted(), c)
		}
	})
}

// A service named in the options is watched with all its instances, without a tag and without reflection.
func TestNamedServicesNeedNoTag(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("plain", "-", 7001)
		s.consul.set("echo", "grpc", 7002)
		s.start(Options{NoTag: true, Services: []Service{{Name: "plain"}, {Name: "absent"}}})
		s.want("plain", 0, 7001)
		s.want("absent", 0)
		s.wantGone("echo")
		if s.now("plain").WantReflection {
			t.Fatal("it wants reflection")
		}
	})
}

// A service named with a tag of its own is watched with the instances that bear it, whatever tag the others are found by.
func TestNamedServicesMayHaveATagOfTheirOwn(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("cart", "grpc", 7001)
		s.consul.change(func() {
			s.consul.services["cart"] = append(s.consul.services["cart"], instance("cart", "blue", 7002), instance("cart", "green", 7003))
		})
		s.consul.set("echo", "grpc", 7004)
		s.start(Options{Services: []Service{{Name: "cart", Tag: "blue"}}})
		s.want("cart", 0, 7002)
		s.want("echo", 0, 7004)
		s.consul.change(func() {
			s.consul.services["cart"] = append(s.consul.services["cart"], instance("cart", "blue", 7005), instance("cart", "green", 7006))
		})
		s.want("cart", 0, 7002, 7005)
	})
	_, err := New(Options{Services: []Service{{Name: "cart", Tag: "blue"}, {Name: "cart", Tag: "green"}}})
	if err == nil || !strings.Contains(err.Error(), "cart") {
		t.Errorf("one cluster of two tags: %v", err)
	}
}

// What changes in Consul is emitted at once: a new instance, a lost one, a new service.
func TestChangesAreSeenAtOnce(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 7001)
		s.start(Options{})
		s.want("echo", 0, 7001)
		after(10 * time.Second)
		for _, ports := range [][]int{{7001, 7002}, {7001, 7002, 7003}, {7001, 7003}, {7003}, {7003, 7004}} {
			began := time.Now()
			s.consul.set("echo", "grpc", ports...)
			s.want("echo", 0, ports...)
			if took := time.Since(began); took > 50*time.Millisecond {
				t.Fatalf("%v took %v", ports, took)
			}
			if lag := s.emittedAt().Sub(s.now("echo").ChangedAt); lag > 50*time.Millisecond {
				t.Fatalf("%v: ChangedAt is %v before the emit", ports, lag)
			}
			after(3 * time.Second)
		}
		s.consul.set("other", "grpc", 9000)
		s.want("other", 0, 9000)
	})
}

// Updates that change nothing for us (a check's output) are not emitted.
func TestNoNewsIsNotEmitted(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 7001)
		s.start(Options{})
		s.want("echo", 0, 7001)
		n := s.emitted()
		for range 5 {
			s.consul.change(func() {})
			after(time.Second)
		}
		if s.emitted() != n {
			t.Fatalf("%d emits for nothing", s.emitted()-n)
		}
	})
}

// When Consul's index goes backwards, the watch starts anew and goes on seeing changes at once.
func TestIndexGoingBackwardsStartsAnew(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 7001)
		s.start(Options{Wait: 10 * time.Second})
		s.want("echo", 0, 7001)
		s.consul.mu.Lock()
		s.consul.index = 3 // as after a restore; nobody is woken
		s.consul.mu.Unlock()
		s.consul.set("echo", "grpc", 7001, 7002)
		after(15 * time.Second)
		s.want("echo", 0, 7001, 7002)
		s.consul.mu.Lock()
		if got := s.consul.indexes["/v1/health/service/echo"]; !slices.Equal(got, []string{"", "101", "", "4"}) {
			t.Errorf("it asked with the indexes %q", got)
		}
		s.consul.mu.Unlock()
		s.consul.set("echo", "grpc", 7001, 7002, 7003)
		s.want("echo", 0, 7001, 7002, 7003)
	})
}

// An index of 0, which cannot be waited for, makes a slow poll and not a busy one.
func TestIndexZeroDoesNotSpin(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.index = 0
		s.consul.services["echo"] = []*api.ServiceEntry{instance("echo", "grpc", 7001)}
		s.start(Options{})
		s.want("echo", 0, 7001)
		after(time.Minute)
		if n := s.consul.count("/v1/health/service/echo"); n > 65 || n < 30 {
			t.Fatalf("%d questions in a minute", n)
		}
	})
}

// A Consul that changes all the time is asked a bounded number of times, and its latest state arrives.
func TestRateIsBounded(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 7000)
		s.start(Options{})
		s.want("echo", 0, 7000)
		before := s.consul.count("/v1/health/service/echo")
		for i := range 1000 { // ten seconds of it
			s.consul.set("echo", "grpc", 7000, 7001+i)
			time.Sleep(10 * time.Millisecond)
		}
		if n := s.consul.count("/v1/health/service/echo") - before; n > 60 {
			t.Fatalf("%d questions in ten seconds", n)
		}
		after(time.Second)
		s.want("echo", 0, 7000, 8000)
	})
}

// While Consul fails for one service, that one keeps its endpoints and says since when; the others go on.
func TestFailureOfOneServiceLeavesTheOthersAlone(t *testing.T) {
	for name, trouble := range map[string]int{"500": 500, "403": 403, "hang": hang, "429": 429} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *story) {
				s.consul.set("bad", "grpc", 7001)
				s.consul.set("good", "grpc", 8001)
				s.start(Options{Wait: 5 * time.Second})
				s.want("bad", 0, 7001)
				after(time.Second)
				s.consul.mu.Lock()
				s.consul.trouble = func(path string) int {
					if path == "/v1/health/service/bad" {
						return trouble
					}
					return 0
				}
				s.consul.mu.Unlock()
				began := time.Now()
				after(time.Minute)
				s.consul.set("good", "grpc", 8001, 8002)
				s.consul.set("bad", "grpc", 7001, 7002)
				s.want("good", 0, 8001, 8002)
				s.want("bad", 0, 7001)
				c := s.now("bad")
				if since := c.StaleSince.Sub(began); c.Err == "" || since < 0 || since > 30*time.Second {
					t.Fatalf("stale since %v, err %q", since, c.Err)
				}
				if g := s.now("good"); !g.StaleSince.IsZero() || g.Err != "" {
					t.Fatalf("good: %+v", g)
				}
				if r := s.source.Report(); r.Err == "" || r.LastFailure.Before(began) {
					t.Fatalf("report: %+v", r)
				}
				s.consul.mu.Lock()
				s.consul.trouble = nil
				s.consul.mu.Unlock()
				after(30 * time.Second)
				s.want("bad", 0, 7001, 7002)
				if c := s.now("bad"); !c.StaleSince.IsZero() || c.Err != "" {
					t.Fatalf("still stale: %+v", c)
				}
				if r := s.source.Report(); r.Err != "" {
					t.Fatalf("report: %+v", r)
				}
			})
		})
	}
}

// While the agent is away nothing is emptied and it is not hammered; when it is back with its data, all is well within two
// seconds and nothing was held.
func TestAgentRestartWithItsData(t *testing.T) {
	tell(t, func(s *story) {
		for _, name := range []string{"a", "b", "c", "d"} {
			s.consul.set(name, "grpc", 7001, 7002)
		}
		s.start(Options{})
		s.want("a", 0, 7001, 7002)
		s.consul.kill()
		dials := s.consul.dialled()
		after(2 * time.Minute)
		s.want("a", 0, 7001, 7002)
		if n := s.consul.dialled() - dials; n > 350 { // the scout once a second, four others every 5 to 10 s
			t.Fatalf("%d dials in two minutes", n)
		}
		s.consul.mu.Lock()
		s.consul.down = false
		s.consul.index = 7 // it counts from the beginning
		s.consul.services["d"] = append(s.consul.services["d"], instance("d", "grpc", 7003))
		s.consul.mu.Unlock()
		after(2 * time.Second)
		s.want("d", 0, 7001, 7002, 7003)
		s.want("a", 0, 7001, 7002)
		s.mu.Lock()
		for _, e := range s.emits {
			for _, c := range e.clusters {
				if len(c.Endpoints) < 2 {
					t.Errorf("%s once had %d endpoints", c.Name, len(c.Endpoints))
				}
			}
		}
		s.mu.Unlock()
		if c := s.now("a"); !c.StaleSince.IsZero() || c.Err != "" {
			t.Fatalf("still stale: %+v", c)
		}
		s.consul.set("a", "grpc", 7001, 7002, 7003) // and the watch waits for the new index
		s.want("a", 0, 7001, 7002, 7003)
	})
}

// An agent that comes back empty is not believed for a while, and then it is.
func TestAgentRestartWithNothing(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("one", "grpc", 7001)
		s.consul.set("three", "grpc", 7001, 7002, 7003)
		s.start(Options{})
		s.want("three", 0, 7001, 7002, 7003)
		s.consul.kill()
		after(5 * time.Second)
		s.consul.mu.Lock()
		s.consul.down, s.consul.index, s.consul.services = false, 12, map[string][]*api.ServiceEntry{}
		s.consul.mu.Unlock()
		after(3 * time.Second)
		s.want("one", 1, 7001)
		s.want("three", 3, 7001, 7002, 7003)
		if c := s.now("three"); c.Err == "" || !c.WantReflection || !s.logged("lost many endpoints") {
			t.Fatalf("%+v", c)
		}
		s.consul.set("three", "grpc", 7001, 7002) // its instances come back, one remains away
		s.want("three", 0, 7001, 7002)
		after(time.Minute)
		s.wantGone("one")
		s.want("three", 0, 7001, 7002)
		s.consul.set("one", "grpc", 7009)
		s.want("one", 0, 7009)
	})
}

// The loss of one instance of two or three is believed at once; that of the last one is not.
func TestSingleDeregistrationIsBelievedAtOnce(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 1, 2, 3)
		s.start(Options{})
		s.want("echo", 0, 1, 2, 3)
		after(2 * time.Second)
		s.consul.set("echo", "grpc", 1, 2)
		s.want("echo", 0, 1, 2)
		after(2 * time.Second)
		s.consul.set("echo", "grpc", 1)
		s.want("echo", 0, 1)
		after(2 * time.Second)
		s.consul.set("echo", "grpc")
		s.want("echo", 1, 1)
		after(59 * time.Second)
		s.want("echo", 1, 1)
		after(2 * time.Second)
		s.wantGone("echo")
	})
}

// A service that loses its tag is kept for a while like any other disappearance, then it is gone and no longer watched.
func TestLosingTheTagIsHeldToo(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 1, 2)
		s.start(Options{})
		s.want("echo", 0, 1, 2)
		s.consul.set("echo", "http", 1, 2)
		s.want("echo", 2, 1, 2)
		if !s.now("echo").WantReflection {
			t.Fatal("it forgot that it wants reflection")
		}
		after(61 * time.Second)
		s.wantGone("echo")
		n := s.consul.count("/v1/health/service/echo")
		after(10 * time.Minute)
		if m := s.consul.count("/v1/health/service/echo"); m != n {
			t.Fatalf("it was asked %d more times", m-n)
		}
	})
}

// A token that no longer suffices is read anew from its file, and meanwhile nothing is lost.
func TestTokenFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	tell(t, func(s *story) {
		s.consul.token = "first"
		s.consul.set("echo", "grpc", 1, 2)
		s.start(Options{TokenFile: file, Token: "outranked"})
		s.want("echo", 0, 1, 2)
		s.consul.change(func() { s.consul.token = "other" })
		after(20 * time.Second)
		s.want("echo", 0, 1, 2)
		if s.now("echo").StaleSince.IsZero() {
			t.Fatal("it is not stale though the token is refused")
		}
		before, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		write("other") // of the same length, and within the same tick of the file system's clock
		if err := os.Chtimes(file, time.Time{}, before.ModTime()); err != nil {
			t.Fatal(err)
		}
		after(11 * time.Second)
		if c := s.now("echo"); !c.StaleSince.IsZero() {
			t.Fatalf("the new token was not taken: %s", c.Err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		s.consul.set("echo", "grpc", 1, 2, 3) // a lost file is no lost token
		after(time.Second)
		s.consul.set("echo", "grpc", 1, 2, 3, 4)
		s.want("echo", 0, 1, 2, 3, 4)
	})
}

// Consul answers a missing right with an empty list: that is no disappearance, however long it lasts.
func TestEmptinessByACLIsNotBelieved(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 1, 2)
		s.start(Options{})
		s.want("echo", 0, 1, 2)
		s.consul.change(func() { s.consul.filtered = true })
		after(5 * time.Minute)
		s.want("echo", 0, 1, 2)
		if c := s.now("echo"); c.StaleSince.IsZero() || c.Err == "" {
			t.Fatalf("%+v", c)
		}
		s.consul.change(func() { s.consul.filtered = false })
		after(11 * time.Second)
		if c := s.now("echo"); !c.StaleSince.IsZero() {
			t.Fatalf("%+v", c)
		}
	})
}

// A stale read from a server that knows no leader is no answer.
func TestStaleReadWithoutLeaderIsNoAnswer(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 1, 2)
		s.start(Options{Stale: true})
		s.want("echo", 0, 1, 2)
		s.consul.change(func() { s.consul.noLeader, s.consul.services = true, map[string][]*api.ServiceEntry{} })
		after(5 * time.Minute)
		s.want("echo", 0, 1, 2)
	})
}

// Run returns as soon as its context ends, whatever Consul does.
func TestCancelIsPrompt(t *testing.T) {
	for name, trouble := range map[string]int{"blocking": 0, "hanging": hang, "failing": http.StatusBadGateway} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *story) {
				s.consul.set("echo", "grpc", 1)
				s.consul.trouble = func(string) int { return trouble }
				s.start(Options{Dir: t.TempDir()})
				after(20 * time.Second)
				began := time.Now()
				s.stop()
				if took := time.Since(began); took > 0 {
					t.Fatalf("it took %v", took)
				}
			})
		})
	}
}

// Bad options are refused in words.
func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"nothing to watch":     {NoTag: true},
		"stale and consistent": {Stale: true, Consistent: true},
		"share":                {HoldShare: 1.5},
		"CA file":              {Address: "https://127.0.0.1:1", TLS: TLS{CAFile: "/nonexistent"}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
