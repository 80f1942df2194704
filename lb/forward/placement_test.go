package forward

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/policy/retry"
)

func TestARefusedStreamIsPlacedElsewhereWholeAndItsWindowIsCreditedOnce(t *testing.T) {
	tell(t, 3, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		synctest.Wait()
		body := strings.Repeat("x", 16000)
		for range 3 {
			c.data(1, body, false)
		}
		one := r.end("one", 0)
		one.expect("HEADERS 1 *", "DATA 1 (*)", "DATA 1 (*)", "DATA 1 (*)")
		c.mu.Lock()
		before := c.credit[1]
		c.mu.Unlock()
		one.rst(1, http2.ErrCodeRefusedStream)
		two := r.end("two", 0)
		synctest.Wait()
		two.rst(1, http2.ErrCodeRefusedStream)
		three := r.end("three", 0)
		synctest.Wait()
		c.mu.Lock()
		if after := c.credit[1]; after != before || before < 48000 {
			t.Errorf("credited %d (with what the window grew), then %d for the same bytes", before, after)
		}
		c.mu.Unlock()
		c.data(1, "end", true)
		three.ok(1)
		c.expect(head, "DATA 1 yes", tail)
		three.mu.Lock()
		n := 0
		for _, l := range three.log {
			var id, k int
			if _, err := fmt.Sscanf(l, "DATA %d (%d)", &id, &k); err == nil {
				n += k
			}
		}
		three.mu.Unlock()
		if n != 48000 {
			t.Errorf("the third endpoint got %d bytes and the end", n)
		}
	})
}

func TestACallIsRefusedAtLastWhenNobodyTakesIt(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		up := r.end("one", 0)
		for i := range retry.MaxRefusals + 1 {
			synctest.Wait()
			up.rst(uint32(2*i+1), http2.ErrCodeRefusedStream)
		}
		c.expect("HEADERS 1 :status=200 grpc-status=14 grpc-message=endpoint one refused the stream END")
		r.in(func() {
			if n := r.eps[0].Picks.Load(); n != retry.MaxRefusals+1 {
				t.Errorf("%d picks", n)
			}
		})
	})
}

func TestStreamsAboveTheLastOfAGoAwayGoElsewhereAndTheOthersEndInPeace(t *testing.T) {
	tell(t, 2, func(t *testing.T, r *rig) {
		c := r.client()
		r.use("one")
		c.call(1, true)
		one := r.end("one", 0)
		c.call(3, true)
		synctest.Wait()
		c.call(5, false)
		synctest.Wait()
		one.goAway(3, http2.ErrCodeNo)
		again := r.end("one", 1)
		again.expect("HEADERS 1 *")
		one.ok(1)
		one.ok(3)
		synctest.Wait()
		c.data(5, "x", true)
		synctest.Wait()
		again.ok(1)
		one.expect("HEADERS 1 *", "HEADERS 3 *", "HEADERS 5 *", "GOAWAY 0 NO_ERROR *", "EOF")
		c.expect(head, "DATA 1 yes", tail, "HEADERS 3 :status=200", "DATA 3 yes", "HEADERS 3 *", "HEADERS 5 :status=200", "DATA 5 yes", "HEADERS 5 *")
	})
}

func TestALargeRequestIsNotPlacedAgain(t *testing.T) {
	tell(t, 2, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		up := r.end("one", 0)
		for range 5 {
			up.window(1, 16384)
			up.window(0, 16384)
			c.data(1, strings.Repeat("x", 16384), false)
			synctest.Wait()
		}
		up.goAway(0, http2.ErrCodeNo)
		c.expect("HEADERS 1 :status=200 grpc-status=14 *went away before it processed the call END", "RST 1 NO_ERROR")
	})
}

func TestACallWhoseClientGivesUpWhileItWaitsForAConnectionIsForgotten(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.hold = make(chan struct{})
		c := r.client()
		c.call(1, false)
		c.data(1, "hello", false)
		c.call(3, true)
		c.call(5, true)
		synctest.Wait()
		c.rst(1, http2.ErrCodeCancel)
		synctest.Wait()
		_ = r.clients[0].nc.Close()
		r.quiet()
		close(r.hold)
		r.end("one", 0).expect()
	})
}

func TestARefusedDialSendsTheWaitingCallsElsewhereAndKeepsTheEndpointOutUntilItAnswers(t *testing.T) {
	tell(t, 2, func(t *testing.T, r *rig) {
		r.refuse["one"] = errors.New("refused")
		c := r.client()
		c.call(1, true)
		two := r.end("two", 0)
		two.expect("HEADERS 1 *")
		two.ok(1)
		for i := range 10 {
			c.call(uint32(3+2*i), true)
			synctest.Wait()
			two.ok(uint32(3 + 2*i))
		}
		if n := r.dialled("one"); n != 1 {
			t.Errorf("dialled %d times", n)
		}
		time.Sleep(time.Minute)
		n := r.dialled("one")
		if n < 5 || n > 8 {
			t.Errorf("dialled %d times in a minute", n)
		}
		r.mu.Lock()
		r.refuse["one"] = nil
		r.mu.Unlock()
		time.Sleep(time.Minute)
		if r.eps[0].Down() {
			t.Error("it answers and is down still")
		}
		if r.dialled("one") != n+1 {
			t.Error("dialled again though it answers")
		}
	})
}

