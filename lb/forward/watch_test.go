package forward

import (
	"encoding/binary"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/policy/authn"
)

// judge is shown messages and says what the story tells him to.
type judge struct {
	seen  []string
	thens []func(*inspect.Verdict)
}

func (j *judge) Judge(m *inspect.Message, then func(*inspect.Verdict)) {
	j.seen = append(j.seen, string(m.Body[:min(len(m.Body), 32)]))
	j.thens = append(j.thens, then)
}

// fair lets the n-th message pass.
func (j *judge) fair(n int) { synctest.Wait(); j.thens[n](&inspect.Verdict{}) }

// foul refuses it.
func (j *judge) foul(n int) {
	synctest.Wait()
	j.thens[n](&inspect.Verdict{Refused: true, Refusal: authn.Refusal{Status: grpc.PermissionDenied, Reason: "WAF_BLOCKED", Message: "rule 942100"}})
}

// watched runs a story whose request messages a judge is shown; unary says whether the method is known to be.
func watched(t *testing.T, unary bool, f func(t *testing.T, r *rig, j *judge)) {
	t.Helper()
	tell(t, 1, func(t *testing.T, r *rig) {
		j := &judge{}
		r.facts.Unary = unary
		r.payload = &Payload{MaxRequestMessage: -1, MaxResponseMessage: -1, MaxRequest: -1, MaxResponse: -1, MaxInspected: 300 << 10, Judge: j.Judge, Why: "payload[0]"}
		r.use("one")
		f(t, r, j)
	})
}

// msg is a whole message.
func msg(s string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(s)))) + s
}

func TestOfAUnaryCallNothingGoesOnBeforeItsMessageWasJudged(t *testing.T) {
	watched(t, true, func(t *testing.T, r *rig, j *judge) {
		c := r.client()
		c.call(1, false)
		c.data(1, msg("question")[:7], false)
		c.data(1, msg("question")[7:], true)
		synctest.Wait()
		if n := r.dialled("one"); n != 0 {
			t.Errorf("the endpoint was dialled %d times", n)
		}
		if len(j.seen) != 1 || j.seen[0] != "question" {
			t.Fatalf("the judge saw %q", j.seen)
		}
		j.fair(0)
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "DATA 1 "+msg("question")+" END")
		one.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
	})
}

func TestAMessageThatIsRefusedReachesNobody(t *testing.T) {
	watched(t, true, func(t *testing.T, r *rig, j *judge) {
		c := r.client()
		c.call(1, false)
		c.data(1, msg("' or 1=1"), true)
		j.foul(0)
		c.expect("HEADERS 1 :status=200 grpc-status=7 grpc-message=rule 942100 END")
		if n := r.dialled("one"); n != 0 {
			t.Errorf("the endpoint was dialled %d times", n)
		}
	})
}

func TestAStreamsHeadersGoOnAtOnceAndEachMessageWhenItWasJudged(t *testing.T) {
	watched(t, false, func(t *testing.T, r *rig, j *judge) {
		c := r.client()
		c.call(1, false)
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M")
		c.data(1, msg("a")+msg("b")+msg("c")[:3], false)
		one.expect()
		j.fair(0)
		one.expect("DATA 1 " + msg("a"))
		j.fair(1)
		one.expect("DATA 1 " + msg("b"))
		c.data(1, msg("c")[3:], false)
		j.fair(2)
		one.expect("DATA 1 " + msg("c"))
		c.data(1, "", true)
		one.expect("DATA 1  END")
		one.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		if got := strings.Join(j.seen, " "); got != "a b c" {
			t.Errorf("the judge saw %q", got)
		}
	})
}

func TestABadMessageAmidAStreamEndsItOnBothSides(t *testing.T) {
	watched(t, false, func(t *testing.T, r *rig, j *judge) {
		c := r.client()
		c.call(1, false)
		c.data(1, msg("a")+msg("b")+msg("c"), false)
		j.fair(0)
		j.foul(1)
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "DATA 1 "+msg("a"), "RST 1 CANCEL")
		c.expect("HEADERS 1 :status=200 grpc-status=7 grpc-message=rule 942100 END", "RST 1 NO_ERROR")
	})
}

