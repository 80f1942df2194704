package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// silent is an authority that takes connections and never answers.
func silent(t *testing.T) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "https://" + l.Addr().String() + "/dir"
}

func begin(t *testing.T, change func(*configv1.Acme)) (*Manager, error) {
	t.Helper()
	config := &configv1.Acme{
		Domains: []string{"a.test"}, AgreeToTerms: true, DirectoryUrl: "https://127.0.0.1:1/dir", HttpAddress: "127.0.0.1:0",
	}
	change(config)
	m, err := New(t.Context(), Options{Acme: config, StateDir: t.TempDir(), Path: "listeners[0].tls.acme", Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Cleanup(m.Close)
	}
	return m, err
}

func mustBegin(t *testing.T, change func(*configv1.Acme)) *Manager {
	t.Helper()
	m, err := begin(t, change)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAConfigurationThatCannotWorkIsRefusedInASentence(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*configv1.Acme)
		want   []string
	}{
		{func(a *configv1.Acme) { a.Domains = nil }, []string{"acme.domains", "at least one"}},
		{func(a *configv1.Acme) { a.Domains = []string{"*.a.test"} }, []string{"acme.domains", "dns-01"}},
		{func(a *configv1.Acme) { a.Domains = []string{"192.0.2.1"} }, []string{"acme.domains", "is an address"}},
		{func(a *configv1.Acme) { a.Domains = []string{"a b.test"} }, []string{"acme.domains", `"a b.test" is no domain name`}},
		{func(a *configv1.Acme) { a.AgreeToTerms = false }, []string{"acme.agreeToTerms", "set this to true"}},
		{func(a *configv1.Acme) { a.StorageDir = file }, []string{"acme.storageDir", file}},
		{func(a *configv1.Acme) { a.CaFile = file }, []string{"acme.caFile", "no certificate in PEM"}},
		{func(a *configv1.Acme) { a.CaFile = file + "x" }, []string{"acme.caFile", "no such file"}},
		{func(a *configv1.Acme) { a.Challenge = "http-01"; a.HttpAddress = taken.Addr().String() }, []string{"acme.httpAddress", "in use"}},
	} {
		_, err := begin(t, c.change)
		if err == nil {
			t.Errorf("accepted; want %q", c.want)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("err = %v, want %q in it", err, want)
			}
		}
	}
}

func TestAnAuthorityThatCannotBeReachedIsTheStatusAndTheHandshakesError(t *testing.T) {
	m := mustBegin(t, func(*configv1.Acme) {})
	deadline := time.Now().Add(10 * time.Second)
	for m.Status()[0].State != Failing {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v", m.Status())
		}
		time.Sleep(10 * time.Millisecond) // a real connection is refused
	}
	s := m.Status()[0]
	if s.Domain != "a.test" || !strings.Contains(s.Error, "connection refused") || !strings.Contains(s.Error, "https://127.0.0.1:1/dir") || s.FailedAt.IsZero() {
		t.Errorf("status %+v", s)
	}
	if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "A.test."}); err == nil || !strings.Contains(err.Error(), "no certificate for \"a.test\" yet") ||
		!strings.Contains(err.Error(), "connection refused") {
		t.Errorf("err = %v", err)
	}
}

func TestCloseDoesNotWaitForAnAuthorityThatDoesNotAnswer(t *testing.T) {
	m := mustBegin(t, func(a *configv1.Acme) { a.DirectoryUrl = silent(t) })
	if s := m.Status()[0]; s.State != Pending {
		t.Errorf("status %+v", s)
	}
	start := time.Now()
	m.Close()
	m.Close()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := m.issuer.Issue(context.Background(), &x509.CertificateRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after Close: %v", err)
	}
}

// awaited is a challenge as acmez hands it over.
func awaited(kind string) acme.Challenge {
	return acme.Challenge{
		Type: kind, Token: "tok", KeyAuthorization: "tok.thumbprint", Identifier: acme.Identifier{Type: "dns", Value: "a.test"},
	}
}

func TestAReplicaAnswersTheChallengeThatAnotherAwaits(t *testing.T) {
	dir := t.TempDir()
	shared := func(a *configv1.Acme) { a.StorageDir = dir }
	one, two := mustBegin(t, shared), mustBegin(t, shared)
	hello := &tls.ClientHelloInfo{ServerName: "a.test", SupportedProtos: []string{"acme-tls/1"}}
	if _, err := two.GetCertificate(hello); err == nil {
		t.Fatal("answered before it was asked")
	}
	if err := one.issuer.Present(t.Context(), awaited("tls-alpn-01")); err != nil {
		t.Fatal(err)
	}
	cert, err := two.GetCertificate(hello)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "a.test" {
		t.Errorf("%v, %v", leaf, err)
	}
	if _, err := two.GetCertificate(&tls.ClientHelloInfo{ServerName: "../a.test", SupportedProtos: []string{"acme-tls/1"}}); err == nil {
		t.Error("answered for another name")
	}
	if err := one.issuer.CleanUp(t.Context(), awaited("tls-alpn-01")); err != nil {
		t.Fatal(err)
	}
	if _, err := two.GetCertificate(hello); err == nil {
		t.Error("answered after it was over")
	}
}

