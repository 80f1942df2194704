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
)

const head, tail = "HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 END"

func TestACallGoesUpAndItsReplyComesDownAsTheyWereSaid(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false, "k", "v")
		c.data(1, "hello", true)
		up := r.end("one", 0)
		up.expect("HEADERS 1 :path=/s.S/M k=v", "DATA 1 hello END")
		up.ok(1)
		c.expect(head, "DATA 1 yes", tail)
	})
}

func TestRequestTrailersGoUpAlsoWhenTheCallHadToWaitForItsConnection(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.hold = make(chan struct{})
		c := r.client()
		c.call(1, false)
		c.data(1, "hello", false)
		c.block(1, true, "late", "word")
		synctest.Wait()
		close(r.hold)
		up := r.end("one", 0)
		up.expect("HEADERS 1 :path=/s.S/M", "DATA 1 hello", "HEADERS 1 late=word END")
		up.ok(1)
		c.expect(head, "DATA 1 yes", tail)
		c.call(3, false)
		c.block(3, true, "late", "again")
		up.expect("HEADERS 3 :path=/s.S/M", "HEADERS 3 late=again END")
		up.ok(3)
	})
}

func TestAnInformationalResponseAndATrailersOnlyReplyAreRelayed(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		up := r.end("one", 0)
		up.block(1, false, ":status", "103", "link", "x")
		up.block(1, true, ":status", "200", "grpc-status", "5", "grpc-message", "none")
		c.expect("HEADERS 1 :status=103 link=x", "HEADERS 1 :status=200 grpc-status=5 grpc-message=none END")
	})
}

func TestAResetGoesTheOtherWayWithItsCode(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		for i, code := range []http2.ErrCode{http2.ErrCodeCancel, http2.ErrCodeNo, http2.ErrCodeInternal, http2.ErrCodeEnhanceYourCalm, 77} {
			id := uint32(4*i + 1)
			c.call(id, false)
			up := r.end("one", 0)
			c.rst(id, code)
			up.expect(fmt.Sprintf("HEADERS %d *", id), fmt.Sprintf("RST %d %v", id, code))
			id += 2
			c.call(id, false)
			synctest.Wait()
			up.rst(id, code)
			c.expect(fmt.Sprintf("RST %d %v", id, code))
			up.expect(fmt.Sprintf("HEADERS %d *", id))
		}
	})
}

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
		for i := range maxTries {
			synctest.Wait()
			up.rst(uint32(2*i+1), http2.ErrCodeRefusedStream)
		}
		c.expect("HEADERS 1 :status=200 grpc-status=14 grpc-message=endpoint one refused the stream END")
		r.in(func() {
			if n := r.eps[0].Picks.Load(); n != maxTries {
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

func TestTheDeadlineGoesOnAsTheTimeLeftAndEndsTheCallWhereverItIs(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		r.hold = make(chan struct{})
		c.call(1, true, "grpc-timeout", "100m")
		time.Sleep(40 * time.Millisecond)
		close(r.hold)
		up := r.end("one", 0)
		up.expect("HEADERS 1 :path=/s.S/M grpc-timeout=60*")
		c.call(3, true, "grpc-timeout", "1S")
		up.expect("HEADERS 3 :path=/s.S/M grpc-timeout=1S END")
		time.Sleep(65 * time.Millisecond)
		c.expect("HEADERS 1 *grpc-status=4 grpc-message=the caller's deadline of 100ms passed while waiting for the response of one END")
		up.expect("RST 1 CANCEL")
		up.head(3)
		up.data(3, "part", false)
		time.Sleep(time.Second)
		c.expect("HEADERS 3 *", "DATA 3 part", "HEADERS 3 grpc-status=4 grpc-message=*1s passed amid the response of one END")
		up.expect("RST 3 CANCEL")
		c.call(5, true, "grpc-timeout", "0S")
		c.expect("HEADERS 5 *grpc-status=4 *passed before it was sent to any endpoint END")
		r.mu.Lock()
		r.hold = make(chan struct{})
		r.mu.Unlock()
		r.use("two")
		c.call(7, true, "grpc-timeout", "6S")
		c.call(9, true, "grpc-timeout", "2S")
		time.Sleep(2*time.Second + 5*time.Millisecond)
		c.expect("HEADERS 9 *grpc-status=4 grpc-message=*2s passed while waiting for a connection to two END")
		time.Sleep(4 * time.Second) // the dial times out after 5
		c.expect("HEADERS 7 *grpc-status=14 grpc-message=no healthy endpoint*context deadline exceeded END")
	})
}

func TestADeadlineThatPassesAfterTheReplyWasSaidChangesNothing(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false, "grpc-timeout", "1S")
		up := r.end("one", 0)
		up.ok(1) // and neither side ends the request
		synctest.Wait()
		time.Sleep(2 * time.Second)
		c.expect(head, "DATA 1 yes", tail, "RST 1 NO_ERROR")
		up.expect("HEADERS 1 *", "RST 1 *")
		r.told(grpc.OK, 1)
	})
}

