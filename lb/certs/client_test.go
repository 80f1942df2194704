package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func dialler(t testing.TB, o ClientOptions) *Client {
	t.Helper()
	if o.Log == nil {
		o.Log = new(book).log()
	}
	o.Path = "clusters[0].tls"
	c, err := newClient(o, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// backend is the configuration of a server that has l and speaks h2.
func backend(l *leaf) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{*l.pair()}, NextProtos: []string{"h2"}}
}

func TestAServerIsTakenOnlyIfItIsWhoWasExpected(t *testing.T) {
	ca, other, dir := newAuthority(t, "Test CA"), newAuthority(t, "Other CA"), newFolder(t)
	file := dir.write("ca.pem", chainPEM(ca.cert))
	spiffe := func(ids ...string) *leaf {
		return ca.issue(func(c *x509.Certificate) {
			for _, id := range ids {
				c.URIs = append(c.URIs, parsed(t, id))
			}
		})
	}
	byID := func(id string) *configv1.UpstreamTLS { return &configv1.UpstreamTLS{CaFile: file, SpiffeId: id} }
	byName := &configv1.UpstreamTLS{CaFile: file}
	named := &configv1.UpstreamTLS{CaFile: file, ServerName: "shop.test"}
	mesh := func(pool *x509.CertPool, match func(string) error) *ClientConnect {
		return &ClientConnect{
			Certificate: func() (*tls.Certificate, error) { return nil, errors.New("not yet") },
			Roots:       func() *x509.CertPool { return pool }, Match: match,
		}
	}
	shop := func(id string) error {
		if id != "spiffe://mesh/shop" {
			return errors.New("the service shop was expected")
		}
		return nil
	}
	expired := ca.issue(func(c *x509.Certificate) {
		c.DNSNames, c.NotBefore, c.NotAfter = []string{"shop.test"}, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	forClients := ca.issue(func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"shop.test"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	both := ca.issue(func(c *x509.Certificate) {
		c.DNSNames, c.URIs = []string{"shop.test"}, append(c.URIs, parsed(t, "spiffe://a/b"))
	})
	wildcard := ca.named("*.test")
	for _, c := range []struct {
		name    string
		tls     *configv1.UpstreamTLS
		connect *ClientConnect
		address string
		server  *leaf
		says    []string // nil: taken
	}{
		{"the address's host", byName, nil, "shop.test:443", ca.named("shop.test"), nil},
		{"a wildcard", byName, nil, "shop.test:443", wildcard, nil},
		{"the address's IP", byName, nil, "10.0.0.7:443", ca.named("10.0.0.7"), nil},
		{"an IPv6 address", byName, nil, "[fd00::7%eth0]:443", ca.named("fd00::7"), nil},
		{"serverName", named, nil, "10.0.0.7:443", ca.named("shop.test"), nil},
		{"another name", byName, nil, "shop.test:443", ca.named("pay.test", "10.0.0.8"), []string{"its certificate is not for the name shop.test, but for pay.test, 10.0.0.8", "clusters[0].tls"}},
		{"no IP", byName, nil, "10.0.0.7:443", ca.named("shop.test"), []string{"not for the IP address 10.0.0.7, but for shop.test", "serverName"}},
		{"another authority", named, nil, "10.0.0.7:443", other.named("shop.test"), []string{"its certificate", "issued by CN=Other CA", file}},
		{"expired", named, nil, "10.0.0.7:443", expired, []string{"not valid after", "renew it"}},
		{"for clients", named, nil, "10.0.0.7:443", forClients, []string{"not meant for servers"}},
		{"system's authorities", &configv1.UpstreamTLS{}, nil, "shop.test:443", ca.named("shop.test"), []string{"the system's authorities", "caFile in clusters[0].tls"}},
		{"anything", &configv1.UpstreamTLS{InsecureSkipVerify: true}, nil, "10.0.0.7:443", expired, nil},
		{"a SPIFFE id", byID("spiffe://a/b"), nil, "10.0.0.7:443", spiffe("spiffe://a/b"), nil},
		{"another SPIFFE id", byID("spiffe://a/b"), nil, "10.0.0.7:443", spiffe("spiffe://a/c"), []string{"is of spiffe://a/c, but spiffe://a/b was expected"}},
		{"two SPIFFE ids", byID("spiffe://a/b"), nil, "10.0.0.7:443", spiffe("spiffe://a/b", "spiffe://a/c"), []string{"several SPIFFE ids"}},
		{"no SPIFFE id", byID("spiffe://a/b"), nil, "shop.test:443", ca.named("shop.test"), []string{"no SPIFFE id, but is for shop.test", "spiffe://a/b was expected: correct spiffeId in clusters[0].tls, or the certificate"}},
		{"a SPIFFE id of another authority", byID("spiffe://a/b"), nil, "10.0.0.7:443", other.issue(func(c *x509.Certificate) { c.URIs = append(c.URIs, parsed(t, "spiffe://a/b")) }), []string{"issued by CN=Other CA"}},
		{"a SPIFFE id and a name", &configv1.UpstreamTLS{CaFile: file, SpiffeId: "spiffe://a/b", ServerName: "shop.test"}, nil, "10.0.0.7:443", both, nil},
		{"a SPIFFE id without the name", &configv1.UpstreamTLS{CaFile: file, SpiffeId: "spiffe://a/b", ServerName: "shop.test"}, nil, "10.0.0.7:443", spiffe("spiffe://a/b"), []string{"not for the name shop.test"}},
		{"the mesh", nil, mesh(ca.pool(), shop), "10.0.0.7:443", spiffe("spiffe://mesh/shop"), nil},
		{"another of the mesh", nil, mesh(ca.pool(), shop), "10.0.0.7:443", spiffe("spiffe://mesh/pay"), []string{"is of spiffe://mesh/pay: the service shop was expected"}},
		{"not of the mesh", nil, mesh(other.pool(), shop), "10.0.0.7:443", spiffe("spiffe://mesh/shop"), []string{"the mesh's authorities"}},
		{"the mesh is not there yet", nil, mesh(nil, shop), "10.0.0.7:443", spiffe("spiffe://mesh/shop"), []string{"have not come from Consul yet"}},
		{"nobody of the mesh", nil, mesh(ca.pool(), nil), "10.0.0.7:443", spiffe("spiffe://mesh/shop"), []string{"nobody said which service"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := dialler(t, ClientOptions{TLS: c.tls, Connect: c.connect})
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				server := backend(c.server)
				server.MaxVersion = version
				for range 2 { // the second time perhaps resumed
					_, cs, _, err := shake(t, server, client.Config(c.address))
					if c.says == nil && (err != nil || cs.NegotiatedProtocol != "h2") {
						t.Errorf("%s: %v", tls.VersionName(version), err)
					}
					if c.says != nil && err == nil {
						t.Fatalf("%s: taken", tls.VersionName(version))
					}
					for _, word := range c.says {
						if !strings.Contains(err.Error(), word) {
							t.Errorf("%q does not say %q", err, word)
						}
					}
				}
			}
		})
	}
}

func TestAServerMustAgreeToHTTP2AndTheErrorSaysWhatToDo(t *testing.T) {
	ca, dir := newAuthority(t, "Test CA"), newFolder(t)
	client := dialler(t, ClientOptions{TLS: &configv1.UpstreamTLS{CaFile: dir.write("ca.pem", chainPEM(ca.cert))}})
	server := backend(ca.named("shop.test"))
	server.NextProtos = nil
	if _, _, _, err := shake(t, server, client.Config("shop.test:443")); err == nil || !strings.Contains(err.Error(), "it speaks TLS, but did not agree to HTTP/2 (ALPN h2)") {
		t.Error(err)
	}
	server.NextProtos = []string{"http/1.0"}
	_, _, _, err := shake(t, server, client.Config("shop.test:443"))
	if err = client.Explain(err); err == nil || !strings.Contains(err.Error(), "it does not offer HTTP/2") {
		t.Error(err)
	}
	a, b := socket(t)
	go func() { _, _ = a.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }()
	err = tls.Client(b, client.Config("shop.test:443")).HandshakeContext(t.Context())
	if err = client.Explain(err); err == nil || !strings.Contains(err.Error(), "does not speak TLS on this port") {
		t.Error(err)
	}
	if client.Explain(nil) != nil {
		t.Error("nothing is explained")
	}
	asking := backend(ca.named("shop.test"))
	asking.ClientAuth = tls.RequireAnyClientCert
	_, _, _, err = shake(t, asking, client.Config("shop.test:443"))
	if err = client.Explain(err); err == nil || !strings.Contains(err.Error(), "asks for a client certificate: write certFile and keyFile in clusters[0].tls") {
		t.Error(err)
	}
}

func TestAClientCertificateIsShownAndRenewed(t *testing.T) {
	m := newMutual(t, "required")
	u := &configv1.UpstreamTLS{CaFile: m.dir.write("ca.pem", chainPEM(m.servers.cert)), ServerName: "lb.test"}
	u.CertFile, u.KeyFile = m.dir.pair("client", m.clients.named("one.test"))
	s, c := serve(t, ServerOptions{TLS: m.tls}), dialler(t, ClientOptions{TLS: u})
	if resumed, name, reason := call(t, s, c.Config("10.0.0.7:443")); resumed || name != "one.test" {
		t.Fatal(resumed, name, reason)
	}
	if resumed, name, _ := call(t, s, c.Config("10.0.0.7:443")); !resumed || name != "one.test" {
		t.Error("the session is not resumed")
	}
	if resumed, _, _ := call(t, s, c.Config("10.0.0.8:443")); resumed {
		t.Error("a session is shown to another endpoint")
	}
	next := m.clients.named("two.test")
	m.dir.pair("client", next)
	c.reload()
	if resumed, name, _ := call(t, s, c.Config("10.0.0.7:443")); resumed || name != "two.test" {
		t.Errorf("resumed %v, shown %q after the renewal", resumed, name)
	}
	if got := c.Certificates(); len(got) != 1 || got[0].Serial != next.cert.SerialNumber.Text(16) || got[0].File != u.CertFile {
		t.Errorf("Certificates = %+v", got)
	}
	os.Remove(u.CaFile)
	c.reload()
	if _, name, _ := call(t, s, c.Config("10.0.0.7:443")); name != "two.test" {
		t.Error("the last good authorities are not kept")
	}
}

func TestTheMeshsCertificateIsShown(t *testing.T) {
	m := newMutual(t, "required")
	l := m.clients.named("lb.mesh")
	s := serve(t, ServerOptions{TLS: m.tls})
	c := dialler(t, ClientOptions{Connect: &ClientConnect{
		Certificate: func() (*tls.Certificate, error) { return l.pair(), nil },
		Roots:       func() *x509.CertPool { return m.servers.pool() },
		Match:       func(string) error { return nil },
	}})
	m.dir.pair("server", m.servers.issue(func(c *x509.Certificate) { c.URIs = append(c.URIs, parsed(t, "spiffe://mesh/shop")) }))
	s.reload()
	if _, name, reason := call(t, s, c.Config("10.0.0.7:443")); name != "lb.mesh" {
		t.Error(name, reason)
	}
}

// What a resumed session is believed for is what holds now.
func TestAServerIsJudgedAgainWhenItsSessionIsResumed(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		ca := newAuthority(t, "Test CA")
		pool := ca.pool()
		id := ca.issue(func(c *x509.Certificate) { c.URIs = append(c.URIs, parsed(t, "spiffe://mesh/shop")) })
		c := dialler(t, ClientOptions{Connect: &ClientConnect{Roots: func() *x509.CertPool { return pool }, SPIFFE: "spiffe://mesh/shop"}})
		server := backend(id)
		server.MaxVersion = version
		for _, want := range []bool{false, true} {
			if cs, _, _, err := shake(t, server, c.Config("10.0.0.7:443")); err != nil || cs.DidResume != want {
				t.Fatalf("resumed %v, want %v: %v", cs.DidResume, want, err)
			}
		}
		pool = newAuthority(t, "Next CA").pool()
		if _, _, _, err := shake(t, server, c.Config("10.0.0.7:443")); err == nil {
			t.Error("believed although its authority is not any more")
		}
	})
}

