package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// issuer signs tokens, and shows its keys as a JWKS and by OIDC discovery, over TLS.
type issuer struct {
	t     testing.TB
	url   string
	ca    string // file
	serve *httptest.Server
	away  atomic.Bool
	asked atomic.Int64

	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey
}

func startIssuer(t testing.TB, kids ...string) *issuer {
	t.Helper()
	i := &issuer{t: t}
	i.rotate(kids...)
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		if i.away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		set := jose.JSONWebKeySet{}
		for id, k := range i.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: &k.PublicKey, KeyID: id})
		}
		_ = json.NewEncoder(w).Encode(set)
	})
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": i.url, "jwks_uri": i.url + "/keys"})
	})
	i.serve = httptest.NewUnstartedServer(mux)
	i.serve.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	i.serve.StartTLS()
	t.Cleanup(i.serve.Close)
	i.url = i.serve.URL
	i.ca = write(t, filepath.Join(t.TempDir(), "issuer.pem"), block("CERTIFICATE", i.serve.Certificate().Raw))
	return i
}

// rotate gives the issuer new keys in place of those before.
func (i *issuer) rotate(kids ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = map[string]*ecdsa.PrivateKey{}
	for _, id := range kids {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			i.t.Fatal(err)
		}
		i.keys[id] = k
	}
}

// claims of a good token of that subject; more come in pairs.
func (i *issuer) claims(sub string, more ...any) map[string]any {
	c := map[string]any{"iss": i.url, "aud": "shop", "sub": sub, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for n := 0; n+1 < len(more); n += 2 {
		c[more[n].(string)] = more[n+1]
	}
	return c
}

// token signs claims with the key of that id.
func (i *issuer) token(kid string, claims map[string]any) string {
	i.t.Helper()
	i.mu.Lock()
	key := i.keys[kid]
	i.mu.Unlock()
	if key == nil {
		i.t.Fatalf("the issuer has no key %s", kid)
	}
	return signed(i.t, jose.ES256, key, kid, claims)
}

func signed(t testing.TB, algorithm jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", kid))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bearer is metadata with a token, for call.
func bearer(token string) []string { return []string{"authorization", "Bearer " + token} }

// keyFile is a file of API keys, by name.
func keyFile(t testing.TB, keys map[string]string) string {
	text := ""
	for name, key := range keys {
		text += fmt.Sprintf("%s sha256:%x\n", name, sha256.Sum256([]byte(key)))
	}
	return write(t, filepath.Join(t.TempDir(), "keys"), []byte(text))
}

// tokenAs signs claims with a key of the issuer's, and names another.
func (i *issuer) tokenAs(kid, named string, claims map[string]any) string {
	return signed(i.t, jose.ES256, i.keys[kid], named, claims)
}
