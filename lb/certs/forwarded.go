package certs

import (
	"fmt"
	"strings"

	"github.com/trunkline/trunkline/policy/authn"
)

// maxForwarded bounds x-forwarded-client-cert, in bytes: a certificate may have more names than an endpoint takes metadata. Names that
// come later are left out.
const maxForwarded = 8 << 10

// forwarded is a client's certificate in the form of x-forwarded-client-cert
// (https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert):
// Hash=...;Subject="...";URI=...;DNS=...
//
// Subject is always quoted, the others if they have one of , ; = in them. Nothing in a certificate can end a quotation or begin another
// element, whether its reader knows \" only, or \ before anything; what is not printable ASCII is written as \XX (RFC 2253) in Subject
// and %XX in others.
func forwarded(p *authn.Peer) string {
	var b strings.Builder
	b.WriteString("Hash=" + p.Fingerprint)
	if subject := escape(strings.ReplaceAll(p.Subject, `\\`, `\5C`), `\%02X`, ""); len(subject) <= maxForwarded/2 {
		b.WriteString(`;Subject="` + subject + `"`)
	}
	add := func(key string, values []string) {
		for _, v := range values {
			v = escape(v, "%%%02X", `"\`)
			if b.Len()+len(key)+len(v)+4 > maxForwarded {
				return
			}
			if strings.ContainsAny(v, ",;= ") {
				v = `"` + v + `"`
			}
			b.WriteString(";" + key + "=" + v)
		}
	}
	add("URI", p.URIs)
	add("DNS", p.DNS)
	return b.String()
}

// escape writes bytes that are not printable ASCII, or one of special, in the given form.
func escape(s, form, special string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || strings.IndexByte(special, c) >= 0 {
			fmt.Fprintf(&b, form, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
