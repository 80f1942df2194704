// Package proxyproto owns the PROXY protocol's header, versions 1 and 2, as it is read from the beginning of a connection
// (https://www.haproxy.org/download/3.4/doc/proxy-protocol.txt); it must not know sockets, deadlines or whom to trust.
//
// It does not read with github.com/pires/go-proxyproto, which is the oracle of its tests instead: that library peeks 5 or 12
// bytes before it says that there is no header, refuses a version 1 line that comes in two segments, refuses PROXY with UNSPEC,
// and leaves the checksum unchecked, which the specification does not.
package proxyproto

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// maxV2 is how many bytes a version 2 header may have after its first 16: addresses and TLVs. The longest seen in the wild carry a
// client certificate of 1 to 2 KiB.
const maxV2 = 4096

// first is the size of the first buffer: a version 1 line, or version 2 with the few TLVs that proxies add.
const first = 256

// ErrAbsent says that what came first is not the beginning of a header.
var ErrAbsent = errors.New("proxyproto: the connection does not begin with a PROXY header")

// errMore says that more bytes are needed to decide.
var errMore = errors.New("proxyproto: incomplete")

// Read reads one header from the beginning of r. It asks for no more bytes while those it has decide the matter, and holds at most
// 4112 of them, rest included; a deadline is its caller's to set.
//
// from is the client's address, with IPv4 in IPv6 unmapped. It is invalid, without error, where the header tells none: LOCAL (the
// proxy's own connection, as for its health checks), UNKNOWN, UNSPEC and Unix sockets. rest are the bytes read beyond the header;
// they are the caller's.
//
// Errors: ErrAbsent as soon as a byte differs from both versions' signatures, and rest is then everything read; io.EOF if the
// connection ends before its first byte, io.ErrUnexpectedEOF if it does within the header; r's own errors; else a sentence that says
// what is wrong with the header, after which the connection has to be closed.
func Read(r io.Reader) (from netip.AddrPort, rest []byte, err error) {
	buf := make([]byte, 0, first)
	var failed error // of r
	for idle := 0; ; {
		size, from, err := parse(buf)
		switch {
		case err == nil:
			return from, buf[size:], nil
		case !errors.Is(err, errMore):
			return netip.AddrPort{}, buf, err
		case failed == io.EOF && len(buf) > 0:
			return netip.AddrPort{}, buf, io.ErrUnexpectedEOF
		case failed != nil:
			return netip.AddrPort{}, buf, failed
		}
		if size > cap(buf) {
			buf = append(make([]byte, 0, size), buf...)
		}
		var n int
		n, failed = r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			idle = 0
		} else if idle++; idle == 100 && failed == nil {
			failed = io.ErrNoProgress
		}
	}
}

// parse returns the header's size and what it tells. With errMore size is how many bytes are needed at most, if that is known.
func parse(b []byte) (size int, from netip.AddrPort, err error) {
	switch {
	case begins(b, signature1):
		return parse1(b)
	case begins(b, signature2):
		return parse2(b)
	}
	return 0, netip.AddrPort{}, ErrAbsent
}

// begins reports whether b begins with the signature, as far as it goes.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

func malformed(version int, format string, args ...any) error {
	return fmt.Errorf("proxyproto: the PROXY header (version %d) is malformed: %s", version, fmt.Sprintf(format, args...))
}
