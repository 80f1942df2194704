package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer is a JWKS issuer on loopback with TLS: it signs, rotates, goes away, and counts what it is asked.
type issuer struct {
	t      testing.TB
	server *httptest.Server
	caFile string

	mu     sync.Mutex
	keys   map[string]*ecdsa.PrivateKey
	answer http.HandlerFunc // nil: a good one

	asked, unchanged, discovered atomic.Int64
}

func newIssuer(t testing.TB, kids ...string) *issuer {
	t.Helper()
	i := &issuer{t: t, keys: map[string]*ecdsa.PrivateKey{}}
	i.rotate(kids...)
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, q *http.Request) {
		i.asked.Add(1)
		i.mu.Lock()
		answer, text := i.answer, i.set()
		i.mu.Unlock()
		if answer != nil {
			answer(w, q)
			return
		}
		etag := fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(text)))
		w.Header().Set("Etag", etag)
		if q.Header.Get("If-None-Match") == etag {
			i.unchanged.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write(text)
	})
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.discovered.Add(1)
		json.NewEncoder(w).Encode(map[string]string{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/keys"})
	})
	mux.HandleFunc("/wrong/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/keys"})
	})
	mux.HandleFunc("/plain/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"issuer": i.server.URL + "/plain", "jwks_uri": "http://127.0.0.1:1/keys"})
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, "/loop", http.StatusFound) })
	mux.HandleFunc("/down", func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, "http://127.0.0.1:1/keys", http.StatusFound)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, "/keys", http.StatusFound) })
	i.server = httptest.NewUnstartedServer(mux)
	i.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	i.server.StartTLS()
	t.Cleanup(i.server.Close)
	i.caFile = filepath.Join(t.TempDir(), "ca.pem")
	save(t, i.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw}))
	return i
}

// rotate makes the issuer have these keys: new ones where it had none of that id.
func (i *issuer) rotate(kids ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.keys, func(id string, _ *ecdsa.PrivateKey) bool { return !slices.Contains(kids, id) })
	for _, id := range kids {
		if i.keys[id] == nil {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			must(i.t, err)
			i.keys[id] = k
		}
	}
}

func (i *issuer) answers(f http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = f
}

// set is the key set; mu is held.
func (i *issuer) set() []byte {
	set := jose.JSONWebKeySet{}
	for _, id := range slices.Sorted(maps.Keys(i.keys)) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &i.keys[id].PublicKey, KeyID: id})
	}
	text, err := json.Marshal(set)
	must(i.t, err)
	return text
}

// token is signed with the key of that id, good for an hour, with changes.
func (i *issuer) token(id string, changes map[string]any) string {
	i.mu.Lock()
	k := i.keys[id]
	i.mu.Unlock()
	return sign(i.t, id, k, i.claims(changes))
}

func (i *issuer) claims(changes map[string]any) map[string]any {
	c := map[string]any{"iss": i.server.URL, "aud": "shop", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	return c
}

func sign(t testing.TB, id string, private crypto.Signer, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private}, (&jose.SignerOptions{}).WithHeader("kid", id))
	must(t, err)
	payload, err := json.Marshal(claims)
	must(t, err)
	object, err := signer.Sign(payload)
	must(t, err)
	text, err := object.CompactSerialize()
	must(t, err)
	return text
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func save(t testing.TB, path string, text []byte) {
	t.Helper()
	must(t, os.WriteFile(path, text, 0o600))
}

// provider takes the issuer's tokens with keys from its address.
func (i *issuer) provider() *configv1.JwtProvider {
	return &configv1.JwtProvider{Name: "main", Issuer: i.server.URL, Audiences: []string{"shop"}, JwksUrl: i.server.URL + "/keys", CaFile: i.caFile}
}

// begin starts an Authenticator that ends with the test.
func begin(t testing.TB, cfg *configv1.Authentication) *Authenticator {
	t.Helper()
	return beginWith(t, cfg, slog.New(slog.DiscardHandler))
}

func beginWith(t testing.TB, cfg *configv1.Authentication, log *slog.Logger) *Authenticator {
	t.Helper()
	a, err := New(defaulted(cfg), true, log)
	must(t, err)
	t.Cleanup(a.Close)
	return a
}

func defaulted(cfg *configv1.Authentication) *configv1.Authentication {
	whole := &configv1.Config{Authentication: cfg}
	config.ApplyDefaults(whole)
	return whole.Authentication
}

// call is what a client sends.
type call map[string]string

func bearer(token string) call { return call{"authorization": "Bearer " + token} }

func (c call) field(name string) string { return c[name] }

// prove waits for the proof.
func (a *Authenticator) prove(t testing.TB, c call) *Proof {
	t.Helper()
	return a.proveAt(t, c, nil, time.Now())
}

func (a *Authenticator) proveAt(t testing.TB, c call, peer *authn.Peer, now time.Time) *Proof {
	t.Helper()
	later := make(chan *Proof, 1)
	if p := a.Prove(c.field, peer, now, func(p *Proof) { later <- p }); p != nil {
		return p
	}
	select {
	case p := <-later:
		return p
	case <-time.After(20 * time.Second):
		t.Fatal("no proof comes")
		return nil
	}
}

// says is the proof in short: "jwt alice", "", or the refusal's reason.
func (p *Proof) says() string {
	switch {
	case p.Refused != nil:
		return p.Refused.Reason
	case p.Principal != nil:
		return p.Principal.Kind + " " + p.Principal.Name
	}
	return ""
}

// eventually polls until ok, for what comes from outside: files and servers.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s", what)
		}
	}
}

// hang answers nothing until its test or the caller ends.
func hang(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }

func broken(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "down", http.StatusServiceUnavailable)
}

func endless(w http.ResponseWriter, _ *http.Request) { io.Copy(w, zeros{}) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// older lets the keeper fetch again at once, as if the last fetch had been long ago.
func (k *keeper) older() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.began = k.began.Add(-least)
}
