package listener

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/trunkline/trunkline/policy/authn"
)

// strict asks for client certificates in the handshake.
type strict struct{ cert tls.Certificate }

func (s strict) Config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{s.cert}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"}}
}
func (strict) Peer(*tls.ConnectionState) *authn.Peer { return nil }

// selfSigned is a certificate that nobody vouches for.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// By TLS 1.3 a client speaks on before it hears that its handshake has failed: a close with that unread would reset the connection, and
// all that grpc-go tells its user then is "broken pipe".
func TestAClientWhoseHandshakeFailsReadsTheAlertThatSaysWhy(t *testing.T) {
	s := newStage(t, 1)
	s.Listener.door.Store(&Door{TLS: strict{selfSigned(t)}})
	dial, end := s.serveOn(t)
	for range 5 {
		nc := dial()
		_ = nc.SetDeadline(time.Now().Add(time.Minute))
		c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		for range 3 { // more than the server has read with the handshake's end
			if _, err := c.Write(make([]byte, 8<<10)); err != nil {
				t.Errorf("before the alert: %v", err)
			}
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("the client reads %v, want the alert", err)
		}
		if _, err := nc.Write(make([]byte, 100)); err != nil {
			t.Errorf("after the alert: %v", err)
		}
		_ = nc.Close()
	}
	end()
	if n := s.Counts().BadHandshakes.Load(); n != 5 {
		t.Errorf("%d bad handshakes are counted", n)
	}
}
