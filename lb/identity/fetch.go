package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/trunkline/trunkline/lb/files"
)

const (
	maxKeySet    = 1 << 20
	maxRedirects = 3
	fetchTime    = 10 * time.Second
)

// fetcher gets a key set over HTTP. Owned by its keeper's goroutine.
type fetcher struct {
	place     place
	etag, url string // of the last answer
}

// fetch returns the text of the key set, nil if it is the same as before. Errors have no more of an answer than its status.
func (f *fetcher) fetch(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	if f.place.caFile != "" {
		pool, err := authorities(f.place.caFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	client := &http.Client{Transport: transport, CheckRedirect: redirect}
	from := f.place.url
	if from == "" {
		var err error
		if from, err = f.discover(ctx, client); err != nil {
			return nil, err
		}
	}
	if from != f.url {
		f.forget()
	}
	text, etag, err := get(ctx, client, from, f.etag)
	if err != nil {
		return nil, err
	}
	f.url, f.etag = from, etag
	return text, nil
}

func (f *fetcher) forget() { f.etag, f.url = "", "" }

// discover finds the key set's address (OpenID Connect Discovery 1.0 section 4).
func (f *fetcher) discover(ctx context.Context, client *http.Client) (string, error) {
	at := discovery(f.place.issuer)
	text, _, err := get(ctx, client, at, "")
	if err != nil {
		return "", err
	}
	var found struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return "", fmt.Errorf("%s is not a discovery document (JSON with issuer and jwks_uri): give jwksUrl", shown(at))
	}
	if found.Issuer != f.place.issuer {
		// Section 4.3: else one issuer could speak for another.
		return "", fmt.Errorf("%s is of the issuer %.200q, not of %q: write the issuer as it calls itself", shown(at), found.Issuer, f.place.issuer)
	}
	u, err := url.Parse(found.Keys)
	secure := strings.HasPrefix(f.place.issuer, "https:")
	if err != nil || u.Host == "" || u.Scheme != "https" && (secure || u.Scheme != "http") {
		return "", fmt.Errorf("%s has a jwks_uri that is no https URL: give jwksUrl", shown(at))
	}
	return found.Keys, nil
}

func discovery(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// get returns nil for what has not changed since that etag.
func get(ctx context.Context, client *http.Client, from, etag string) (text []byte, newer string, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, "", errors.New("the address cannot be read: write it as https://host/path")
	}
	q.Header.Set("Accept", "application/json")
	q.Header.Set("User-Agent", "trunkline")
	if etag != "" {
		q.Header.Set("If-None-Match", etag)
	}
	p, err := client.Do(q)
	if err != nil {
		// net/http's own error has the address with its query.
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err
		}
		var stranger x509.UnknownAuthorityError
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("no answer within %v", fetchTime)
		case errors.As(err, &stranger):
			err = fmt.Errorf("%w; caFile names authorities to trust", err)
		}
		return nil, "", fmt.Errorf("GET %s: %w", shown(from), err)
	}
	defer p.Body.Close()
	switch {
	case p.StatusCode == http.StatusNotModified && etag != "":
		return nil, etag, nil
	case p.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("GET %s: the answer is %d %s, not 200", shown(from), p.StatusCode, http.StatusText(p.StatusCode))
	}
	text, err = io.ReadAll(io.LimitReader(p.Body, maxKeySet+1))
	if err != nil {
		return nil, "", fmt.Errorf("GET %s: %w", shown(from), err)
	}
	if len(text) > maxKeySet {
		return nil, "", fmt.Errorf("GET %s: the answer has more than %d bytes", shown(from), maxKeySet)
	}
	return text, p.Header.Get("Etag"), nil
}

// redirect follows a few, and never from https to http.
func redirect(q *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if q.URL.Scheme != "https" && (via[0].URL.Scheme == "https" || via[len(via)-1].URL.Scheme == "https") {
		return errors.New("an https address redirects to one that is not")
	}
	return nil
}

// shown is an address for logs: without what may be secret.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that cannot be read"
	}
	u.User, u.RawQuery, u.Fragment, u.RawFragment, u.ForceQuery = nil, "", "", "", false
	return u.String()
}

// authorities reads certificates in PEM.
func authorities(file string) (*x509.CertPool, error) {
	text, err := files.Read(file, maxKeySet)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM: -----BEGIN CERTIFICATE-----", file)
	}
	return pool, nil
}
