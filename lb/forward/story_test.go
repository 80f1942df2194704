package forward

import (
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
