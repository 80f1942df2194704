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
	q := &Request{Method: method, Address: address, Peer: peer, Now: now, Field: func(name string) string {
		return strings.Join(header.Values(name), ",")
	}, Each: func(yield func(name, value string) bool) {
		for name, values := range header {
			name = strings.ToLower(name)
			for _, v := range values {
				if !yield(name, v) {
					return
				}
			}
		}
	}}
	answer := make(chan *Verdict, 1)
	if v := r.Check(q, func(v *Verdict) { answer <- v }); v != nil {
		return v
	}
	return <-answer
}
