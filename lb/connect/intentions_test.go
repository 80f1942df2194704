package connect

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reply is what became of one Authorize.
type reply struct {
	known, told, allowed bool
	why                  string
	took                 time.Duration
}

// asks puts a question; what is told later is in the reply once it was.
func (s *story) asks(target, spiffe string) *reply {
	r, began, sent := &reply{}, time.Now(), s.sent
	var mu sync.Mutex
	mu.Lock() // it may be told before this has returned
	defer mu.Unlock()
	answer := s.identity.Authorize(target, spiffe, "09", func(answer Answer) {
		mu.Lock()
		defer mu.Unlock()
		if r.told || r.known {
			s.Error("it was told twice")
		}
		r.told, r.took = true, time.Since(began)
		r.allowed, r.why = answer(sent)
	})
	if r.known = answer != nil; r.known {
		r.allowed, r.why = answer(sent)
	}
	return r
}

// allows sets what intentions say of a pair; "" is the deny of everything.
func (f *fakeAgent) allows(target, source, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.allow[target+" "+spiffe(source)] = reason
}

const yes = "+Matched L4 intention: default/web => default/trunkline (Precedence: 9, Action: ALLOW)"

func TestAnIntentionIsAskedOnceAndThenKnown(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.allows("trunkline", "web", yes)
		s.start()
		after(time.Second)
		var asked []*reply
		for range 100 { // the answer may come amid them
			asked = append(asked, s.asks("trunkline", spiffe("web")))
		}
		evil := s.asks("trunkline", spiffe("evil"))
		synctest.Wait()
		for _, r := range asked {
			if !r.known && !r.told || !r.allowed || !strings.Contains(r.why, "ALLOW") {
				t.Fatalf("%+v", *r)
			}
		}
		if evil.known || !evil.told || evil.allowed {
			t.Fatalf("%+v", *evil)
		}
		if want := `Consul's intentions do not let "evil" call "trunkline": Matched L4 intention: default/* => default/* (Precedence: 5, Action: DENY); ask for`; !strings.HasPrefix(evil.why, want) {
			t.Errorf("it says: %s", evil.why)
		}
		if r := s.asks("trunkline", spiffe("web")); !r.known || !r.allowed {
			t.Errorf("%+v", *r)
		}
		if r := s.asks("trunkline", spiffe("evil")); !r.known || r.allowed || r.why != evil.why {
			t.Errorf("%+v", *r)
		}
		if n := s.agent.count(authorizePath); n != 2 {
			t.Errorf("the agent was asked %d times", n)
		}
		if allocs := testing.AllocsPerRun(100, func() { s.identity.Authorize("trunkline", spiffeOfWeb, "09", nil) }); allocs > 0 {
			t.Errorf("a known answer costs %v allocations", allocs)
		}
	})
}

var spiffeOfWeb = spiffe("web") // constant

