package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
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

func TestAClientMustSpeakHTTP2IfItSaysWhatItSpeaks(t *testing.T) {
	m := newMutual(t, "none")
	s := serve(t, ServerOptions{TLS: m.tls})
	for _, c := range []struct {
		offers []string
		want   string // of the alert; "": accepted
	}{{[]string{"h2"}, ""}, {[]string{"http/1.1", "h2"}, ""}, {nil, ""}, {[]string{"http/1.1"}, "no application protocol"}, {[]string{"acme-tls/1"}, "no application protocol"}} {
		client := m.client(nil, 0)
		client.NextProtos = c.offers
		_, _, serverErr, clientErr := shake(t, s.Config(), client)
		if c.want == "" && (serverErr != nil || clientErr != nil) {
			t.Errorf("%q: %v, %v", c.offers, serverErr, clientErr)
		}
		if c.want != "" && (clientErr == nil || !strings.Contains(clientErr.Error(), c.want)) {
			t.Errorf("%q: %v, want the alert %q", c.offers, clientErr, c.want)
		}
	}
	admin := serve(t, ServerOptions{TLS: m.tls, Protocols: []string{"h2", "http/1.1"}})
	client := m.client(nil, 0)
	client.NextProtos = []string{"http/1.1"}
	if cs, _, _, err := shake(t, admin.Config(), client); err != nil || cs.NegotiatedProtocol != "http/1.1" {
		t.Errorf("with http/1.1 allowed: %q, %v", cs.NegotiatedProtocol, err)
	}
}

func TestOldAndWeakTLSIsRefused(t *testing.T) {
	m := newMutual(t, "none")
	s := serve(t, ServerOptions{TLS: m.tls})
	weak := m.client(nil, tls.VersionTLS12)
	weak.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
	if _, _, err, _ := shake(t, s.Config(), weak); err == nil {
		t.Error("a client with CBC suites only gets through")
	}
	old := m.client(nil, tls.VersionTLS11)
	old.MinVersion = tls.VersionTLS10
	if _, _, err, _ := shake(t, s.Config(), old); err == nil {
		t.Error("TLS 1.1 gets through")
	}
	m.tls.MinVersion = "1.3"
	if _, _, err, _ := shake(t, serve(t, ServerOptions{TLS: m.tls}).Config(), m.client(nil, tls.VersionTLS12)); err == nil {
		t.Error("TLS 1.2 gets through where 1.3 is asked for")
	}
}

// certificates is a Source.
type certificates func(*tls.ClientHelloInfo) (*tls.Certificate, error)

func (c certificates) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return c(h) }

