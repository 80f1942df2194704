package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
)

func encode(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKeysThatCannotJudgeATokenAreLeftOutAndTold(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(err)
	ec := testKeys()["ES256"]
	text := string(encode(t,
		jose.JSONWebKey{Key: &weak.PublicKey, KeyID: "weak"},
		jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "secret"},
		jose.JSONWebKey{Key: &ec.(*ecdsa.PrivateKey).PublicKey, KeyID: "enc", Use: "enc"},
		jose.JSONWebKey{Key: testKeys()["EdDSA"].(ed25519.PrivateKey).Public(), KeyID: "good"}))
	text = strings.Replace(text, `"keys":[`, `"keys":[{"kty":"new"},`, 1)
	keys, err := ParseKeys([]byte(text))
	if err != nil || keys.Len() != 1 {
		t.Fatal(keys, err)
	}
	want := []string{
		"key 1 is of no known type, or not well-formed",
		"key 2 is an RSA key of 1024 bits; it takes 2048",
		"key 3 is a shared secret or of a type that signs nothing",
		"key 4 is not for signatures (its use is another than sig)",
	}
	if got := strings.Join(keys.Skipped, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("skipped:\n%s", got)
	}
}

func TestASetWithoutKeysIsExplained(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "is not JSON (at byte 0): a key set looks like {\"keys\": [...]}",
		"<html>":                   "is not JSON (at byte 1): a key set looks like {\"keys\": [...]}",
		"[]":                       "is not a key set: it looks like {\"keys\": [...]}",
		"{}":                       "has no keys: a key set looks like {\"keys\": [...]}, with at least one key",
		`{"keys":[]}`:              "has no keys: a key set looks like {\"keys\": [...]}, with at least one key",
		`{"keys":[{"kty":"oct"}]}`: "has no key that can be used: key 1 is of no known type, or not well-formed",
		`{"keys":[` + strings.Repeat("1,", maxKeys) + "1]}": "has 1001 keys, more than 1000: leave only those in use",
	} {
		if _, err := ParseKeys([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%.40q: %v\nwant %s", text, err, want)
		}
	}
}

func TestAPrivateKeyInTheSetIsTakenForItsPublicHalf(t *testing.T) {
	private := testKeys()["ES256"]
	keys, err := ParseKeys(encode(t, jose.JSONWebKey{Key: private, KeyID: "one"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, refused := judge(sign(t, "ES256", "one", private, claims(nil)), keys, start, provider()); refused != nil {
		t.Error(refused)
	}
}

func TestASetHasAnotherIfNoKeyIsGone(t *testing.T) {
	a := map[string]any{"1": testKeys()["ES256"]}
	b := map[string]any{"1": testKeys()["ES256"], "2": testKeys()["EdDSA"]}
	renamed := map[string]any{"one": testKeys()["ES256"]}
	if one, both := jwks(t, a), jwks(t, b); !both.Has(one) || one.Has(both) || !one.Has(one) || both.Has(jwks(t, renamed)) {
		t.Error("a set is not told from another")
	}
}

// A token without a key id would else cost as many signatures as there are keys.
func TestATokenIsTriedWithABoundedNumberOfKeys(t *testing.T) {
	public := &testKeys()["ES256"].(*ecdsa.PrivateKey).PublicKey
	var many []jose.JSONWebKey
	for range 100 {
		many = append(many, jose.JSONWebKey{Key: public, KeyID: "same"})
	}
	keys, err := ParseKeys(encode(t, many...))
	if err != nil || len(keys.fitting("", "ES256")) != maxTries || len(keys.fitting("same", "ES256")) != maxTries {
		t.Error(err, len(keys.fitting("", "ES256")))
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(encode(f, jose.JSONWebKey{Key: testKeys()["EdDSA"].(ed25519.PrivateKey).Public(), KeyID: "good"}))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AA","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := ParseKeys(text)
		if err == nil && (keys.Len() == 0 || !keys.Has(keys)) {
			t.Error("a set without keys is taken, or one that lacks its own")
		}
	})
}
