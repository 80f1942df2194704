package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trunkline/trunkline/lb/admin"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func save(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// certificate writes one for loopback that signs itself, and its key.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = save(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return cert, save(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})))
}

// administered runs an admin address until the test ends.
func administered(t *testing.T, cfg *configv1.Admin) string {
	t.Helper()
	s, err := admin.Open(admin.Options{Source: source{}, Log: slog.New(slog.DiscardHandler), Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestExplainShowsWhatTheAdminAddressAsksFor(t *testing.T) {
	const secret = "canary-0123456789abcdef"
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	token, wrong, none := save(t, dir, "token", secret+"\n"), save(t, dir, "wrong", secret+"x"), save(t, dir, "none", secret+" "+secret)
	plain := administered(t, &configv1.Admin{TokenFile: token})
	secure := administered(t, &configv1.Admin{TokenFile: token, Tls: &configv1.AdminTLS{CertFile: cert, KeyFile: key}})
	mutual := administered(t, &configv1.Admin{Tls: &configv1.AdminTLS{CertFile: cert, KeyFile: key, ClientCaFile: cert}})
	for name, c := range map[string]struct {
		line, env, want string
	}{
		"no token":             {"--admin " + plain, "", "the admin API at http://" + plain + " refuses: the admin address asks for its token"},
		"token":                {"--admin " + plain + " --admin-token-file " + token, "", ""},
		"token by environment": {"--admin " + plain, token, ""},
		"wrong token":          {"--admin " + plain + " --admin-token-file " + wrong, "", "refuses: the token is not that of this admin address"},
		"no file":              {"--admin " + plain + " --admin-token-file " + dir + "/nothing", "", "--admin-token-file: open " + dir + "/nothing: no such file or directory"},
		"no token in the file": {"--admin " + plain + " --admin-token-file " + none, "", "has not one token of printable ASCII"},
		"in the clear":         {"--admin 192.0.2.1:9901 --admin-token-file " + token, "", "the token would go over the network in the clear; write https://"},
		"TLS":                  {"--admin " + secure + " --admin-ca " + cert + " --admin-token-file " + token, "", ""},
		"TLS, not expected":    {"--admin " + secure + " --admin-token-file " + token, "", "it may ask for TLS: write --admin https://" + secure},
		"TLS, a stranger":      {"--admin https://" + secure + " --admin-token-file " + token, "", "name the authority of its certificate with --admin-ca"},
		"no TLS":               {"--admin " + plain + " --admin-ca " + cert, "", "it has no TLS: write --admin " + plain},
		"no TLS wanted":        {"--admin http://" + plain + " --admin-ca " + cert, "", "is without TLS, where certificates are of no use: write https://"},
		"certificate":          {"--admin " + mutual + " --admin-ca " + cert + " --admin-cert " + cert + " --admin-key " + key, "", ""},
		"no certificate":       {"--admin " + mutual + " --admin-ca " + cert, "", "a client certificate: name one with --admin-cert and --admin-key"},
		"no authority":         {"--admin " + secure + " --admin-ca " + key, "", "--admin-ca: " + key + " has no certificate in PEM"},
		"half a pair":          {"--admin " + mutual + " --admin-cert " + cert, "", "--admin-key"},
		"not a pair":           {"--admin " + mutual + " --admin-cert " + key + " --admin-key " + key, "", "--admin-cert and --admin-key: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TRUNKLINE_ADMIN_TOKEN_FILE", c.env)
			w := newWorld()
			code := Main(t.Context(), append([]string{"explain", "bench.Echo/Ping"}, strings.Fields(c.line)...), w.env())
			if (code == 0) != (c.want == "") || !strings.Contains(w.err.String(), c.want) || strings.Contains(w.out.String()+w.err.String(), secret) {
				t.Errorf("exit %d\n%s%s\nwant %s", code, &w.out, &w.err, c.want)
			}
		})
	}
}
