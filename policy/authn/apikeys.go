package authn

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// APIKeys are the names of callers by the hashes of their keys. Immutable.
type APIKeys struct {
	// By the first bytes of the hash; nobody can choose a key by its hash, so that this tells nothing about the others.
	byPrefix map[uint64][]apiKey
	n        int
}

type apiKey struct {
	hash      [sha256.Size]byte
	principal *Principal
}

// maxAPIKeys bounds a file of keys.
const maxAPIKeys = 1_000_000

// ParseAPIKeys reads a file of keys: on each line "<name> sha256:<hexadecimal digits>"; # begins a comment, empty lines are nothing.
// One name may have several keys, as when they are changed. A file without keys is one where all were taken back. Errors name the line and never quote it: it may hold the key itself.
func ParseAPIKeys(text []byte) (*APIKeys, error) {
	k := &APIKeys{byPrefix: map[uint64][]apiKey{}}
	principals := map[string]*Principal{}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d has %d words: write <name> sha256:<64 hexadecimal digits>", number, len(fields))
		}
		if !ValidValue(fields[0]) {
			return nil, fmt.Errorf("line %d has a name with other characters than those of printable ASCII", number)
		}
		digits, ok := strings.CutPrefix(fields[1], "sha256:")
		if !ok {
			return nil, fmt.Errorf("line %d does not have sha256: before the hash. The hash of a key is what `printf %%s KEY | sha256sum` prints", number)
		}
		if k.n++; k.n > maxAPIKeys {
			return nil, fmt.Errorf("line %d is key %d: more than that many are not read", number, k.n)
		}
		var hash [sha256.Size]byte
		if n, err := hex.Decode(hash[:], []byte(digits[:min(len(digits), 2*len(hash))])); err != nil || n != len(hash) || len(digits) != 2*len(hash) {
			return nil, fmt.Errorf("line %d does not have 64 hexadecimal digits after sha256:. The hash of a key is what `printf %%s KEY | sha256sum` prints", number)
		}
		if hash == sha256.Sum256(nil) {
			return nil, fmt.Errorf("line %d has the hash of an empty key", number)
		}
		if other := k.Find(&hash); other != nil && other.Name != fields[0] {
			return nil, fmt.Errorf("line %d has the same key as %q before it: give each caller a key of its own", number, other.Name)
		}
		p := principals[fields[0]]
		if p == nil {
			p = &Principal{Kind: "api_key", Name: fields[0]}
			principals[p.Name] = p
		}
		at := binary.BigEndian.Uint64(hash[:])
		k.byPrefix[at] = append(k.byPrefix[at], apiKey{hash, p})
	}
	return k, nil
}

// Len is the number of keys.
func (k *APIKeys) Len() int { return k.n }

// Find is who has the key with that SHA-256, nil for nobody. The same pointer comes for all keys of one name.
func (k *APIKeys) Find(hash *[sha256.Size]byte) *Principal {
	var found *Principal
	candidates := k.byPrefix[binary.BigEndian.Uint64(hash[:])]
	for i := range candidates {
		if subtle.ConstantTimeCompare(candidates[i].hash[:], hash[:]) == 1 {
			found = candidates[i].principal
		}
	}
	return found
}

// Each yields the principals, each once.
func (k *APIKeys) Each(yield func(*Principal) bool) {
	seen := map[*Principal]bool{}
	for _, keys := range k.byPrefix {
		for i := range keys {
			if p := keys[i].principal; !seen[p] {
				seen[p] = true
				if !yield(p) {
					return
				}
			}
		}
	}
}

// UnknownAPIKey is the refusal of a key that nobody has, shown in that metadata field.
func UnknownAPIKey(metadata string) *Refusal {
	return refuse("API_KEY_UNKNOWN", "the key in the metadata %s is not known: check that it is whole and still in use, or ask whoever runs this service for a new one", metadata)
}
