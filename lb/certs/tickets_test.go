package certs

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"
)

func newKey() string {
	k := make([]byte, 32)
	_, _ = rand.Read(k)
	return hex.EncodeToString(k)
}

func eachVersion(t *testing.T, story func(t *testing.T, version uint16)) {
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(v), func(t *testing.T) { story(t, v) })
	}
}

// call connects and tells whether a session was resumed, and what is known of the client.
func call(t *testing.T, s *Server, client *tls.Config) (resumed bool, name string, reason string) {
	t.Helper()
	cs, ofClient, serverErr, clientErr := shake(t, s.Config(), client)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if cs.DidResume != ofClient.DidResume {
		t.Fatal("the ends disagree whether the session was resumed")
	}
	p := s.Peer(&cs)
	if p.Refused != nil {
		reason = p.Refused.Reason
	}
	return cs.DidResume, p.Name(), reason
}

func TestASessionIsResumedWithItsIdentityAlsoAfterCertificatesWereRenewed(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		m := newMutual(t, "required")
		s := serve(t, ServerOptions{TLS: m.tls})
		client := m.client(m.clients.named("shop.test"), version)
		if resumed, name, _ := call(t, s, client); resumed || name != "shop.test" {
			t.Fatal(resumed, name)
		}
		m.dir.pair("server", m.servers.named("lb.test"))
		before := s.Certificates()[0].Serial
		s.reload()
		if s.Certificates()[0].Serial == before {
			t.Fatal("nothing was reloaded")
		}
		for range 3 {
			if resumed, name, reason := call(t, s, client); !resumed || name != "shop.test" || reason != "" {
				t.Errorf("resumed %v, %q, %s", resumed, name, reason)
			}
		}
	})
}

func TestReplicasWithTheSameTicketKeysResumeEachOthersSessions(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		m := newMutual(t, "required")
		client := m.client(m.clients.named("shop.test"), version)
		call(t, serve(t, ServerOptions{TLS: m.tls}), client)
		if resumed, _, _ := call(t, serve(t, ServerOptions{TLS: m.tls}), client); resumed {
			t.Fatal("resumed without shared keys")
		}
		m.tls.TicketKeysFile = m.dir.write("tickets", []byte(newKey()+"\n"))
		client = m.client(m.clients.named("shop.test"), version)
		call(t, serve(t, ServerOptions{TLS: m.tls}), client)
		if resumed, name, reason := call(t, serve(t, ServerOptions{TLS: m.tls}), client); !resumed || name != "shop.test" || reason != "" {
			t.Error(resumed, name, reason)
		}
	})
}

func TestTicketKeysRotate(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		m, log := newMutual(t, "none"), new(book)
		one, two := newKey(), newKey()
		m.tls.TicketKeysFile = m.dir.write("tickets", []byte(one+"\n"))
		s := serve(t, ServerOptions{TLS: m.tls, Log: log.log()})
		client := m.client(nil, version)
		resumes := func(file string, want bool) {
			t.Helper()
			m.dir.write("tickets", []byte(file))
			s.reload()
			if resumed, _, _ := call(t, s, client); resumed != want {
				t.Errorf("resumed %v, want %v", resumed, want)
			}
		}
		resumes(one+"\n", false)
		resumes("# new first\n"+two+"\n"+one+"\n", true) // and is given a ticket under the new key
		resumes(two, true)
		resumes("oops\n", true) // the last good ones remain
		if n := strings.Count(log.String(), "line 1 has 4 characters"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}
		resumes(newKey(), false)
		if text := log.String(); strings.Contains(text, one) || strings.Contains(text, two) {
			t.Error("a key is in the log")
		}
	})
}

