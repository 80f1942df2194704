package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// cipher is every peer's: Go and OpenSSL both have it and do it with the processor's help.
const cipher = tls.TLS_AES_128_GCM_SHA256

// clientConfig is for one load: sessions may be nil.
func clientConfig(hybrid bool, sessions tls.ClientSessionCache) *tls.Config {
	c := &tls.Config{
		ServerName: "localhost", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		CurvePreferences:   []tls.CurveID{tls.X25519},
		InsecureSkipVerify: true, // it is of our own making
		ClientSessionCache: sessions,
		// Large records at once, as the peers do.
		DynamicRecordSizingDisabled: true,
	}
	if hybrid {
		c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	}
	return c
}

// checkTLS says what differs from what all peers shall do.
func checkTLS(s tls.ConnectionState) error {
	if s.Version != tls.VersionTLS13 || s.CipherSuite != cipher || s.NegotiatedProtocol != "h2" {
		return fmt.Errorf("%s with %s and protocol %q: not comparable", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.NegotiatedProtocol)
	}
	return nil
}

// writeCertificate makes cert.pem, key.pem and both.pem in dir: ECDSA P-256, for localhost.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, text := range map[string][]byte{"cert.pem": certText, "key.pem": keyText, "both.pem": append(certText, keyText...)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// secret is a link's TLS: crypto/tls between buffers, so that the link keeps its own reads and writes. One read of the socket becomes
// one batch of frames, however many records it brought, and one flush becomes one write.
type secret struct {
	conn *tls.Conn
	pipe *pipe
}

// pipe is the connection that crypto/tls sees: the socket during the handshake, buffers afterwards.
type pipe struct {
	net.Conn
	buffered bool
	in, out  []byte // ciphertext; out guarded by link.mu
}

// errEmpty is temporary, so that crypto/tls goes on where it stopped.
type errEmpty struct{}

func (errEmpty) Error() string   { return "nothing more was read" }
func (errEmpty) Timeout() bool   { return true }
func (errEmpty) Temporary() bool { return true }

func (p *pipe) Read(b []byte) (int, error) {
	if !p.buffered {
		return p.Conn.Read(b)
	}
	if len(p.in) == 0 {
		return 0, errEmpty{}
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *pipe) Write(b []byte) (int, error) {
	if !p.buffered {
		return p.Conn.Write(b)
	}
	p.out = append(p.out, b...)
	return len(b), nil
}

// secure shakes hands.
func secure(nc net.Conn, config *tls.Config) (*secret, error) {
	s := &secret{pipe: &pipe{Conn: nc}}
	s.conn = tls.Client(s.pipe, config)
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if err := s.conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if err := checkTLS(s.conn.ConnectionState()); err != nil {
		return nil, err
	}
	s.pipe.buffered = true
	return s, nil
}

// seal moves what is in the output into records. The caller holds link.mu.
func (s *secret) seal(out *[]byte) error {
	if len(*out) == 0 {
		return nil
	}
	_, err := s.conn.Write(*out)
	*out = (*out)[:0]
	return err
}

// open appends the plaintext of what was read to buf, as far as it has room; it says whether there may be more. io.EOF: the peer
// has said that it ends.
func (s *secret) open(buf []byte, w int) (n int, more bool, err error) {
	for w+n < len(buf) {
		got, err := s.conn.Read(buf[w+n:])
		n += got
		if err != nil {
			var empty errEmpty
			if errors.As(err, &empty) {
				return n, false, nil
			}
			return n, false, err
		}
	}
	return n, true, nil
}

// serveSecret is serve for a link with TLS.
func (l *link) serveSecret() error {
	cipherText := make([]byte, min(l.bufMax, 16<<10))
	buf := make([]byte, l.bufMax)
	w := 0
	// decrypt takes everything out of what was read.
	decrypt := func() error {
		for more := true; more; {
			l.mu.Lock() // TLS itself may write
			n, again, err := l.secret.open(buf, w)
			l.mu.Unlock()
			w, more = w+n, again
			if w > 0 {
				used, err := l.batch(buf[:w])
				if err != nil {
					return err
				}
				w = copy(buf, buf[used:w])
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	var end error
	read := func(fd uintptr) bool {
		for {
			n, again, err := readSocket(fd, cipherText)
			if again {
				return false
			}
			if err != nil {
				end = err
				return true
			}
			l.secret.pipe.in = cipherText[:n]
			if end = decrypt(); end != nil {
				return true
			}
			if n < len(cipherText) {
				return false
			}
			if len(cipherText) < l.bufMax {
				cipherText = make([]byte, l.bufMax)
			}
		}
	}
	if err := decrypt(); err != nil { // what came with the handshake
		return err
	}
	if err := l.awaitReads(read); err != nil {
		return err
	}
	if errors.Is(end, io.EOF) && w > 0 {
		return io.ErrUnexpectedEOF
	}
	return end
}
