package forward

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/policy/route"
)

// many has a client begin so many calls in one batch.
func (p *peer) many(n uint32, kv ...string) {
	p.atOnce(func() {
		for i := range n {
			p.call(2*i+1, true, kv...)
		}
	})
}

func TestACallThatIsFreshWhenItsEndpointIsReplacedGoesToTheNewOne(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.FillMark = 1000
		r.use("one")
		c := r.client()
		const all = 4 * startCalls
		c.many(all)
		one := r.end("one", 0)
		r.mu.Lock()
		r.refuse["one"] = errors.New("refused")
		r.mu.Unlock()
		r.use("two")
		time.Sleep(time.Second)
		if n := one.open(); n != startCalls {
			t.Errorf("%d calls were begun at the endpoint that is gone, not %d", n, startCalls)
		}
		for i := range uint32(startCalls) {
			one.ok(2*i + 1)
		}
		two := r.end("two", 0)
		for i := range uint32(all - startCalls) {
			two.ok(2*i + 1)
		}
		r.told(grpc.OK, all)
	})
}

func TestACallThatIsFreshWhenItsRouteVanishesIsRefused(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.FillMark = 1000
		r.use("one")
		c := r.client()
		c.many(startCalls+1, "grpc-timeout", "9S")
		one := r.end("one", 0)
		g := *r.gen.Load()
		table, err := route.Compile(nil)
		if err != nil {
			t.Fatal(err)
		}
		g.Table, g.Number = table, g.Number+1
		r.gen.Store(&g)
		time.Sleep(time.Second)
		r.told(grpc.Unimplemented, 1)
		for i := range uint32(startCalls) {
			one.ok(2*i + 1)
		}
	})
}

// asked is a gate that knows whether it is closed.
type asked struct {
	closed     bool
	n, tooLate int
}

func (g *asked) Check(*gate.Request, func(*gate.Verdict)) *gate.Verdict {
	if g.n++; g.closed {
		g.tooLate++
	}
	return &gate.Verdict{}
}

// As lb/edge.go does it: the new generation is in force, everybody has left the shard, the old gate is closed.
func TestACallThatIsFreshWhenTheGateIsReplacedIsAskedByTheNewOne(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.FillMark = 1000
		before, after := &asked{}, &asked{}
		r.gate = before
		r.use("one")
		c := r.client()
		const all = 4 * startCalls
		c.many(all)
		one := r.end("one", 0)
		r.gate = after
		r.use("one")
		r.in(func() { before.closed = true })
		time.Sleep(time.Second)
		r.in(func() {
			if before.tooLate != 0 || after.n != all-startCalls {
				t.Errorf("the closed gate was asked %d times, the new one %d", before.tooLate, after.n)
			}
		})
		for i := range uint32(all) {
			one.ok(2*i + 1)
		}
		r.told(grpc.OK, all)
	})
}

// The request of such a call changes hands between what judges it and what only keeps it, and loses nothing.
func TestWhatAFreshCallHasSaidIsJudgedByTheRulesThatHoldWhenItBegins(t *testing.T) {
	for _, judgedBefore := range []bool{false, true} {
		for _, judgedAfter := range []bool{false, true} {
			t.Run(fmt.Sprint(judgedBefore, judgedAfter), func(t *testing.T) {
				tell(t, 1, func(t *testing.T, r *rig) {
					judged := 0
					rules := &Payload{MaxRequestMessage: -1, MaxResponseMessage: -1, MaxRequest: -1, MaxResponse: -1, MaxInspected: 1000, Why: "payload[0]",
						Judge: func(_ *inspect.Message, then func(*inspect.Verdict)) { judged++; go then(&inspect.Verdict{}) }}
					set := func(on bool) {
						if r.payload = nil; on {
							r.payload = rules
						}
						r.use("one")
					}
					r.opts.FillMark = 1000
					set(judgedBefore)
					c := r.client()
					c.atOnce(func() {
						for i := range uint32(startCalls) {
							c.call(2*i+1, true)
						}
						c.call(2*startCalls+1, false)
						c.data(2*startCalls+1, "\x00\x00\x00\x00\x05hello", true)
					})
					synctest.Wait()
					set(judgedAfter)
					time.Sleep(time.Second)
					one := r.end("one", 0)
					one.mu.Lock()
					last := strings.Join(one.log[len(one.log)-2:], "; ")
					one.mu.Unlock()
					if !strings.Contains(last, "hello END") {
						t.Errorf("the endpoint got %q", last)
					}
					want := 0
					if judgedAfter {
						want = 1
					}
					r.in(func() {
						if judged != want {
							t.Errorf("%d messages were judged, not %d", judged, want)
						}
					})
					for i := range uint32(startCalls + 1) {
						one.ok(2*i + 1)
					}
					r.told(grpc.OK, startCalls+1)
				})
			})
		}
	}
}

