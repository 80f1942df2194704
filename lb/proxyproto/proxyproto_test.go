package proxyproto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/lb/proxyproto"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// v2 makes a header of version 2.
func v2(command, family byte, body ...byte) []byte {
	b := append([]byte(signature), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

// inet is 192.0.2.7:4660 to 10.0.0.1:443; inet6 is [2001:db8::7]:4660 to [2001:db8::1]:443.
var (
	inet  = []byte{192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0x01, 0xbb}
	inet6 = append(append(append([]byte{0x20, 1, 0xd, 0xb8}, append(make([]byte, 11), 7)...),
		append([]byte{0x20, 1, 0xd, 0xb8}, append(make([]byte, 11), 1)...)...), 0x12, 0x34, 0x01, 0xbb)
)

func tlv(kind byte, value ...byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value))), value...)
}

// summed is a header over IPv4 with TLVs around its checksum.
func summed() []byte {
	body := bytes.Join([][]byte{inet, tlv(1, 'h', '2'), tlv(3, 0, 0, 0, 0), tlv(4, 0, 0)}, nil)
	b := v2(0x21, 0x11, body...)
	at := bytes.Index(b, []byte{3, 0, 4, 0, 0, 0, 0}) + 3
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// headers are good ones, with what they tell; "" is nothing.
var headers = []struct{ name, header, from string }{
	{"TCP4", "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n", "192.0.2.7:4660"},
	{"TCP6", "PROXY TCP6 2001:db8::7 2001:db8::1 4660 443\r\n", "[2001:db8::7]:4660"},
	{"TCP6 with an IPv4 address inside", "PROXY TCP6 ::ffff:192.0.2.7 ::1 4660 443\r\n", "192.0.2.7:4660"},
	{"port 0", "PROXY TCP4 192.0.2.7 10.0.0.1 0 443\r\n", "192.0.2.7:0"},
	{"the longest TCP6", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
	{"UNKNOWN", "PROXY UNKNOWN\r\n", ""},
	{"UNKNOWN with whatever, 107 bytes", "PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", ""},
	{"v2 over IPv4", string(v2(0x21, 0x11, inet...)), "192.0.2.7:4660"},
	{"v2 over IPv6", string(v2(0x21, 0x21, inet6...)), "[2001:db8::7]:4660"},
	{"v2 of a QUIC client", string(v2(0x21, 0x12, inet...)), "192.0.2.7:4660"},
	{"v2 with TLVs", string(v2(0x21, 0x11, append(bytes.Clone(inet), tlv(0xee, 1, 2, 3)...)...)), "192.0.2.7:4660"},
	{"v2 with a checksum", string(summed()), "192.0.2.7:4660"},
	{"v2 of 4096 bytes", string(v2(0x21, 0x11, append(bytes.Clone(inet), tlv(4, make([]byte, 4096-15)...)...)...)), "192.0.2.7:4660"},
	{"v2 LOCAL", string(v2(0x20, 0x00)), ""},
	{"v2 LOCAL with an address", string(v2(0x20, 0x11, inet...)), ""},
	{"v2 LOCAL with what is no address", string(v2(0x20, 0x21, 1, 2, 3)), ""},
	{"v2 PROXY of nobody knows whom", string(v2(0x21, 0x00)), ""},
	{"v2 from a Unix socket", string(v2(0x21, 0x31, make([]byte, 216)...)), ""},
}

func addr(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}

func TestAHeaderTellsTheClientAndLeavesTheRest(t *testing.T) {
	for _, h := range headers {
		t.Run(h.name, func(t *testing.T) {
			from, rest, err := proxyproto.Read(strings.NewReader(h.header + h2.Preface))
			if err != nil || from != addr(h.from) {
				t.Fatalf("from = %v, %v; want %q", from, err, h.from)
			}
			if !strings.HasPrefix(h2.Preface, string(rest)) {
				t.Errorf("rest = %q, want the beginning of the preface", rest)
			}
		})
	}
}

func TestAHeaderMayComeByteByByteAndNothingIsReadBeyondIt(t *testing.T) {
	for _, h := range headers {
		t.Run(h.name, func(t *testing.T) {
			all := strings.NewReader(h.header + "x")
			from, rest, err := proxyproto.Read(iotest.OneByteReader(all))
			if err != nil || from != addr(h.from) || len(rest) != 0 || all.Len() != 1 {
				t.Errorf("from = %v, rest = %q, err = %v, unread = %d", from, rest, err, all.Len())
			}
		})
	}
}

func TestAHeaderMayBeCutAnywhereAndTheLastBytesMayComeWithTheEnd(t *testing.T) {
	for _, h := range headers {
		for at := range len(h.header) {
			r := io.MultiReader(strings.NewReader(h.header[:at]), iotest.DataErrReader(strings.NewReader(h.header[at:])))
			if from, rest, err := proxyproto.Read(r); err != nil || from != addr(h.from) || len(rest) != 0 {
				t.Fatalf("%s cut at %d: from = %v, rest = %q, err = %v", h.name, at, from, rest, err)
			}
		}
	}
}

func TestAConnectionThatEndsWithinTheHeaderSaysSo(t *testing.T) {
	for _, h := range headers {
		for at := range len(h.header) {
			want := io.ErrUnexpectedEOF
			if at == 0 {
				want = io.EOF
			}
			_, rest, err := proxyproto.Read(strings.NewReader(h.header[:at]))
			if !errors.Is(err, want) || string(rest) != h.header[:at] {
				t.Fatalf("%s cut at %d: rest = %q, err = %v, want %v", h.name, at, rest, err, want)
			}
			broken := errors.New("broken")
			if _, _, err := proxyproto.Read(io.MultiReader(strings.NewReader(h.header[:at]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
				t.Fatalf("%s broken at %d: err = %v", h.name, at, err)
			}
		}
	}
}

func TestWhatIsNoHeaderIsKnownByItsFirstDifferentByte(t *testing.T) {
	for _, c := range []struct {
		bytes string
		reads int // until it is known
	}{
		{h2.Preface, 3}, // PRI, against PRO
		{"\x16\x03\x01", 1},
		{"GET / HTTP/1.1\r\n", 1},
		{"PROXY\r\n", 6},
		{"PROXYTCP4", 6},
		{"proxy TCP4", 1},
		{"\r\n\r\n\x00\r\nQUIX\n", 11},
		{"\r\n\r\nGET", 5},
	} {
		all := strings.NewReader(c.bytes)
		from, rest, err := proxyproto.Read(iotest.OneByteReader(all))
		if !errors.Is(err, proxyproto.ErrAbsent) || from.IsValid() || string(rest) != c.bytes[:c.reads] {
			t.Errorf("%q: from = %v, rest = %q, err = %v; want it absent after %d bytes", c.bytes, from, rest, err, c.reads)
		}
		if got := len(c.bytes) - all.Len(); got != c.reads {
			t.Errorf("%q: read %d bytes, want %d", c.bytes, got, c.reads)
		}
		if _, rest, err := proxyproto.Read(strings.NewReader(c.bytes)); !errors.Is(err, proxyproto.ErrAbsent) || string(rest) != c.bytes {
			t.Errorf("%q at once: rest = %q, err = %v", c.bytes, rest, err)
		}
	}
}

func TestAMalformedHeaderIsRefusedWithItsFault(t *testing.T) {
	broken := summed()
	broken[16]++ // somebody else's address
	for _, c := range []struct{ bytes, want string }{
		{"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\n", "CR LF"},
		{"PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n", "3 fields"},
		{"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443 \r\n", "5 fields"},
		{"PROXY TCP4  192.0.2.7 10.0.0.1 4660 443\r\n", "5 fields"},
		{"PROXY TCP4 192.0.2.7 10.0.0.1 04660 443\r\n", `"04660" is no port`},
		{"PROXY TCP4 192.0.2.7 10.0.0.1 +466 443\r\n", `"+466" is no port`},
		{"PROXY TCP4 192.0.2.7 10.0.0.1 4660 65536\r\n", `"65536" is no port`},
		{"PROXY TCP4 2001:db8::7 10.0.0.1 4660 443\r\n", "no address of TCP4"},
		{"PROXY TCP6 192.0.2.7 ::1 4660 443\r\n", "no address of TCP6"},
		{"PROXY TCP6 fe80::1%eth0 ::1 4660 443\r\n", "no address of TCP6"},
		{"PROXY TCP4 192.0.2.07 10.0.0.1 4660 443\r\n", "no address of TCP4"},
		{"PROXY UDP4 192.0.2.7 10.0.0.1 4660 443\r\n", `"UDP4" is none of`},
		{"PROXY \r\n", `"" is none of`},
		{"PROXY UNKNOWN " + strings.Repeat("f", 93), "longer than 107"},
		{"PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n", "longer than 107"},
		{signature + "\x31", "version and command are 0x31"},
		{signature + "\x22", "version and command are 0x22"},
		{string(v2(0x21, 0x13, inet...)), "family and protocol are 0x13"},
		{string(v2(0x21, 0x10, inet...)), "family and protocol are 0x10"},
		{string(v2(0x21, 0x01)), "family and protocol are 0x01"},
		{string(v2(0x20, 0x41)), "family and protocol are 0x41"},
		{string(v2(0x21, 0x11, inet[:11]...)), "11 bytes for addresses that need 12"},
		{signature + "\x21\x11\x10\x01", "4097 bytes long"},
		{signature + "\x20\x00\xff\xff", "65535 bytes long"},
		{string(v2(0x21, 0x11, append(bytes.Clone(inet), 4, 0)...)), "cut off"},
		{string(v2(0x21, 0x11, append(bytes.Clone(inet), 4, 0, 2, 1)...)), "2 bytes long, but 1 are left"},
		{string(broken), "its checksum is"},
		{string(v2(0x21, 0x11, append(bytes.Clone(inet), tlv(3, 1, 2)...)...)), "one checksum of 4 bytes"},
		{string(v2(0x21, 0x00, append(tlv(3, 0, 0, 0, 0), tlv(3, 0, 0, 0, 0)...)...)), "one checksum of 4 bytes"},
	} {
		r := strings.NewReader(c.bytes)
		from, _, err := proxyproto.Read(iotest.OneByteReader(r))
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, proxyproto.ErrAbsent) || from.IsValid() {
			t.Errorf("%q: from = %v, err = %v, want one that says %s", c.bytes, from, err, c.want)
		}
	}
}

func TestAReaderThatGivesNothingIsGivenUp(t *testing.T) {
	if _, _, err := proxyproto.Read(idle{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("err = %v", err)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }
