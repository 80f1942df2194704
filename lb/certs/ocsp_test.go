package certs

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"
)

// office is an authority's OCSP responder.
type office struct {
	t     testing.TB
	mu    sync.Mutex // held while it answers; the following change under it
	ca    *authority
	cert  *x509.Certificate // who signs; the authority's own if nil
	key   crypto.Signer
	life  time.Duration
	state int   // ocsp.Good ...
	down  error // what it answers instead
	asked atomic.Int64
}

func (o *office) answer(_ context.Context, _ string, request []byte) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked.Add(1)
	if o.down != nil {
		return nil, o.down
	}
	q, err := ocsp.ParseRequest(request)
	if err != nil {
		return nil, err
	}
	now := time.Now().Truncate(time.Minute)
	a := ocsp.Response{Status: o.state, SerialNumber: q.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(o.life)}
	if o.life == 0 {
		a.NextUpdate = time.Time{}
	}
	if o.state == ocsp.Revoked {
		a.RevokedAt = now
	}
	by, key := o.ca.cert, crypto.Signer(o.ca.key)
	if o.cert != nil {
		by, key, a.Certificate = o.cert, o.key, o.cert
	}
	return ocsp.CreateResponse(o.ca.cert, by, a, key)
}

func (o *office) change(change func(o *office)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

// officeRig is a Server in a bubble of synctest, whose certificate names the office.
func officeRig(t *testing.T, log *book) (*office, *Server) {
	ca := newAuthority(t, "Test CA")
	o := &office{t: t, ca: ca, life: 96 * time.Hour}
	m := newMutual(t, "none")
	l := ca.issue(func(c *x509.Certificate) {
		c.DNSNames, c.OCSPServer, c.NotAfter = []string{"lb.test"}, []string{"http://ocsp.test"}, time.Now().Add(10_000*time.Hour)
	})
	m.dir.pair("server", l)
	s, err := newServer(ServerOptions{TLS: m.tls, Path: "listeners[0].tls", Log: log.log()}, time.Now, o.answer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return o, s
}

// stapledTo is what a client is shown; nil: nothing.
func stapledTo(t *testing.T, s *Server) []byte {
	cert, err := s.certificate(&tls.ClientHelloInfo{ServerName: "lb.test"})
	if err != nil {
		t.Fatal(err)
	}
	return cert.OCSPStaple
}

func TestAResponseIsStapledAndRefreshedAtHalfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := officeRig(t, new(book))
		synctest.Wait()
		first := stapledTo(t, s)
		answer, err := ocsp.ParseResponse(first, o.ca.cert)
		if err != nil || answer.Status != ocsp.Good {
			t.Fatal(answer, err)
		}
		if got := s.Certificates()[0].StapledUntil; !got.Equal(answer.NextUpdate) {
			t.Errorf("stapled until %v, want %v", got, answer.NextUpdate)
		}
		time.Sleep(47 * time.Hour)
		synctest.Wait()
		if n := o.asked.Load(); n != 1 {
			t.Errorf("asked %d times before half of the life has passed", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := o.asked.Load(); n != 2 || string(stapledTo(t, s)) == string(first) {
			t.Errorf("asked %d times after half of the life has passed", n)
		}
	})
}

func TestAResponseIsKeptWhileItIsValidAndDroppedAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(book)
		o, s := officeRig(t, log)
		synctest.Wait()
		o.change(func(o *office) { o.down = errors.New("the responder is away") })
		time.Sleep(95 * time.Hour)
		synctest.Wait()
		if stapledTo(t, s) == nil {
			t.Error("dropped while it was valid")
		}
		if n := o.asked.Load(); n < 10 || n > 60 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if stapledTo(t, s) != nil || !s.Certificates()[0].StapledUntil.IsZero() {
			t.Error("stapled after it has expired")
		}
		if n := strings.Count(log.String(), "the responder is away"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}
		o.change(func(o *office) { o.down = nil })
		time.Sleep(time.Hour)
		synctest.Wait()
		if stapledTo(t, s) == nil {
			t.Error("not stapled after the responder is back")
		}
	})
}

