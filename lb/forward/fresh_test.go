package forward

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
)

func TestACallThatIsGivenUpInTheBatchThatBeganItReachesNoEndpoint(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.atOnce(func() {
			for id := uint32(1); id < 200; id += 2 {
				c.call(id, false)
				c.data(id, "request", true)
				c.rst(id, http2.ErrCodeCancel)
			}
		})
		synctest.Wait()
		if n := r.dialled("one"); n != 0 {
			t.Errorf("%d connections were made for calls that nobody waits for", n)
		}
		r.told(grpc.Canceled, 100)
		c.call(201, true)
		up := r.end("one", 0)
		up.expect("HEADERS 1 :path=/s.S/M*END")
		up.ok(1)
		c.expect("HEADERS 201 *", "DATA 201 yes", "HEADERS 201 grpc-status=0 END")
	})
}

func TestACallThatIsBrokenInTheBatchThatBeganItReachesNoEndpoint(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.atOnce(func() {
			c.call(1, false)
			c.block(1, false, "a", "b") // not its end: we have to reset it (CVE-2025-8671)
			c.call(3, true)
			c.data(3, "more", true)
		})
		c.expect("RST 1 PROTOCOL_ERROR", "RST 3 STREAM_CLOSED")
		if n := r.dialled("one"); n != 0 {
			t.Errorf("%d connections were made for calls that are over", n)
		}
		r.told(grpc.Canceled, 2)
	})
}

func TestOfAConnectionThatBreaksInTheBatchThatBeganItsCallsNoneReachesAnEndpoint(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.atOnce(func() {
			c.call(1, true)
			c.call(3, true)
			c.do(func() error { return c.fr.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) })
		})
		c.expect("GOAWAY 3 PROTOCOL_ERROR*", "EOF")
		if n := r.dialled("one"); n != 0 {
			t.Errorf("%d connections were made for a client that is gone", n)
		}
	})
}

func TestARequestThatIsLongGoesUpWholeThoughItsCallBeginsAmidTheBatch(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.atOnce(func() {
			c.call(1, false)
			c.data(1, strings.Repeat("x", largeBody), false)
			c.data(1, "end", true)
			c.call(3, false)
			c.data(3, strings.Repeat("y", largeBody), true)
		})
		up := r.end("one", 0)
		up.expect("HEADERS 1 *", fmt.Sprintf("DATA 1 (%d) END", largeBody+3), "HEADERS 3 *", fmt.Sprintf("DATA 3 (%d) END", largeBody))
		up.ok(1)
		up.ok(3)
		c.expect(head, "DATA 1 yes", tail, "HEADERS 3 *", "DATA 3 yes", "HEADERS 3 grpc-status=0 END")
	})
}

func TestUploadsThatWaitForTheirTurnDoNotSpendTheirClientsBudget(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.FillMark, r.replay, r.budget = 1000, 1, 2*freshBytes
		r.use("one")
		c := r.client()
		const all, each = 8 * startCalls, 8 << 10
		c.atOnce(func() {
			for i := range uint32(all) {
				c.call(2*i+1, false)
			}
		})
		up := r.end("one", 0)
		up.window(0, 2*all*each)
		for i := range uint32(all) {
			c.data(2*i+1, strings.Repeat("x", each), true)
			if i%8 == 0 {
				synctest.Wait() // what goes up is gone
			}
		}
		if n := up.open(); n < all-freshBytes/each {
			t.Errorf("only %d calls were begun", n)
		}
		time.Sleep(time.Second)
		for i := range uint32(all) {
			up.ok(2*i + 1)
		}
		r.told(grpc.OK, all)
	})
}

// open is how many calls an endpoint has seen.
func (p *peer) open() int {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, l := range p.log {
		if strings.HasPrefix(l, "HEADERS ") {
			n++
		}
	}
	return n
}

func TestAConnectionStartsSlowlyAndEachCallThatEndsLetsItHaveMore(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.FillMark = 1000
		r.use("one")
		c := r.client()
		const all = 10 * startCalls
		c.atOnce(func() {
			for i := range uint32(all) {
				c.call(2*i+1, true)
			}
		})
		up := r.end("one", 0)
		if n := up.open(); n != startCalls {
			t.Fatalf("%d calls were begun at once, not %d", n, startCalls)
		}
		const some = 20
		for i := range uint32(some) {
			up.head(2*i + 1)
		}
		if n := up.open(); n != startCalls {
			t.Fatalf("%d calls were begun when %d had begun to be answered, not %d", n, some, startCalls)
		}
		for i := range uint32(some) {
			up.trail(2*i + 1)
		}
		if n := up.open(); n != startCalls+2*some {
			t.Fatalf("%d calls were begun when %d had ended, not %d", n, some, startCalls+2*some)
		}
		time.Sleep(2 * time.Duration(startWait)) // the wheel is up to 2 ms late
		if n := up.open(); n != 2*(startCalls+some)+some {
			t.Fatalf("%d calls were begun after a while, not %d", n, 2*(startCalls+some)+some)
		}
		time.Sleep(10 * time.Duration(startWait))
		if n := up.open(); n != all {
			t.Fatalf("%d calls were begun in the end, not %d", n, all)
		}
		for i := range uint32(all) {
			if i >= some {
				up.ok(2*i + 1)
			}
		}
		r.told(grpc.OK, all)
	})
}

