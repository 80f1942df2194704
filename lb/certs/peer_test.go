package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func parsed(t testing.TB, s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// mutual is a listener for clients of one authority, and who may come to it.
type mutual struct {
	dir     folder
	servers *authority
	clients *authority
	tls     *configv1.ListenerTLS
}

func newMutual(t testing.TB, mode string) *mutual {
	m := &mutual{dir: newFolder(t), servers: newAuthority(t, "Server CA"), clients: newAuthority(t, "Client CA")}
	m.tls = &configv1.ListenerTLS{ClientAuth: mode}
	m.tls.CertFile, m.tls.KeyFile = m.dir.pair("server", m.servers.named("lb.test"))
	m.tls.ClientCaFile = m.dir.write("clients.pem", chainPEM(m.clients.cert))
	return m
}

// client is a client that shows l whatever the server asks for; nil: none.
func (m *mutual) client(l *leaf, version uint16) *tls.Config {
	c := &tls.Config{ServerName: "lb.test", RootCAs: m.servers.pool(), NextProtos: []string{"h2"}, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if l != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return l.pair(), nil }
	}
	return c
}

func TestEveryClientCertificateIsJudgedAndTheRefusalSaysWhatToDo(t *testing.T) {
	m := newMutual(t, "")
	other := newAuthority(t, "Other CA")
	middle := m.clients.below("Middle CA", m.clients)
	good := m.clients.named("client.test")
	fromMiddle := middle.named("deep.test")
	alone := middle.named("alone.test")
	alone.chain = alone.chain[:1]
	foreign := other.named("foreign.test")
	expired := m.clients.issue(func(c *x509.Certificate) {
		c.Subject.CommonName, c.NotBefore, c.NotAfter = "late", time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	early := m.clients.issue(func(c *x509.Certificate) {
		c.Subject.CommonName, c.NotBefore = "early", time.Now().Add(time.Hour)
	})
	server := m.clients.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	revoked := m.clients.named("revoked.test")
	gone := m.clients.below("Gone CA", m.clients)
	underGone := gone.named("orphan.test")
	selfSigned := &leaf{}
	selfSigned.cert, selfSigned.key = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "self"}, NotAfter: time.Now().Add(time.Hour)}, nil)
	selfSigned.chain = []*x509.Certificate{selfSigned.cert}
	m.tls.CrlFile = m.dir.write("crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: m.clients.revoke(time.Now().Add(time.Hour), revoked.cert, gone.cert)}))

	cases := []struct {
		name   string
		shows  *leaf
		reason string // for required; "": let in
		says   []string
	}{
		{"none", nil, reasonRequired, []string{"showed none", "CN=Client CA"}},
		{"good", good, "", nil},
		{"below an intermediate", fromMiddle, "", nil},
		{"without its intermediate", alone, reasonInvalid, []string{"CN=Middle CA", "CN=Client CA", "intermediate certificates"}},
		{"of another authority", foreign, reasonInvalid, []string{"CN=foreign.test", "issued by CN=Other CA", "CN=Client CA"}},
		{"self-signed", selfSigned, reasonInvalid, []string{"CN=self", "CN=Client CA"}},
		{"expired", expired, reasonExpired, []string{"CN=late", "not valid after", expired.cert.NotAfter.UTC().Format("2006-01-02"), "renew it"}},
		{"not valid yet", early, reasonExpired, []string{"not valid before", "clocks"}},
		{"for servers only", server, reasonInvalid, []string{"not meant for clients"}},
		{"revoked", revoked, reasonRevoked, []string{"CN=revoked.test", revoked.cert.SerialNumber.Text(16), "revoked by CN=Client CA", "get a new one"}},
		{"below a revoked authority", underGone, reasonRevoked, []string{"CN=orphan.test", "CN=Gone CA"}},
	}
	for _, mode := range []string{"none", "optional", "required", "strict"} {
		m.tls.ClientAuth = mode
		s := serve(t, ServerOptions{TLS: m.tls})
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, c := range cases {
				t.Run(mode+"/"+tls.VersionName(version)+"/"+c.name, func(t *testing.T) {
					cs, _, serverErr, clientErr := shake(t, s.Config(), m.client(c.shows, version))
					reason := c.reason
					if mode == "none" || mode == "optional" && c.shows == nil {
						reason = ""
					}
					if mode == "strict" && reason != "" {
						if serverErr == nil || clientErr == nil {
							t.Fatalf("the handshake went through: %v, %v", serverErr, clientErr)
						}
						for _, word := range c.says {
							if !strings.Contains(serverErr.Error(), word) {
								t.Errorf("%q does not say %q", serverErr, word)
							}
						}
						return
					}
					if serverErr != nil || clientErr != nil {
						t.Fatalf("handshake: %v, %v", serverErr, clientErr)
					}
					p := s.Peer(&cs)
					if p.TLS != tls.VersionName(version) || p.ServerName != "lb.test" {
						t.Errorf("peer = %+v", p)
					}
					if (p.Refused != nil) != (reason != "") {
						t.Fatalf("refused = %+v, want %q", p.Refused, reason)
					}
					if want := reason == "" && c.shows != nil && mode != "none"; p.Verified != want {
						t.Errorf("verified = %v", p.Verified)
					}
					if p.Refused == nil {
						return
					}
					if p.Refused.Status != grpc.Unauthenticated || p.Refused.Reason != reason || p.Name() != "" {
						t.Errorf("refused = %+v, want %s", p.Refused, reason)
					}
					for _, word := range c.says {
						if !strings.Contains(p.Refused.Message, word) {
							t.Errorf("%q does not say %q", p.Refused.Message, word)
						}
					}
				})
			}
		}
	}
}