func TestAConnectionThatIsLostAfterTheReplyWasSaidChangesNothing(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		up := r.end("one", 0)
		up.ok(1)
		synctest.Wait()
		_ = up.nc.Close()
		c.expect(head, "DATA 1 yes", tail, "RST 1 NO_ERROR")
		r.told(grpc.OK, 1)
	})
}

func TestAnEndpointThatResetsTheDeadOnTimeIsNamedInTheDeadlinesMessage(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "grpc-timeout", "1000m")
		up := r.end("one", 0)
		time.Sleep(time.Second + 300*time.Microsecond) // before our timer, which is up to 2 ms late
		up.rst(1, http2.ErrCodeCancel)
		c.expect("HEADERS 1 *grpc-status=4 grpc-message=*passed while waiting for the response of one END")
	})
}

func TestAReplyThatIsCompleteIsDeliveredBeforeTheEndpointsNoError(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2})
		c.call(1, false)
		up := r.end("one", 0)
		up.ok(1)
		up.rst(1, http2.ErrCodeNo)
		c.expect(head, "DATA 1 ye")
		c.window(1, 100)
		c.expect("DATA 1 s", tail, "RST 1 NO_ERROR")
		r.told(grpc.OK, 1)
	})
}

func TestNothingIsSaidOnAStreamThatBothSidesHaveEnded(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2})
		r.settings["one"] = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 2}}
		c.call(1, false)
		c.data(1, "hello", true) // of which three bytes wait for the endpoint's window
		up := r.end("one", 0)
		up.ok(1)
		up.rst(1, http2.ErrCodeNo)
		c.expect(head, "DATA 1 ye")
		c.window(1, 100)
		c.expect("DATA 1 s", tail)
		up.expect("HEADERS 1 *", "DATA 1 he")
	})
}

func TestTheEndpointIsToldToStopWhenTheClientHasItsReply(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.settings["one"] = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 2}}
		c := r.client()
		c.call(1, false)
		c.data(1, "hello", true)
		up := r.end("one", 0)
		up.ok(1)
		c.expect(head, "DATA 1 yes", tail)
		up.expect("HEADERS 1 *", "DATA 1 he", "RST 1 CANCEL")
		r.told(grpc.OK, 1)
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
		c.expect("HEADERS 1 :status=200 grpc-status=14 grpc-message=no healthy endpoint: cluster c has 2, none is up; last error: dial two: refused by two END")
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

func TestAStalledClientHoldsItsBudgetAndStallsNobodyElse(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.budget = 100 << 10
		slow := r.client(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
		fast := r.client()
		slow.call(1, true)
		slow.call(3, true)
		synctest.Wait()
		fast.call(1, true)
		up := r.end("one", 0)
		chunk := strings.Repeat("x", 16000)
		for _, id := range []uint32{1, 3, 5} { // the first two are the slow client's
			up.head(id)
		}
		for range 4 {
			up.data(1, chunk, false)
			synctest.Wait()
		}
		r.in(func() {
			r.f.EachDown(func(d *Down) {
				if d.Budget.Held > r.budget {
					t.Errorf("holds %d", d.Budget.Held)
				}
			})
		})
		for range 3 {
			up.data(3, chunk, false)
			synctest.Wait()
		}
		// 7 x 16000 exceed the budget: the stream that did is reset on both sides.
		up.expect("HEADERS 1 *", "HEADERS 3 *", "HEADERS 5 *", "RST 3 CANCEL")
		up.data(5, "quick", false)
		up.trail(5)
		fast.expect("HEADERS 1 *", "DATA 1 quick", "HEADERS 1 grpc-status=0 END")
		slow.rst(1, http2.ErrCodeCancel)
		up.expect("RST 1 CANCEL")
	})
}

func TestADeadConnectionIsFoundByPingAlsoWhenItDiedBetweenDataAndItsAnswer(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		up := r.end("one", 0)
		up.head(1)
		synctest.Wait()
		up.mute.Store(true)
		for range 70 {
			time.Sleep(time.Second)
			up.mu.Lock()
			n := up.pings
			up.mu.Unlock()
			if n > 0 {
				break
			}
		}
		up.data(1, "last words", false) // on the way when the line was cut
		time.Sleep(3 * time.Minute)
		c.expect(head, "DATA 1 last words", "HEADERS 1 grpc-status=14 *no answer to PING* END", "RST 1 NO_ERROR")
	})
}

func TestASilentConnectionThatAnswersPingLives(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		up := r.end("one", 0)
		time.Sleep(time.Hour)
		up.mu.Lock()
		if up.pings < 2 || up.pings > 15 {
			t.Errorf("%d pings in an hour of silence: servers take more than two strikes for abuse", up.pings)
		}
		up.mu.Unlock()
		up.ok(1)
		c.data(1, "", true)
		c.expect(head, "DATA 1 yes", tail)
	})
}

func TestAnIdleConnectionIsClosedAndABusyOneIsNot(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		up := r.end("one", 0)
		time.Sleep(20 * time.Minute)
		up.expect("HEADERS 1 *")
		up.ok(1)
		time.Sleep(4 * time.Minute)
		up.expect()
		time.Sleep(2 * time.Minute)
		up.expect("GOAWAY 0 NO_ERROR idle", "EOF")
		c.call(3, true)
		r.end("one", 1).ok(1)
	})
}