// The window is 64 KiB: the client could never send the rest.
func TestAMessageLargerThanTheWindowArrivesWhole(t *testing.T) {
	for _, unary := range []bool{true, false} {
		watched(t, unary, func(t *testing.T, r *rig, j *judge) {
			c := r.client()
			c.call(1, false)
			m := msg(strings.Repeat("x", 200<<10))
			sent := 0
			for sent < len(m) {
				synctest.Wait()
				c.mu.Lock()
				room := 64<<10 + int(c.credit[1]) - sent
				c.mu.Unlock()
				if room <= 0 {
					t.Fatalf("stuck after %d of %d bytes", sent, len(m))
				}
				n := min(room, 16<<10, len(m)-sent)
				c.data(1, m[sent:sent+n], sent+n == len(m))
				sent += n
			}
			j.fair(0)
			one := r.end("one", 0)
			one.window(0, 1<<20)
			one.window(1, 1<<20)
			synctest.Wait()
			one.mu.Lock()
			got := strings.Join(one.log, " ")
			one.log = nil
			one.mu.Unlock()
			if !strings.HasSuffix(got, " END") {
				t.Errorf("the endpoint got %s", got)
			}
			one.ok(1)
			c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		})
	}
}

// The endpoint takes the small message when the client has used up its window with the beginning of a large one.
func TestALargeMessageComesWholeThoughTheOneBeforeItWasTakenLate(t *testing.T) {
	watched(t, false, func(t *testing.T, r *rig, j *judge) {
		r.mu.Lock()
		r.settings["one"] = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}
		r.mu.Unlock()
		c := r.client()
		c.call(1, false)
		synctest.Wait()
		m := msg(strings.Repeat("a", 20<<10)) + msg(strings.Repeat("b", 200<<10))
		sent := 0
		send := func() {
			for {
				synctest.Wait()
				c.mu.Lock()
				room := 64<<10 + int(c.credit[1]) - sent
				c.mu.Unlock()
				n := min(room, 16<<10, len(m)-sent)
				if n <= 0 {
					return
				}
				c.data(1, m[sent:sent+n], sent+n == len(m))
				sent += n
			}
		}
		send()
		j.fair(0)
		one := r.end("one", 0)
		one.window(0, 1<<20)
		one.window(1, 1<<20)
		send()
		if sent < len(m) {
			t.Fatalf("stuck after %d of %d bytes", sent, len(m))
		}
		j.fair(1)
		one.ok(1)
		synctest.Wait()
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
	})
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	for name, data := range map[string]string{"flag 7": "\x07\x00\x00\x00\x01a", "cut short": msg("question")[:8]} {
		t.Run(name, func(t *testing.T) {
			watched(t, true, func(t *testing.T, r *rig, _ *judge) {
				c := r.client()
				c.call(1, false)
				c.data(1, data, true)
				c.expect("HEADERS 1 :status=200 grpc-status=13 * message 1* END")
			})
		})
	}
	t.Run("too long", func(t *testing.T) {
		watched(t, true, func(t *testing.T, r *rig, _ *judge) {
			c := r.client()
			c.call(1, false)
			c.data(1, "\x00\x7f\x00\x00\x00a", false)
			c.expect("HEADERS 1 :status=200 grpc-status=8 *(payload[0].maxInspectedBytes)* END", "RST 1 NO_ERROR")
		})
	})
}