// certmagic's jobs are not waited for, and may come to their point later.
func TestNothingIsWrittenAfterClose(t *testing.T) {
	dir := t.TempDir()
	m := mustBegin(t, func(a *configv1.Acme) { a.StorageDir = dir })
	storage := m.config.Load().Storage
	if err := storage.Store(t.Context(), "a", []byte("b")); err != nil {
		t.Fatal(err)
	}
	m.Close()
	for _, err := range []error{storage.Store(t.Context(), "b", []byte("c")), storage.Delete(t.Context(), "a"), storage.Lock(t.Context(), "d")} {
		if !errors.Is(err, errClosed) {
			t.Errorf("err = %v, want %v", err, errClosed)
		}
	}
	if b, err := storage.Load(t.Context(), "a"); string(b) != "b" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestTheHTTPServerAnswersItsChallengeAndNothingElse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	m := mustBegin(t, func(a *configv1.Acme) { a.Challenge, a.HttpAddress = "http-01", address })
	if err := m.issuer.Present(t.Context(), awaited("http-01")); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	for _, c := range []struct {
		method, host, path string
		want               string // "": refused
	}{
		{"GET", "a.test", "/.well-known/acme-challenge/tok", "tok.thumbprint"},
		{"GET", "A.TEST:80", "/.well-known/acme-challenge/tok", "tok.thumbprint"},
		{"POST", "a.test", "/.well-known/acme-challenge/tok", ""},
		{"GET", "b.test", "/.well-known/acme-challenge/tok", ""},
		{"GET", "a.test", "/.well-known/acme-challenge/other", ""},
		{"GET", "a.test", "/.well-known/acme-challenge/", ""},
		{"GET", "a.test", "/", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+address+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = c.host
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if refused := answer.StatusCode == http.StatusNotFound; err != nil || refused != (c.want == "") || !refused && string(body) != c.want {
			t.Errorf("%s %s of %s: %d %q, %v", c.method, c.path, c.host, answer.StatusCode, body, err)
		}
	}
	if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.test", SupportedProtos: []string{"acme-tls/1"}}); err == nil {
		t.Error("it answers tls-alpn-01 too")
	}
}

func TestALockIsOneManagersUntilItGivesItBack(t *testing.T) {
	dir := t.TempDir()
	one, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Lock(t.Context(), "issue_cert_a.test"); err != nil {
		t.Fatal(err)
	}
	if err := two.Lock(t.Context(), "issue_cert_b.test"); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := two.Lock(ended, "issue_cert_a.test"); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	got := make(chan error)
	go func() { got <- two.Lock(t.Context(), "issue_cert_a.test") }()
	if err := one.Unlock(t.Context(), "issue_cert_a.test"); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := one.Unlock(t.Context(), "issue_cert_a.test"); err == nil {
		t.Error("unlocked twice")
	}
	for _, name := range []string{"issue_cert_a.test", "issue_cert_b.test"} {
		if err := two.Unlock(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatTheLibrariesSayIsDebugButForErrorsAndTheirDebuggingIsDropped(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	library := zap.New(core{log: log}).Named("obtain").With(zap.String("identifier", "a.test"))
	library.Debug("one")
	library.Info("two", zap.Strings("sans", []string{"a.test"}))
	library.Error("three", zap.Error(errors.New("no")))
	library.Error("could not get certificate from issuer", zap.Error(errors.New("no")))
	library.Error("job failed", zap.Error(fmt.Errorf("six: %w", context.Canceled)))
	other := slog.New(quiet{log.Handler()})
	other.Debug("four")
	other.Error("five")
	for _, want := range []string{
		`level=DEBUG msg="certificates: two" identifier=a.test sans=[a.test]`,
		`level=WARN msg="certificates: three" identifier=a.test error=no`,
		`level=DEBUG msg="certificates: could not get certificate from issuer"`,
		`level=DEBUG msg="certificates: job failed"`,
		`level=DEBUG msg=five`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("want %s in\n%s", want, &text)
		}
	}
	if strings.Contains(text.String(), "one") || strings.Contains(text.String(), "four") {
		t.Errorf("their debugging is there:\n%s", &text)
	}
}

func TestNamesMayBeAskedForWhileEverythingEnds(t *testing.T) {
	m := mustBegin(t, func(*configv1.Acme) {})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				m.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.test"})
				m.Status()
			}
		})
	}
	m.Close()
	wg.Wait()
}
