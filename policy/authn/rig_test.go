package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

const issuer = "https://issuer.example.com"

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// testKeys are made once: RSA keys take a while.
var testKeys = sync.OnceValue(func() map[string]any {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	return map[string]any{"RS256": r, "PS256": r, "ES256": p256, "ES384": p384, "EdDSA": ed}
})

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// sign makes a token; id "" leaves kid out.
func sign(t testing.TB, algorithm, id string, private any, claims map[string]any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	if id != "" {
		options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: private}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	object, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// jwks is a key set of the public halves.
func jwks(t testing.TB, private map[string]any) *KeySet {
	t.Helper()
	set := jose.JSONWebKeySet{}
	for id, k := range private {
		jwk := jose.JSONWebKey{Key: k, KeyID: id, Use: "sig"}
		set.Keys = append(set.Keys, jwk.Public())
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func provider() *Provider {
	return &Provider{Name: "main", Issuer: issuer, Audiences: []string{"shop", "store"},
		Algorithms: []string{"RS256", "ES256", "EdDSA"}, Skew: 30 * time.Second}
}

// claims are good at start for an hour, with changes; nil takes one away.
func claims(changes map[string]any) map[string]any {
	c := map[string]any{"iss": issuer, "aud": "shop", "sub": "alice", "exp": start.Add(time.Hour).Unix(), "iat": start.Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// judge is what happens to a token from beginning to end.
func judge(text string, keys *KeySet, now time.Time, providers ...*Provider) (*Principal, *Refusal) {
	t, refused := ParseToken(text, providers, now)
	if refused != nil {
		return nil, refused
	}
	return t.Judge(keys)
}
