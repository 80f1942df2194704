package attacks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// sealer encrypts TLS records as a client, with AES-128-GCM and SHA-256.
type sealer struct {
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
	secret []byte // of TLS 1.3, nil for 1.2
}

// newSealer13 begins with a client's first application traffic secret (RFC 8446 section 7.3).
func newSealer13(secret []byte) *sealer {
	return &sealer{secret: secret, aead: gcm(expand(secret, "key", 16)), iv: expand(secret, "iv", 12)}
}

// newSealer12 begins after a client's Finished (RFC 5246 section 6.3, RFC 5288).
func newSealer12(master, server, client []byte) *sealer {
	seed := append(append([]byte("key expansion"), server...), client...)
	mac := func(p []byte) []byte {
		h := hmac.New(sha256.New, master)
		h.Write(p)
		return h.Sum(nil)
	}
	var block []byte
	for a := mac(seed); len(block) < 40; a = mac(a) {
		block = append(block, mac(append(a[:len(a):len(a)], seed...))...)
	}
	return &sealer{aead: gcm(block[:16]), iv: block[32:36], seq: 1}
}

func gcm(key []byte) cipher.AEAD {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // 16 bytes
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err) // AES
	}
	return a
}

// expand is HKDF-Expand-Label without context (RFC 8446 section 7.1).
func expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	out, err := hkdf.Expand(sha256.New, secret, string([]byte{0, byte(n), byte(len(label))})+label+"\x00", n)
	if err != nil {
		panic(err) // n is small
	}
	return out
}

// update is what a client does after its KeyUpdate.
func (s *sealer) update() { *s = *newSealer13(expand(s.secret, "traffic upd", 32)) }

// seal makes one record.
func (s *sealer) seal(typ byte, content []byte) []byte {
	seq := binary.BigEndian.AppendUint64(nil, s.seq)
	s.seq++
	if s.secret == nil {
		n := 8 + len(content) + 16
		record := append([]byte{typ, 3, 3, byte(n >> 8), byte(n)}, seq...)
		about := append(append([]byte(nil), seq...), typ, 3, 3, byte(len(content)>>8), byte(len(content)))
		return s.aead.Seal(record, append(append([]byte(nil), s.iv...), seq...), content, about)
	}
	nonce := append([]byte(nil), s.iv...)
	for i, b := range seq {
		nonce[4+i] ^= b
	}
	n := len(content) + 1 + 16
	record := []byte{23, 3, 3, byte(n >> 8), byte(n)}
	return s.aead.Seal(record, nonce, append(append([]byte(nil), content...), typ), record[:5:5])
}

// keyLog keeps what crypto/tls tells debuggers.
type keyLog struct{ strings.Builder }

func (k *keyLog) line(label string) (random, secret []byte, err error) {
	for line := range strings.Lines(k.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == label {
			random, err = hex.DecodeString(f[1])
			if err != nil {
				return nil, nil, err
			}
			secret, err = hex.DecodeString(f[2])
			return random, secret, err
		}
	}
	return nil, nil, fmt.Errorf("no %s in the key log", label)
}

func (k *keyLog) secret(label string) ([]byte, error) {
	_, secret, err := k.line(label)
	return secret, err
}

// random is the client's, of TLS 1.2.
func (k *keyLog) random() []byte {
	random, _, _ := k.line("CLIENT_RANDOM") // asked for after secret has found it
	return random
}

// pair is the listener's certificate: files for the product, and its authority for clients.
type pair struct{ cert, key, ca string }

func newPair(t *testing.T) pair {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "attacks"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "listener"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	check(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	dir := t.TempDir()
	text := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	p := pair{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), ca: string(text("CERTIFICATE", caDER))}
	check(os.WriteFile(p.cert, text("CERTIFICATE", leafDER), 0o600))
	check(os.WriteFile(p.key, text("PRIVATE KEY", keyDER), 0o600))
	return p
}

func (p pair) credentials(t *testing.T) credentials.TransportCredentials {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(p.ca)) {
		t.Fatal("no authority")
	}
	return credentials.NewClientTLSFromCert(roots, "")
}
