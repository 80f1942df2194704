package forward

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// under runs a story with n endpoints under a service config.
func under(t *testing.T, n int, document string, f func(t *testing.T, r *rig)) {
	t.Helper()
	cfg, problems := serviceconfig.Parse("story", []byte(document), 1)
	if cfg == nil {
		t.Fatal(problems)
	}
	tell(t, n, func(t *testing.T, r *rig) {
		r.policy = cfg
		r.use([]string{"one", "two", "three"}[:n]...)
		f(t, r)
	})
}

// method is a service config for all methods: gRPC's part, and Trunkline's for methods and cluster.
func method(config, own, cluster string) string {
	return `{"methodConfig": [{"name": [{}]` + config + `}], "trunkline": {"methodPolicy": [{"name": [{}]` + own + `}], "cluster": {` + cluster + `}}}`
}

const retryPolicy = `, "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}`

func TestAStatusInATrailersOnlyReplyIsRetriedElsewhereAndTheServerIsToldOfIt(t *testing.T) {
	under(t, 3, method(retryPolicy, "", ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		c.data(1, "question", true)
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "DATA 1 question END")
		one.block(1, true, ":status", "200", "grpc-status", "14")
		c.expect()
		time.Sleep(125 * time.Millisecond)
		two := r.end("two", 0)
		two.expect("HEADERS 1 :path=/s.S/M grpc-previous-rpc-attempts=1", "DATA 1 question END")
		two.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		r.told(grpc.OK, 1)
	})
}

func TestAStatusInTrailersIsRetriedWhileOnlyHeadersHaveCome(t *testing.T) {
	under(t, 2, method(retryPolicy, "", ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "grpc-previous-rpc-attempts", "1")
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M grpc-previous-rpc-attempts=1 END")
		one.block(1, false, ":status", "200", "from", "one")
		synctest.Wait()
		one.data(1, "\x00\x00\x00\x00\x09half a", false)
		one.block(1, true, "grpc-status", "14", "grpc-retry-pushback-ms", "30")
		c.expect()
		time.Sleep(33 * time.Millisecond)
		two := r.end("two", 0)
		two.expect("HEADERS 1 :path=/s.S/M grpc-previous-rpc-attempts=2 END")
		two.block(1, false, ":status", "200", "from", "two")
		two.data(1, "\x00\x00\x00\x00\x03yes", false)
		two.trail(1)
		c.expect("HEADERS 1 :status=200 from=two", "DATA 1 \x00\x00\x00\x00\x03yes", "HEADERS 1 grpc-status=0 END")
	})
}

func TestWhatIsNotRetriedGoesDownAsItCame(t *testing.T) {
	under(t, 2, method(retryPolicy, "", ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		one.block(1, false, ":status", "200", "from", "one")
		one.data(1, "\x00\x00\x00\x00\x09half a", false)
		one.block(1, true, "grpc-status", "5", "detail", "x")
		c.expect("HEADERS 1 :status=200 from=one", "DATA 1 \x00\x00\x00\x00\x09half a", "HEADERS 1 grpc-status=5 detail=x END")
		c.call(3, true)
		two := r.end("two", 0)
		two.block(1, true, ":status", "200", "grpc-status", "14", "grpc-retry-pushback-ms", "-1")
		c.expect("HEADERS 3 :status=200 grpc-status=14 grpc-retry-pushback-ms=-1 END")
		// A whole message commits: what comes after it is the client's.
		c.call(5, true)
		synctest.Wait()
		one.head(3)
		one.data(3, "\x00\x00\x00\x00\x01a", false)
		one.block(3, true, "grpc-status", "14")
		c.expect("HEADERS 5 :status=200", "DATA 5 \x00\x00\x00\x00\x01a", "HEADERS 5 grpc-status=14 END")
	})
}

func TestAnAmbiguousFailureIsRepeatedOnlyWhereTheMethodIsDeclaredIdempotent(t *testing.T) {
	for _, declared := range []bool{false, true} {
		t.Run(strconv.FormatBool(declared), func(t *testing.T) {
			under(t, 2, method(retryPolicy, `, "idempotent": `+strconv.FormatBool(declared), ""), func(t *testing.T, r *rig) {
				c := r.client()
				c.call(1, true)
				r.end("one", 0).rst(1, http2.ErrCodeInternal)
				synctest.Wait()
				time.Sleep(125 * time.Millisecond)
				if !declared {
					c.expect("HEADERS 1 :status=200 grpc-status=13 grpc-message=endpoint one reset the stream with INTERNAL_ERROR END")
					if n := r.dialled("two"); n != 0 {
						t.Error("it was executed twice")
					}
					return
				}
				r.end("two", 0).ok(1)
				c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
			})
		})
	}
}

