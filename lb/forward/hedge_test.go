package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
)

const hedgeBudget = `"hedgeBudget": {"burst": 100}`

// beside is a config under which each call is sent to three endpoints, one after the other.
func beside(own string) string {
	return method(hedgingPolicy, `, "idempotent": true, "holdResponse": "1s"`+own, hedgeBudget)
}

// blocks has all dials wait until the returned function is called.
func (r *rig) blocks() (free func()) {
	hold := make(chan struct{})
	r.mu.Lock()
	r.hold = hold
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		r.hold = nil
		r.mu.Unlock()
		close(hold)
	}
}

func TestAHedgeThatNobodyTakesDoesNotLeaveTheCallWithoutAnAnswer(t *testing.T) {
	under(t, 2, beside(""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		free := r.blocks()
		one.block(1, true, ":status", "200", "grpc-status", "14") // the next follows at once
		synctest.Wait()
		r.refuses("two")
		free()
		again := r.end("one", 0) // nobody else is left, and nothing runs there any more
		again.expect("HEADERS 1 :path=/s.S/M END", "HEADERS 3 :path=/s.S/M grpc-previous-rpc-attempts=1 END")
		again.ok(3)
		c.expect(head, "DATA 1 yes", tail)
	})
}

func TestAnAttemptThatIsRefusedDoesNotEndTheOthersNorGoWhereTheyAre(t *testing.T) {
	under(t, 2, beside(""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		time.Sleep(105 * time.Millisecond)
		two := r.end("two", 0)
		one.rst(1, http2.ErrCodeRefusedStream)
		synctest.Wait()
		one.expect("HEADERS 1 *")
		two.expect("HEADERS 1 *")
		c.expect()
		two.ok(1)
		c.expect(head, "DATA 1 yes", tail)
	})
	// Nor does it when nobody is left to take it.
	under(t, 2, beside(""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		time.Sleep(105 * time.Millisecond)
		two := r.end("two", 0)
		r.refuses("one")
		r.refuses("two")
		one.goAway(0, http2.ErrCodeNo)
		c.expect()
		two.ok(1)
		c.expect(head, "DATA 1 yes", tail)
	})
	// Nor when the request can not be sent again.
	under(t, 2, beside(`, "replayBytes": 10`), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		one := r.end("one", 0)
		time.Sleep(105 * time.Millisecond)
		two := r.end("two", 0)
		c.data(1, "more than ten", true)
		synctest.Wait()
		one.rst(1, http2.ErrCodeRefusedStream)
		c.expect()
		two.expect("HEADERS 1 *", "DATA 1 more than ten END")
		two.ok(1)
		c.expect(head, "DATA 1 yes", tail)
	})
}

func TestAHedgeThatWaitsForItsConnectionDoesNotKeepTheRequestFromTheOthers(t *testing.T) {
	for _, trailers := range []bool{false, true} {
		under(t, 2, beside(`, "replayBytes": 10`), func(t *testing.T, r *rig) {
			c := r.client()
			c.call(1, false)
			one := r.end("one", 0)
			free := r.blocks()
			time.Sleep(105 * time.Millisecond) // the hedge dials
			c.data(1, "more", false)
			one.expect("HEADERS 1 *", "DATA 1 more")
			if trailers {
				c.block(1, true, "late", "word")
				one.expect("HEADERS 1 late=word END")
			} else {
				c.data(1, " than ten", true)
				one.expect("DATA 1  than ten END")
			}
			free()
			synctest.Wait()
			if n := len(r.ends["two"]); n > 0 {
				r.end("two", 0).expect() // there is nothing to be said to it that would be the request
			}
			one.ok(1)
			c.expect(head, "DATA 1 yes", tail)
		})
	}
}

func TestAnAttemptThatStillWaitsNeverSaysLessThanTheRequest(t *testing.T) {
	under(t, 3, beside(`, "replayBytes": 10`), func(t *testing.T, r *rig) {
		c := r.client()
		for id, a := range []string{"one", "two", "three"} {
			c.call(uint32(2*id+1), true)
			r.end(a, 0).ok(1)
			r.end(a, 0).expect("HEADERS 1 *")
		}
		c.expect("HEADERS 1 *", "DATA 1 yes", "HEADERS 1 *", "HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *", "HEADERS 5 *", "DATA 5 yes", "HEADERS 5 *")
		one, two, three := r.end("one", 0), r.end("two", 0), r.end("three", 0)
		two.do(func() error {
			return two.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
		})
		c.call(7, false)
		time.Sleep(105 * time.Millisecond) // the hedge waits for a place at two
		one.expect("HEADERS 3 *")
		one.block(3, true, ":status", "200", "grpc-status", "14")
		three.expect("HEADERS 3 *") // and the next goes to three
		c.data(7, "more than ten", true)
		three.expect("DATA 3 more than ten END")
		two.do(func() error {
			return two.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 9})
		})
		two.expect()
		three.ok(3)
		c.expect("HEADERS 7 *", "DATA 7 yes", "HEADERS 7 *")
	})
}

