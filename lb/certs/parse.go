package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
)

// newPair keeps a certificate chain and its key. Its Leaf is set.
func newPair(cert, key source) (*kept[*tls.Certificate], error) {
	return newKept(func(contents [][]byte) (*tls.Certificate, error) {
		return parsePair(cert, key, contents[0], contents[1])
	}, cert, key)
}

func parsePair(cert, key source, certPEM, keyPEM []byte) (*tls.Certificate, error) {
	if _, err := parseCertificates(cert, certPEM); err != nil {
		return nil, err
	}
	kinds := map[string]bool{}
	for block, rest := pem.Decode(keyPEM); block != nil; block, rest = pem.Decode(rest) {
		kinds[block.Type] = true
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, key.errorf("the key is encrypted: write it without a passphrase, readable only by this process's user")
		}
	}
	if !kinds["PRIVATE KEY"] && !kinds["RSA PRIVATE KEY"] && !kinds["EC PRIVATE KEY"] {
		return nil, key.errorf("holds no private key in PEM (-----BEGIN PRIVATE KEY-----)")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	switch {
	case err == nil:
		return &pair, nil
	case strings.Contains(err.Error(), "does not match"):
		return nil, key.errorf("is not the key of the certificate in %s: the first certificate there must be the key's own, with its issuers after it", cert.path)
	}
	return nil, key.errorf("%w", err)
}

// parseCertificates reads all certificates of PEM text.
func parseCertificates(s source, data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, s.errorf("certificate %d does not parse: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, s.errorf("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
	}
	return certs, nil
}

// authorities are whom chains may end with. Immutable.
type authorities struct {
	pool  *x509.CertPool
	certs []*x509.Certificate
	raw   []byte // as read: a part of what session tickets are bound to
}

func newAuthorities(s source) (*kept[*authorities], error) {
	return newKept(func(contents [][]byte) (*authorities, error) { return parseAuthorities(s, contents[0]) }, s)
}

func parseAuthorities(s source, data []byte) (*authorities, error) {
	certs, err := parseCertificates(s, data)
	if err != nil {
		return nil, err
	}
	a := &authorities{pool: x509.NewCertPool(), certs: certs, raw: data}
	for _, c := range certs {
		a.pool.AddCert(c)
	}
	return a, nil
}

// maxTicketKeys bounds what a ticket is tried with: each costs an HMAC.
const maxTicketKeys = 16

func newTicketKeys(s source) (*kept[[][32]byte], error) {
	return newKept(func(contents [][]byte) ([][32]byte, error) { return parseTicketKeys(s, contents[0]) }, s)
}

// parseTicketKeys reads lines of 64 hexadecimal digits; empty ones, and those that # begins, do not count. Errors never show what
// stands there.
func parseTicketKeys(s source, data []byte) ([][32]byte, error) {
	var keys [][32]byte
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var key [32]byte
		if len(line) != 2*len(key) {
			return nil, s.errorf("line %d has %d characters: a key is 64 hexadecimal digits, as `openssl rand -hex 32` writes them", i+1, len(line))
		}
		if _, err := hex.Decode(key[:], line); err != nil {
			return nil, s.errorf("line %d has other than hexadecimal digits: a key is 64 of them, as `openssl rand -hex 32` writes them", i+1)
		}
		if len(keys) == maxTicketKeys {
			return nil, s.errorf("line %d is a key too many: keep the %d newest", i+1, maxTicketKeys)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, s.errorf("holds no key: write a line of 64 hexadecimal digits, as `openssl rand -hex 32` does")
	}
	return keys, nil
}
