package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/lb/files"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// challengeProtocol is what an ACME authority asks for when it validates a domain (RFC 8737).
const challengeProtocol = "acme-tls/1"

// ServerOptions are what a Server is made of.
type ServerOptions struct {
	TLS       *configv1.ListenerTLS // with its defaults
	ACME      Source                // for TLS.acme; nil: none
	Connect   Source                // for TLS.connect; nil: none
	Roots     Roots                 // further authorities of clients, for TLS.connect; nil: none
	Path      string                // of TLS in the configuration, "listeners[0].tls"
	Protocols []string              // ALPN, the preferred first; nil: h2
	Log       *slog.Logger
	// Authorize has the last word on a client whose certificate is good; nil: none is asked. It must not block.
	Authorize func(p *authn.Peer, leaf *x509.Certificate) *authn.Refusal
}

// Server is what one listener shows its clients and asks of them. Its methods are safe for concurrent use.
type Server struct {
	o       ServerOptions
	mode    string   // of client certificates: "none", "optional", "required" or "strict"; set once in NewServer
	domains []string // ACME's, lower case
	now     func() time.Time
	outer   *tls.Config // what Config returns; the ticket keys are its
	staples *stapler
	watch   *files.Watcher // nil in tests that reload by themselves

	mu      sync.Mutex // held while files are read again; the following are guarded by it
	pairs   []*kept[*tls.Certificate]
	cas     *kept[*authorities] // nil: none
	crls    *kept[*revocations] // nil: none
	tickets *kept[[][32]byte]   // nil: keys of crypto/tls's own
	late    string              // what the log was told of stale revocation lists
	state   atomic.Pointer[state]
}

// NewServer reads the files of o.TLS and watches them until Close. An error names the key of the configuration, the file and the cause.
func NewServer(o ServerOptions) (*Server, error) {
	s, err := newServer(o, time.Now, post)
	if err != nil {
		return nil, err
	}
	s.watch = files.Watch(s.files(), poll, o.Log, s.reload)
	return s, nil
}

