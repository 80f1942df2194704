package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/lb/files"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// sessionsPerClient is how many endpoints a Client keeps a session of.
const sessionsPerClient = 1024

// ClientOptions are what a Client is made of.
type ClientOptions struct {
	TLS     *configv1.UpstreamTLS // nil: as an empty one
	Path    string                // of TLS in the configuration, "clusters[0].tls"
	Log     *slog.Logger
	Connect *ClientConnect // nil: not through Consul's mesh
}

// ClientConnect is what a client in Consul's service mesh shows and believes, in place of files. The functions must not block.
type ClientConnect struct {
	Certificate func() (*tls.Certificate, error)
	Roots       func() *x509.CertPool     // nil while they are not known
	SPIFFE      string                    // the id to expect; "": whatever Match takes
	Match       func(spiffe string) error // nil: whatever SPIFFE says
}

// Client is what is shown and believed when dialling the endpoints of one cluster. Its methods are safe for concurrent use.
type Client struct {
	o     ClientOptions
	now   func() time.Time
	watch *files.Watcher // nil in tests that reload by themselves

	mu    sync.Mutex              // held while files are read again; the following are guarded by it
	cas   *kept[*authorities]     // nil: the system's
	pair  *kept[*tls.Certificate] // nil: none
	state atomic.Pointer[trust]
}

// trust is what a Client goes by at one moment. Immutable, but for the sessions.
type trust struct {
	roots    *x509.CertPool // nil: the system's
	cert     *tls.Certificate
	sessions tls.ClientSessionCache // of this state: a session carries on what was shown and believed when it began
}

// NewClient reads the files of o.TLS and watches them until Close. An error names the key of the configuration, the file and the cause.
func NewClient(o ClientOptions) (*Client, error) {
	c, err := newClient(o, time.Now)
	if err != nil {
		return nil, err
	}
	if list := c.files(); len(list) > 0 {
		c.watch = files.Watch(list, poll, o.Log, c.reload)
	}
	return c, nil
}

// CheckClient reads the files of o.TLS as NewClient does, and nothing more: what is wrong with them, in the order of their keys.
func CheckClient(o ClientOptions) []error { return (&Client{o: o}).readFiles() }

func newClient(o ClientOptions, now func() time.Time) (*Client, error) {
	c := &Client{o: o, now: now}
	if wrong := c.readFiles(); len(wrong) > 0 {
		return nil, wrong[0]
	}
	if o.TLS.GetInsecureSkipVerify() {
		o.Log.Warn("servers' certificates are not verified: anybody on the way can read and change calls; for tests only", "key", o.Path+".insecureSkipVerify")
	}
	c.publish()
	return c, nil
}

func (c *Client) readFiles() (wrong []error) {
	t, at := c.o.TLS, func(key, path string) source { return source{key: c.o.Path + "." + key, path: path} }
	var err error
	if t.GetCaFile() != "" {
		if c.cas, err = newAuthorities(at("caFile", t.GetCaFile())); err != nil {
			wrong = append(wrong, err)
		}
	}
	if t.GetCertFile() != "" {
		if c.pair, err = newPair(at("certFile", t.GetCertFile()), at("keyFile", t.GetKeyFile())); err != nil {
			wrong = append(wrong, err)
		}
	}
	return wrong
}

func (c *Client) files() []string {
	var list []string
	if c.cas != nil {
		list = append(list, paths(c.cas.sources)...)
	}
	if c.pair != nil {
		list = append(list, paths(c.pair.sources)...)
	}
	return list
}

func (c *Client) reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.cas.take(c.o.Log)
	if c.pair.take(c.o.Log) || changed {
		c.publish()
	}
}

func (c *Client) publish() {
	t := &trust{sessions: tls.NewLRUClientSessionCache(sessionsPerClient)}
	if c.cas != nil {
		t.roots = c.cas.value.pool
	}
	if c.pair != nil {
		t.cert = c.pair.value
	}
	c.state.Store(t)
}

// Close ends the watching of files. The configurations that it made stay usable.
func (c *Client) Close() {
	if c.watch != nil {
		c.watch.Close()
	}
}