// Calls that go on are never delayed by it, and obey what was changed within ten seconds.
func TestAChangedIntentionIsObeyedWithinTenSeconds(t *testing.T) {
	tell(t, func(s *story) {
		s.start()
		after(time.Second)
		s.asks("trunkline", spiffe("web"))
		synctest.Wait()
		for _, reason := range []string{yes, "", yes} {
			s.agent.allows("trunkline", "web", reason)
			changed := time.Now()
			for time.Since(changed) < 20*time.Second {
				r := s.asks("trunkline", spiffe("web"))
				if !r.known {
					t.Fatal("a call had to wait")
				}
				if since := time.Since(changed); since > 10*time.Second && r.allowed != (reason != "") {
					t.Fatalf("%v after the change to %q it says %+v", since, reason, *r)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		if n := s.agent.count(authorizePath); n > 60/4+2 {
			t.Errorf("the agent was asked %d times in a minute", n)
		}
	})
}

// What nobody asks for any more is forgotten, and then asked for anew.
func TestAnAnswerThatIsNotUsedIsForgotten(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.allows("trunkline", "web", yes)
		s.start()
		after(time.Second)
		s.asks("trunkline", spiffe("web"))
		after(10*time.Minute + 10*time.Second)
		if st := s.identity.Status(); st.Intentions != 0 {
			t.Fatalf("status: %+v", st)
		}
		asked := s.agent.count(authorizePath)
		s.agent.allows("trunkline", "web", "")
		after(10 * time.Minute)
		if n := s.agent.count(authorizePath); n != asked {
			t.Errorf("%d questions for nobody", n-asked)
		}
		if r := s.asks("trunkline", spiffe("web")); r.known {
			t.Error("it says what it heard twenty minutes ago")
		}
	})
}

// While the agent is away, what it said goes on, and whoever it was never asked about is refused, in words; when it is back, both are
// right again.
func TestWhileTheAgentIsAwayIntentionsAreWhatTheyWere(t *testing.T) {
	for name, trouble := range map[string]int{"away": 0, "hang": hang, "500": http.StatusInternalServerError, "403": http.StatusForbidden} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *story) {
				s.agent.allows("trunkline", "web", yes)
				s.agent.allows("trunkline", "shop", yes)
				s.start()
				after(time.Second)
				s.asks("trunkline", spiffe("web"))
				s.asks("trunkline", spiffe("evil"))
				synctest.Wait()
				s.agent.mu.Lock()
				s.agent.trouble[authorizePath] = trouble
				s.agent.mu.Unlock()
				if trouble == 0 {
					s.agent.kill()
				}
				first := s.asks("trunkline", spiffe("shop"))
				for range 300 {
					if r := s.asks("trunkline", spiffe("web")); !r.known || !r.allowed {
						t.Fatalf("%+v", *r)
					}
					if r := s.asks("trunkline", spiffe("evil")); !r.known || r.allowed || !strings.Contains(r.why, "DENY") {
						t.Fatalf("%+v", *r)
					}
					if r := s.asks("trunkline", spiffe("shop")); r.known && r.allowed {
						t.Fatalf("%+v", *r)
					}
					after(time.Second)
				}
				want := `whether the mesh lets "shop" call "trunkline" is not known: Consul's agent cannot be asked; try again later`
				if trouble == http.StatusForbidden {
					want = `whether the mesh lets "shop" call "trunkline" is not known: Consul's agent does not tell Trunkline; its ACL token needs service:write for "trunkline"`
				}
				if first.known || !first.told || first.allowed || first.took > 3*time.Second || first.why != want {
					t.Errorf("%+v", *first)
				}
				if n := s.logged("does not answer about intentions"); n != 1 {
					t.Errorf("logged %d times:\n%s", n, s.log.String())
				}
				if st := s.identity.Status(); st.Intentions != 3 || st.IntentionsFailing != 3 {
					t.Errorf("status: %+v", st)
				}
				s.agent.mu.Lock()
				clear(s.agent.trouble)
				close(s.agent.release) // as connections that hung are reset
				s.agent.release = make(chan struct{})
				s.agent.mu.Unlock()
				s.agent.revive()
				for range 5 {
					s.asks("trunkline", spiffe("shop"))
					s.asks("trunkline", spiffe("web"))
					s.asks("trunkline", spiffe("evil"))
					after(time.Second)
				}
				if r := s.asks("trunkline", spiffe("shop")); !r.known || !r.allowed {
					t.Errorf("%+v", *r)
				}
				after(time.Second)
				if st := s.identity.Status(); st.IntentionsFailing != 0 || s.logged("answers about intentions") != 1 {
					t.Errorf("status: %+v\n%s", st, s.log.String())
				}
			})
		})
	}
}

// Who calls seldom is not forgotten because the agent is away for long.
func TestAnAnswerOutlastsTheAgentsAbsence(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.allows("trunkline", "web", yes)
		s.start()
		after(time.Second)
		s.asks("trunkline", spiffe("web"))
		synctest.Wait()
		after(5 * time.Minute)
		s.agent.kill()
		after(3 * time.Hour)
		if r := s.asks("trunkline", spiffe("web")); !r.known || !r.allowed {
			t.Errorf("%+v", *r)
		}
		s.agent.allows("trunkline", "web", "")
		s.agent.revive()
		after(10 * time.Second)
		if r := s.asks("trunkline", spiffe("web")); !r.known || r.allowed {
			t.Errorf("%+v", *r)
		}
		after(11 * time.Minute)
		if st := s.identity.Status(); st.Intentions != 0 {
			t.Errorf("status: %+v", st)
		}
	})
}