func TestAClientWithoutTLSIsToldThatACertificateNeedsIt(t *testing.T) {
	for mode, want := range map[string]bool{"none": false, "optional": false, "required": true, "strict": true} {
		p := serve(t, ServerOptions{TLS: newMutual(t, mode).tls}).Peer(nil)
		if (p.Refused != nil) != want || p.TLS != "" {
			t.Errorf("%s: %+v", mode, p.Refused)
		}
	}
}

func TestAGoodCertificateIsReadAsAnIdentity(t *testing.T) {
	m := newMutual(t, "required")
	l := m.clients.issue(func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: `shop "one", \ Zürich`, Organization: []string{"Trunk"}}
		c.DNSNames = []string{"shop.test", "shop;two.test"}
		c.EmailAddresses = []string{"shop@example.com"}
		c.URIs = append(c.URIs, parsed(t, "https://example.com/a,b"), parsed(t, "spiffe://test/ns/shop"), parsed(t, "spiffe://test/second"))
	})
	var asked *authn.Peer
	s := serve(t, ServerOptions{TLS: m.tls, Authorize: func(p *authn.Peer, leaf *x509.Certificate) *authn.Refusal {
		if !leaf.Equal(l.cert) {
			t.Error("asked about another certificate")
		}
		asked = p
		return &authn.Refusal{Status: grpc.PermissionDenied, Reason: "TEST"}
	}})
	cs, _, _, err := shake(t, s.Config(), m.client(l, 0))
	if err != nil {
		t.Fatal(err)
	}
	p := s.Peer(&cs)
	if asked != p || p.Refused == nil || p.Refused.Reason != "TEST" {
		t.Errorf("Authorize was asked about %v; refused = %v", asked, p.Refused)
	}
	if p.SPIFFE != "spiffe://test/ns/shop" || p.Name() != p.SPIFFE || len(p.URIs) != 3 || p.DNS[0] != "shop.test" || p.Emails[0] != "shop@example.com" ||
		p.CommonName != l.cert.Subject.CommonName || p.Issuer != "CN=Client CA" || p.Serial != l.cert.SerialNumber.Text(16) ||
		len(p.Fingerprint) != 64 || p.NotAfter != l.cert.NotAfter.Unix() || p.TLS != "TLS 1.3" {
		t.Errorf("peer = %+v", p)
	}
	want := `Hash=` + p.Fingerprint + `;Subject="CN=shop \"one\"\, \5C Z\C3\BCrich,O=Trunk";` +
		`URI="https://example.com/a,b";URI=spiffe://test/ns/shop;URI=spiffe://test/second;DNS=shop.test;DNS="shop;two.test"`
	if p.Forwarded != want {
		t.Errorf("forwarded = %s\nwant        %s", p.Forwarded, want)
	}
}

func TestWhatIsForwardedIsBoundedAndCannotBeBrokenOutOf(t *testing.T) {
	p := &authn.Peer{Fingerprint: "00", Subject: "CN=x", URIs: []string{"a\"\\;\r\nB: c\x00é"}}
	for range 10_000 {
		p.DNS = append(p.DNS, "name.example.com")
	}
	got := forwarded(p)
	if len(got) > maxForwarded || !strings.HasPrefix(got, `Hash=00;Subject="CN=x";URI="a%22%5C;%0D%0AB: c%00%C3%A9";DNS=name.example.com`) {
		t.Errorf("%d bytes: %.120s", len(got), got)
	}
}

