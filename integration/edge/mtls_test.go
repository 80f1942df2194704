package edge

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/trunkline/trunkline/integration/harness"
)

// as is a client's TLS with a certificate of its own, which it shows whichever authorities the server names.
func as(c *tls.Config, p *pair) *tls.Config {
	c = c.Clone()
	cert := p.tls()
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return c
}

func TestAClientCertificateIsAskedForJudgedAndTold(t *testing.T) {
	ca, people, strangers := newAuthority(t, "edge test CA"), newAuthority(t, "people"), newAuthority(t, "strangers")
	const id = "spiffe://example.test/alice"
	alice := people.issue(func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "Alice", Organization: []string{`Ink; "Paper", Ltd`}}
	}, id, "alice.example.test")
	bob := people.issue(nil, "bob")
	mallory := strangers.issue(nil, id)
	late := people.issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	}, "late")
	forServers := people.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "a server")
	crl := write(t, filepath.Join(t.TempDir(), "crl.pem"), people.revoke())
	b := startServer(t, "b")
	shown := ca.issue(nil, "localhost").yaml()
	required, strict, none, both := harness.FreeAddr(t), harness.FreeAddr(t), harness.FreeAddr(t), harness.FreeAddr(t)
	asks := shown + ", clientCaFile: " + people.file() + ", crlFile: " + crl
	tr := harness.Start(t, config([]string{
		"{ address: LISTEN, tls: { " + asks + ", clientAuth: optional } }",
		"{ address: '" + required + "', tls: { " + asks + " } }",
		"{ address: '" + strict + "', tls: { " + asks + ", clientAuth: strict } }",
		"{ address: '" + none + "', tls: { " + shown + " } }",
		"{ address: '" + both + "', tls: { " + asks + ", clientAuth: optional, plaintext: true } }",
	}, b.Addr, "authentication: { identityMetadata: x-caller, protectedMetadata: [ x-tenant ] }"))
	optional, base := tr.Listen, secure(ca, "localhost")
	sum := sha256.Sum256(alice.cert.Raw)
	hash := hex.EncodeToString(sum[:])
	forged := []string{"x-forwarded-client-cert", "Hash=0;URI=spiffe://example.test/root", "x-caller", "root", "x-tenant", "root", "x-trunkline-user", "root"}

	t.Run("whom the certificate names is told to endpoints, whatever the client says of itself", func(t *testing.T) {
		for _, address := range []string{optional, required, strict, both} {
			mustCall(t, dial(t, address, as(base, alice)), forged...)
			xfcc := b.saw("x-forwarded-client-cert")
			if len(xfcc) != 1 {
				t.Fatalf("x-forwarded-client-cert: %q", xfcc)
			}
			says(t, xfcc[0], "Hash="+hash, `Subject="`, "CN=Alice", "URI="+id, "DNS=alice.example.test")
			b.mustHaveSeen(t, "x-caller", id)
			b.mustHaveSeen(t, "x-tenant")
			b.mustHaveSeen(t, "x-trunkline-user")
		}
	})
	t.Run("of a client without a certificate nothing is told, and what it forges is taken away", func(t *testing.T) {
		for _, cc := range []*tls.Config{base, nil} {
			for _, address := range []string{optional, none, both} {
				if cc == nil && address != both {
					continue
				}
				conn := harness.Dial(t, both)
				if cc != nil {
					conn = dial(t, address, cc)
				}
				mustCall(t, conn, forged...)
				for _, name := range []string{"x-forwarded-client-cert", "x-caller", "x-tenant", "x-trunkline-user"} {
					b.mustHaveSeen(t, name)
				}
			}
		}
	})
	t.Run("where none is asked for a client's certificate counts for nothing", func(t *testing.T) {
		mustCall(t, dial(t, none, as(base, alice)), forged...)
		b.mustHaveSeen(t, "x-caller")
	})
	t.Run("required: who shows none is told so in words, on a connection that stays", func(t *testing.T) {
		cc := dial(t, required, base)
		for range 3 {
			mustSay(t, call(t, cc), codes.Unauthenticated, "CLIENT_CERTIFICATE_REQUIRED", "client certificate", "issued by CN=people")
		}
	})
	for name, bad := range map[string]struct {
		show   *pair
		reason string
		words  []string
	}{
		"of another authority": {mallory, "CLIENT_CERTIFICATE_INVALID", []string{"was issued by CN=strangers", "show one issued by CN=people"}},
		"that is out of date":  {late, "CLIENT_CERTIFICATE_EXPIRED", []string{"CN=late", "is not valid after", "renew it"}},
		"for servers":          {forServers, "CLIENT_CERTIFICATE_INVALID", []string{"not meant for clients", "extended key usage"}},
	} {
		t.Run("a certificate "+name+" is refused in words, where it is required and where it is not", func(t *testing.T) {
			for _, address := range []string{optional, required} {
				mustSay(t, call(t, dial(t, address, as(base, bad.show))), codes.Unauthenticated, bad.reason, bad.words...)
			}
		})
	}
	t.Run("strict: the handshake fails", func(t *testing.T) {
		for _, c := range []*tls.Config{base, as(base, mallory), as(base, late)} {
			err := call(t, dial(t, strict, c))
			if err == nil || reason(err) != "" {
				t.Errorf("got %v, want a handshake that fails", err)
				continue
			}
			says(t, err.Error(), "remote error: tls:")
		}
	})
	t.Run("a certificate that gets revoked is refused on new connections, resumed ones too", func(t *testing.T) {
		resuming := as(base, bob)
		resuming.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		mustCall(t, dial(t, required, resuming))
		if !mustCall(t, dial(t, required, resuming)).DidResume {
			t.Error("the session was not resumed before the revocation")
		}
		write(t, crl, people.revoke(bob.cert))
		harness.Eventually(t, limit, "the revocation to be known", func() bool { return reason(call(t, dial(t, required, as(base, bob)))) != "" })
		mustSay(t, call(t, dial(t, required, as(base, bob))), codes.Unauthenticated, "CLIENT_CERTIFICATE_REVOKED", "CN=bob", "was revoked by CN=people", "get a new one")
		mustSay(t, call(t, dial(t, required, resuming)), codes.Unauthenticated, "CLIENT_CERTIFICATE_REVOKED")
		if err := call(t, dial(t, strict, as(base, bob))); err == nil {
			t.Error("strict takes a revoked certificate")
		}
		mustCall(t, dial(t, required, as(base, alice)))
	})
}
