package transport

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// identity is a self-signed certificate.
func identity(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"x"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secured is sockets after a handshake of the given version.
func secured(t testing.TB, version uint16) (ours *Secured, theirs *tls.Conn, raw *net.TCPConn) {
	t.Helper()
	a, b := sockets(t)
	cfg := &tls.Config{Certificates: []tls.Certificate{identity(t)}, MaxVersion: version, NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true}
	theirs = tls.Client(b, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	done := make(chan error, 1)
	go func() { done <- theirs.Handshake() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ours, err := SecureServer(ctx, a, nil, cfg, make(Slots, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return ours, theirs, b
}

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

func TestASlowReaderOverTLSGetsEveryByteThroughManyPartialWrites(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			ours, theirs, _ := secured(t, version)
			body := make([]byte, 300<<10)
			v, _ := serve(t, ours, body)
			hello(theirs, 10, 1<<30)
			eventually(t, func() (ok bool) { v.in(func() { ok = v.c.flushing }); return ok }, "the kernel takes all at once: the test says nothing")
			v.in(func() {
				if n := len(v.c.Sess.Output()); n > limits.OutputMark+http2MaxFrame {
					t.Errorf("%d bytes of output, above the mark", n)
				}
			})
			for id, n := range replies(t, slow{theirs}, 10) {
				if n != len(body) {
					t.Errorf("stream %d got %d of %d bytes", id, n, len(body))
				}
			}
			_ = theirs.Close()
		})
	}
}

const http2MaxFrame = 16384

func TestRecordsThatComeInPiecesAreFrames(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			ours, theirs, raw := secured(t, version)
			_ = raw.SetNoDelay(true)
			serve(t, ours, make([]byte, 100))
			var b bytes.Buffer
			hello(&b, 5, 1<<20)
			go func() {
				for _, c := range b.Bytes() {
					_, _ = theirs.Write([]byte{c}) // a record for each byte
				}
			}()
			if got := replies(t, theirs, 5); len(got) != 5 {
				t.Errorf("got %v", got)
			}
			_ = theirs.Close()
		})
	}
}

// pieces passes on a few bytes at a time.
type pieces struct{ net.Conn }

func (p pieces) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var k int
		k, err = p.Conn.Write(b[:min(len(b), 7)])
		n += k
		b = b[k:]
	}
	return n, err
}

func TestARecordMayArriveAFewBytesAtATime(t *testing.T) {
	a, b := sockets(t)
	_ = b.SetNoDelay(true)
	theirs := tls.Client(pieces{b}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	go func() { _ = theirs.Handshake() }()
	ours, err := SecureServer(context.Background(), a, nil, &tls.Config{Certificates: []tls.Certificate{identity(t)}, NextProtos: []string{"h2"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ours, make([]byte, 1000))
	hello(theirs, 20, 1<<20)
	if got := replies(t, theirs, 20); len(got) != 20 {
		t.Errorf("got %v", got)
	}
	_ = theirs.Close()
}

func TestWhatWasReadBeforeTheHandshakeIsNotLost(t *testing.T) {
	a, b := sockets(t)
	theirs := tls.Client(b, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	go func() { _ = theirs.Handshake() }()
	first := make([]byte, 1)
	if _, err := io.ReadFull(a, first); err != nil {
		t.Fatal(err)
	}
	ours, err := SecureServer(context.Background(), a, first, &tls.Config{Certificates: []tls.Certificate{identity(t)}, NextProtos: []string{"h2"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ours, make([]byte, 10))
	hello(theirs, 1, 1<<20)
	replies(t, theirs, 1)
	_ = theirs.Close()
}

func TestWhatWasReadBeforeTheConnectionWasMadeIsParsedFirst(t *testing.T) {
	ours, theirs := sockets(t)
	var b bytes.Buffer
	hello(&b, 3, 1<<20)
	v, _ := serveAfter(t, ours, make([]byte, 10), b.Bytes())
	if got := replies(t, theirs, 3); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	_ = theirs.Close()
	_ = v
}

func TestAFrameOfWhichAPartWasReadBeforeTheConnectionWasMadeIsWhole(t *testing.T) {
	ours, theirs := net.Pipe()
	var b bytes.Buffer
	hello(&b, 3, 1<<20)
	v, wait := serveAfter(t, ours, make([]byte, 10), b.Next(b.Len()-5))
	go func() { _, _ = theirs.Write(b.Bytes()) }()
	if got := replies(t, theirs, 3); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	_ = theirs.Close()
	wait()
	eventually(t, func() (ok bool) { v.in(func() { ok = v.s.Env.Buffers.Outstanding() == 0 }); return ok }, "the flusher keeps its buffer")
}

func TestOurGoodbyeOverTLSIsAGoAwayAndACloseNotify(t *testing.T) {
	ours, theirs, _ := secured(t, tls.VersionTLS13)
	_, wait := serve(t, ours, nil)
	_, _ = io.WriteString(theirs, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	fr := http2.NewFramer(io.Discard, theirs)
	var why http2.ErrCode
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			if err != io.EOF { // io.ErrUnexpectedEOF: without close_notify
				t.Errorf("ended by %v", err)
			}
			break
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			why = g.ErrCode
		}
	}
	if why != http2.ErrCodeProtocol {
		t.Errorf("the code is %v", why)
	}
	_ = theirs.Close()
	wait()
}

func TestAForgedRecordEndsOnlyItsConnection(t *testing.T) {
	ours, theirs, raw := secured(t, tls.VersionTLS13)
	v, wait := serve(t, ours, make([]byte, 10))
	hello(theirs, 1, 1<<20)
	replies(t, theirs, 1)
	_, _ = raw.Write([]byte{23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	wait()
	v.in(func() {
		if v.err == nil || v.err == io.EOF {
			t.Errorf("the end is %v", v.err)
		}
	})
	_ = theirs.Close()
}

// The waiting between the peer's words must not keep others from computing.
func TestAHandshakeThatWaitsForItsPeerHoldsNoSlot(t *testing.T) {
	slots := make(Slots, 1)
	cfg := &tls.Config{Certificates: []tls.Certificate{identity(t)}, NextProtos: []string{"h2"}}
	mute, other := sockets(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { _, err := SecureServer(ctx, mute, nil, cfg, slots); done <- err }()
	a, b := sockets(t)
	theirs := tls.Client(b, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	go func() { _ = theirs.Handshake() }()
	if _, err := SecureServer(context.Background(), a, nil, cfg, slots); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("a handshake without a peer was done")
	}
	for _, c := range []net.Conn{mute, other, a, b} {
		_ = c.Close()
	}
}

func BenchmarkEchoOverTLS(b *testing.B) {
	ours, theirs, _ := secured(b, tls.VersionTLS13)
	serve(b, ours, make([]byte, 64<<10))
	hello(theirs, 0, 1<<30)
	fr := http2.NewFramer(theirs, theirs)
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	id := uint32(1)
	for b.Loop() {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: request(), EndHeaders: true, EndStream: true})
		id += 2
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				b.Fatal(err)
			}
			if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
				break
			}
		}
	}
	_ = theirs.Close()
}