func TestWhoBeginsAThousandCallsKeepsNobodyElsesWaiting(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.FillMark = 1000
		r.use("one")
		many, one := r.client(), r.client()
		one.call(1, true)
		up := r.end("one", 0)
		up.ok(1)
		many.atOnce(func() {
			for i := range uint32(900) {
				many.call(2*i+1, true)
			}
		})
		one.call(3, true)
		synctest.Wait()
		up.mu.Lock()
		before := 0
		for i, l := range up.log {
			if strings.HasPrefix(l, "HEADERS 3 ") {
				before = i
			}
		}
		n := len(up.log)
		up.mu.Unlock()
		if n > startCalls+10 || before > startCalls+2 {
			t.Errorf("the other's call is number %d of %d", before, n)
		}
		time.Sleep(time.Second)
		for i := range uint32(901) {
			up.ok(2*i + 3)
		}
		r.told(grpc.OK, 902)
	})
}

func TestCallsOfAClientWhoseCallsAreRefusedBeginAFewAtATime(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		const all = 300
		r.cfg.Abuse.Refused = 100
		bad, good := r.client(), r.client()
		began := time.Now()
		bad.atOnce(func() {
			for i := range uint32(all) {
				bad.block(2*i+1, true, ":method", "POST", ":scheme", "http", ":path", "/no.such/M", ":authority", "a", "content-type", "application/grpc", "te", "trailers")
			}
		})
		synctest.Wait()
		if n := r.count(grpc.Unimplemented); n > turn {
			t.Errorf("%v were refused at once", n)
		}
		good.call(1, true)
		up := r.end("one", 0)
		up.ok(1)
		good.expect("HEADERS 1 *", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		if d := time.Since(began); d != 0 {
			t.Errorf("another client's call waited for them, %v", d)
		}
		for r.count(grpc.Unimplemented) < all && time.Since(began) < time.Minute {
			time.Sleep(time.Millisecond)
		}
		if d, least := time.Since(began), time.Duration(startWait)*(all-turn)/(wastefulTurn+1); d < least || d > 3*least { // timers have a grain of milliseconds
			t.Errorf("%d were refused within %v, want %v, or up to three times that", all, d, least)
		}
		r.in(func() {
			for d := range r.f.conns {
				if d.fresh.most > startCalls+1 { // one was answered
					t.Errorf("pausing made it %d calls that may be under way", d.fresh.most)
				}
			}
		})
		// What it spends is its own: time gives it back, but no more than was free.
		time.Sleep(time.Minute)
		before := r.count(grpc.Unimplemented)
		bad.atOnce(func() {
			for i := range uint32(all) {
				bad.block(2*(all+1+i)+1, true, ":method", "POST", ":scheme", "http", ":path", "/no.such/M", ":authority", "a", "content-type", "application/grpc", "te", "trailers")
			}
		})
		if n := r.count(grpc.Unimplemented) - before; n > turn {
			t.Errorf("after a minute %v were refused at once", n)
		}
		time.Sleep(time.Minute)
		began = time.Now()
		bad.forget()
		bad.call(4*all+5, true)
		synctest.Wait()
		up.ok(3)
		bad.expect("HEADERS 1205 *", "DATA 1205 yes", "HEADERS 1205 grpc-status=0 END")
		if d := time.Since(began); d != 0 {
			t.Errorf("a call waited %v for those that had been refused a minute ago", d)
		}
	})
}

func TestAConnectionIsUsedWhenACallOfItIsAnsweredButNotWhenThatIsRefusedForItsOwnFault(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		end  func(r *rig)
		want int64
	}{
		"answered":                     {"/s.S/M", func(r *rig) { r.end("one", 0).ok(1) }, 1},
		"an answer that has begun":     {"/s.S/M", func(r *rig) { r.end("one", 0).head(1) }, 1},
		"no such method":               {"/no.such/M", func(*rig) {}, 0},
		"no endpoint that can be used": {"/s.S/M", nil, 1},
		"not answered yet":             {"/s.S/M", func(*rig) {}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, 1, func(t *testing.T, r *rig) {
				if c.end == nil {
					r.refuses("one")
				}
				var used atomic.Int64
				r.guest.Used = &used
				p := r.client()
				for id := uint32(1); id < 5; id += 2 {
					p.block(id, true, ":method", "POST", ":scheme", "http", ":path", c.path, ":authority", "a", "content-type", "application/grpc", "te", "trailers")
				}
				if c.end != nil {
					c.end(r)
				} else {
					time.Sleep(time.Minute)
				}
				synctest.Wait()
				if n := used.Load(); n != c.want {
					t.Errorf("counted %d times, want %d", n, c.want)
				}
				p.rst(1, http2.ErrCodeCancel)
				p.rst(3, http2.ErrCodeCancel)
			})
		})
	}
}