func TestAnAttemptThatDoesNotAnswerInItsTimeIsCutAndTheNextCarriesItsOwn(t *testing.T) {
	under(t, 2, method(retryPolicy+`, "timeout": "0.4s"`, `, "idempotent": true, "perTryTimeout": "200ms", "holdResponse": "1s"`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M grpc-timeout=200* END")
		one.head(1) // headers are no answer yet
		time.Sleep(205 * time.Millisecond)
		one.expect("RST 1 CANCEL")
		time.Sleep(125 * time.Millisecond)
		two := r.end("two", 0)
		two.expect("HEADERS 1 :path=/s.S/M grpc-timeout=1* grpc-previous-rpc-attempts=1 END") // what is left, not its own
		time.Sleep(200 * time.Millisecond)
		c.expect("HEADERS 1 :status=200 grpc-status=4 grpc-message=the method's timeout * of 400ms passed while waiting for the response of two END")
		two.expect("RST 1 CANCEL")
	})
}

func TestAnEndpointThatWatchesThePerTryTimeoutAndIsFirstDoesNotTurnItIntoTheDeadline(t *testing.T) {
	under(t, 2, method("", `, "perTryTimeout": "200ms"`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		c.call(3, true)
		one, two := r.end("one", 0), r.end("two", 0)
		time.Sleep(198 * time.Millisecond)
		one.block(1, true, ":status", "200", "grpc-status", "4")
		c.expect("HEADERS 1 :status=200 grpc-status=14 grpc-message=endpoint one did not answer within 200ms * END")
		two.rst(1, http2.ErrCodeCancel)
		c.expect("HEADERS 3 :status=200 grpc-status=14 grpc-message=endpoint two did not answer within 200ms * END")
		// Long before it, a server's DEADLINE_EXCEEDED is its own word.
		c.call(5, true)
		synctest.Wait()
		one.block(3, true, ":status", "200", "grpc-status", "4")
		c.expect("HEADERS 5 :status=200 grpc-status=4 END")
	})
}

func TestHeadersAreNotHeldForEverWhereTheyMayBeAllThatComesForLong(t *testing.T) {
	under(t, 2, method(retryPolicy, `, "holdResponse": "50ms"`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		one.head(1)
		synctest.Wait()
		time.Sleep(40 * time.Millisecond)
		c.expect()
		time.Sleep(13 * time.Millisecond)
		c.expect("HEADERS 1 :status=200")
		one.block(1, true, "grpc-status", "14")
		c.expect("HEADERS 1 grpc-status=14 END")
		r.facts.Unary = true
		r.use("one", "two")
		c.call(3, true)
		r.end("one", 0).head(3)
		time.Sleep(time.Second)
		c.expect() // nobody waits for the headers of a unary call
		one.trail(3)
		c.expect("HEADERS 3 :status=200", "HEADERS 3 grpc-status=0 END")
	})
}

const hedgingPolicy = `, "hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]}`

func TestASlowCallIsHedgedTheFirstMessageWinsAndTheOthersAreCancelled(t *testing.T) {
	under(t, 3, method(hedgingPolicy, `, "idempotent": true, "holdResponse": "1s"`, `"hedgeBudget": {"burst": 100}`), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		c.data(1, "question", true)
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "DATA 1 question END")
		one.head(1) // it may be slow all the same
		time.Sleep(105 * time.Millisecond)
		two := r.end("two", 0)
		two.expect("HEADERS 1 :path=/s.S/M grpc-previous-rpc-attempts=1", "DATA 1 question END")
		time.Sleep(105 * time.Millisecond)
		three := r.end("three", 0)
		three.expect("HEADERS 1 :path=/s.S/M grpc-previous-rpc-attempts=2", "DATA 1 question END")
		two.block(1, false, ":status", "200", "from", "two")
		two.data(1, "\x00\x00\x00\x00\x01a", false)
		c.expect("HEADERS 1 :status=200 from=two", "DATA 1 \x00\x00\x00\x00\x01a")
		one.expect("RST 1 CANCEL")
		three.expect("RST 1 CANCEL")
		two.trail(1)
		c.expect("HEADERS 1 grpc-status=0 END")
	})
}