func TestADrainIsToldInTwoStepsAndWaitsForTheLastStream(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		idle, c, deaf := r.client(), r.client(), r.client()
		deaf.mute.Store(true)
		c.call(1, true)
		up := r.end("one", 0)
		r.in(func() { r.f.EachDown(func(d *Down) { d.Drain() }) })
		c.call(3, true) // crosses the first GOAWAY
		idle.expect("GOAWAY 2147483647 NO_ERROR Trunkline drains", "GOAWAY 0 NO_ERROR ", "EOF")
		deaf.expect("GOAWAY 2147483647 *")
		c.expect("GOAWAY 2147483647 *", "GOAWAY * NO_ERROR ")
		time.Sleep(3 * time.Second)
		deaf.expect("GOAWAY 0 NO_ERROR ", "EOF")
		c.call(5, true)
		c.expect("RST 5 REFUSED_STREAM")
		up.ok(1)
		synctest.Wait()
		up.ok(3)
		c.expect(head, "DATA 1 yes", tail, "HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *", "EOF")
	})
}

func TestARetiredEndpointsStreamsRunToTheirEndAndThenItsConnectionCloses(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		r.use("two")
		c.call(3, true)
		two := r.end("two", 0)
		two.ok(1)
		time.Sleep(time.Minute)
		one.expect("HEADERS 1 *")
		one.ok(1)
		one.expect("GOAWAY 0 *", "EOF")
		c.expect("HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *", head, "DATA 1 yes", tail)
	})
}

func TestAnEndpointThatIsRetiredWhileItIsDialledKeepsNoConnection(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		r.hold = make(chan struct{})
		c.call(1, true)
		synctest.Wait()
		r.use("two")
		c.rst(1, http2.ErrCodeCancel)
		synctest.Wait()
		close(r.hold)
		synctest.Wait()
		if n := r.eps[0].Connections.Load(); n != 0 {
			t.Errorf("%d connections to an endpoint that is gone", n)
		}
	})
}

func TestAnEndpointThatIsRetiredBeforeItGreetsKeepsNoConnection(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.IdleTimeout = 1000 * time.Hour
		c := r.client()
		synctest.Wait()
		r.silent = true
		c.call(1, true)
		one := r.end("one", 0)
		c.rst(1, http2.ErrCodeCancel)
		synctest.Wait()
		r.use("two")
		one.do(func() error { return one.fr.WriteSettings() })
		time.Sleep(time.Minute)
		if n := r.eps[0].Connections.Load(); n != 0 {
			t.Errorf("%d connections to an endpoint that is gone", n)
		}
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

func TestAPeerThatAllowsOneStreamGetsSiblingsAndOneThatAllowsNoneGetsNot(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.settings["one"] = []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}}
		c := r.client()
		for i := range 4 {
			c.call(uint32(2*i+1), true)
		}
		synctest.Wait()
		if n := r.dialled("one"); n != 4 {
			t.Errorf("dialled %d times", n)
		}
		for i := range 4 {
			r.end("one", i).ok(1)
		}
		synctest.Wait()
		r.settings["zero"] = []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}
		r.use("zero")
		c.call(11, true)
		synctest.Wait()
		if n := r.dialled("zero"); n > 2 {
			t.Errorf("an endpoint that takes no streams was dialled %d times for one call", n)
		}
		z := r.end("zero", 0)
		z.do(func() error { return z.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 5}) })
		z.expect("HEADERS 1 *")
		z.ok(1)
	})
}

func TestTooManyCallsThatWaitAreTurnedAway(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.hold = make(chan struct{})
		c := r.client()
		for i := range 101 {
			c.call(uint32(2*i+1), true)
		}
		c.expect("HEADERS 201 *grpc-status=14 *too many calls wait for a connection to the endpoint END")
		close(r.hold)
		up := r.end("one", 0)
		for i := range 100 {
			up.ok(uint32(2*i + 1))
		}
	})
}

func TestFieldsOfOneConnectionDoNotTravel(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		up := r.end("one", 0)
		up.block(1, false, ":status", "200", "connection", "close", "x", "y")
		up.block(1, true, "keep-alive", "1", "grpc-status", "0")
		c.expect("HEADERS 1 :status=200 x=y", tail)
		c.block(1, true, "connection", "close", "k", "v")
		c.expect("RST 1 PROTOCOL_ERROR") // RFC 9113 section 8.2.2
		up.expect("HEADERS 1 *", "RST 1 CANCEL")
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

func TestAShutdownCutsWhatIsUnderWayAndLetsAWholeReplyStand(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		c.call(3, true)
		synctest.Wait()
		up := r.end("one", 0)
		up.ok(1)
		c.expect(head, "DATA 1 yes", tail)
		r.in(func() { r.f.CutAll("shut down") })
		c.expect("RST 1 NO_ERROR", "HEADERS 3 *grpc-status=14 grpc-message=shut down END", "EOF")
		r.told(grpc.OK, 1)
		r.told(grpc.Unavailable, 1)
	})
}