// Certificates are those from files, as they are shown now.
func (c *Client) Certificates() []Certificate {
	if t := c.state.Load(); t.cert != nil {
		return []Certificate{c.pair.tell(Describe(t.cert.Leaf, c.o.TLS.GetCertFile()))}
	}
	return nil
}

// Config is for tls.Client on one new connection to address, host:port. Errors of its handshake about the server's certificate say what
// was expected and what was shown, and not which endpoint; [Client.Explain] puts the others into words.
func (c *Client) Config(address string) *tls.Config {
	t := c.state.Load()
	e := expected{client: c, roots: t.roots, name: c.o.TLS.GetServerName(), spiffe: c.o.TLS.GetSpiffeId()}
	if e.name == "" {
		e.name = host(address)
	}
	if m := c.o.Connect; m != nil {
		e.roots = nil // asked for in each handshake
		e.mesh, e.spiffe, e.match = true, m.SPIFFE, m.Match
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		CipherSuites: suites(),
		NextProtos:   []string{"h2"},
		ServerName:   e.name, // SNI; crypto/tls sends none for an IP address
		Time:         c.now,
		// VerifyConnection verifies, whatever there is to verify, in full and in resumed handshakes: crypto/tls itself knows neither
		// SPIFFE ids nor how to name the endpoint in its errors.
		InsecureSkipVerify:          true, //nolint:gosec // see above
		VerifyConnection:            e.verify,
		GetClientCertificate:        c.certificate(t),
		ClientSessionCache:          &sessions{cache: t.sessions, address: address},
		DynamicRecordSizingDisabled: true,
	}
}

func (c *Client) certificate(t *trust) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		switch {
		case c.o.Connect != nil && c.o.Connect.Certificate != nil:
			cert, err := c.o.Connect.Certificate()
			if err != nil {
				return nil, fmt.Errorf("no certificate of the mesh to show yet: %w", err)
			}
			return cert, nil
		case t.cert != nil:
			return t.cert, nil // also if the server names other authorities: then it says so, and nobody has to guess
		}
		return new(tls.Certificate), nil
	}
}

// host is an address's host, without port, brackets and zone.
func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		h = strings.Trim(address, "[]")
	}
	h, _, _ = strings.Cut(h, "%")
	return h
}

// sessions keeps sessions by endpoint: crypto/tls would have one for all endpoints of which the same name is expected.
type sessions struct {
	cache   tls.ClientSessionCache
	address string
}

func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) {
	return s.cache.Get(s.address + " " + key)
}

func (s *sessions) Put(key string, cs *tls.ClientSessionState) { s.cache.Put(s.address+" "+key, cs) }

// Explain puts into words what a handshake of [Client.Config] ended with, where crypto/tls and the server only hint at it. It leaves it to its
// caller, who knows the address and shows it beside the error, to name that.
func (c *Client) Explain(err error) error {
	var header tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &header):
		return fmt.Errorf("it does not speak TLS on this port: remove %s, or correct the port (%w)", c.o.Path, err)
	case errors.As(err, &alert) || strings.Contains(err.Error(), "remote error: tls: "):
		text := err.Error()
		for _, a := range []struct{ has, means string }{
			{"no application protocol", "does not offer HTTP/2 (ALPN h2) over TLS: enable it there, or correct the port"},
			{"certificate required", "asks for a client certificate: write certFile and keyFile in " + c.o.Path},
			{"bad certificate", c.distrusts()}, {"unknown certificate authority", c.distrusts()}, {"certificate unknown", c.distrusts()},
			{"expired certificate", "finds our client certificate expired: renew it, or correct the clocks"},
			{"revoked certificate", "finds our client certificate revoked: get a new one"},
			{"protocol version not supported", "speaks no TLS 1.2 or 1.3: update it"},
			{"unrecognized name", "has no certificate for the name it is asked for: " + c.nameRemedy()},
			{"handshake failure", "has no cipher suite or signature in common with us, or asks for a client certificate: see its log"},
		} {
			if strings.Contains(text, a.has) {
				return fmt.Errorf("it %s (%w)", a.means, err)
			}
		}
	}
	return err
}

func (c *Client) distrusts() string {
	if c.o.Connect == nil && c.state.Load().cert == nil {
		return "asks for a client certificate: write certFile and keyFile in " + c.o.Path
	}
	return "does not take our client certificate: see which authorities it trusts"
}
