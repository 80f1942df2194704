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

// ReplyRoom is how large a reply's headers may become by what the gate has to tell the caller, in bytes as RFC 9113 section 6.5.2 counts them: more
// than clients take (grpc-java, gRPC's core) would break the call, or even their connection.
const ReplyRoom = 8 << 10

// Tell puts what the caller is told into the headers of a reply that has not begun, whose handler comes later. Left out is what the server says
// itself so far, what there is no room for, and what would have the body read in another way than the handler writes it.
func (v *Verdict) Tell(reply http.Header) {
	const overhead = 32
	size := 0
	for name, values := range reply {
		for _, value := range values {
			size += len(name) + len(value) + overhead
		}
	}
	own := reply.Clone()
	for i := range v.Told {
		t := &v.Told[i]
		name := http.CanonicalHeaderKey(t.Name)
		send, instead := t.Place(len(reply[name]) > 0)
		if n := len(t.Name) + len(t.Value) + overhead; send && len(own[name]) == 0 && name != "Content-Encoding" && size+n <= ReplyRoom {
			size += n
			if instead {
				reply.Del(name)
			}
			reply.Add(name, t.Value)
		}
	}
}