func TestAMessageTooLargeToBeJudgedGoesOnUnseenWhereNothingWouldBeRefused(t *testing.T) {
	for _, unary := range []bool{true, false} {
		watched(t, unary, func(t *testing.T, r *rig, j *judge) {
			asked := 0
			r.payload.MaxInspected = 10
			r.payload.TooLarge = func(method string, index int) *inspect.Verdict {
				asked++
				if method != "s.S/M" || index != 1 {
					t.Errorf("asked about message %d of %s", index, method)
				}
				return &inspect.Verdict{Notes: []gate.Note{{Name: "payload[0].validate", Text: "is larger", Refused: true, Shadow: true}}}
			}
			large, small := msg(strings.Repeat("x", 30)), msg("a")
			c := r.client()
			c.call(1, false)
			c.data(1, large[:20], false)
			c.data(1, large[20:]+small, true)
			j.fair(0)
			one := r.end("one", 0)
			one.expect("HEADERS 1 :path=/s.S/M", "DATA 1 (35)", "DATA 1 "+small+" END")
			if asked != 1 || len(j.seen) != 1 {
				t.Errorf("asked %d times, and the judge saw %q", asked, j.seen)
			}
			one.ok(1)
			c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		})
	}
}

func TestAClientThatGoesWhileItsMessageIsJudgedLeavesNothing(t *testing.T) {
	for _, unary := range []bool{true, false} {
		watched(t, unary, func(_ *testing.T, r *rig, j *judge) {
			c := r.client()
			c.call(1, false)
			c.data(1, msg("a")+msg("b"), false)
			synctest.Wait()
			_ = c.nc.Close()
			r.quiet()
			j.fair(0)
			r.quiet()
		})
	}
}

func TestAnEndpointThatAnswersBeforeAllWasJudgedIsHeard(t *testing.T) {
	watched(t, false, func(_ *testing.T, r *rig, j *judge) {
		c := r.client()
		c.call(1, false)
		c.data(1, msg("a")+msg("b"), false)
		j.fair(0)
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "DATA 1 "+msg("a"))
		one.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		j.fair(1)
		c.rst(1, 8)
		one.rst(1, 0)
	})
}

func TestMessagesAreMeasuredByThePayloadRules(t *testing.T) {
	limits := Payload{MaxRequestMessage: 10, MaxResponseMessage: 10, MaxRequest: 40, MaxResponse: 40, Why: "payload[0]"}
	open := func(t *testing.T, f func(r *rig, c *peer)) {
		tell(t, 1, func(_ *testing.T, r *rig) {
			r.payload = &limits
			r.use("one")
			f(r, r.client())
		})
	}
	t.Run("request message", func(t *testing.T) {
		open(t, func(_ *rig, c *peer) {
			c.call(1, false)
			c.data(1, msg("eleven byte"), true)
			c.expect("HEADERS 1 :status=200 grpc-status=8 *a request message: 11 bytes, and 10 are allowed (payload[0].maxRequestMessageBytes)* END")
		})
	})
	t.Run("request", func(t *testing.T) {
		open(t, func(_ *rig, c *peer) {
			c.call(1, false)
			c.data(1, strings.Repeat(msg("ten bytes."), 3), true)
			c.expect("HEADERS 1 :status=200 grpc-status=8 *all request messages together: 45 bytes, and 40 are allowed (payload[0].maxRequestBytes)* END")
		})
	})
	t.Run("response message", func(t *testing.T) {
		open(t, func(r *rig, c *peer) {
			c.call(1, true)
			one := r.end("one", 0)
			one.head(1)
			one.data(1, msg("eleven byte"), false)
			c.expect("HEADERS 1 :status=200", "HEADERS 1 grpc-status=8 *a response message: 11 bytes, and 10 are allowed (payload[0].maxResponseMessageBytes)* END")
		})
	})
	t.Run("response", func(t *testing.T) {
		open(t, func(r *rig, c *peer) {
			c.call(1, true)
			one := r.end("one", 0)
			one.head(1)
			one.data(1, msg("ten bytes."), false)
			one.data(1, msg("ten bytes.")+msg("ten bytes."), false)
			c.expect("HEADERS 1 :status=200", "DATA 1 "+msg("ten bytes."), "HEADERS 1 grpc-status=8 *payload[0].maxResponseBytes* END")
		})
	})
}