func TestACallThatQueuesForAnEndpointIsNotHedgedMeanwhile(t *testing.T) {
	under(t, 1, method(hedgingPolicy+`, "waitForReady": true`, `, "idempotent": true`, hedgeBudget), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		r.refuses("one")
		one.goAway(0, http2.ErrCodeNo)
		time.Sleep(50 * time.Millisecond)
		time.Sleep(100 * time.Millisecond) // a hedge would be due
		c.expect()
		r.use("two")
		time.Sleep(10 * time.Millisecond)
		r.end("two", 0).ok(1)
		c.expect(head, "DATA 1 yes", tail)
	})
}

func TestWhatIsHeldOfAResponseIsGivenBackWhenTheEndpointEndsItAtTheDeadline(t *testing.T) {
	under(t, 2, method(retryPolicy, `, "holdResponse": "9s"`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "grpc-timeout", "100m")
		one := r.end("one", 0)
		one.block(1, false, ":status", "200", "from", "one")
		one.data(1, "\x00\x00\x00\x00\x09half a", false)
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		one.rst(1, http2.ErrCodeCancel)
		c.expect("HEADERS 1 :status=200 grpc-status=4 *")
		r.told(grpc.DeadlineExceeded, 1)
	})
}

func TestWhoAnsweredAndThenRefusesMayHaveExecutedTheCall(t *testing.T) {
	for _, at := range []struct {
		name   string
		refuse func(p *peer)
		want   []string
	}{
		{"RST_STREAM", func(p *peer) { p.rst(1, http2.ErrCodeRefusedStream) }, []string{head, "RST 1 REFUSED_STREAM"}},
		{"GOAWAY", func(p *peer) { p.goAway(0, http2.ErrCodeNo) }, []string{"HEADERS 1 :status=200 grpc-status=14 * END"}},
	} {
		t.Run(at.name, func(t *testing.T) {
			under(t, 2, method(retryPolicy, `, "holdResponse": "9s"`, ""), func(t *testing.T, r *rig) {
				time.Sleep(time.Millisecond)
				c := r.client()
				c.call(1, true)
				one := r.end("one", 0)
				one.head(1)
				synctest.Wait()
				at.refuse(one)
				time.Sleep(200 * time.Millisecond)
				if n := r.dialled("two"); n != 0 {
					t.Error("it was executed twice")
				}
				c.expect(at.want...)
			})
		})
	}
}

func TestAClientThatDoesNotReadIsIdleAndAtItsDeadlineLikeAnybodyElse(t *testing.T) {
	under(t, 1, method("", `, "idleTimeout": "1s"`, ""), func(t *testing.T, r *rig) {
		c := r.client(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 5})
		c.call(1, true, "grpc-timeout", "20S")
		one := r.end("one", 0)
		one.head(1)
		one.data(1, "much more", false)
		c.expect(head, "DATA 1 much ")
		for range 2 { // slow, but not idle
			time.Sleep(900 * time.Millisecond)
			c.window(1, 1)
		}
		c.expect("DATA 1 m", "DATA 1 o")
		time.Sleep(1005 * time.Millisecond)
		c.expect("RST 1 CANCEL")
		one.expect("HEADERS 1 *", "RST 1 CANCEL")
	})
}

func TestAHedgeForWhichThereIsNobodyTakesNothingFromTheBudget(t *testing.T) {
	under(t, 1, method(hedgingPolicy, `, "idempotent": true`, `"hedgeBudget": {"burst": 5}`), func(t *testing.T, r *rig) {
		before := r.store.Cluster("c").Hedges.Tokens()
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		time.Sleep(105 * time.Millisecond)
		if after := r.store.Cluster("c").Hedges.Tokens(); after < before {
			t.Errorf("%v hedges were saved up, now %v", before, after)
		}
		one.expect("HEADERS 1 *")
		one.ok(1)
		c.expect(head, "DATA 1 yes", tail)
	})
}
