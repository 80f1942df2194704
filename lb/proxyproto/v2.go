package proxyproto

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

const signature2 = "\r\n\r\n\x00\r\nQUIT\n"

const prefix2 = 16 // the signature, version and command, family and protocol, length

// Bits of the 13th and 14th byte (section 2.2).
const (
	local   = 0x20
	proxied = 0x21

	unspec = 0
	inet   = 1
	inet6  = 2
	unix   = 3

	protocols = 3 // unspecified, stream, datagram
)

// Two ends, each an address and, but for Unix sockets, a port: by family.
func addresses(family byte) int {
	switch family {
	case inet:
		return 2*4 + 2*2
	case inet6:
		return 2*16 + 2*2
	case unix:
		return 2 * 108
	}
	return 0
}

// parse2 parses the binary header.
func parse2(b []byte) (int, netip.AddrPort, error) {
	var none netip.AddrPort
	if len(b) > 12 && b[12] != local && b[12] != proxied {
		return 0, none, malformed(2, "version and command are 0x%02x, want 0x20 or 0x21", b[12])
	}
	if len(b) < prefix2 {
		return 0, none, errMore
	}
	family, protocol := b[13]>>4, b[13]&0xf
	if family > unix || protocol >= protocols || (family == unspec) != (protocol == 0) {
		return 0, none, malformed(2, "family and protocol are 0x%02x", b[13])
	}
	length := int(binary.BigEndian.Uint16(b[14:]))
	if length > maxV2 {
		return 0, none, malformed(2, "it is %d bytes long, more than the %d that are accepted", length, maxV2)
	}
	want := addresses(family)
	if b[12] == proxied && length < want {
		return 0, none, malformed(2, "it has %d bytes for addresses that need %d", length, want)
	}
	size := prefix2 + length
	if len(b) < size {
		return size, none, errMore
	}
	if b[12] == local { // addresses and TLVs have to be discarded
		return size, none, nil
	}
	if err := checkTLVs(b[:size], prefix2+want); err != nil {
		return 0, none, err
	}
	body := b[prefix2:]
	switch family {
	case inet:
		return size, netip.AddrPortFrom(netip.AddrFrom4([4]byte(body[:4])), binary.BigEndian.Uint16(body[8:])), nil
	case inet6:
		return size, netip.AddrPortFrom(netip.AddrFrom16([16]byte(body[:16])).Unmap(), binary.BigEndian.Uint16(body[32:])), nil
	}
	return size, none, nil
}

const tlvCRC32C = 0x03

// checkTLVs walks the TLVs of the header b, which begin at at, and checks the checksum if they have it (section 2.2.3).
func checkTLVs(b []byte, at int) error {
	sum := -1 // where it is
	for at < len(b) {
		if len(b)-at < 3 {
			return malformed(2, "its last TLV is cut off")
		}
		kind, length := b[at], int(binary.BigEndian.Uint16(b[at+1:]))
		at += 3
		if length > len(b)-at {
			return malformed(2, "TLV 0x%02x is %d bytes long, but %d are left", kind, length, len(b)-at)
		}
		if kind == tlvCRC32C {
			if length != 4 || sum >= 0 {
				return malformed(2, "want one checksum of 4 bytes")
			}
			sum = at
		}
		at += length
	}
	if sum < 0 {
		return nil
	}
	// The sum is over the whole header, with zeros in its own place.
	table := crc32.MakeTable(crc32.Castagnoli)
	got := crc32.Update(0, table, b[:sum])
	got = crc32.Update(got, table, make([]byte, 4))
	got = crc32.Update(got, table, b[sum+4:])
	if want := binary.BigEndian.Uint32(b[sum:]); got != want {
		return malformed(2, "its checksum is %08x, but the header's is %08x", want, got)
	}
	return nil
}
