// Package acme owns certificates that an authority issues by ACME (RFC 8555): their account, their storage, the answers to its
// challenges, and their renewal; it must not open the listener that shows them, nor know what is served there.
//
// certmagic keeps the certificates and decides when to renew them. The talk with the authority is ours (see issuer), for
// certmagic's own opens a listener for each challenge if it finds none: were it ever quicker than Trunkline at Trunkline's port, it
// would take it. Ours are answered by [Manager.GetCertificate] on Trunkline's listener, or by one HTTP server that is there from New to
// Close. They are kept in the storage too, so that whichever replica the authority asks can answer.
//
// certmagic's queue of jobs, and how long it waits after a renewal has failed, by the domain's name, belong to the whole process:
// two Managers with one domain renew it one after the other, and share the wait.
package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
	"golang.org/x/net/idna"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Options say what New needs.
type Options struct {
	Acme *configv1.Acme
	// StateDir is where the folder acme is made if Acme names no storage.
	StateDir string
	// Path is the configuration's key, "listeners[0].tls.acme", for errors.
	Path string
	Log  *slog.Logger
	// CheckEvery is how often certificates are looked at. 0: ten minutes. A certificate is renewed when a third of its life is left, when
	// its authority says so (RFC 9773), and in any case when less than five such checks are left.
	CheckEvery time.Duration
}

// Manager has the certificates of one configuration of ACME. Its methods may be called by several goroutines at once.
type Manager struct {
	names   []string // ASCII, lower case; set once in New
	issuer  *issuer
	store   *store
	cache   *certmagic.Cache
	config  atomic.Pointer[certmagic.Config] // set once in New, but the cache's goroutine is there before
	http    *answers                         // nil: tls-alpn-01
	log     *slog.Logger
	cancel  context.CancelFunc
	closing sync.Once

	mu     sync.Mutex
	failed map[string]failure // guarded by mu; the last attempt, if it failed
	loaded map[string]chan struct{}
}

type failure struct {
	err error
	at  time.Time
}

// New begins to manage the certificates. It does not wait for the authority: certificates that are in the storage are there when it
// returns, others come, or are tried again and again, in the background until Close or until ctx ends. Errors are about the
// configuration and about what it names: the storage, caFile, httpAddress.
func New(ctx context.Context, o Options) (*Manager, error) {
	fail := func(key string, err error) (*Manager, error) {
		return nil, fmt.Errorf("%s.%s: %w", o.Path, key, err)
	}
	names, err := normalise(o.Acme.GetDomains())
	if err != nil {
		return fail("domains", err)
	}
	if !o.Acme.GetAgreeToTerms() {
		return fail("agreeToTerms", errors.New("an authority issues certificates only to those who agree to its terms: read them, then set this to true"))
	}
	storage, err := openStore(o.storage())
	if err != nil {
		return fail("storageDir", err)
	}
	m := &Manager{names: names, log: o.Log, store: storage, failed: map[string]failure{}, loaded: map[string]chan struct{}{}}
	m.issuer, err = newIssuer(o.Acme, names, storage, o.Log)
	if err != nil {
		return fail("caFile", err)
	}
	if m.issuer.challenge == acme.ChallengeTypeHTTP01 {
		if m.http, err = listen(o.Acme.GetHttpAddress(), m.issuer, o.Log); err != nil {
			return fail("httpAddress", err)
		}
	}
	logger := zap.New(core{log: o.Log})
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config.Load(), nil },
		RenewCheckInterval: o.CheckEvery,
		Logger:             logger,
	})
	config := certmagic.New(m.cache, certmagic.Config{
		Issuers:            []certmagic.Issuer{m.issuer},
		Storage:            storage,
		KeySource:          certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		RenewalWindowRatio: certmagic.DefaultRenewalWindowRatio,
		OnEvent:            m.event,
		ShouldEmitFunc:     func(string) bool { return false }, // of each handshake
		Logger:             logger,
	})
	m.config.Store(config)
	m.manage(ctx, config)
	return m, nil
}