func TestTrustingAnyCertificateIsWarnedOf(t *testing.T) {
	log := new(book)
	c := dialler(t, ClientOptions{TLS: &configv1.UpstreamTLS{InsecureSkipVerify: true}, Log: log.log()})
	c.reload()
	if strings.Count(log.String(), "for tests only") != 1 || !strings.Contains(log.String(), "clusters[0].tls.insecureSkipVerify") {
		t.Errorf("log:\n%s", log)
	}
}

func TestWhatIsWrongWithAClientsFilesIsSaidAtStart(t *testing.T) {
	dir := newFolder(t)
	for _, u := range []*configv1.UpstreamTLS{{CaFile: dir.path + "/gone"}, {CertFile: dir.path + "/gone", KeyFile: dir.path + "/gone"}} {
		if c, err := NewClient(ClientOptions{TLS: u, Path: "clusters[0].tls", Log: new(book).log()}); err == nil || !strings.Contains(err.Error(), "gone: no such file or directory") {
			t.Errorf("NewClient = %v, %v", c, err)
		}
	}
	ca := newAuthority(t, "Test CA")
	c, err := NewClient(ClientOptions{TLS: &configv1.UpstreamTLS{CaFile: dir.write("ca.pem", chainPEM(ca.cert))}, Path: "clusters[0].tls", Log: new(book).log()})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
}