func TestWhenAllHedgesFailTheLastAnswerIsTheCalls(t *testing.T) {
	under(t, 3, method(hedgingPolicy, `, "idempotent": true, "holdResponse": "1s"`, `"hedgeBudget": {"burst": 100}`), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		one.head(1)
		one.block(1, true, "grpc-status", "14", "from", "one") // the next follows at once
		two := r.end("two", 0)
		time.Sleep(105 * time.Millisecond)
		three := r.end("three", 0)
		three.block(1, true, ":status", "200", "grpc-status", "14", "from", "three")
		c.expect()
		two.block(1, false, ":status", "200", "head", "two")
		two.block(1, true, "grpc-status", "14", "from", "two")
		c.expect("HEADERS 1 :status=200 head=two", "HEADERS 1 grpc-status=14 from=two END")
		// A fatal one ends it at once.
		c.call(3, true)
		r.end("one", 0)
		time.Sleep(105 * time.Millisecond)
		two.expect("HEADERS 1 *", "HEADERS 3 *")
		one.expect("HEADERS 1 *", "HEADERS 3 *")
		two.block(3, true, ":status", "200", "grpc-status", "3")
		c.expect("HEADERS 3 :status=200 grpc-status=3 END")
		one.expect("RST 3 CANCEL")
	})
}

func TestCallsBeyondALimitQueueInOrderAndAreRefusedBeyondTheQueue(t *testing.T) {
	under(t, 1, method("", "", `"concurrency": {"maxStreams": 1, "maxPending": 1, "pendingTimeout": "1s"}`), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		one.expect("HEADERS 1 *")
		c.call(3, true)
		c.call(5, true)
		c.expect("HEADERS 5 :status=200 grpc-status=14 grpc-message=cluster c is full: 1 calls at once of at most 1, and its queue of 1, too * END")
		one.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		one.expect("HEADERS 3 *")
		c.call(7, true)
		time.Sleep(1005 * time.Millisecond)
		c.expect("HEADERS 7 :status=200 grpc-status=14 grpc-message=no place became free in cluster c* END")
		c.call(9, true)
		synctest.Wait()
		c.rst(9, http2.ErrCodeCancel)
		synctest.Wait()
		one.ok(3)
		c.expect("HEADERS 3 :status=200", "DATA 3 yes", "HEADERS 3 grpc-status=0 END")
		one.expect()
	})
}

func TestACallThatWaitsForReadyMeetsTheEndpointThatComesAndElseItsDeadline(t *testing.T) {
	under(t, 1, method(`, "waitForReady": true`, "", ""), func(t *testing.T, r *rig) {
		r.mu.Lock()
		r.refuse["one"] = errRefused("one")
		r.mu.Unlock()
		c := r.client()
		c.call(1, true, "grpc-timeout", "1S")
		c.call(3, true, "grpc-timeout", "1M")
		time.Sleep(1500 * time.Millisecond)
		c.expect("HEADERS 1 :status=200 grpc-status=4 grpc-message=the caller's deadline of 1s passed while waiting in the queue of cluster c END")
		r.use("two")
		time.Sleep(10 * time.Millisecond)
		r.end("two", 0).ok(1)
		c.expect("HEADERS 3 :status=200", "DATA 3 yes", "HEADERS 3 grpc-status=0 END")
	})
}

type errRefused string

func (e errRefused) Error() string { return "refused by " + string(e) }

func TestABreakerShutsAMethodOffAtAnEndpointAndLetsItsProbesThrough(t *testing.T) {
	under(t, 1, method("", `, "breaker": {"consecutive": 2, "openFor": "1s", "probes": 1}`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		for id := uint32(1); id <= 3; id += 2 {
			c.call(id, true)
			r.end("one", 0).block(id, true, ":status", "200", "grpc-status", "14")
			synctest.Wait()
		}
		c.expect("HEADERS 1 *", "HEADERS 3 *")
		c.call(5, true)
		c.expect("HEADERS 5 :status=200 grpc-status=14 grpc-message=the circuit breakers of all available endpoints of cluster c are open for s.S/M: one x s.S/M open: 2 calls in a row failed* grpc-retry-pushback-ms=1000 END")
		time.Sleep(1005 * time.Millisecond)
		c.call(7, true) // the probe
		one := r.end("one", 0)
		one.expect("HEADERS 1 *", "HEADERS 3 *", "HEADERS 5 *")
		c.call(9, true)
		c.expect("HEADERS 9 :status=200 grpc-status=14 grpc-message=the circuit breakers* END")
		one.ok(5)
		c.expect("HEADERS 7 *", "DATA 7 yes", "HEADERS 7 *")
		if n := r.f.book.Ask(decision.Query{Limit: 1})[0].Notes(); len(n) != 1 || n[0].Kind != decision.NoteProbe || n[0].Name != "one x s.S/M" {
			t.Errorf("the probe's record has the notes %+v", n)
		}
		c.call(11, true)
		r.end("one", 0).ok(7)
		c.expect("HEADERS 11 *", "DATA 11 yes", "HEADERS 11 *")
	})
}

