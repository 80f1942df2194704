// Package gate owns what a call is asked before it is admitted: who its caller is, what the rules say, what an external service
// says; it must not know streams or connections, nor block its caller.
//
// The order of Rules.Check: a connection whose calls are all refused (authn.Peer.Refused); the proof of who calls (lb/identity), and
// that there is one where it is required; the rules (policy/authz); the external service (lb/extauthz). The first that refuses ends it.
package gate

import (
	"time"

	"github.com/trunkline/trunkline/lb/extauthz"
	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/authz"
)

// Request is what is known of a call when it comes. What it holds is borrowed until Check returns; strings that are kept must be
// cloned.
type Request struct {
	Method    string // "pkg.Service/Method"
	Authority string
	Address   string      // of the client, without its port
	Peer      *authn.Peer // nil: none was made (as for h2c)
	Now       time.Time
	// Field is the request header field of that name, "" if there is none, and of several all values with commas between; Each yields all
	// but pseudo-header fields, whenever it is called in the same order.
	Field func(name string) string
	Each  func(yield func(name, value string) bool)
}

// Verdict is what the gate says of a call.
type Verdict struct {
	Refused bool
	// Source is who refused it; SourceNone if nobody did.
	Source Source
	authn.Refusal
	Principal *authn.Principal // nil: not known
	// Set replaces request metadata fields (name, value), Add adds fields beside those that are there, Remove takes fields away, before
	// endpoints see them; in the order Remove, Set, Add. Not to be written to.
	Set, Add [][2]string
	Remove   []string
	Notes    []Note
	// Told are fields for the caller: they go with the reply's headers, or with the refusal. Not to be written to.
	Told []Told
}

// Told is a field for the caller; its name and value may be sent.
type Told = extauthz.Told

// Note is something that the call's record tells.
type Note = authz.Note

// Source is a part of the gate, for metrics.
type Source uint8

// The parts, in the order in which they are asked.
const (
	SourceNone           Source = iota
	SourceConnection            // the client's certificate, or the mesh
	SourceAuthentication        // a proof that is missing or not good
	SourceAuthorization         // the rules
	SourceExternal              // the external service
)

// String is a metric label's value.
func (s Source) String() string {
	switch s {
	case SourceConnection:
		return "connection"
	case SourceAuthentication:
		return "authentication"
	case SourceAuthorization:
		return "authorization"
	case SourceExternal:
		return "external_authorization"
	}
	return ""
}

// Refused is the verdict on every call of a connection that is refused as such, nil if it is not. It is for methods that have no Rules; Check
// asks it itself.
func Refused(p *authn.Peer) *Verdict {
	if p == nil || p.Refused == nil {
		return nil
	}
	return &Verdict{Refused: true, Source: SourceConnection, Refusal: *p.Refused,
		Notes: []Note{{Name: "connection", Text: p.Refused.Message, Refused: true}}}
}
