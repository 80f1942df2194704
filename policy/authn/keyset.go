package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	jose "github.com/go-jose/go-jose/v4"
)

// Algorithms are the signature algorithms that can be accepted (RFC 7518 section 3.1, RFC 8037): asymmetric ones, so that whoever can
// verify a token cannot make one.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

const (
	// maxKeys bounds a key set; issuers have a handful.
	maxKeys = 1000
	// maxTries bounds how many keys one token is tried with: each costs what a signature costs.
	maxTries = 16
	// leastRSABits is what RFC 7518 section 3.3 asks for.
	leastRSABits = 2048
)

// KeySet is an issuer's public keys. Immutable.
type KeySet struct {
	keys []key
	// Skipped says, a sentence each, which keys of the text are not used, and why.
	Skipped []string
}

type key struct {
	id, algorithm string // as the set says; "" if it does not
	public        any    // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	print         [sha256.Size]byte
}

// ParseKeys reads a JSON Web Key Set (RFC 7517 section 5). Keys that cannot be used are skipped, as it asks for; that none can is an error,
// which never holds a part of the text.
func ParseKeys(text []byte) (*KeySet, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		var kind *json.SyntaxError
		if errors.As(err, &kind) {
			return nil, fmt.Errorf("is not JSON (at byte %d): a key set looks like {\"keys\": [...]}", kind.Offset)
		}
		return nil, errors.New("is not a key set: it looks like {\"keys\": [...]}")
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("has no keys: a key set looks like {\"keys\": [...]}, with at least one key")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("has %d keys, more than %d: leave only those in use", len(set.Keys), maxKeys)
	}
	s := &KeySet{}
	for i, raw := range set.Keys {
		k, why := readKey(raw)
		if why != "" {
			s.Skipped = append(s.Skipped, fmt.Sprintf("key %d %s", i+1, why))
			continue
		}
		s.keys = append(s.keys, k)
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("has no key that can be used: %s", s.Skipped[0])
	}
	return s, nil
}

// readKey returns the public key, or why it is not used.
func readKey(raw []byte) (key, string) {
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		return key{}, "is of no known type, or not well-formed"
	}
	if jwk.Use != "" && jwk.Use != "sig" {
		return key{}, "is not for signatures (its use is another than sig)"
	}
	public := jwk.Public() // a file may hold the private key, by mistake or for a test
	switch p := public.Key.(type) {
	case *rsa.PublicKey:
		if p.N.BitLen() < leastRSABits {
			return key{}, fmt.Sprintf("is an RSA key of %d bits; it takes %d", p.N.BitLen(), leastRSABits)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return key{}, "is a shared secret or of a type that signs nothing"
	}
	if !public.Valid() {
		return key{}, "is not valid"
	}
	text, err := public.MarshalJSON()
	if err != nil {
		return key{}, "is not valid"
	}
	return key{id: jwk.KeyID, algorithm: jwk.Algorithm, public: public.Key, print: sha256.Sum256(text)}, ""
}

// Len is the number of keys.
func (s *KeySet) Len() int { return len(s.keys) }

// Has tells that each key of t is in s, too: then what t's keys have proved, s's prove.
func (s *KeySet) Has(t *KeySet) bool {
	have := make(map[[sha256.Size]byte]struct{}, len(s.keys))
	for i := range s.keys {
		have[s.keys[i].print] = struct{}{}
	}
	for i := range t.keys {
		if _, ok := have[t.keys[i].print]; !ok {
			return false
		}
	}
	return true
}

// fitting are the keys that may have made a signature with that algorithm and key id, "" for a token that names none.
func (s *KeySet) fitting(id, algorithm string) []any {
	var found []any
	for i := range s.keys {
		k := &s.keys[i]
		if id != "" && k.id != id || k.algorithm != "" && k.algorithm != algorithm || !fits(k.public, algorithm) {
			continue
		}
		if found = append(found, k.public); len(found) == maxTries {
			break
		}
	}
	return found
}

func fits(public any, algorithm string) bool {
	switch p := public.(type) {
	case *rsa.PublicKey:
		return algorithm[:2] == "RS" || algorithm[:2] == "PS"
	case *ecdsa.PublicKey:
		switch p.Params().BitSize {
		case 256:
			return algorithm == "ES256"
		case 384:
			return algorithm == "ES384"
		case 521:
			return algorithm == "ES512"
		}
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}
