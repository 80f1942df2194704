package proxyproto

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

const signature1 = "PROXY "

// max1 is the longest line, its CRLF included (section 2.1).
const max1 = 107

// parse1 parses a line: PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\r\n
func parse1(b []byte) (int, netip.AddrPort, error) {
	var none netip.AddrPort
	end := bytes.IndexByte(b[:min(len(b), max1)], '\n')
	switch {
	case end < 0 && len(b) >= max1:
		return 0, none, malformed(1, "its line is longer than %d bytes", max1)
	case end < 0:
		return 0, none, errMore
	case end < len(signature1) || b[end-1] != '\r':
		return 0, none, malformed(1, "its line must end with CR LF")
	}
	fields := strings.Split(string(b[len(signature1):end-1]), " ")
	if fields[0] == "UNKNOWN" { // what follows has to be ignored
		return end + 1, none, nil
	}
	six := fields[0] == "TCP6"
	if !six && fields[0] != "TCP4" {
		return 0, none, malformed(1, "protocol %.20q is none of TCP4, TCP6, UNKNOWN", fields[0])
	}
	if len(fields) != 5 {
		return 0, none, malformed(1, "it has %d fields after %s, want 4", len(fields)-1, fields[0])
	}
	var ip [2]netip.Addr
	var port [2]uint16
	for i := range ip {
		addr, err := netip.ParseAddr(fields[1+i])
		if err != nil || addr.Zone() != "" || addr.Is4() == six {
			return 0, none, malformed(1, "%.50q is no address of %s", fields[1+i], fields[0])
		}
		ip[i] = addr.Unmap()
	}
	for i := range port {
		text := fields[3+i]
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || len(text) > 1 && text[0] == '0' {
			return 0, none, malformed(1, "%.20q is no port", text)
		}
		port[i] = uint16(n)
	}
	return end + 1, netip.AddrPortFrom(ip[0], port[0]), nil
}