// manage starts the background work and waits for what is in the storage.
func (m *Manager) manage(ctx context.Context, config *certmagic.Config) {
	ctx, m.cancel = context.WithCancel(ctx)
	for _, name := range m.names {
		if config.Storage.Exists(ctx, certmagic.StorageKeys.SiteCert(m.issuer.IssuerKey(), name)) {
			m.loaded[name] = make(chan struct{})
		}
	}
	waiting := maps.Clone(m.loaded)
	if err := config.ManageAsync(ctx, m.names); err != nil {
		m.log.Error("certificates are not managed", "error", err)
	}
	// Loading may ask an OCSP responder: it must not hold up the start. What cannot be loaded certmagic says.
	patience, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, ready := range waiting {
		select {
		case <-ready:
		case <-patience.Done():
		}
	}
}

// Close ends the background work. Nothing is written after it, certificates stay in the storage.
func (m *Manager) Close() {
	m.closing.Do(func() {
		m.cancel()
		m.cache.Stop()
		m.issuer.close()
		m.store.close()
		if m.http != nil {
			m.http.close()
		}
	})
}

// GetCertificate is for tls.Config: the certificate for the name that the client asks for, for the first of the domains if it asks for
// none, and the answer to a challenge (RFC 8737) where the client is the authority. The listener has to offer acme-tls/1. For names
// that are not among the domains, and as long as there is no certificate, the error says so.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) {
		return m.answer(name)
	}
	if name == "" {
		name = m.names[0]
	}
	if cert := m.current(name); cert != nil {
		return &cert.Certificate, nil
	}
	if !slices.Contains(m.names, name) {
		return nil, fmt.Errorf("acme: %q is not among the domains of this listener's certificates", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f, ok := m.failed[name]; ok {
		return nil, fmt.Errorf("acme: there is no certificate for %q yet: %w", name, f.err)
	}
	return nil, fmt.Errorf("acme: there is no certificate for %q yet", name)
}

// answer is the certificate that proves to the authority that the name is ours.
func (m *Manager) answer(name string) (*tls.Certificate, error) {
	if m.issuer.challenge != acme.ChallengeTypeTLSALPN01 {
		return nil, fmt.Errorf("acme: no challenge is answered here for %q", name)
	}
	challenge, err := m.issuer.load(name)
	if err != nil {
		return nil, fmt.Errorf("acme: no challenge is awaited for %q", name)
	}
	return acmez.TLSALPN01ChallengeCert(challenge)
}

// current is the certificate for the name that is valid longest; nil if there is none.
func (m *Manager) current(name string) *certmagic.Certificate {
	var best *certmagic.Certificate
	certs := m.cache.AllMatchingCertificates(name)
	for i := range certs {
		if best == nil || certs[i].Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best = &certs[i]
		}
	}
	return best
}

// event is what certmagic tells; it is called in its goroutines.
func (m *Manager) event(_ context.Context, event string, data map[string]any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_failed":
		if err, ok := data["error"].(error); ok {
			m.failed[name] = failure{err, time.Now()}
		}
	case "cert_obtained":
		delete(m.failed, name)
		m.log.Info("a certificate was issued", "domain", name, "renewal", data["renewal"], "authority", m.issuer.directory)
	case "cached_managed_cert":
		names, _ := data["sans"].([]string)
		for _, name := range names {
			delete(m.failed, name) // also where another replica has renewed it
			if ready, ok := m.loaded[name]; ok {
				close(ready)
				delete(m.loaded, name)
			}
		}
	}
	return nil
}

// normalise returns the names as they stand in certificates.
func normalise(domains []string) ([]string, error) {
	var names []string
	for _, domain := range domains {
		name, err := idna.Lookup.ToASCII(strings.TrimSuffix(domain, "."))
		switch {
		case strings.HasPrefix(domain, "*"):
			return nil, fmt.Errorf("%q: a wildcard needs the challenge dns-01, which Trunkline does not know: list the names one by one", domain)
		case net.ParseIP(domain) != nil:
			return nil, fmt.Errorf("%q is an address: certificates are issued for names", domain)
		case err != nil || !certmagic.SubjectQualifiesForCert(name):
			return nil, fmt.Errorf("%q is no domain name", domain)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("want at least one domain")
	}
	return names, nil
}