func TestEverySourceIsAskedForWhatIsItsOwn(t *testing.T) {
	ca := newAuthority(t, "Test CA")
	byACME, byMesh, challenge := ca.named("acme.test"), ca.named("mesh.test"), ca.named("challenge.test")
	acme := certificates(func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		switch {
		case len(h.SupportedProtos) == 1 && h.SupportedProtos[0] == "acme-tls/1":
			return challenge.pair(), nil
		case h.ServerName != "acme.test":
			return nil, fmt.Errorf("asked for %q", h.ServerName)
		}
		return byACME.pair(), nil
	})
	mesh := certificates(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return byMesh.pair(), nil })
	m := newMutual(t, "strict")
	file := func() *configv1.ListenerTLS {
		return &configv1.ListenerTLS{CertFile: m.tls.CertFile, KeyFile: m.tls.KeyFile, ClientAuth: "none", Acme: &configv1.Acme{Domains: []string{"ACME.test"}}}
	}
	without := func() *configv1.ListenerTLS {
		c := file()
		c.CertFile, c.KeyFile = "", ""
		return c
	}
	for _, c := range []struct {
		name  string
		o     ServerOptions
		asked string
		want  string
	}{
		{"ACME beside a file", ServerOptions{TLS: file(), ACME: acme}, "acme.test", "acme.test"},
		{"a file beside ACME", ServerOptions{TLS: file(), ACME: acme}, "lb.test", "lb.test"},
		{"a file for the rest", ServerOptions{TLS: file(), ACME: acme, Connect: mesh}, "other.test", "lb.test"},
		{"the mesh for the rest", ServerOptions{TLS: without(), ACME: acme, Connect: mesh}, "other.test", "mesh.test"},
		{"ACME for the rest", ServerOptions{TLS: without(), ACME: acme}, "other.test", "acme.test"},
		{"ACME for who names nothing", ServerOptions{TLS: without(), ACME: acme}, "", "acme.test"},
	} {
		s := serve(t, c.o)
		_, cs, err, _ := shake(t, s.Config(), &tls.Config{ServerName: c.asked, NextProtos: []string{"h2"}, InsecureSkipVerify: true})
		if err != nil || cs.PeerCertificates[0].Subject.CommonName != c.want {
			t.Errorf("%s: %v, %v", c.name, cs.PeerCertificates, err)
		}
	}
	// The authority that validates has no client certificate, even where clients must.
	strict := file()
	strict.ClientAuth, strict.ClientCaFile = "strict", m.tls.ClientCaFile
	s := serve(t, ServerOptions{TLS: strict, ACME: acme})
	cs, ofClient, err, _ := shake(t, s.Config(), &tls.Config{ServerName: "acme.test", NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err != nil || cs.NegotiatedProtocol != "acme-tls/1" || ofClient.PeerCertificates[0].Subject.CommonName != "challenge.test" {
		t.Errorf("challenge: %q, %v", cs.NegotiatedProtocol, err)
	}
	if p := s.Peer(&cs); p.Refused == nil {
		t.Error("who validates could make calls")
	}
	if _, _, err, _ := shake(t, serve(t, ServerOptions{TLS: without(), Connect: certificates(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return nil, errors.New("Consul has not answered")
	})}).Config(), m.client(nil, 0)); err == nil || !strings.Contains(err.Error(), "listeners[0].tls.connect: no certificate yet: Consul has not answered") {
		t.Errorf("without any certificate: %v", err)
	}
}

func TestWhatIsWrongWithFilesIsSaidAtStart(t *testing.T) {
	m := newMutual(t, "")
	other := m.servers.named("other.test")
	otherKey := m.dir.write("other.key", other.keyPEM(t))
	text := m.dir.write("text", []byte("hello"))
	encrypted := m.dir.write("encrypted.key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	broken := m.dir.write("broken.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
	gone := m.dir.path + "/gone"
	cert, key := m.tls.CertFile, m.tls.KeyFile
	for _, c := range []struct {
		tls  *configv1.ListenerTLS
		want string // after "listeners[0].tls"
	}{
		{&configv1.ListenerTLS{}, ": has no certificate to show"},
		{&configv1.ListenerTLS{CertFile: gone, KeyFile: key}, ".certFile: " + gone + ": no such file or directory"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: gone}, ".keyFile: " + gone + ": no such file or directory"},
		{&configv1.ListenerTLS{CertFile: text, KeyFile: key}, ".certFile: " + text + ": holds no certificate in PEM"},
		{&configv1.ListenerTLS{CertFile: broken, KeyFile: key}, ".certFile: " + broken + ": certificate 1 does not parse"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: text}, ".keyFile: " + text + ": holds no private key in PEM"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: cert}, ".keyFile: " + cert + ": holds no private key in PEM"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: encrypted}, ".keyFile: " + encrypted + ": the key is encrypted"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: otherKey}, ".keyFile: " + otherKey + ": is not the key of the certificate in " + cert},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: key, Certificates: []*configv1.CertificateFiles{{CertFile: cert, KeyFile: gone}}},
			".certificates[0].keyFile: " + gone + ": no such file or directory"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: key, ClientCaFile: text}, ".clientCaFile: " + text + ": holds no certificate"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: key, ClientCaFile: m.tls.ClientCaFile, CrlFile: gone}, ".crlFile: " + gone + ": no such file or directory"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: key, TicketKeysFile: text}, ".ticketKeysFile: " + text + ": line 1 has 5 characters"},
		{&configv1.ListenerTLS{CertFile: cert, KeyFile: key, ClientAuth: "required"}, `.clientAuth: is "required", but there is no authority`},
	} {
		_, err := tryServe(t, ServerOptions{TLS: c.tls}, time.Now)
		if err == nil || !strings.HasPrefix(err.Error(), "listeners[0].tls"+c.want) {
			t.Errorf("err = %v, want %s", err, c.want)
		}
	}
}

