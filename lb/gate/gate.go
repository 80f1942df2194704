// Package gate owns what a call is asked before it is admitted: who its caller is, what the rules say, what an external service
// says; it must not know streams or connections, nor block its caller.
package gate

import (
	"time"

	"github.com/trunkline/trunkline/policy/authn"
)

// Request is what is known of a call when it comes. What it holds is borrowed until Check returns; strings that are kept must be
// cloned.
type Request struct {
	Method    string // "pkg.Service/Method"
	Authority string
	Address   string      // of the client, without its port
	Peer      *authn.Peer // nil: none was made (as for h2c)
	Now       time.Time
	// Field is the first request header field of that name, "" if there is none; Each yields all but pseudo-header fields.
	Field func(name string) string
	Each  func(yield func(name, value string) bool)
}

// Verdict is what the gate says of a call.
type Verdict struct {
	Refused bool
	authn.Refusal
	Principal *authn.Principal // nil: not known
	// Set replaces request metadata fields (name, value), Remove takes fields away, before endpoints see them.
	Set    [][2]string
	Remove []string
	Notes  []Note
}

// Note is something that the call's record tells.
type Note struct {
	Name    string // of the rule, provider or service
	Text    string
	Refused bool // it refused, or would have (Shadow)
	Shadow  bool
}
