// Package authn owns what is known about who calls: the Peer that a connection proves, the Principal of a call, and the judging
// of tokens and keys against keys that it is given; it must not fetch, read files, or ask the time.
package authn

import "github.com/trunkline/trunkline/codec/grpc"

// Peer is what a connection tells about its client, beside its address. Immutable.
type Peer struct {
	// TLS is the version ("TLS 1.3"), "" for h2c. ServerName is what the client asked for (SNI).
	TLS, ServerName string
	// Verified: the client showed a certificate, and it is good. Only then are the following set.
	Verified bool
	// SPIFFE is the first URI name with the scheme spiffe. The others are the subject alternative names by kind.
	SPIFFE            string
	DNS, URIs, Emails []string
	CommonName        string
	Subject, Issuer   string // RFC 2253
	Serial            string // hexadecimal
	Fingerprint       string // SHA-256 of the certificate, hexadecimal
	NotAfter          int64  // Unix seconds
	// Forwarded is the value of x-forwarded-client-cert for endpoints, in Envoy's form; "" for none.
	Forwarded string
	// Mesh: it came through a listener of Consul's service mesh, whose intentions hold for it.
	Mesh bool
	// Refused is why every call of this connection is refused; nil if none is for the connection's sake.
	Refused *Refusal
}

// Name is the client's name by its certificate: the SPIFFE id, else the first DNS name, URI, email address, else the common
// name; "" if it showed none.
func (p *Peer) Name() string {
	switch {
	case p == nil || !p.Verified:
		return ""
	case p.SPIFFE != "":
		return p.SPIFFE
	case len(p.DNS) > 0:
		return p.DNS[0]
	case len(p.URIs) > 0:
		return p.URIs[0]
	case len(p.Emails) > 0:
		return p.Emails[0]
	}
	return p.CommonName
}

// Refusal is why a call is refused, for its caller.
type Refusal struct {
	Status  grpc.Status
	Reason  string // of google.rpc.ErrorInfo, UPPER_SNAKE
	Message string // a sentence that tells the caller what to do; no secrets
}

// Principal is who makes a call. Immutable.
type Principal struct {
	Kind     string         // "jwt", "api_key" or "certificate"
	Provider string         // of the configuration; "" for others than jwt
	Name     string         // sub, the key's name, or Peer.Name
	Claims   map[string]any // of a token, as encoding/json has them; nil for others
}