func TestOverTheRateACallIsToldWhenToComeBack(t *testing.T) {
	under(t, 1, method("", `, "rateLimits": [{"requestsPerSecond": 2, "burst": 1, "metadata": "who"}]`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "who", "a")
		c.call(3, true, "who", "a")
		c.call(5, true, "who", "b")
		c.expect("HEADERS 3 :status=200 grpc-status=8 grpc-message=over the rate limit of method s.S/M, for each value of metadata who: 2 calls per second, bursts of 1* grpc-retry-pushback-ms=50* END")
		one := r.end("one", 0)
		one.ok(1)
		one.ok(3)
		c.expect("HEADERS 1 *", "DATA 1 yes", "HEADERS 1 *", "HEADERS 5 *", "DATA 5 yes", "HEADERS 5 *")
	})
}

func TestAStreamOnWhichNothingMovesEndsAndOneThatMovesDoesNot(t *testing.T) {
	under(t, 1, method("", `, "idleTimeout": "1s"`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		one := r.end("one", 0)
		for range 3 {
			time.Sleep(900 * time.Millisecond)
			c.data(1, "x", false)
			time.Sleep(900 * time.Millisecond)
			one.head(1)
			one.data(1, "y", false)
			break
		}
		time.Sleep(900 * time.Millisecond)
		c.expect("HEADERS 1 *", "DATA 1 y")
		time.Sleep(105 * time.Millisecond)
		c.expect("HEADERS 1 grpc-status=14 grpc-message=nothing moved in either direction for 1s * END", "RST 1 NO_ERROR")
		one.expect("HEADERS 1 *", "DATA 1 x", "RST 1 CANCEL")
	})
}

func TestARequestThatOutgrewTheReplayBufferIsNotTriedAgain(t *testing.T) {
	under(t, 2, method(retryPolicy, `, "replayBytes": 10`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		one := r.end("one", 0)
		c.data(1, "more than ten", true)
		synctest.Wait()
		one.block(1, true, ":status", "200", "grpc-status", "14")
		c.expect("HEADERS 1 :status=200 grpc-status=14 END")
		r.in(func() {
			if r.f.replaying != 0 {
				t.Errorf("%d bytes are counted as kept", r.f.replaying)
			}
		})
	})
}

func TestACallThatEndsInABackoffLeavesNothing(t *testing.T) {
	under(t, 2, method(retryPolicy, "", ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false, "grpc-timeout", "90m") // less than the backoff may be: no retry is waited for
		c.call(3, false, "grpc-timeout", "1S")
		c.call(5, true)
		synctest.Wait()
		for _, at := range []struct {
			end string
			id  uint32
		}{{"one", 1}, {"two", 1}, {"one", 3}} {
			r.end(at.end, 0).block(at.id, true, ":status", "200", "grpc-status", "14", "grpc-retry-pushback-ms", "900")
		}
		c.expect("HEADERS 1 :status=200 grpc-status=14 grpc-retry-pushback-ms=900 END")
		c.data(3, "more", true)
		synctest.Wait()
		c.rst(3, http2.ErrCodeCancel)
		_ = c.nc.Close()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		r.end("one", 0).expect("HEADERS 1 *", "HEADERS 3 *", "RST 1 CANCEL")
	})
}

func TestAMessageOverTheLimitNeverReachesTheOtherSide(t *testing.T) {
	under(t, 1, method(`, "maxRequestMessageBytes": 8, "maxResponseMessageBytes": 8`, "", ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		one := r.end("one", 0)
		c.data(1, "\x00\x00\x00\x00\x09123456789", true)
		c.expect("HEADERS 1 :status=200 grpc-status=8 grpc-message=a request message of 9 bytes exceeds the method's limit of 8 * END")
		one.expect("HEADERS 1 *", "RST 1 CANCEL")
		c.call(3, true)
		synctest.Wait()
		one.head(3)
		one.data(3, "\x00\x00\x00\x00\x09", false)
		c.expect("HEADERS 3 :status=200", "HEADERS 3 grpc-status=8 grpc-message=a response message of 9 bytes* END")
	})
}

// A client that invents long method names on a service's route cannot fill the records, which outlive its calls.
func TestARecordKeepsLittleOfAnInventedMethod(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.block(1, true, ":method", "POST", ":scheme", "http", ":path", "/s.S/"+strings.Repeat("x", 9000), ":authority", "a", "te", "trailers",
			"content-type", "application/grpc")
		r.end("one", 0).block(1, true, ":status", "200", "grpc-status", "12")
		c.expect("HEADERS 1 *")
		if d := r.f.book.Ask(decision.Query{Limit: 1}); len(d) != 1 || !strings.HasPrefix(d[0].Method, "s.S/xxx") || len(d[0].Method) > 256 {
			t.Errorf("the record names %d bytes: %.20s", len(d[0].Method), d[0].Method)
		}
	})
}
