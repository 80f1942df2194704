package forward

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/policy/authn"
)

// porter is a gate whose answers the story gives: at once (now), or when it says (later).
type porter struct {
	now   func(q *gate.Request) *gate.Verdict // nil: later
	thens []func(*gate.Verdict)
	seen  []string
}

func (p *porter) Check(q *gate.Request, then func(*gate.Verdict)) *gate.Verdict {
	p.seen = append(p.seen, q.Method+" from "+q.Address+" token="+q.Field("token"))
	if p.now != nil {
		return p.now(q)
	}
	p.thens = append(p.thens, then)
	return nil
}

// guarded runs a story whose calls a porter is asked about.
func guarded(t *testing.T, p *porter, f func(t *testing.T, r *rig)) {
	t.Helper()
	tell(t, 1, func(t *testing.T, r *rig) {
		r.gate = p
		r.guest.Address = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 99}
		r.use("one")
		f(t, r)
	})
}

func no(status grpc.Status, reason, message string) *gate.Verdict {
	return &gate.Verdict{Refused: true, Refusal: authn.Refusal{Status: status, Reason: reason, Message: message}}
}

func TestACallThatTheGateRefusesReachesNoEndpointAndHearsWhy(t *testing.T) {
	p := &porter{now: func(*gate.Request) *gate.Verdict { return no(grpc.PermissionDenied, "RULE", "rule night denies it") }}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "token", "t")
		c.expect("HEADERS 1 :status=200 grpc-status=7 grpc-message=rule night denies it END")
		if len(p.seen) != 1 || p.seen[0] != "s.S/M from 192.0.2.7 token=t" {
			t.Errorf("the gate saw %q", p.seen)
		}
		if n := r.dialled("one"); n != 0 {
			t.Errorf("the endpoint was dialled %d times", n)
		}
		r.told(grpc.PermissionDenied, 1)
	})
}

// Of two tokens the endpoint could read the one that nobody judged.
func TestTheGateIsShownAllFieldsOfAName(t *testing.T) {
	p := &porter{now: func(*gate.Request) *gate.Verdict { return no(grpc.Unauthenticated, "TOKEN_MALFORMED", "two tokens") }}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "token", "good", "other", "x", "token", "evil")
		c.expect("HEADERS 1 :status=200 grpc-status=16 grpc-message=two tokens END")
		if want := "s.S/M from 192.0.2.7 token=good,evil"; len(p.seen) != 1 || p.seen[0] != want {
			t.Errorf("the gate saw %q, not %q", p.seen, want)
		}
	})
}

func TestTheGateSetsAndRemovesWhatEndpointsAreTold(t *testing.T) {
	p := &porter{now: func(*gate.Request) *gate.Verdict {
		return &gate.Verdict{Set: [][2]string{{"x-user", "ann"}}, Remove: []string{"token"}, Principal: &authn.Principal{Name: "ann"}}
	}}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "token", "t", "x-user", "forged", "kept", "1")
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M kept=1 x-user=ann END")
		one.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
	})
}

func TestACallWaitsForTheGateWithItsBodyAndItsDeadline(t *testing.T) {
	p := &porter{}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		c.data(1, "question", true)
		c.call(3, true, "grpc-timeout", "100m")
		c.expect()
		time.Sleep(120 * time.Millisecond)
		c.expect("HEADERS 3 :status=200 grpc-status=4 * while the caller was identified*")
		p.thens[1](&gate.Verdict{}) // too late
		p.thens[0](&gate.Verdict{})
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "DATA 1 question END")
		one.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
	})
}

func TestAClientThatGoesWhileTheGateThinksLeavesNothing(t *testing.T) {
	p := &porter{}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		c.data(1, "question", false)
		synctest.Wait()
		_ = c.nc.Close()
		r.quiet()
		p.thens[0](&gate.Verdict{})
		r.quiet()
	})
}

// Else whoever has no right to call could learn which methods there are.
func TestTheGateIsAskedBeforeACallerLearnsThatThereIsNoSuchMethod(t *testing.T) {
	p := &porter{now: func(*gate.Request) *gate.Verdict { return no(grpc.Unauthenticated, "TOKEN_MISSING", "no token") }}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.block(1, true, ":method", "POST", ":scheme", "http", ":path", "/s.Unknown/M")
		c.expect("HEADERS 1 :status=200 grpc-status=16 grpc-message=no token END")
	})
}

