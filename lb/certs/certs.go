// Package certs owns what TLS handshakes show, ask and believe, on listeners and when dialling: it reads certificates, authorities,
// revocation lists and ticket keys, takes up what changes in their files, staples, and judges chains; it must not accept, dial, or
// know calls.
//
// A [Server] stands behind one listener, a [Client] behind one cluster. Files that change are read again; what cannot be read leaves
// the last good one in force, and the log says so once. What a connection was judged by at its beginning holds for its life: a
// certificate that expires or is revoked later ends no connection.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

// Source has certificates that do not come from files.
type Source interface {
	// GetCertificate is tls.Config's.
	GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Roots has authorities of clients that do not come from files.
type Roots interface {
	// ClientCAs are the authorities now; nil while they are not known. It is called for each connection.
	ClientCAs() *x509.CertPool
}

// Certificate is what status and metrics may know of a certificate.
type Certificate struct {
	Names               []string // subject alternative names: DNS, IP addresses, URIs; without any, the common name
	Subject, Issuer     string   // RFC 2253
	Serial              string   // hexadecimal
	NotBefore, NotAfter time.Time
	File                string    // where it was read
	StapledUntil        time.Time // when the stapled OCSP response expires; zero: none is stapled
	Error               string    // why its files as they are now did not take its place; "": they are what is shown
	ErrorAt             time.Time // when that was found
}

// poll is how often files are looked at whether or not anything is told of them.
const poll = time.Minute

// suites are those of TLS 1.2 that HTTP/2 allows (RFC 9113 9.2.2): ephemeral keys and authenticated encryption. TLS 1.3 has no others.
func suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// Describe is what c says of itself; file may be empty.
func Describe(c *x509.Certificate, file string) Certificate {
	names := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if len(names) == 0 && c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return Certificate{
		Names: names, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Serial: c.SerialNumber.Text(16),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, File: file,
	}
}