func TestRevocationListsMayBeInDERAndMustBeOfAKnownAuthority(t *testing.T) {
	m := newMutual(t, "required")
	bad := m.clients.named("bad.test")
	next := time.Now().Add(time.Hour)
	imposter := newAuthority(t, "Client CA") // the same name, another key
	inPEM := func(ders ...[]byte) []byte {
		var out []byte
		for _, der := range ders {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
		}
		return out
	}
	for name, c := range map[string]struct {
		data []byte
		err  string
	}{
		"DER":            {m.clients.revoke(next, bad.cert), ""},
		"several in PEM": {inPEM(m.clients.revoke(next), m.clients.revoke(next, bad.cert)), ""},
		"an imposter's":  {imposter.revoke(next, bad.cert), "none of the certificates in"},
		"another's":      {newAuthority(t, "Other CA").revoke(next), "is of CN=Other CA"},
		"nothing":        {nil, "holds no certificate revocation list"},
		"a certificate":  {chainPEM(bad.cert), "holds no certificate revocation list"},
		"half":           {m.clients.revoke(next, bad.cert)[:100], "does not parse"},
		"half of PEM":    {bytes.Join([][]byte{inPEM(m.clients.revoke(next)), inPEM([]byte("x"))}, nil), "revocation list 2 does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			m.tls.CrlFile = m.dir.write("crl", c.data)
			s, err := tryServe(t, ServerOptions{TLS: m.tls}, time.Now)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.HasPrefix(err.Error(), "listeners[0].tls.crlFile: "+m.tls.CrlFile) {
					t.Fatalf("err = %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			cs, _, _, err := shake(t, s.Config(), m.client(bad, 0))
			if p := s.Peer(&cs); err != nil || p.Refused == nil || p.Refused.Reason != reasonRevoked {
				t.Errorf("refused = %+v, %v", p.Refused, err)
			}
		})
	}
}

func TestAnOldRevocationListIsUsedAndTheLogSaysSoOnce(t *testing.T) {
	m, log := newMutual(t, "required"), new(book)
	bad := m.clients.named("bad.test")
	m.tls.CrlFile = m.dir.write("crl", m.clients.revoke(time.Now().Add(-time.Minute), bad.cert))
	s := serve(t, ServerOptions{TLS: m.tls, Log: log.log()})
	s.reload()
	if n := strings.Count(log.String(), "revocation lists are older"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	cs, _, _, _ := shake(t, s.Config(), m.client(bad, 0))
	if p := s.Peer(&cs); p.Refused == nil || p.Refused.Reason != reasonRevoked {
		t.Errorf("refused = %+v", p.Refused)
	}
}

func TestARevokedAuthorityIsRevokedAlsoWhereItIsTrustedItself(t *testing.T) {
	m := newMutual(t, "required")
	middle := m.clients.below("Middle CA", m.clients)
	l := middle.named("deep.test")
	m.tls.ClientCaFile = m.dir.write("clients.pem", chainPEM(m.clients.cert, middle.cert))
	m.tls.CrlFile = m.dir.write("crl", m.clients.revoke(time.Now().Add(time.Hour), middle.cert))
	s := serve(t, ServerOptions{TLS: m.tls})
	cs, _, _, _ := shake(t, s.Config(), m.client(l, 0))
	if p := s.Peer(&cs); p.Refused == nil || p.Refused.Reason != reasonRevoked {
		t.Errorf("refused = %+v", p.Refused)
	}
}

type roots struct{ pool *x509.CertPool }

func (r *roots) ClientCAs() *x509.CertPool { return r.pool }

func TestClientsOfTheMeshAreTakenBesideThoseOfTheFile(t *testing.T) {
	m, mesh := newMutual(t, "required"), newAuthority(t, "Consul CA")
	r := &roots{}
	s := serve(t, ServerOptions{TLS: m.tls, Roots: r})
	judge := func(l *leaf) *authn.Refusal {
		cs, _, _, err := shake(t, s.Config(), m.client(l, 0))
		if err != nil {
			t.Fatal(err)
		}
		return s.Peer(&cs).Refused
	}
	if r := judge(m.clients.named("a.test")); r != nil {
		t.Errorf("before Consul answers, a client of the file's authority: %+v", r)
	}
	r.pool = mesh.pool()
	if r := judge(mesh.named("b.test")); r != nil {
		t.Errorf("a client of the mesh: %+v", r)
	}
	if r := judge(newAuthority(t, "Other CA").named("c.test")); r == nil || !strings.Contains(r.Message, "CN=Client CA or Consul's service mesh") {
		t.Errorf("a stranger: %+v", r)
	}
	only := m.tls
	only.ClientCaFile = ""
	s = serve(t, ServerOptions{TLS: only, Roots: &roots{}})
	if r := judge(mesh.named("d.test")); r == nil || r.Status != grpc.Unavailable {
		t.Errorf("before Consul answers: %+v", r)
	}
}
