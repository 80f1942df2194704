package gate

import (
	"net/http"
	"strings"
	"time"

	"github.com/trunkline/trunkline/policy/authn"
)

// CheckHTTP is Check for a server of net/http that carries RPCs, as the admin API's: it waits for the answer. A nil Gate lets everything pass
// but what Refused refuses.
func (g *Gate) CheckHTTP(method string, header http.Header, peer *authn.Peer, address string, now time.Time) *Verdict {
	r := g.For(method)
	if r == nil {
		if v := Refused(peer); v != nil {
			return v
		}
		return &Verdict{}
	}
	var fields [][2]string // a map has no order, and who copies them asks twice
	for name, values := range header {
		name = strings.ToLower(name)
		for _, v := range values {
			fields = append(fields, [2]string{name, v})
		}
	}
	q := &Request{Method: method, Address: address, Peer: peer, Now: now, Field: func(name string) string {
		return strings.Join(header.Values(name), ",")
	}, Each: func(yield func(name, value string) bool) {
		for _, f := range fields {
			if !yield(f[0], f[1]) {
				return
			}
		}
	}}
	answer := make(chan *Verdict, 1)
	if v := r.Check(q, func(v *Verdict) { answer <- v }); v != nil {
		return v
	}
	return <-answer
}
