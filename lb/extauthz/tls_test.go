package extauthz

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/trunkline/trunkline/lb/certs"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// selfSigned makes a certificate for a name, that is its own authority, and writes it to a file.
func selfSigned(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name+".pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func TestAServiceOverTLSMustBeWhoItIsTakenFor(t *testing.T) {
	cert, ca := selfSigned(t, "authz.example.com")
	_, other := selfSigned(t, "authz.example.com")
	at, _ := serve(t, "127.0.0.1:0", says(&auth.CheckResponse{}), grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	askWith := func(o *configv1.UpstreamTLS) *Verdict {
		t.Helper()
		client, err := certs.NewClient(certs.ClientOptions{TLS: o, Path: "externalAuthorization.tls", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return ask(t, newClient(t, Options{Address: at, Timeout: 5 * time.Second, Credentials: Credentials(client, at)}), call())
	}
	if v := askWith(&configv1.UpstreamTLS{CaFile: ca, ServerName: "authz.example.com"}); v.Failed {
		t.Errorf("the right one: %+v", v)
	}
	v := askWith(&configv1.UpstreamTLS{CaFile: ca, ServerName: "other.example.com"})
	if !v.Failed || !v.Denied {
		t.Errorf("another name: %+v", v)
	}
	wantWhy(t, v, "authz.example.com", "other.example.com")
	if v := askWith(&configv1.UpstreamTLS{CaFile: other, ServerName: "authz.example.com"}); !v.Failed {
		t.Errorf("another authority: %+v", v)
	}
}
