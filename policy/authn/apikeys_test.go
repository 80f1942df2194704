package authn

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func hashed(key string) string {
	h := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(h[:])
}

func (k *APIKeys) who(key string) string {
	h := sha256.Sum256([]byte(key))
	if p := k.Find(&h); p != nil {
		return p.Kind + " " + p.Name
	}
	return ""
}

func TestAKeyNamesItsCaller(t *testing.T) {
	text := "# the shop's\nshop " + hashed("k1") + "\nshop " + hashed("k2") + " # the new one\r\n\n\tbank\t" + strings.ToUpper(hashed("k3")[7:])
	text = strings.Replace(text, "bank\t", "bank\tsha256:", 1)
	keys, err := ParseAPIKeys([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"k1": "api_key shop", "k2": "api_key shop", "k3": "api_key bank", "k4": "", "": "", hashed("k1"): ""} {
		if got := keys.who(key); got != want {
			t.Errorf("%q: %q, want %q", key, got, want)
		}
	}
	if names := slices.Collect(keys.Each); keys.Len() != 3 || len(names) != 2 {
		t.Errorf("%d keys of %d names", keys.Len(), len(names))
	}
}

func TestAFileWithoutKeysHasTakenAllBack(t *testing.T) {
	keys, err := ParseAPIKeys([]byte("# none\n"))
	if err != nil || keys.who("k1") != "" {
		t.Error(err)
	}
}

func TestAWrongLineIsNamedAndNotQuoted(t *testing.T) {
	for text, want := range map[string]string{
		"shop hunter2":                                    "line 1 does not have sha256: before the hash. The hash of a key is what `printf %s KEY | sha256sum` prints",
		"\nhunter2":                                       "line 2 has 1 words: write <name> sha256:<64 hexadecimal digits>",
		"shop of mine sha256:00":                          "line 1 has 4 words: write <name> sha256:<64 hexadecimal digits>",
		"shop sha256:hunter2":                             "line 1 does not have 64 hexadecimal digits after sha256:. The hash of a key is what `printf %s KEY | sha256sum` prints",
		"shop " + hashed("hunter2") + "00":                "line 1 does not have 64 hexadecimal digits after sha256:. The hash of a key is what `printf %s KEY | sha256sum` prints",
		"shöp " + hashed("hunter2"):                       "line 1 has a name with other characters than those of printable ASCII",
		"shop " + hashed(""):                              "line 1 has the hash of an empty key",
		"a " + hashed("k") + "\nb " + hashed("k"):         `line 2 has the same key as "a" before it: give each caller a key of its own`,
		"a sha256:" + strings.Repeat("é", 32) + "hunter2": "line 1 does not have 64 hexadecimal digits after sha256:. The hash of a key is what `printf %s KEY | sha256sum` prints",
	} {
		if _, err := ParseAPIKeys([]byte(text)); err == nil || err.Error() != want || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

func FuzzParseAPIKeys(f *testing.F) {
	f.Add([]byte("shop " + hashed("k1")))
	f.Add([]byte("# x\n\nshop sha256:00 y"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := ParseAPIKeys(text)
		if err != nil {
			return
		}
		if keys.who("") != "" {
			t.Error("an empty key is taken")
		}
		for p := range keys.Each {
			if !ValidValue(p.Name) {
				t.Errorf("a name that cannot be sent: %q", p.Name)
			}
		}
	})
}
