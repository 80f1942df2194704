package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"testing"
	"time"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// serve makes a Server that reloads when the test says so, and whose responders never answer.
func serve(t testing.TB, o ServerOptions) *Server {
	t.Helper()
	s, err := tryServe(t, o, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryServe(t testing.TB, o ServerOptions, now func() time.Time) (*Server, error) {
	t.Helper()
	if o.Log == nil {
		o.Log = new(book).log()
	}
	o.Path = "listeners[0].tls"
	s, err := newServer(o, now, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		return nil, errors.New("nobody answers")
	})
	if err == nil {
		t.Cleanup(s.Close)
	}
	return s, err
}

func TestAClientIsShownTheCertificateForTheNameThatItAsksFor(t *testing.T) {
	ca, dir := newAuthority(t, "Test CA"), newFolder(t)
	tlsConfig := &configv1.ListenerTLS{}
	tlsConfig.CertFile, tlsConfig.KeyFile = dir.pair("default", ca.named("default.test"))
	for _, n := range []string{"shop.test", "*.test", "*.shop.test"} {
		cert, key := dir.pair(n, ca.named(n))
		tlsConfig.Certificates = append(tlsConfig.Certificates, &configv1.CertificateFiles{CertFile: cert, KeyFile: key})
	}
	s := serve(t, ServerOptions{TLS: tlsConfig})
	for asked, want := range map[string]string{
		"shop.test": "shop.test", "SHOP.test": "shop.test", "pay.test": "*.test", "a.shop.test": "*.shop.test",
		"a.b.shop.test": "default.test", "elsewhere.org": "default.test", "test": "default.test", "": "default.test",
	} {
		client := &tls.Config{ServerName: asked, NextProtos: []string{"h2"}, InsecureSkipVerify: true}
		_, cs, _, err := shake(t, s.Config(), client)
		if err != nil {
			t.Fatalf("%q: %v", asked, err)
		}
		if got := cs.PeerCertificates[0].Subject.CommonName; got != want || cs.NegotiatedProtocol != "h2" {
			t.Errorf("asked for %q, shown %q (%s), want %q", asked, got, cs.NegotiatedProtocol, want)
		}
	}
	if got := s.Certificates(); len(got) != 4 || got[0].Names[0] != "default.test" || got[0].File != tlsConfig.CertFile || got[1].NotAfter.IsZero() {
		t.Errorf("Certificates = %+v", got)
	}
}