func TestMetadataThatOnlyTrunklineMaySetIsTakenFromClients(t *testing.T) {
	guarded(t, &porter{now: func(*gate.Request) *gate.Verdict { return &gate.Verdict{} }}, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "x-forwarded-client-cert", "URI=spiffe://forged", "x-trunkline-user", "root", "kept", "1")
		r.end("one", 0).expect("HEADERS 1 :path=/s.S/M kept=1 END")
		r.end("one", 0).ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
	})
}

func TestWhatOnlyTrunklineMaySetIsTakenFromTrailersToo(t *testing.T) {
	forged := []string{"x-forwarded-client-cert", "URI=spiffe://forged", "kept", "1", "x-trunkline-user", "root", "x-user", "root"}
	p := &porter{}
	guarded(t, p, func(_ *testing.T, r *rig) {
		r.protected = map[string]bool{"x-user": true}
		r.use("one")
		c := r.client()
		c.call(1, false) // its trailers come before it is sent
		c.block(1, true, forged...)
		synctest.Wait()
		p.thens[0](&gate.Verdict{})
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "HEADERS 1 kept=1 END")
		one.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
		c.call(3, false) // and after
		synctest.Wait()
		p.thens[1](&gate.Verdict{})
		c.block(3, true, forged...)
		one.expect("HEADERS 3 :path=/s.S/M", "HEADERS 3 kept=1 END")
		one.ok(3)
		c.expect("HEADERS 3 :status=200", "DATA 3 yes", "HEADERS 3 grpc-status=0 END")
		c.call(5, false)
		c.block(5, true, forged[:2]...) // nothing is left of them
		synctest.Wait()
		p.thens[2](&gate.Verdict{})
		one.expect("HEADERS 5 :path=/s.S/M END")
		one.ok(5)
		c.expect("HEADERS 5 :status=200", "DATA 5 yes", "HEADERS 5 grpc-status=0 END")
	})
}

func TestEndpointsAreToldOfTheClientsCertificate(t *testing.T) {
	guarded(t, &porter{}, func(_ *testing.T, r *rig) {
		r.gate = nil
		r.use("one")
		r.guest.Peer = &authn.Peer{Verified: true, SPIFFE: "spiffe://a/web", Forwarded: "URI=spiffe://a/web"}
		c := r.client()
		c.call(1, true, "x-forwarded-client-cert", "URI=spiffe://forged")
		r.end("one", 0).expect("HEADERS 1 :path=/s.S/M x-forwarded-client-cert=URI=spiffe://a/web END")
		r.end("one", 0).ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
	})
}

func TestEveryCallOfAConnectionThatIsRefusedHearsWhy(t *testing.T) {
	guarded(t, &porter{}, func(t *testing.T, r *rig) {
		r.guest.Peer = &authn.Peer{Refused: &authn.Refusal{Status: grpc.Unauthenticated, Reason: "CLIENT_CERTIFICATE_REQUIRED", Message: "show a certificate"}}
		c := r.client()
		c.call(1, true)
		c.expect("HEADERS 1 :status=200 grpc-status=16 grpc-message=show a certificate END")
		c.block(3, true, ":method", "POST", ":scheme", "http", ":path", "/s.Unknown/M")
		c.expect("HEADERS 3 :status=200 grpc-status=16 grpc-message=show a certificate END")
	})
}

func TestTheRecordTellsWhoRefusedAndWhatAShadowWouldHaveDone(t *testing.T) {
	p := &porter{now: func(*gate.Request) *gate.Verdict {
		v := no(grpc.PermissionDenied, "RULE", "rule night denies it")
		v.Notes = []gate.Note{{Name: "rule soon", Text: "denies it", Refused: true, Shadow: true}, {Name: "rule night", Text: "denies it", Refused: true}}
		return v
	}}
	guarded(t, p, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		c.expect("HEADERS 1 :status=200 grpc-status=7 *")
		var said string
		for _, d := range r.f.book.Last(1) {
			for _, l := range d.Tell(decision.Around{}) {
				said += l.Text + "\n"
			}
		}
		for _, want := range []string{"(shadow) rule soon would have refused", "turned away before the call was placed, by rule night"} {
			if !strings.Contains(said, want) {
				t.Errorf("%q is not in\n%s", want, said)
			}
		}
	})
}
