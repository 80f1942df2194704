package extauthz

import (
	"net/netip"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/trunkline/trunkline/policy/authn"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Question is what the service is told of a call. It is borrowed until Ask returns, but for Peer, Principal and Set, which nobody changes.
type Question struct {
	Method    string // "pkg.Service/Method"
	Authority string
	Address   string // of the client, without its port
	Peer      *authn.Peer
	Principal *authn.Principal // nil: not known
	Now       time.Time
	// Each yields the request's metadata, without those that clients may not set, whenever it is called in the same order. Set replaces some of it.
	Each func(yield func(name, value string) bool)
	Set  [][2]string
}

// owned is a Question that nothing is borrowed in.
type owned struct {
	Question
	fields [][2]string
}

// clone takes what is borrowed, with one copy of all its text: it is called inside a shard.
func (q *Question) clone() *owned {
	o := &owned{Question: *q}
	o.Each = nil
	size, n := len(q.Method)+len(q.Authority)+len(q.Address), 0
	each := func(yield func(name, value string)) {
		if q.Each == nil {
			return
		}
		q.Each(func(name, value string) bool {
			if !strings.HasSuffix(name, "-bin") {
				yield(name, value)
			}
			return true
		})
	}
	each(func(name, value string) { size, n = size+len(name)+len(value), n+1 })
	var b strings.Builder
	b.Grow(size)
	b.WriteString(q.Method)
	b.WriteString(q.Authority)
	b.WriteString(q.Address)
	each(func(name, value string) {
		b.WriteString(name)
		b.WriteString(value)
	})
	text := b.String()
	take := func(n int) string {
		s := text[:n]
		text = text[n:]
		return s
	}
	o.Method, o.Authority, o.Address = take(len(q.Method)), take(len(q.Authority)), take(len(q.Address))
	o.fields = make([][2]string, 0, n)
	each(func(name, value string) { o.fields = append(o.fields, [2]string{take(len(name)), take(len(value))}) })
	return o
}

// has tells whether the request has such a field.
func (o *owned) has(name string) bool {
	for _, f := range o.fields {
		if f[0] == name {
			return true
		}
	}
	for _, f := range o.Set {
		if f[0] == name {
			return true
		}
	}
	return false
}

// request is the question in Envoy's words, as its filter has it for a gRPC call: a POST to a path. The body is not shown.
func (c *Client) request(o *owned) *auth.CheckRequest {
	tls := o.Peer != nil && o.Peer.TLS != ""
	scheme := "http"
	if tls {
		scheme = "https"
	}
	path := "/" + o.Method
	http := &auth.AttributeContext_HttpRequest{
		Method: "POST", Path: valid(path), Host: valid(o.Authority), Scheme: scheme, Protocol: "HTTP/2", Size: -1,
		Headers: c.headers(o, path, scheme),
	}
	http.Id = http.Headers["x-request-id"]
	a := &auth.AttributeContext{
		Source:          source(o),
		Request:         &auth.AttributeContext_Request{Time: timestamppb.New(o.Now), Http: http},
		MetadataContext: identity(o.Principal),
	}
	if tls {
		a.TlsSession = &auth.AttributeContext_TLSSession{Sni: valid(o.Peer.ServerName)}
	}
	return &auth.CheckRequest{Attributes: a}
}

func (c *Client) headers(o *owned, path, scheme string) map[string]string {
	headers := make(map[string]string, len(o.fields)+4)
	more := map[string][]string{} // all values of what there is several times: joined one by one, 512 fields would be copied a hundred times
	put := func(name, value string) {
		if c.wanted != nil && !c.wanted[name] || strings.HasSuffix(name, "-bin") {
			return
		}
		// Bytes that are no UTF-8 cannot be sent, and must not be a way to make a question fail and so pass.
		name, value = valid(name), valid(value)
		before, ok := headers[name]
		switch {
		case !ok:
			headers[name] = value
		case more[name] == nil:
			more[name] = []string{before, value}
		default:
			more[name] = append(more[name], value)
		}
	}
	for _, f := range o.fields {
		put(f[0], f[1])
	}
	for _, f := range o.Set {
		delete(headers, f[0])
		delete(more, f[0])
	}
	for _, f := range o.Set {
		put(f[0], f[1])
	}
	for name, values := range more {
		headers[name] = strings.Join(values, ",")
	}
	if c.wanted == nil { // Envoy shows them beside the others
		headers[":method"], headers[":path"], headers[":scheme"], headers[":authority"] = "POST", valid(path), scheme, valid(o.Authority)
	}
	return headers
}

// source is who calls by the connection: its principal is the certificate's name.
func source(o *owned) *auth.AttributeContext_Peer {
	p := &auth.AttributeContext_Peer{Principal: valid(o.Peer.Name())}
	if _, err := netip.ParseAddr(o.Address); err == nil {
		p.Address = &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Protocol: core.SocketAddress_TCP, Address: o.Address, PortSpecifier: &core.SocketAddress_PortValue{}}}}
	}
	return p
}

// identity is what a token or key proves, for services that would otherwise verify it again: filter_metadata.trunkline has identity
// (kind, provider, name) and claims.
func identity(p *authn.Principal) *core.Metadata {
	if p == nil {
		return nil
	}
	who := map[string]any{"kind": valid(p.Kind), "provider": valid(p.Provider), "name": valid(p.Name)}
	s, err := structpb.NewStruct(map[string]any{"identity": who, "claims": p.Claims})
	if err != nil { // claims that are no JSON, or no UTF-8
		if s, err = structpb.NewStruct(map[string]any{"identity": who}); err != nil {
			return nil
		}
	}
	return &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"trunkline": s}}
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
