package lb

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trunkline/trunkline/lb/config"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

const meshDomain = "11111111-2222-3333-4444-555555555555.consul"

// certificate is one that vouches for itself, and its key, in PEM.
func certificate(t *testing.T, name string, serial int64, spiffe ...string) (cert, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	for _, s := range spiffe {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	if len(spiffe) == 0 {
		c.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, secret.Public(), secret)
	if err != nil {
		t.Fatal(err)
	}
	secretDER, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secretDER}))
}

func save(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// meshAgent is a Consul agent that knows of the mesh only: the certificate of the service edge, and one authority. It does not let wait.
func meshAgent(t *testing.T) string {
	cert, key := certificate(t, "edge", 0x9, "spiffe://"+meshDomain+"/ns/default/dc/dc1/svc/edge")
	root, _ := certificate(t, "Consul CA", 0x1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/agent/connect/ca/leaf/edge":
			_ = json.NewEncoder(w).Encode(map[string]any{"CertPEM": cert, "PrivateKeyPEM": key})
		case "/v1/agent/connect/ca/roots":
			_ = json.NewEncoder(w).Encode(map[string]any{"TrustDomain": meshDomain, "ActiveRootID": "one", "Roots": []map[string]any{{"ID": "one", "RootCert": root}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestEveryCertificateInForceIsToldWithWhereItComesFromAndNoKey(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, "edge.test", 0x12ab)
	edge, edgeKey := save(t, dir+"/edge.pem", cert), save(t, dir+"/edge.key", key)
	cert, mine := certificate(t, "client.test", 0x34cd)
	client, clientKey := save(t, dir+"/client.pem", cert), save(t, dir+"/client.key", mine)
	cfg, _, err := config.Parse("test.yaml", []byte(`
listeners:
  - { address: "127.0.0.1:0", tls: { certFile: `+edge+`, keyFile: `+edgeKey+`, acme: { domains: [ new.test ], agreeToTerms: true,
      directoryUrl: "https://127.0.0.1:1/dir", storageDir: `+filepath.Join(dir, "acme")+` } } }
admin: { address: "-" }
clusters: [ { name: shop, tls: { certFile: `+client+`, keyFile: `+clientKey+` } } ]
discovery: { consul: { address: "`+meshAgent(t)+`", connect: { service: edge } } }
`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(context.Background(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var r *adminv1.ListCertificatesResponse
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // the authority and the agent are real connections
			if r = s.Certificates(); ok() {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("waited until %s: %v", what, r)
			}
		}
	}
	until("the authority cannot be reached, and the agent has answered", func() bool {
		return len(r.GetCertificates()) == 4 && r.GetCertificates()[1].GetLastError() != "" && r.GetMesh().GetRootsFetchedAt() != nil && r.GetMesh().GetCertificateFetchedAt() != nil
	})
	for i, want := range []struct {
		where, origin, name, serial string
		source                      adminv1.CertificateSource
	}{
		{"listeners[0].tls", edge, "edge.test", "12ab", adminv1.CertificateSource_CERTIFICATE_SOURCE_FILE},
		{"listeners[0].tls.acme", "https://127.0.0.1:1/dir", "new.test", "", adminv1.CertificateSource_CERTIFICATE_SOURCE_ACME},
		{"clusters.shop.tls", client, "client.test", "34cd", adminv1.CertificateSource_CERTIFICATE_SOURCE_FILE},
		{"discovery.consul.connect", "edge", "spiffe://" + meshDomain + "/ns/default/dc/dc1/svc/edge", "9", adminv1.CertificateSource_CERTIFICATE_SOURCE_CONNECT},
	} {
		c := r.GetCertificates()[i]
		if c.GetWhere() != want.where || c.GetOrigin() != want.origin || c.GetNames()[0] != want.name || c.GetSerial() != want.serial || c.GetSource() != want.source {
			t.Errorf("certificate %d: %v", i, c)
		}
		if there := want.serial != ""; there != (c.GetNotAfter() != nil) || there != (c.GetIssuer() != "") || there != (c.GetLastError() == "") || there != (c.GetLastErrorAt() == nil) {
			t.Errorf("certificate %d: %v", i, c)
		}
	}
	if e := r.GetCertificates()[1].GetLastError(); !strings.Contains(e, "connection refused") {
		t.Errorf("the authority: %s", e)
	}
	m := r.GetMesh()
	if m.GetService() != "edge" || m.GetTrustDomain() != meshDomain || len(m.GetRoots()) != 1 || m.GetActiveRoot() != "one" || m.GetLastError() != "" || m.GetStaleSince() != nil ||
		time.Since(m.GetRootsFetchedAt().AsTime()) > time.Minute {
		t.Errorf("the mesh: %v", m)
	}
	save(t, edgeKey, mine) // that of another certificate
	until("the bad key is told", func() bool { return r.GetCertificates()[0].GetLastError() != "" })
	if c := r.GetCertificates()[0]; c.GetSerial() != "12ab" || !strings.Contains(c.GetLastError(), "listeners[0].tls.keyFile") || c.GetLastErrorAt() == nil {
		t.Errorf("%v", c)
	}
	block, _ := pem.Decode([]byte(key))
	if all := protojson.Format(r); strings.Contains(all, "PRIVATE") || strings.Contains(all, string(block.Bytes)) || strings.Contains(all, strings.Split(key, "\n")[1]) {
		t.Error("a key is shown")
	}
	save(t, edgeKey, key)
	until("the good key is back", func() bool { return r.GetCertificates()[0].GetLastError() == "" })
}
