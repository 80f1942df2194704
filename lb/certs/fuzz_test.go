package certs

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

func FuzzTicketKeys(f *testing.F) {
	key := strings.Repeat("0a", 32)
	for _, seed := range []string{"", key, key + "\r\n#x\n\n" + key, key[1:], strings.Repeat("z", 64)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseTicketKeys(source{"k", "f"}, data)
		if (err == nil) != (len(keys) > 0) || len(keys) > maxTicketKeys {
			t.Fatal(keys, err)
		}
		var again []byte
		for _, k := range keys {
			again = append(hex.AppendEncode(again, k[:]), '\n')
		}
		if err == nil {
			if same, err := parseTicketKeys(source{}, again); err != nil || len(same) != len(keys) || same[0] != keys[0] {
				t.Fatal(same, err)
			}
		} else if len(data) >= 32 && strings.Contains(err.Error(), strings.TrimSpace(string(data))) {
			t.Fatalf("the error shows the file: %v", err)
		}
	})
}

func FuzzRevocations(f *testing.F) {
	ca := newAuthority(f, "Test CA")
	l := ca.named("x.test")
	der := ca.revoke(time.Now().Add(time.Hour), l.cert)
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	f.Add(der[:len(der)-1])
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRevocations(source{"k", "f"}, data, "ca", []*x509.Certificate{ca.cert})
		if err != nil {
			return
		}
		// Whatever was read is the authority's own, unforged.
		if revoked, _ := r.find([]*x509.Certificate{l.cert, ca.cert}); revoked != nil && revoked != l.cert {
			t.Fatal(revoked.Subject)
		}
		r.stale(time.Now())
	})
}

func FuzzPairsAndAuthorities(f *testing.F) {
	ca := newAuthority(f, "Test CA")
	l := ca.named("x.test")
	f.Add(chainPEM(l.chain...), l.keyPEM(f))
	f.Add(l.keyPEM(f), chainPEM(l.chain...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		if pair, err := parsePair(source{"c", "f"}, source{"k", "f"}, cert, key); err == nil && (pair.Leaf == nil || pair.PrivateKey == nil) {
			t.Fatal("half a pair")
		}
		if a, err := parseAuthorities(source{"c", "f"}, cert); err == nil && len(a.certs) == 0 {
			t.Fatal("nobody is an authority")
		}
	})
}
