package edge

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"path/filepath"
	"regexp"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestATLSListenerServesStockClients(t *testing.T) {
	ca := newAuthority(t, "edge test CA")
	b := startServer(t, "b")
	main, shop, wild := ca.issue(nil, "localhost", "127.0.0.1"), ca.issue(nil, "shop.example.test"), ca.issue(nil, "*.example.test")
	shopCert, shopKey := shop.files()
	wildCert, wildKey := wild.files()
	both, modern := harness.FreeAddr(t), harness.FreeAddr(t)
	tr := harness.Start(t, config([]string{
		"{ address: LISTEN, tls: { " + main.yaml() + ", certificates: [ { certFile: " + shopCert + ", keyFile: " + shopKey + " }, { certFile: " + wildCert + ", keyFile: " + wildKey + " } ] } }",
		"{ address: '" + both + "', tls: { " + main.yaml() + ", plaintext: true } }",
		"{ address: '" + modern + "', tls: { " + main.yaml() + ", minVersion: '1.3' } }",
	}, b.Addr))
	with := func(name string, change func(*tls.Config)) *tls.Config {
		c := secure(ca, name)
		if change != nil {
			change(c)
		}
		return c
	}
	until := func(version uint16) func(*tls.Config) { return func(c *tls.Config) { c.MaxVersion = version } }

	t.Run("grpc-go speaks TLS 1.3 and TLS 1.2, with ALPN h2", func(t *testing.T) {
		for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
			state := mustCall(t, dial(t, tr.Listen, with("localhost", until(version))))
			if state.Version != version || state.NegotiatedProtocol != "h2" {
				t.Errorf("negotiated %s and %q, want %s and h2", tls.VersionName(state.Version), state.NegotiatedProtocol, tls.VersionName(version))
			}
		}
	})
	t.Run("the name that a client asks for chooses the certificate, exact names before wildcards", func(t *testing.T) {
		for name, want := range map[string]*pair{"localhost": main, "shop.example.test": shop, "other.example.test": wild, "127.0.0.1": main} {
			state := mustCall(t, dial(t, tr.Listen, with(name, nil)))
			if len(state.PeerCertificates) == 0 || !state.PeerCertificates[0].Equal(want.cert) {
				t.Errorf("%s is shown another certificate than %s", name, want.cert.Subject)
			}
		}
	})
	t.Run("a client without TLS is told to use it, and keeps its connection", func(t *testing.T) {
		cc := harness.Dial(t, tr.Listen)
		for range 3 {
			mustSay(t, call(t, cc), codes.Unavailable, "TLS_REQUIRED", "TLS only", "give the client transport credentials")
		}
	})
	t.Run("a listener with plaintext: true takes both", func(t *testing.T) {
		mustCall(t, harness.Dial(t, both))
		if state := mustCall(t, dial(t, both, with("localhost", nil))); state.Version == 0 {
			t.Error("the second client was without TLS")
		}
	})
	t.Run("minVersion 1.3 keeps older clients out", func(t *testing.T) {
		mustCall(t, dial(t, modern, with("localhost", nil)))
		err := call(t, dial(t, modern, with("localhost", until(tls.VersionTLS12))))
		if err == nil {
			t.Error("TLS 1.2 was taken")
		}
		says(t, err.Error(), "protocol version")
	})
	t.Run("a large call and a stream cross TLS whole", func(t *testing.T) {
		cc := dial(t, tr.Listen, with("localhost", nil))
		large(t, cc, 3<<20)
		large(t, dial(t, tr.Listen, with("localhost", until(tls.VersionTLS12))), 3<<20)
	})
	t.Run("a session is resumed", func(t *testing.T) {
		for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
			c := with("localhost", until(version))
			c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			if state := mustCall(t, dial(t, tr.Listen, c)); state.DidResume {
				t.Error("the first connection was resumed")
			}
			if state := mustCall(t, dial(t, tr.Listen, c)); !state.DidResume {
				t.Errorf("%s: the second connection was not resumed", tls.VersionName(version))
			}
		}
	})
	t.Run("a renewed certificate is shown to new connections, and no stream is cut", func(t *testing.T) {
		finish := hold(t, b.Backend, dial(t, tr.Listen, with("shop.example.test", nil)), "renewal")
		renewed := ca.issue(nil, "shop.example.test")
		shop.put(renewed)
		harness.Eventually(t, limit, "the new serial number", func() bool {
			return mustCall(t, dial(t, tr.Listen, with("shop.example.test", nil))).PeerCertificates[0].SerialNumber.Cmp(renewed.cert.SerialNumber) == 0
		})
		finish()
	})
	t.Run("a pair of files that does not fit keeps the certificate before it", func(t *testing.T) {
		write(t, shop.crt, block("CERTIFICATE", wild.cert.Raw))
		harness.Eventually(t, limit, "the log to name the file", func() bool { return regexp.MustCompile("level=ERROR.*" + shop.crt).MatchString(tr.Output()) })
		mustCall(t, dial(t, tr.Listen, with("shop.example.test", nil)))
	})
}

func TestASessionIsResumedAcrossARestart(t *testing.T) {
	ca := newAuthority(t, "edge test CA")
	b := startServer(t, "b")
	key := func() string {
		k := make([]byte, 32)
		if _, err := rand.Read(k); err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(k) + "\n"
	}
	first, second := key(), key()
	keys := write(t, filepath.Join(t.TempDir(), "tickets"), []byte(first))
	text := config([]string{"{ address: LISTEN, tls: { " + ca.issue(nil, "localhost").yaml() + ", ticketKeysFile: " + keys + " } }"}, b.Addr)
	caches := map[uint16]tls.ClientSessionCache{tls.VersionTLS12: tls.NewLRUClientSessionCache(4), tls.VersionTLS13: tls.NewLRUClientSessionCache(4)}
	resumed := func(tr *harness.Trunkline, version uint16) bool {
		c := secure(ca, "localhost")
		c.MaxVersion, c.ClientSessionCache = version, caches[version]
		return mustCall(t, dial(t, tr.Listen, c)).DidResume
	}
	tr := harness.Start(t, text)
	for version := range caches {
		if resumed(tr, version) {
			t.Fatal("the first connection was resumed")
		}
	}
	tr.Stop(t)
	write(t, keys, []byte(second+first)) // rotated meanwhile
	tr = harness.Start(t, text)
	for version := range caches {
		if !resumed(tr, version) {
			t.Errorf("%s: the session was not resumed after the restart", tls.VersionName(version))
		}
	}
	// The old key is taken away: its tickets are worth nothing, and those that were given since are good.
	write(t, keys, []byte(second))
	for version := range caches {
		if !resumed(tr, version) {
			t.Errorf("%s: a ticket of the new key is not good", tls.VersionName(version))
		}
	}
}