func TestARevokedOrExpiredCertificateIsRefusedOnResumption(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		m := newMutual(t, "required")
		l := m.clients.named("shop.test")
		m.tls.CrlFile = m.dir.write("crl", m.clients.revoke(time.Now().Add(time.Hour)))
		var now time.Time
		s, err := tryServe(t, ServerOptions{TLS: m.tls}, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		now = time.Now()
		client := m.client(l, version)
		client.Time = time.Now
		call(t, s, client)
		if resumed, _, reason := call(t, s, client); !resumed || reason != "" {
			t.Fatal(resumed, reason)
		}
		now = l.cert.NotAfter.Add(time.Minute)
		if _, name, reason := call(t, s, client); name != "" || reason != reasonExpired {
			t.Errorf("expired: %q, %q", name, reason)
		}
		now = time.Now()
		call(t, s, client)
		m.dir.write("crl", m.clients.revoke(time.Now().Add(time.Hour), l.cert))
		s.reload()
		for range 2 {
			if _, name, reason := call(t, s, client); name != "" || reason != reasonRevoked {
				t.Errorf("revoked: %q, %q", name, reason)
			}
		}
	})
}

func TestWhereHandshakesFailForCertificatesResumedOnesDoToo(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		m, other := newMutual(t, "strict"), newAuthority(t, "Consul CA")
		r := &roots{pool: other.pool()}
		s := serve(t, ServerOptions{TLS: m.tls, Roots: r})
		client := m.client(other.named("shop.mesh"), version)
		call(t, s, client)
		if resumed, name, _ := call(t, s, client); !resumed || name != "shop.mesh" {
			t.Fatal(resumed, name)
		}
		r.pool = newAuthority(t, "Next CA").pool() // the session does not know of it
		if cs, _, err, _ := shake(t, s.Config(), client); err == nil {
			t.Errorf("let in, resumed %v", cs.DidResume)
		}
	})
}

// A client that has a new certificate must not be judged by the old one, which the session would bring along.
func TestAClientThatWasRefusedIsAskedAgain(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		m := newMutual(t, "required")
		s := serve(t, ServerOptions{TLS: m.tls})
		client := m.client(nil, version)
		if _, _, reason := call(t, s, client); reason != reasonRequired {
			t.Fatal(reason)
		}
		shown := newAuthority(t, "Other CA").named("shop.test")
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown.pair(), nil }
		if _, _, reason := call(t, s, client); reason != reasonInvalid {
			t.Fatal(reason)
		}
		shown = m.clients.named("shop.test")
		if resumed, name, reason := call(t, s, client); resumed || name != "shop.test" || reason != "" {
			t.Error(resumed, name, reason)
		}
	})
}

// Keys may be shared by listeners that ask for different things.
func TestASessionIsNotResumedWhereClientsAreJudgedByOthers(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		m, other := newMutual(t, "none"), newMutual(t, "required")
		m.tls.TicketKeysFile = m.dir.write("tickets", []byte(newKey()))
		other.tls.TicketKeysFile = m.tls.TicketKeysFile
		open, asking := serve(t, ServerOptions{TLS: m.tls}), serve(t, ServerOptions{TLS: other.tls})
		client := m.client(other.clients.named("shop.test"), version)
		client.RootCAs.AddCert(other.servers.cert)
		call(t, open, client)
		if resumed, name, reason := call(t, asking, client); resumed || name != "shop.test" || reason != "" {
			t.Error(resumed, name, reason)
		}
		if resumed, _, _ := call(t, asking, client); !resumed {
			t.Error("its own session is not resumed")
		}
	})
}

func TestWrongTicketKeysAreExplained(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "holds no key",
		"# only a comment\n":    "holds no key",
		newKey() + "\nabc\n":    "line 2 has 3 characters",
		strings.Repeat("g", 64): "line 1 has other than hexadecimal digits",
		strings.Repeat(newKey()+"\n", maxTicketKeys+1): fmt.Sprintf("line %d is a key too many", maxTicketKeys+1),
	} {
		if _, err := parseTicketKeys(source{"tls.ticketKeysFile", "x"}, []byte(text)); err == nil || !strings.HasPrefix(err.Error(), "tls.ticketKeysFile: x: "+want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}
