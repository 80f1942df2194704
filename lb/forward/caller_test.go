package forward

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/extauthz"
	"github.com/trunkline/trunkline/lb/gate"
)

// says is a porter that has this to tell callers, whether he lets them pass or not.
func says(refused bool, told ...gate.Told) *porter {
	return &porter{now: func(*gate.Request) *gate.Verdict {
		v := &gate.Verdict{}
		if refused {
			v = no(grpc.Unauthenticated, "DENIED_BY_SERVICE", "log in")
		}
		v.Told = told
		return v
	}}
}

func TestWhatTheGateTellsTheCallerGoesWithTheHeadersOfTheReply(t *testing.T) {
	guarded(t, says(false, gate.Told{Name: "x-quota", Value: "7"}, gate.Told{Name: "x-both", Value: "ours"}, gate.Told{Name: "x-own", Value: "ours", How: extauthz.Instead},
		gate.Told{Name: "x-there", Value: "ours", How: extauthz.IfAbsent}, gate.Told{Name: "x-absent", Value: "ours", How: extauthz.IfAbsent},
		gate.Told{Name: "x-over", Value: "ours", How: extauthz.IfPresent}, gate.Told{Name: "x-none", Value: "ours", How: extauthz.IfPresent}), func(_ *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		one.block(1, false, ":status", "103", "x-hint", "1")
		one.block(1, false, ":status", "200", "content-type", "application/grpc", "x-both", "theirs", "x-own", "theirs", "x-there", "theirs", "x-over", "theirs", "connection", "close")
		one.data(1, "yes", false)
		one.trail(1)
		const told = "x-both=theirs x-there=theirs x-quota=7 x-both=ours x-own=ours x-absent=ours x-over=ours"
		c.expect("HEADERS 1 :status=103 x-hint=1", "HEADERS 1 :status=200 "+told, "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		c.call(3, true) // a Trailers-Only reply
		synctest.Wait()
		one.block(3, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5", "x-both", "theirs")
		c.expect("HEADERS 3 :status=200 grpc-status=5 x-both=theirs x-quota=7 x-both=ours x-own=ours x-there=ours x-absent=ours END")
	})
}

func TestWhatTheGateTellsTheCallerGoesWithTheRefusal(t *testing.T) {
	told := []gate.Told{{Name: "www-authenticate", Value: `Bearer realm="a"`}, {Name: "www-authenticate", Value: `Basic realm="b"`}}
	guarded(t, says(true, told...), func(_ *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		c.call(3, false)
		const want = ` :status=200 grpc-status=16 grpc-message=log in www-authenticate=Bearer realm="a" www-authenticate=Basic realm="b" END`
		c.expect("HEADERS 1"+want, "HEADERS 3"+want, "RST 3 NO_ERROR")
		c.block(5, true, ":method", "POST", ":scheme", "http", ":path", "/s.Unknown/M")
		c.expect("HEADERS 5" + want)
	})
	// Whom the gate lets pass reads it though there is no endpoint to say anything.
	guarded(t, says(false, gate.Told{Name: "x-quota", Value: "7"}), func(_ *testing.T, r *rig) {
		r.use()
		c := r.client()
		c.call(1, true)
		c.expect("HEADERS 1 :status=200 grpc-status=14 grpc-message=no healthy endpoint* x-quota=7 END")
	})
}

// A response that is held until it is judged begins elsewhere.
func TestWhatTheGateTellsTheCallerIsSaidOnceThoughTheCallIsTriedAgain(t *testing.T) {
	under(t, 2, method(retryPolicy, "", ""), func(_ *testing.T, r *rig) {
		r.gate = says(false, gate.Told{Name: "x-quota", Value: "7"})
		r.use("one", "two")
		c := r.client()
		c.call(1, true)
		r.end("one", 0).block(1, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "14")
		time.Sleep(time.Second)
		two := r.end("two", 0)
		two.head(1)
		c.expect()
		two.data(1, "\x00\x00\x00\x00\x01x", false)
		two.trail(1)
		c.expect("HEADERS 1 :status=200 x-quota=7", "DATA 1 \x00\x00\x00\x00\x01x", "HEADERS 1 grpc-status=0 END")
	})
}

// grpc-java and gRPC's core take 8 KiB, and end the call, or the connection, at more.
func TestWhatTheGateTellsTheCallerMakesNoReplyTooLargeForItsClient(t *testing.T) {
	long := strings.Repeat("l", 5000)
	guarded(t, says(false, gate.Told{Name: "x-one", Value: long}, gate.Told{Name: "x-two", Value: long}, gate.Told{Name: "x-three", Value: "3"}), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		r.end("one", 0).ok(1)
		c.expect("HEADERS 1 :status=200 x-one="+long+" x-three=3", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		c.call(3, true)
		synctest.Wait()
		r.end("one", 0).block(3, false, ":status", "200", "content-type", "application/grpc", "x-own", long+long)
		r.end("one", 0).trail(3)
		c.expect("HEADERS 3 :status=200 x-own="+long+long, "HEADERS 3 grpc-status=0 END") // the endpoint's are its own affair
		var said string
		for _, d := range r.f.book.Last(1) {
			for _, l := range d.Tell(decision.Around{}) {
				said += l.Text + "\n"
			}
		}
		if want := "left out 3 of its fields for the caller"; !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	})
}

// Else they could bring what the gate took away, or set.
func TestRequestTrailersEndWhereTheGateChangedTheRequest(t *testing.T) {
	p := &porter{}
	guarded(t, p, func(_ *testing.T, r *rig) {
		c := r.client()
		var one *peer
		for i, v := range []*gate.Verdict{{Set: [][2]string{{"x-user", "ann"}}}, {Remove: []string{"token"}}} {
			want := []string{" x-user=ann", ""}[i]
			id := uint32(6*i + 1)
			c.call(id, false) // before the verdict
			c.data(id, "question", false)
			c.block(id, true, "token", "evil", "x-user", "root")
			c.call(id+2, false) // after it
			c.call(id+4, false) // with nothing before them
			c.block(id+4, true, "token", "evil")
			synctest.Wait()
			for k := range 3 {
				p.thens[3*i+k](v)
			}
			one = r.end("one", 0)
			at := func(id uint32) string { return strings.Replace("HEADERS ID :path=/s.S/M", "ID", text(id), 1) + want }
			one.expect(at(id), "DATA "+text(id)+" question END", at(id+2), at(id+4)+" END")
			c.data(id+2, "question", false)
			one.expect("DATA " + text(id+2) + " question") // alone: together the two may or may not come in one read
			c.block(id+2, true, "token", "evil", "x-user", "root")
			one.expect("DATA " + text(id+2) + "  END")
			for k := range uint32(3) {
				one.ok(id + 2*k)
			}
		}
		r.told(grpc.OK, 6)
	})
}

func TestWhoMayNotCallHearsThatAndNotWhatIsWrongWithItsTimeout(t *testing.T) {
	refuses := &porter{now: func(*gate.Request) *gate.Verdict { return no(grpc.Unauthenticated, "TOKEN_MISSING", "no token") }}
	guarded(t, refuses, func(_ *testing.T, r *rig) {
		c := r.client()
		for i, bad := range []string{"soon", "0S", "1n"} {
			id := uint32(2*i + 1)
			c.call(id, true, "grpc-timeout", bad)
			c.expect("HEADERS " + text(id) + " :status=200 grpc-status=16 grpc-message=no token END")
		}
	})
	// The mesh is asked after the gate.
	slow := &porter{}
	guarded(t, slow, func(_ *testing.T, r *rig) {
		r.mesh = func(string, string, func(Leave)) Leave {
			return func(func(string) (string, bool)) (bool, string) { return false, "no intention" }
		}
		r.guest.Peer = meshPeer
		r.use("one")
		c := r.client()
		c.call(1, true, "grpc-timeout", "soon")
		c.expect()
		slow.thens[0](&gate.Verdict{})
		c.expect("HEADERS 1 :status=200 grpc-status=7 grpc-message=no intention END")
	})
}

// What the gate makes of the metadata is for endpoints: who is asked about the call later sees what its client sent.
func TestTheMeshJudgesWhatTheClientSentAndTheEndpointSeesWhatTheGateMadeOfIt(t *testing.T) {
	for _, later := range []bool{false, true} {
		p := &porter{now: func(*gate.Request) *gate.Verdict {
			return &gate.Verdict{Remove: []string{"x-secret"}, Set: [][2]string{{"x-role", "guest"}}, Add: [][2]string{{"x-more", "1"}}}
		}}
		guarded(t, p, func(t *testing.T, r *rig) {
			saw := ""
			leave := func(field func(string) (string, bool)) (bool, string) {
				for _, name := range []string{":path", ":method", "x-secret", "x-role", "x-more", "x-empty"} {
					value, there := field(name)
					saw += name + "=" + value
					if !there {
						saw += "none"
					}
					saw += " "
				}
				return true, ""
			}
			var then func(Leave)
			r.mesh = func(_, _ string, t func(Leave)) Leave {
				if then = t; later {
					return nil
				}
				return leave
			}
			r.guest.Peer = meshPeer
			r.use("one")
			c := r.client()
			c.call(1, true, "x-secret", "s", "x-role", "admin", "x-role", "root", "x-empty", "")
			synctest.Wait()
			if later {
				then(leave)
			}
			if want := ":path=/s.S/M :method=POST x-secret=s x-role=admin,root x-more=none x-empty= "; saw != want {
				t.Errorf("it saw %s", saw)
			}
			one := r.end("one", 0)
			one.expect("HEADERS 1 :path=/s.S/M x-empty= x-role=guest x-more=1 END")
			one.block(1, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "0")
		})
	}
}

func TestWhoMayCallHearsWhatIsWrongWithItsTimeout(t *testing.T) {
	p := &porter{}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "grpc-timeout", "soon")
		c.call(3, false, "grpc-timeout", "soon") // its client goes on talking
		c.expect()
		p.thens[0](&gate.Verdict{})
		p.thens[1](&gate.Verdict{})
		const bad = " :status=200 grpc-status=13 grpc-message=grpc-timeout: not a number END"
		c.expect("HEADERS 1"+bad, "HEADERS 3"+bad, "RST 3 NO_ERROR")
		c.call(5, true, "grpc-timeout", "0S")
		synctest.Wait()
		time.Sleep(time.Second) // a deadline runs whoever is asked
		c.expect("HEADERS 5 :status=200 grpc-status=4 *passed* END")
		p.thens[2](&gate.Verdict{})
		if n := r.dialled("one"); n != 0 {
			t.Errorf("the endpoint was dialled %d times", n)
		}
	})
	guarded(t, says(false), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "grpc-timeout", "0S")
		c.expect("HEADERS 1 :status=200 grpc-status=4 *passed before it was sent to any endpoint* END")
		if n := r.dialled("one"); n != 0 {
			t.Errorf("the endpoint was dialled %d times", n)
		}
	})
}

// A method's latency is its callers' affair.
func TestWhoMayNotCallHearsNothingOfTheMethodsLatency(t *testing.T) {
	under(t, 1, method("", `, "refuseHopeless": true`, ""), func(_ *testing.T, r *rig) {
		c := r.client()
		for i := range uint32(25) {
			c.call(2*i+1, true)
			one := r.end("one", 0)
			time.Sleep(100 * time.Millisecond)
			one.ok(2*i + 1)
			synctest.Wait()
		}
		c.forget()
		c.call(101, true, "grpc-timeout", "10m")
		c.expect("HEADERS 101 :status=200 grpc-status=4 *half of the recent calls* END")
		r.gate = &porter{now: func(*gate.Request) *gate.Verdict { return no(grpc.Unauthenticated, "TOKEN_MISSING", "no token") }}
		r.use("one")
		c.call(103, true, "grpc-timeout", "10m")
		c.expect("HEADERS 103 :status=200 grpc-status=16 grpc-message=no token END")
	})
}
