package proxyproto_test

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/iotest"

	oracle "github.com/pires/go-proxyproto"

	"github.com/trunkline/trunkline/lb/proxyproto"
)

// FuzzRead holds what we read against the library, and reading at once against reading byte by byte. Where the two differ on
// purpose is written down in agree.
func FuzzRead(f *testing.F) {
	for _, h := range headers {
		f.Add([]byte(h.header))
		f.Add([]byte(h.header + "PRI * HTTP/2.0\r\n"))
		f.Add([]byte(h.header[:len(h.header)-1]))
	}
	f.Add(v2(0x21, 0x13, inet...))
	f.Add([]byte("PRI * HTTP/2.0\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := bytes.NewReader(b)
		from, rest, err := proxyproto.Read(whole)
		read := len(b) - whole.Len()
		if len(rest) > read || !bytes.Equal(rest, b[read-len(rest):read]) {
			t.Fatalf("rest = %q is not what stands before byte %d", rest, read)
		}
		if read > 16+4096 {
			t.Fatalf("read %d bytes", read)
		}
		size := read - len(rest)
		if err != nil && from.IsValid() {
			t.Fatalf("from = %v with %v", from, err)
		}
		dribbled := bytes.NewReader(b)
		from1, rest1, err1 := proxyproto.Read(iotest.OneByteReader(dribbled))
		if from1 != from || (err == nil) != (err1 == nil) || err != nil && err.Error() != err1.Error() {
			t.Fatalf("byte by byte: %v, %v; at once: %v, %v", from1, err1, from, err)
		}
		if err == nil && (len(rest1) != 0 || len(b)-dribbled.Len() != size) {
			t.Fatalf("byte by byte: %d bytes were read, but the header has %d", len(b)-dribbled.Len(), size)
		}
		agree(t, b, from, size, err)
	})
}

// agree compares with the library.
func agree(t *testing.T, b []byte, from netip.AddrPort, size int, err error) {
	r := bytes.NewReader(b)
	buffered := bufio.NewReaderSize(r, 64<<10)
	h, oracleErr := oracle.Read(buffered)
	absent := errors.Is(oracleErr, oracle.ErrNoProxyProtocol)
	switch {
	case oracleErr != nil && err == nil:
		// PROXY with UNSPEC is the receiver's to accept (section 2.2); the library does not.
		if !errors.Is(oracleErr, oracle.ErrUnsupportedAddressFamilyAndProtocol) || len(b) < 16 || b[12] != 0x21 || b[13] != 0 {
			t.Fatalf("read, but the library says %v", oracleErr)
		}
		return
	case errors.Is(err, proxyproto.ErrAbsent):
		// The library looks at "PROXY" without the space behind it.
		if !absent && !bytes.HasPrefix(b, []byte("PROXY")) {
			t.Fatalf("absent, but the library says %v, %v", h, oracleErr)
		}
		return
	case oracleErr != nil:
		return
	case err != nil:
		// The library leaves TLVs and the checksum to its caller.
		if h.Version == 2 && h.Command == oracle.PROXY && bytes.Contains([]byte(err.Error()), []byte("TLV")) {
			if _, tlvErr := h.TLVs(); tlvErr == nil {
				t.Fatalf("%v, but the library sees no fault in the TLVs", err)
			}
			return
		}
		if h.Version != 2 || h.Command != oracle.PROXY || !bytes.Contains([]byte(err.Error()), []byte("checksum")) {
			t.Fatalf("%v, but the library reads %+v", err, h)
		}
		return
	}
	if used := len(b) - r.Len() - buffered.Buffered(); used != size {
		t.Fatalf("the header has %d bytes, but the library says %d", size, used)
	}
	var want netip.AddrPort
	if h.Command == oracle.PROXY {
		switch a := h.SourceAddr.(type) {
		case *net.TCPAddr:
			want = a.AddrPort()
		case *net.UDPAddr:
			want = a.AddrPort()
		}
	}
	if want.IsValid() {
		want = netip.AddrPortFrom(want.Addr().Unmap(), want.Port())
	}
	if from != want {
		t.Fatalf("from = %v, but the library says %v", from, want)
	}
}
