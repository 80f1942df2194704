package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// authority signs certificates of tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// serials gives each certificate its own number.
var serials atomic.Int64

func newAuthority(t testing.TB, name string) *authority {
	a := &authority{t: t}
	a.cert, a.key = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature}, nil)
	return a
}

// issue signs a certificate for servers and clients, of these names (DNS, IP addresses, URIs); change may change it before.
func (a *authority) issue(change func(*x509.Certificate), names ...string) *pair {
	a.t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for i, n := range names {
		if i == 0 {
			c.Subject.CommonName = n
		}
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			c.URIs = append(c.URIs, u)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	if change != nil {
		change(c)
	}
	p := &pair{t: a.t, by: a}
	p.cert, p.key = sign(a.t, c, a)
	return p
}

func sign(t testing.TB, c *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(0x1000 + serials.Add(1))
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-time.Hour)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(24 * time.Hour)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// pool is the authority alone, as roots.
func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// file is the authority's certificate as a PEM file.
func (a *authority) file() string {
	return write(a.t, filepath.Join(a.t.TempDir(), "ca.pem"), block("CERTIFICATE", a.cert.Raw))
}

// revoke is a revocation list, PEM.
func (a *authority) revoke(certs ...*x509.Certificate) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(serials.Add(1)), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return block("X509 CRL", der)
}

// answer is what the authority's OCSP responder says of a certificate: it is good.
func (a *authority) answer(c *x509.Certificate) []byte {
	b, err := ocsp.CreateResponse(a.cert, a.cert, ocsp.Response{Status: ocsp.Good, SerialNumber: c.SerialNumber,
		ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, a.key)
	if err != nil {
		a.t.Error(err)
	}
	return b
}

// pair is a certificate and its key.
type pair struct {
	t         testing.TB
	by        *authority
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	crt, keyf string // its files, once there are
}

// files writes the pair, once.
func (p *pair) files() (cert, key string) {
	if p.crt == "" {
		dir := p.t.TempDir()
		p.crt, p.keyf = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		p.put(p)
	}
	return p.crt, p.keyf
}

// put replaces what the pair's files hold by another pair.
func (p *pair) put(by *pair) {
	p.t.Helper()
	write(p.t, p.crt, append(block("CERTIFICATE", by.cert.Raw), block("CERTIFICATE", by.by.cert.Raw)...))
	der, err := x509.MarshalPKCS8PrivateKey(by.key)
	if err != nil {
		p.t.Fatal(err)
	}
	write(p.t, p.keyf, block("PRIVATE KEY", der))
}

// yaml is the pair as configuration: certFile and keyFile.
func (p *pair) yaml() string {
	cert, key := p.files()
	return "certFile: " + cert + ", keyFile: " + key
}

func (p *pair) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.cert.Raw}, PrivateKey: p.key, Leaf: p.cert}
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// write replaces a file in one step.
func write(t testing.TB, path string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}
