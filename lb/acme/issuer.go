package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// patience is how long one certificate may take, from the directory to its download.
const patience = 5 * time.Minute

// issuer talks with the authority; it is certmagic's Issuer and RenewalInfoGetter, and acmez's Solver.
type issuer struct {
	directory, email, caFile, challenge string   // set once in newIssuer
	names                               []string // of the Manager

	storage certmagic.Storage
	log     *slog.Logger // acmez's

	running sync.RWMutex // held for reading while a certificate is asked for
	closed  bool         // guarded by running
}

func newIssuer(a *configv1.Acme, names []string, storage certmagic.Storage, log *slog.Logger) (*issuer, error) {
	i := &issuer{
		directory: a.GetDirectoryUrl(), email: a.GetEmail(), caFile: a.GetCaFile(), challenge: a.GetChallenge(),
		names: names, storage: storage, log: slog.New(quiet{log.Handler()}),
	}
	if i.directory == "" {
		i.directory = certmagic.LetsEncryptProductionCA
	}
	if i.challenge == "" {
		i.challenge = acme.ChallengeTypeTLSALPN01
	}
	_, err := i.roots()
	return i, err
}

// close waits for what is under way, which the Manager has cancelled, and refuses what comes later.
func (i *issuer) close() {
	i.running.Lock()
	defer i.running.Unlock()
	i.closed = true
}

// roots are the authorities to trust for the directory; nil: the system's. The file is read each time, since it may change.
func (i *issuer) roots() (*x509.CertPool, error) {
	if i.caFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(i.caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", i.caFile)
	}
	return pool, nil
}

// with calls f with a client of the authority.
func (i *issuer) with(ctx context.Context, f func(context.Context, *acmez.Client) error) error {
	i.running.RLock()
	defer i.running.RUnlock()
	if i.closed {
		return context.Canceled
	}
	roots, err := i.roots()
	if err != nil {
		return fmt.Errorf("caFile: %w", err)
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f(ctx, &acmez.Client{
		Client: &acme.Client{
			Directory:   i.directory,
			HTTPClient:  &http.Client{Transport: transport, Timeout: time.Minute},
			UserAgent:   "trunkline",
			PollTimeout: patience,
			Logger:      i.log,
		},
		ChallengeSolvers: map[string]acmez.Solver{i.challenge: i},
	})
}

// IssuerKey names the authority in the storage.
func (i *issuer) IssuerKey() string {
	key := i.directory
	if u, err := url.Parse(key); err == nil {
		key = u.Host + strings.ReplaceAll(strings.TrimSuffix(u.Path, "/"), "/", "-")
	}
	return key
}

// Issue asks for a certificate.
func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	var chains []acme.Certificate
	err := i.with(ctx, func(ctx context.Context, client *acmez.Client) error {
		for again := true; ; again = false {
			account, err := i.account(ctx, client)
			if err != nil {
				return fmt.Errorf("registering an account with %s: %w", i.directory, err)
			}
			order, err := acmez.OrderParametersFromCSR(account, csr)
			if err != nil {
				return err
			}
			chains, err = client.ObtainCertificate(ctx, order)
			var problem acme.Problem
			if again && errors.As(err, &problem) && problem.Type == acme.ProblemTypeAccountDoesNotExist {
				// The authority has forgotten us, as private ones do that are set up anew.
				if err := i.storage.Delete(ctx, i.accountKey()); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("asking %s: %w", i.directory, err)
			}
			return nil
		}
	})
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, fmt.Errorf("%s issued no certificate", i.directory)
	}
	return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM, Metadata: chains[0]}, nil
}

// GetRenewalInfo asks when the certificate should be renewed (RFC 9773).
func (i *issuer) GetRenewalInfo(ctx context.Context, cert certmagic.Certificate) (info acme.RenewalInfo, err error) {
	err = i.with(ctx, func(ctx context.Context, client *acmez.Client) error {
		info, err = client.GetRenewalInfo(ctx, cert.Leaf)
		if errors.Is(err, acme.ErrUnsupported) { // then its age decides, and it need not be asked again soon
			tomorrow := time.Now().Add(24 * time.Hour)
			info, err = acme.RenewalInfo{RetryAfter: &tomorrow}, nil
		}
		return err
	})
	return info, err
}

// accountKey is where the account is kept: one for each authority and address.
func (i *issuer) accountKey() string {
	user := i.email
	if user == "" {
		user = "default"
	}
	return path.Join("accounts", certmagic.StorageKeys.Safe(i.IssuerKey()), certmagic.StorageKeys.Safe(user))
}

// account is the account, registered now if there is none.
func (i *issuer) account(ctx context.Context, client *acmez.Client) (account acme.Account, err error) {
	at := i.accountKey()
	if err := i.storage.Lock(ctx, at); err != nil {
		return account, err
	}
	defer func() {
		err = errors.Join(err, i.storage.Unlock(ctx, at))
	}()
	text, err := i.storage.Load(ctx, path.Join(at, "key.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		key, err := certmagic.StandardKeyGenerator{KeyType: certmagic.P256}.GenerateKey()
		if err != nil {
			return account, err
		}
		if text, err = certmagic.PEMEncodePrivateKey(key); err != nil {
			return account, err
		}
		if err := i.storage.Store(ctx, path.Join(at, "key.pem"), text); err != nil {
			return account, err
		}
	} else if err != nil {
		return account, err
	}
	key, err := certmagic.PEMDecodePrivateKey(text)
	if err != nil {
		return account, errors.New("the account's key in the storage cannot be read") // and must not be shown
	}
	text, err = i.storage.Load(ctx, path.Join(at, "account.json"))
	if err == nil {
		err = json.Unmarshal(text, &account)
		account.PrivateKey = key
		return account, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return account, err
	}
	account = acme.Account{TermsOfServiceAgreed: true, PrivateKey: key} // New has asked for it
	if i.email != "" {
		account.Contact = []string{"mailto:" + i.email}
	}
	if account, err = client.NewAccount(ctx, account); err != nil {
		return account, err
	}
	if text, err = json.Marshal(account); err != nil { // without its key
		return account, err
	}
	return account, i.storage.Store(ctx, path.Join(at, "account.json"), text)
}