// An agent that hangs holds a bounded number of questions, and nobody waits for long.
func TestQuestionsInFlightAreBounded(t *testing.T) {
	tell(t, func(s *story) {
		s.start()
		after(time.Second)
		s.agent.mu.Lock()
		s.agent.trouble[authorizePath] = hang
		s.agent.mu.Unlock()
		var asked []*reply
		for n := range 200 {
			asked = append(asked, s.asks("trunkline", spiffe(fmt.Sprint("s", n))))
		}
		after(3 * time.Second)
		for _, r := range asked {
			if !r.told || r.allowed || r.took > 3*time.Second {
				t.Fatalf("%+v", *r)
			}
		}
		if s.agent.mostAsked != maxInFlight {
			t.Errorf("%d questions at once", s.agent.mostAsked)
		}
	})
}

// However many callers there are, the answers that are kept are bounded, and new ones are answered all the same.
func TestAnswersAreBounded(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.allows("trunkline", "web", yes)
		s.start()
		after(time.Second)
		for n := range maxAnswers + 100 {
			r := s.asks("trunkline", spiffe(fmt.Sprint("s", n)))
			synctest.Wait()
			if r.known || !r.told {
				t.Fatalf("%d: %+v", n, *r)
			}
		}
		r := s.asks("trunkline", spiffe("web"))
		synctest.Wait()
		if st := s.identity.Status(); st.Intentions != maxAnswers || !r.told || !r.allowed {
			t.Errorf("%+v, status: %+v", *r, st)
		}
	})
}

// More callers at once than answers can be kept are refused in words, at once.
func TestTooManyCallersAtOnceAreRefused(t *testing.T) {
	tell(t, func(s *story) {
		s.start()
		after(time.Second)
		s.agent.mu.Lock()
		s.agent.trouble[authorizePath] = hang
		s.agent.mu.Unlock()
		for n := range maxAnswers {
			if r := s.asks("trunkline", spiffe(fmt.Sprint("s", n))); r.known {
				t.Fatalf("%d: %+v", n, *r)
			}
		}
		if r := s.asks("trunkline", spiffe("web")); !r.known || r.allowed || !strings.Contains(r.why, "too much is asked already") {
			t.Errorf("%+v", *r)
		}
	})
}

// Who is not of this mesh is refused without a question: the agent does not look at the trust domain.
func TestWhoIsNotOfThisMeshIsRefused(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.kill()
		s.start()
		if r := s.asks("trunkline", spiffe("web")); !r.known || r.allowed || !strings.Contains(r.why, "does not know the mesh's authorities yet") {
			t.Errorf("%+v", *r)
		}
		s.agent.revive()
		after(time.Minute)
		for id, says := range map[string]string{
			"": "shows no certificate with a SPIFFE id",
			"spiffe://other.consul/ns/default/dc/dc1/svc/web": "of another mesh",
			"spiffe://" + domain + "/gateway/mesh/dc/dc1":     "is no service's",
			"nonsense": "is no service's",
		} {
			if r := s.asks("trunkline", id); !r.known || r.allowed || !strings.Contains(r.why, says) {
				t.Errorf("%q: %+v", id, *r)
			}
		}
		if n := s.agent.count(authorizePath); n != 0 {
			t.Errorf("%d questions", n)
		}
	})
}

// At the end nobody is left without an answer, and what was known is known still.
func TestAtTheEndEverybodyIsAnswered(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.allows("trunkline", "web", yes)
		s.start()
		after(time.Second)
		s.asks("trunkline", spiffe("web"))
		synctest.Wait()
		s.agent.mu.Lock()
		s.agent.trouble[authorizePath] = hang
		s.agent.mu.Unlock()
		waiting := s.asks("trunkline", spiffe("shop"))
		synctest.Wait()
		s.identity.Close()
		if !waiting.told || waiting.allowed || !strings.Contains(waiting.why, "closing") {
			t.Errorf("%+v", *waiting)
		}
		if r := s.asks("trunkline", spiffe("web")); !r.known || !r.allowed {
			t.Errorf("%+v", *r)
		}
		if r := s.asks("trunkline", spiffe("late")); !r.known || r.allowed || !strings.Contains(r.why, "closing") {
			t.Errorf("%+v", *r)
		}
	})
}