func TestTheSlowStartTakesATenthOfACallsTimeAtMost(t *testing.T) {
	for _, d := range []struct{ endpoint, deadline int }{{80, 100}, {150, 200}, {400, 500}} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			tell(t, 1, func(t *testing.T, r *rig) {
				r.opts.FillMark, r.opts.MaxPending = 1000, 1000
				r.use("one")
				r.on = func(p *peer, f http2.Frame) {
					if h, ok := f.(*http2.MetaHeadersFrame); ok && !p.client {
						go func() { time.Sleep(time.Duration(d.endpoint) * time.Millisecond); p.ok(h.StreamID) }()
					}
				}
				c := r.client()
				c.many(900, "grpc-timeout", fmt.Sprintf("%dm", d.deadline))
				time.Sleep(time.Second)
				r.told(grpc.OK, 900)
			})
		})
	}
}

func TestCallsWhoseClientBringsMuchBeginInTheirOrder(t *testing.T) {
	for _, size := range []int{100, 1500, 16_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			tell(t, 1, func(t *testing.T, r *rig) {
				r.opts.FillMark, r.opts.MaxPending, r.budget, r.replay = 1000, 1000, 32<<20, 1
				r.use("one")
				c := r.client()
				c.call(1, true)
				one := r.end("one", 0)
				one.ok(1)
				one.window(0, 1<<28)
				const all = 900
				c.atOnce(func() {
					for i := range uint32(all) {
						c.call(2*i+3, false, "n", fmt.Sprint(i))
						c.data(2*i+3, strings.Repeat("x", size), true)
					}
				})
				time.Sleep(120 * time.Millisecond)
				if n := one.open() - 1; n != all {
					t.Errorf("after 120 ms %d of %d calls were begun", n, all)
				}
				one.mu.Lock()
				next := 0
				for _, l := range one.log {
					if _, n, ok := strings.Cut(l, " n="); ok {
						if n, _, _ = strings.Cut(n, " "); n != fmt.Sprint(next) {
							t.Errorf("call %s was begun as number %d", n, next)
						}
						next++
					}
				}
				one.mu.Unlock()
				for i := range uint32(all) {
					one.ok(2*i + 3)
				}
				r.told(grpc.OK, all+1)
			})
		})
	}
}

func TestInOneRoundSoManyCallsBeginHoweverManyClientsBringThem(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.FillMark, r.opts.MaxPending = 100_000, 100_000
		r.use("one")
		most, whole := 0, r.s.BeforeFlush
		r.in(func() {
			r.s.BeforeFlush = func() {
				n := 0
				count := func(sign int) {
					for d := range r.f.conns {
						n += sign * d.fresh.counted
					}
				}
				count(-1)
				whole()
				count(1)
				most = max(most, n)
			}
		})
		for range 20 {
			r.client().many(500)
		}
		time.Sleep(time.Second)
		all := 0
		r.in(func() {
			for d := range r.f.conns {
				all += d.fresh.counted
			}
		})
		if all != 20*500 || most > allTurn || most < turn {
			t.Errorf("%d calls were begun, at most %d in a round", all, most)
		}
		for _, c := range r.clients {
			_ = c.nc.Close()
		}
	})
}