func TestAnExpiredCertificateIsShownAndTheLogWarns(t *testing.T) {
	m, log := newMutual(t, "none"), new(book)
	l := m.servers.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	m.dir.pair("server", l)
	serve(t, ServerOptions{TLS: m.tls, Log: log.log()})
	if !strings.Contains(log.String(), "a certificate has expired") || !strings.Contains(log.String(), m.tls.CertFile) {
		t.Errorf("log:\n%s", log)
	}
}

func TestABadPairLeavesTheLastGoodOneAndTheLogSaysWhyOnce(t *testing.T) {
	m, log := newMutual(t, "none"), new(book)
	s := serve(t, ServerOptions{TLS: m.tls, Log: log.log()})
	next := m.servers.named("lb.test")
	first := s.Certificates()[0].Serial
	m.dir.write("server.pem", chainPEM(next.chain...)) // half of the pair
	for range 3 {
		s.reload()
	}
	if got := s.Certificates()[0].Serial; got != first {
		t.Errorf("serial %s, want still %s", got, first)
	}
	if n := strings.Count(log.String(), "is not the key of the certificate"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	if got := s.Certificates()[0]; !strings.Contains(got.Error, "is not the key of the certificate") || time.Since(got.ErrorAt) > time.Minute {
		t.Errorf("its error is %q at %v", got.Error, got.ErrorAt)
	}
	if _, _, _, err := shake(t, s.Config(), m.client(nil, 0)); err != nil {
		t.Error(err)
	}
	m.dir.write("server.key", next.keyPEM(t))
	s.reload()
	if got := s.Certificates()[0]; got.Serial != next.cert.SerialNumber.Text(16) || got.Error != "" {
		t.Errorf("serial %s, want the new one; error %q", got.Serial, got.Error)
	}
	os.Remove(m.tls.CertFile)
	s.reload()
	s.reload()
	if n := strings.Count(log.String(), "no such file"); n != 1 || s.Certificates()[0].Serial != next.cert.SerialNumber.Text(16) {
		t.Errorf("said %d times:\n%s", n, log)
	}
}

// As Kubernetes does: a folder of links into ..data, which is a link that is swapped.
func TestASwapOfSymbolicLinksIsNoticedAndCutsNothing(t *testing.T) {
	m := newMutual(t, "none")
	dir := newFolder(t)
	version := func(name string, l *leaf) {
		if err := os.Mkdir(dir.path+"/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
		dir.write(name+"/tls.crt", chainPEM(l.chain...))
		dir.write(name+"/tls.key", l.keyPEM(t))
		if err := errors.Join(os.Symlink(name, dir.path+"/..new"), os.Rename(dir.path+"/..new", dir.path+"/..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", m.servers.named("lb.test"))
	for _, f := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink("..data/"+f, dir.path+"/"+f); err != nil {
			t.Fatal(err)
		}
	}
	m.tls.CertFile, m.tls.KeyFile = dir.path+"/tls.crt", dir.path+"/tls.key"
	s, err := NewServer(ServerOptions{TLS: m.tls, Path: "listeners[0].tls", Log: new(book).log()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, b := socket(t)
	server, client := tls.Server(a, s.Config()), tls.Client(b, m.client(nil, 0))
	go func() { _, _ = io.Copy(server, server) }()
	echo := func() {
		t.Helper()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	echo()
	for _, name := range []string{"..2", "..3"} {
		next := m.servers.named("lb.test")
		version(name, next)
		deadline := time.Now().Add(10 * time.Second)
		for s.Certificates()[0].Serial != next.cert.SerialNumber.Text(16) {
			if time.Now().After(deadline) {
				t.Fatal("the new certificate was not taken up")
			}
			time.Sleep(5 * time.Millisecond)
		}
		echo()
	}
	client.Close()
}
