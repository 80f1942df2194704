package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs certificates of tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serials atomic.Int64

func newAuthority(t testing.TB, name string) *authority {
	a := &authority{t: t}
	return a.below(name, nil)
}

// below is an authority that parent vouches for; nil: itself.
func (a *authority) below(name string, parent *authority) *authority {
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotAfter: time.Now().Add(240 * time.Hour),
	}
	n := &authority{t: a.t}
	n.cert, n.key = sign(a.t, tmpl, parent)
	return n
}

// issue signs a certificate for servers and clients, valid from an hour ago for a day; change may change it before.
func (a *authority) issue(change func(*x509.Certificate)) *leaf {
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(tmpl)
	}
	l := &leaf{}
	l.cert, l.key = sign(a.t, tmpl, a)
	l.chain = []*x509.Certificate{l.cert, a.cert}
	return l
}

func (a *authority) named(names ...string) *leaf {
	return a.issue(func(c *x509.Certificate) {
		c.Subject.CommonName = names[0]
		for _, n := range names {
			if ip := net.ParseIP(n); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, n)
			}
		}
	})
}

func sign(t testing.TB, tmpl *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber = big.NewInt(1000 + serials.Add(1))
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-time.Hour)
	}
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) revoke(next time.Time, certs ...*x509.Certificate) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(serials.Add(1)), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// leaf is a certificate with its key.
type leaf struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate // as it is shown
}

func (l *leaf) pair() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: l.key, Leaf: l.cert}
	for _, x := range l.chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

func chainPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func (l *leaf) keyPEM(t testing.TB) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(l.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// folder is where a test's files are.
type folder struct {
	t    testing.TB
	path string
}

func newFolder(t testing.TB) folder { return folder{t, t.TempDir()} }

func (f folder) write(name string, data []byte) string {
	f.t.Helper()
	path := filepath.Join(f.path, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f folder) pair(name string, l *leaf) (cert, key string) {
	return f.write(name+".pem", chainPEM(l.chain...)), f.write(name+".key", l.keyPEM(f.t))
}

// book is a log that tests read.
type book struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *book) log() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// shake makes one connection, over which one byte goes each way (so that the client has read session tickets), and closes it.
func shake(t testing.TB, server, client *tls.Config) (ofServer, ofClient tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a, b := socket(t)
	s, c := tls.Server(a, server), tls.Client(b, client)
	var done sync.WaitGroup
	done.Go(func() {
		defer s.Close()
		if serverErr = s.HandshakeContext(ctx); serverErr == nil {
			ofServer = s.ConnectionState()
			_, _ = s.Write([]byte{1})
			_, _ = s.Read(make([]byte, 1))
		}
	})
	if clientErr = c.HandshakeContext(ctx); clientErr == nil {
		if _, clientErr = c.Read(make([]byte, 1)); clientErr == nil {
			_, clientErr = c.Write([]byte{1})
		}
		ofClient = c.ConnectionState()
	}
	c.Close()
	done.Wait()
	return
}

// socket is a connection over loopback.
func socket(t testing.TB) (accepted, dialled net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close(); dialled.Close() })
	return accepted, dialled
}
