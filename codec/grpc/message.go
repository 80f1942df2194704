package grpc

import (
	"strings"
	"unicode/utf8"
)

const upperHex = "0123456789ABCDEF"

// AppendMessage appends msg in the percent-encoding of grpc-message (the spec's Percent-Encoded): printable ASCII but '%'
// stays, other bytes become %XX, and invalid UTF-8 becomes U+FFFD first. A space at either end is encoded too, which
// grpc-go does not do: RFC 9113 section 8.2.1 forbids it there and a strict peer would reset the stream.
func AppendMessage(dst []byte, msg string) []byte {
	for i := 0; i < len(msg); {
		c := msg[i]
		switch {
		case c == ' ' && (i == 0 || i == len(msg)-1), c < ' ', c == '%', c == 0x7f:
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, size := utf8.DecodeRuneInString(msg[i:])
			var buf [utf8.UTFMax]byte
			for _, b := range buf[:utf8.EncodeRune(buf[:], r)] {
				dst = append(dst, '%', upperHex[b>>4], upperHex[b&15])
			}
			i += size
		}
	}
	return dst
}

// DecodeMessage decodes the value of grpc-message. It is lenient, as the spec demands: a broken escape stays as it is, and the
// result may be invalid UTF-8 if the peer sent that. It allocates only if there is something to decode.
func DecodeMessage(v string) string {
	i := strings.IndexByte(v, '%')
	if i < 0 {
		return v
	}
	out := append(make([]byte, 0, len(v)), v[:i]...)
	for ; i < len(v); i++ {
		if v[i] == '%' && i+2 < len(v) {
			hi, ok1 := unhex(v[i+1])
			lo, ok2 := unhex(v[i+2])
			if ok1 && ok2 {
				out = append(out, hi<<4|lo)
				i += 2
				continue
			}
		}
		out = append(out, v[i])
	}
	return string(out)
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
