package acme_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/lb/acme"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

// often is how often the managers of these tests look at their certificates: authorities here issue for seconds.
const often = 100 * time.Millisecond

// logs is what a manager wrote.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start begins to manage; the log is at its most talkative.
func start(t *testing.T, config *configv1.Acme, check time.Duration) (*acme.Manager, *logs) {
	t.Helper()
	log := &logs{}
	m, err := acme.New(t.Context(), acme.Options{
		Acme: config, Path: "listeners[0].tls.acme", CheckEvery: check,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if text := log.String(); strings.Contains(text, "PRIVATE KEY") {
			t.Error("the log has a private key in it")
		} else if t.Failed() {
			t.Logf("---- log\n%s", text)
		}
	})
	return m, log
}

// echo is a TLS listener as Trunkline's is: it sends back what it gets.
type echo struct {
	addr string
	mu   sync.Mutex
	from *acme.Manager
}

func (e *echo) show(m *acme.Manager) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.from = m
}

func (e *echo) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	e.mu.Lock()
	m := e.from
	e.mu.Unlock()
	return m.GetCertificate(hello)
}

func listen(t *testing.T) *echo {
	t.Helper()
	e := &echo{addr: harness.FreeAddr(t)}
	l, err := tls.Listen("tcp", e.addr, &tls.Config{GetCertificate: e.certificate, NextProtos: []string{"h2", "acme-tls/1"}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				io.Copy(conn, conn)
			})
		}
	})
	return e
}

// dial connects as a client that trusts the authority.
func (e *echo) dial(t *testing.T, p *pebble, name string) (*tls.Conn, error) {
	t.Helper()
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{RootCAs: p.roots, ServerName: name, NextProtos: []string{"h2"}}}
	conn, err := d.DialContext(t.Context(), "tcp", e.addr)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// serial is the serial number of what a new client is shown; "" if it cannot connect.
func (e *echo) serial(t *testing.T, p *pebble, name string) string {
	conn, err := e.dial(t, p, name)
	if err != nil {
		return ""
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

func (e *echo) awaitCertificate(t *testing.T, p *pebble, name string) (serial string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "a certificate for "+name, func() bool {
		serial = e.serial(t, p, name)
		return serial != ""
	})
	return serial
}

func says(t *testing.T, conn *tls.Conn, text string) {
	t.Helper()
	back := make([]byte, len(text))
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != text {
		t.Fatalf("%q came back: %v", back, err)
	}
}

func TestACertificateIsIssuedByTLSALPNAndKeptOverARestart(t *testing.T) {
	e := listen(t)
	p := startPebble(t, 90*24*time.Hour, e.addr, harness.FreeAddr(t))
	dir := filepath.Join(t.TempDir(), "keys")
	config := &configv1.Acme{
		Domains: []string{"a.trunkline.test", "Bücher.trunkline.test"}, Email: "ops@trunkline.test", AgreeToTerms: true,
		DirectoryUrl: p.directory, CaFile: p.caFile, StorageDir: dir,
	}
	m, log := start(t, config, 0)
	e.show(m)
	if _, err := e.dial(t, p, "a.trunkline.test"); err == nil {
		t.Error("there was a certificate at once")
	}
	first, second := e.awaitCertificate(t, p, "a.trunkline.test"), e.awaitCertificate(t, p, "xn--bcher-kva.trunkline.test")
	if bare := serialWithoutName(t, e); bare != first {
		t.Errorf("a client that names nobody is shown %s, want that of the first domain, %s", bare, first)
	}
	for i, s := range m.Status() {
		if s.State != acme.Valid || s.Serial != []string{first, second}[i] || time.Until(s.NotAfter) < 80*24*time.Hour || s.Error != "" {
			t.Errorf("status %+v", s)
		}
	}
	if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "b.trunkline.test"}); err == nil || !strings.Contains(err.Error(), "not among the domains") {
		t.Errorf("another name: %v", err)
	}
	if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.trunkline.test", SupportedProtos: []string{"acme-tls/1"}}); err == nil {
		t.Error("a challenge was answered that nobody had made")
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("a warning was logged though nothing was wrong:\n%s", log)
	}
	onlyTheOwnerMayRead(t, dir)
	m.Close()
	p.kill() // nobody can be asked

	again, log := start(t, config, 0)
	e.show(again)
	if got := e.serial(t, p, "a.trunkline.test"); got != first {
		t.Errorf("after a restart: serial %q, want %q", got, first)
	}
	if got := e.serial(t, p, "xn--bcher-kva.trunkline.test"); got != second {
		t.Errorf("after a restart: serial %q, want %q", got, second)
	}
	again.Close()
	if strings.Contains(log.String(), "obtaining certificate") {
		t.Errorf("something was asked for anew:\n%s", log)
	}
}

func serialWithoutName(t *testing.T, e *echo) string {
	t.Helper()
	conn, err := tls.Dial("tcp", e.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

func onlyTheOwnerMayRead(t *testing.T, dir string) {
	t.Helper()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v, %v", dir, info.Mode(), err)
	}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestACertificateIsIssuedByHTTP(t *testing.T) {
	e, http := listen(t), harness.FreeAddr(t)
	p := startPebble(t, 90*24*time.Hour, harness.FreeAddr(t), http)
	m, _ := start(t, &configv1.Acme{
		Domains: []string{"a.trunkline.test"}, AgreeToTerms: true, Challenge: "http-01", HttpAddress: http,
		DirectoryUrl: p.directory, CaFile: p.caFile, StorageDir: t.TempDir(),
	}, 0)
	e.show(m)
	e.awaitCertificate(t, p, "a.trunkline.test")
	m.Close()
	if l, err := net.Listen("tcp", http); err != nil {
		t.Errorf("the address is still taken: %v", err)
	} else {
		l.Close()
	}
}

func TestACertificateIsRenewedWithoutCuttingAConnectionAndTheLastOneStaysWhenTheAuthorityIsAway(t *testing.T) {
	// certmagic waits after a failed renewal by the domain's name, in the whole process: each run has its own.
	domain := strings.ToLower(rand.Text()) + ".trunkline.test"
	e := listen(t)
	p := startPebble(t, 12*time.Second, e.addr, harness.FreeAddr(t))
	m, log := start(t, &configv1.Acme{
		Domains: []string{domain}, AgreeToTerms: true,
		DirectoryUrl: p.directory, CaFile: p.caFile, StorageDir: t.TempDir(),
	}, often)
	e.show(m)
	first := e.awaitCertificate(t, p, domain)
	conn, err := e.dial(t, p, domain)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	says(t, conn, "before")
	var last string
	harness.Eventually(t, 30*time.Second, "another certificate", func() bool {
		last = e.serial(t, p, domain)
		if last == "" {
			t.Fatal("a client found no certificate")
		}
		return last != first
	})
	says(t, conn, "after")

	p.kill()
	harness.Eventually(t, 30*time.Second, "a renewal to fail", func() bool {
		last = m.Status()[0].Serial
		return m.Status()[0].State == acme.Overdue
	})
	if got := e.serial(t, p, domain); got != last {
		t.Errorf("with the authority away: serial %q, want %q", got, last)
	}
	if s := m.Status()[0]; !strings.Contains(s.Error, "connection refused") || s.FailedAt.IsZero() {
		t.Errorf("status %+v", s)
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Error("nothing was logged of it")
	}
	says(t, conn, "still")
}

func TestAnAuthorityThatHasForgottenTheAccountIsGivenAnother(t *testing.T) {
	e := listen(t)
	p := startPebble(t, 90*24*time.Hour, e.addr, harness.FreeAddr(t))
	config := &configv1.Acme{AgreeToTerms: true, StorageDir: t.TempDir(), DirectoryUrl: p.directory, CaFile: p.caFile}
	for _, domain := range []string{"a.trunkline.test", "b.trunkline.test"} {
		config.Domains = []string{domain}
		m, _ := start(t, config, 0)
		e.show(m)
		e.awaitCertificate(t, p, domain)
		m.Close()
		p.kill()
		p.start(t) // it has no disk: it knows nobody
	}
}