func newServer(o ServerOptions, now func() time.Time, ask responder) (*Server, error) {
	s := &Server{o: o, mode: o.TLS.GetClientAuth(), now: now}
	if len(s.o.Protocols) == 0 {
		s.o.Protocols = []string{"h2"}
	}
	if s.mode == "" {
		s.mode = "none"
		if o.TLS.GetClientCaFile() != "" || o.Roots != nil {
			s.mode = "required"
		}
	}
	if o.ACME != nil {
		for _, d := range o.TLS.GetAcme().GetDomains() {
			s.domains = append(s.domains, strings.ToLower(d))
		}
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	s.outer = s.config()
	s.outer.GetConfigForClient = s.forClient
	if s.tickets != nil {
		s.outer.SetSessionTicketKeys(s.tickets.value)
	}
	s.staples = newStapler(ask, now, o.Log)
	s.publish()
	s.tellOfAge()
	return s, nil
}

// CheckServer reads the files of o.TLS as NewServer does, and nothing more: what is wrong with them, in the order of their keys.
func CheckServer(o ServerOptions) []error { return (&Server{o: o}).readFiles() }

// read reads all files for the first time.
func (s *Server) read() error {
	if wrong := s.readFiles(); len(wrong) > 0 {
		return wrong[0]
	}
	if len(s.pairs) == 0 && s.o.ACME == nil && s.o.Connect == nil {
		return fmt.Errorf("%s: has no certificate to show: write certFile and keyFile, or acme, or connect", s.o.Path)
	}
	if s.mode != "none" && s.cas == nil && s.o.Roots == nil {
		return fmt.Errorf("%s.clientAuth: is %q, but there is no authority to judge client certificates by: write clientCaFile, or connect", s.o.Path, s.mode)
	}
	return nil
}

func (s *Server) readFiles() (wrong []error) {
	t, at := s.o.TLS, func(key, path string) source { return source{key: s.o.Path + "." + key, path: path} }
	keep := func(err error) {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	pair := func(prefix, cert, key string) {
		p, err := newPair(at(prefix+"certFile", cert), at(prefix+"keyFile", key))
		s.pairs = append(s.pairs, p)
		keep(err)
	}
	if t.GetCertFile() != "" {
		pair("", t.GetCertFile(), t.GetKeyFile())
	}
	for i, c := range t.GetCertificates() {
		pair(fmt.Sprintf("certificates[%d].", i), c.GetCertFile(), c.GetKeyFile())
	}
	var err error
	if ca := at("clientCaFile", t.GetClientCaFile()); ca.path != "" {
		s.cas, err = newAuthorities(ca)
		keep(err)
		if t.GetCrlFile() != "" {
			s.crls, err = newRevocations(at("crlFile", t.GetCrlFile()), ca)
			keep(err)
		}
	}
	if t.GetTicketKeysFile() != "" {
		s.tickets, err = newTicketKeys(at("ticketKeysFile", t.GetTicketKeysFile()))
		keep(err)
	}
	return wrong
}

func (s *Server) files() []string {
	var list []string
	for _, p := range s.pairs {
		list = append(list, paths(p.sources)...)
	}
	if s.cas != nil {
		list = append(list, paths(s.cas.sources)...)
	}
	if s.crls != nil {
		list = append(list, paths(s.crls.sources)...)
	}
	if s.tickets != nil {
		list = append(list, paths(s.tickets.sources)...)
	}
	return list
}

// reload takes up what has changed in the files: each by itself, so that a bad one does not keep another from being renewed.
func (s *Server) reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, p := range s.pairs {
		if p.take(s.o.Log) {
			changed = true
			s.tellOfExpiry(p)
		}
	}
	changed = s.cas.take(s.o.Log) || changed
	changed = s.crls.take(s.o.Log) || changed
	if s.tickets.take(s.o.Log) {
		s.outer.SetSessionTicketKeys(s.tickets.value)
	}
	if changed {
		s.publish()
	}
	s.tellOfStaleLists()
}

func (s *Server) tellOfAge() {
	for _, p := range s.pairs {
		s.tellOfExpiry(p)
	}
	s.tellOfStaleLists()
}

func (s *Server) tellOfExpiry(p *kept[*tls.Certificate]) {
	if leaf := p.value.Leaf; s.now().After(leaf.NotAfter) {
		s.o.Log.Warn("a certificate has expired: clients will refuse it; renew it", "key", p.sources[0].key, "file", p.sources[0].path, "expired", leaf.NotAfter)
	}
}

func (s *Server) tellOfStaleLists() {
	if s.crls == nil {
		return
	}
	late := s.crls.value.stale(s.now())
	if late != "" && late != s.late {
		s.o.Log.Warn("revocation lists are older than their authorities mean them to become; they are still used: fetch new ones",
			"key", s.crls.sources[0].key, "file", s.crls.sources[0].path, "lists", late)
	}
	s.late = late
}

// Close ends the watching of files. The configurations that it made stay usable.
func (s *Server) Close() {
	if s.watch != nil {
		s.watch.Close()
	}
	s.staples.close()
}

// Config is for tls.Server: it stays the same for the Server's life, and answers each ClientHello with what holds at that moment.
// A connection on which acme-tls/1 was negotiated (ConnectionState.NegotiatedProtocol) carries nothing: close it after the handshake.
func (s *Server) Config() *tls.Config { return s.outer }

// Certificates are those from files, as they are shown now.
func (s *Server) Certificates() []Certificate {
	var list []Certificate
	for _, c := range s.state.Load().shown {
		d := c.from.tell(Describe(c.leaf, c.file))
		d.StapledUntil = c.stapledUntil()
		list = append(list, d)
	}
	return list
}

// forClient answers each ClientHello with the configuration of the moment. crypto/tls lets a client that offers only http/1.1 pass
// where h2 is expected; here it gets the alert that it is due (RFC 7301 3.2), no_application_protocol.
func (s *Server) forClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	st := s.state.Load()
	offered := hello.SupportedProtos
	switch {
	case len(offered) == 0 || slices.ContainsFunc(s.o.Protocols, func(p string) bool { return slices.Contains(offered, p) }):
		return st.config, nil
	case st.challenge != nil && len(offered) == 1 && offered[0] == challengeProtocol:
		return st.challenge, nil
	}
	return st.none, nil
}

// config is what all configurations of the Server have in common.
func (s *Server) config() *tls.Config {
	c := &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		CipherSuites:                suites(),
		NextProtos:                  s.o.Protocols,
		Time:                        s.now,
		GetCertificate:              s.certificate,
		DynamicRecordSizingDisabled: true, // frames are written in batches, which small records would only make dearer
	}
	if s.o.TLS.GetMinVersion() == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	return c
}

func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	st := s.state.Load()
	name := strings.ToLower(hello.ServerName)
	if c := st.exact(name, hello); c != nil {
		return c, nil
	}
	if slices.Contains(s.domains, name) {
		return s.acme(hello)
	}
	if c := st.wildcard(name, hello); c != nil {
		return c, nil
	}
	switch {
	case len(st.shown) > 0:
		return pick(st.fallback, hello), nil
	case s.o.Connect != nil:
		c, err := s.o.Connect.GetCertificate(hello)
		if err != nil {
			return nil, fmt.Errorf("%s.connect: no certificate yet: %w", s.o.Path, err)
		}
		return c, nil
	case len(s.domains) > 0: // the client names nothing, or something unknown: it is shown what there is, and may judge
		first := *hello
		first.ServerName = s.domains[0]
		return s.acme(&first)
	}
	return nil, fmt.Errorf("%s: no certificate for %q", s.o.Path, name)
}

func (s *Server) acme(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := s.o.ACME.GetCertificate(hello)
	if err != nil {
		return nil, fmt.Errorf("%s.acme: no certificate yet for %q: %w", s.o.Path, hello.ServerName, err)
	}
	return c, nil
}