func TestACallThatNobodyCanTakeHearsWhy(t *testing.T) {
	tell(t, 2, func(t *testing.T, r *rig) {
		r.refuse["one"], r.refuse["two"] = errors.New("refused by one"), errors.New("refused by two")
		c := r.client()
		c.call(1, true)
		c.expect("HEADERS 1 :status=200 grpc-status=14 grpc-message=no healthy endpoint: cluster c has 2, none is up (2 down); last error: dial two: refused by two END")
		c.call(3, false)
		c.expect("HEADERS 3 *grpc-status=14 *", "RST 3 NO_ERROR")
		c.block(5, true, ":method", "POST", ":scheme", "http", ":path", "/s.X/M")
		c.expect("HEADERS 5 *grpc-status=12 *no route for method s.X/M*END")
	})
}

func TestAnEndpointThatSpeaksNoHTTP2IsLeftAndTheCallGoesElsewhere(t *testing.T) {
	tell(t, 2, func(t *testing.T, r *rig) {
		c := r.client()
		synctest.Wait()
		r.silent = true
		c.call(1, true)
		bad := r.end("one", 0)
		r.silent = false
		bad.do(func() error { _, err := bad.nc.Write([]byte("HTTP/1.1 400 no\r\n\r\n............")); return err })
		two := r.end("two", 0)
		two.ok(1)
		c.expect(head, "DATA 1 yes", tail)
		bad.expect("GOAWAY 0 *", "EOF")
		if !r.eps[0].Down() {
			t.Error("it is in the pick still")
		}
	})
}

func TestAnEndpointThatBreaksTheRulesAmidACallFailsItAndIsLeft(t *testing.T) {
	tell(t, 2, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		one.do(func() error { return one.fr.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) })
		c.expect("HEADERS 1 *grpc-status=13 *endpoint one broke HTTP/2*END")
		one.expect("HEADERS 1 *", "GOAWAY 0 *", "EOF")
	})
}

func TestACallThatWaitsForAnEndpointThatIsRetiredIsCarriedStill(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		r.hold = make(chan struct{})
		c.call(1, true)
		synctest.Wait()
		r.use("two")
		close(r.hold)
		one := r.end("one", 0)
		one.ok(1)
		c.expect(head, "DATA 1 yes", tail)
		one.expect("HEADERS 1 *", "GOAWAY 0 *", "EOF")
	})
}

func TestTooManyCallsThatWaitAreTurnedAway(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.hold = make(chan struct{})
		c := r.client()
		for i := range 101 {
			c.call(uint32(2*i+1), true)
		}
		time.Sleep(5 * time.Duration(startWait))
		c.expect("HEADERS 201 *grpc-status=14 *too many calls wait for a connection to the endpoint END")
		close(r.hold)
		up := r.end("one", 0)
		for i := range 100 {
			up.ok(uint32(2*i + 1))
		}
	})
}

func TestACallWhoseHeadersNeverLeftGoesElsewhereHoweverTheConnectionEnds(t *testing.T) {
	for _, how := range []string{"closed", "broken"} {
		t.Run(how, func(t *testing.T) {
			tell(t, 2, func(t *testing.T, r *rig) {
				r.settings["one"] = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1 << 20}}
				r.limit = 1000
				stall := make(chan struct{})
				r.on = func(p *peer, f http2.Frame) {
					if p.name == "one[0]" && f.Header().Type == http2.FrameHeaders {
						<-stall
					}
				}
				c := r.client()
				c.call(1, false)
				synctest.Wait()
				for range 4 {
					c.data(1, strings.Repeat("x", 5000), false)
					synctest.Wait()
				}
				one := r.end("one", 0)
				r.use("one", "two") // the first is its turn again
				c.call(3, true)
				synctest.Wait()
				if how == "closed" {
					_ = one.nc.Close()
				} else {
					one.do(func() error { return one.fr.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) })
					time.Sleep(2 * time.Second) // our goodbye cannot be said
				}
				two := r.end("two", 0)
				two.expect("HEADERS 1 *")
				two.ok(1)
				c.expect("HEADERS 1 *grpc-status=1*", "RST 1 NO_ERROR", "HEADERS 3 *", "DATA 3 yes", "HEADERS 3 grpc-status=0 END")
				close(stall)
			})
		})
	}
}