func TestOnlyAnswersThatClientsWouldTakeAreStapled(t *testing.T) {
	for name, c := range map[string]struct {
		change func(o *office)
		want   bool
		says   string
	}{
		"good":         {func(*office) {}, true, ""},
		"undated":      {func(o *office) { o.life = 0 }, true, ""},
		"revoked":      {func(o *office) { o.state = ocsp.Revoked }, false, "does not call the certificate good"},
		"unknown":      {func(o *office) { o.state = ocsp.Unknown }, false, "does not call the certificate good"},
		"expired":      {func(o *office) { o.life = -time.Hour }, false, "has expired on"},
		"by a foreign": {func(o *office) { o.ca = newAuthority(o.t, "Test CA") }, false, "no OCSP response to staple"},
		"by a delegate": {func(o *office) {
			l := o.ca.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
			o.cert, o.key = l.cert, l.key
		}, true, ""},
		"by anybody of the authority's": {func(o *office) {
			l := o.ca.issue(func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "anybody"} })
			o.cert, o.key = l.cert, l.key
		}, false, "CN=anybody, which may not sign"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := new(book)
				o, s := officeRig(t, log)
				synctest.Wait()
				o.change(c.change)
				time.Sleep(97 * time.Hour) // past the life of the first, too
				synctest.Wait()
				if got := stapledTo(t, s) != nil; got != c.want || !strings.Contains(log.String(), c.says) {
					t.Errorf("stapled %v, want %v; log:\n%s", got, c.want, log)
				}
			})
		})
	}
}

func TestARenewedChainKeepsItsStapleAndANewCertificateGetsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := officeRig(t, new(book))
		synctest.Wait()
		cert := s.pairs[0].sources[0].path
		dir := folder{t, cert[:len(cert)-len("/server.pem")]}
		o.change(func(o *office) { o.down = errors.New("away") })
		leaf := s.pairs[0].value.Leaf
		dir.write("server.pem", chainPEM(leaf, o.ca.cert, newAuthority(t, "Cross CA").cert))
		s.reload()
		if c, _ := s.certificate(&tls.ClientHelloInfo{}); len(c.Certificate) != 3 || c.OCSPStaple == nil {
			t.Error("the staple is gone with the old chain")
		}
		o.change(func(o *office) { o.down = nil })
		dir.pair("server", o.ca.issue(func(c *x509.Certificate) { c.OCSPServer = []string{"http://ocsp.test"} }))
		s.reload()
		synctest.Wait()
		if _, err := ocsp.ParseResponseForCert(stapledTo(t, s), s.pairs[0].value.Leaf, o.ca.cert); err != nil {
			t.Error(err)
		}
	})
}

// Over sockets, with a responder that answers only when the test lets it.
func TestNoHandshakeWaitsForTheResponder(t *testing.T) {
	ca := newAuthority(t, "Test CA")
	o := &office{t: t, ca: ca, life: time.Hour}
	open := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-open
		request, _ := io.ReadAll(r.Body)
		answer, err := o.answer(r.Context(), "", request)
		if err != nil || r.Header.Get("Content-Type") != "application/ocsp-request" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write(answer)
	}))
	defer web.Close()
	m := newMutual(t, "none")
	m.dir.pair("server", ca.issue(func(c *x509.Certificate) { c.DNSNames, c.OCSPServer = []string{"lb.test"}, []string{web.URL} }))
	s, err := NewServer(ServerOptions{TLS: m.tls, Path: "listeners[0].tls", Log: new(book).log()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := m.client(nil, 0)
	client.RootCAs = ca.pool()
	client.ClientSessionCache = nil
	if _, cs, _, err := shake(t, s.Config(), client); err != nil || cs.OCSPResponse != nil {
		t.Fatal(cs.OCSPResponse, err)
	}
	close(open)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, cs, _, err := shake(t, s.Config(), client)
		if err != nil || time.Now().After(deadline) {
			t.Fatal("nothing was stapled: ", err)
		}
		if cs.OCSPResponse != nil {
			if _, err := ocsp.ParseResponseForCert(cs.OCSPResponse, cs.PeerCertificates[0], ca.cert); err != nil {
				t.Error(err)
			}
			break
		}
	}
}
