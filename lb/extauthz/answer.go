package extauthz

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
	"golang.org/x/net/http/httpguts"
)

// maxHeaders bounds the fields that one answer may change, and maxValue how long one may be.
const (
	maxHeaders = 64
	maxValue   = 8 << 10
	maxMessage = 512 // of a denial, in bytes
)

// Verdict is what became of a question. If neither Denied nor Failed is set the service said yes.
type Verdict struct {
	// Denied means that the call is to be refused: the service said so, or it failed and failing closed is configured.
	Denied bool
	// Failed means that the service gave no sensible answer; whether the call passes is in Denied.
	Failed bool
	// Status is the service's, of a denial that it said.
	Status grpc.Status
	// Message is what it says to the caller, "" if it says nothing that could be shown.
	Message string
	// Why says in words what failed, by whom, and what follows. For records: it has the service's address.
	Why string
	// Set replaces request metadata fields, Add adds to them, Remove takes them away. Names in lower case, safe to send.
	Set, Add [][2]string
	Remove   []string
	// Told goes to the caller with the reply, whether the call is allowed or denied. The same holds for the names.
	Told []Told
}

// Told is a field for the caller, in the headers of the reply.
type Told struct {
	Name, Value string
	How         How
}

// How says what becomes of what the reply has of that name already.
type How uint8

// The ways, as core.HeaderValueOption has them.
const (
	Beside    How = iota // both are sent
	Instead              // only the new field is sent
	IfAbsent             // the new one is sent only if there is none
	IfPresent            // Instead, but only if there is one
)

// Place says whether the field is sent with a reply that has some of its name, or none (there), and whether instead of those.
func (t *Told) Place(there bool) (send, instead bool) {
	switch t.How {
	case Instead:
		return true, there
	case IfAbsent:
		return !there, false
	case IfPresent:
		return there, there
	default:
		return true, false
	}
}

// verdict reads an answer; wrong is why it makes no sense.
func verdict(o *owned, answer *auth.CheckResponse) (v *Verdict, wrong string) {
	// Both the status and the kind of response tell: only if both say so the call is allowed.
	code, denied := answer.GetStatus().GetCode(), answer.GetDeniedResponse()
	if answer.GetErrorResponse() != nil {
		return nil, "it says that it failed itself"
	}
	if code != int32(grpc.OK) || denied != nil {
		return &Verdict{Denied: true, Status: denial(code, denied), Message: message(denied), Told: told(denied.GetHeaders(), false)}, ""
	}
	ok := answer.GetOkResponse()
	v = &Verdict{Told: told(ok.GetResponseHeadersToAdd(), true)}
	for _, h := range ok.GetHeaders() {
		name, value, fine := header(h)
		if !fine {
			continue
		}
		if len(v.Set)+len(v.Add) == maxHeaders {
			return nil, fmt.Sprintf("its answer sets more than %d fields", maxHeaders)
		}
		switch action := h.GetAppendAction(); {
		case h.GetAppend().GetValue(): //nolint:staticcheck // deprecated, and what services send
			v.Add = append(v.Add, [2]string{name, value})
		case action == core.HeaderValueOption_ADD_IF_ABSENT && o.has(name), action == core.HeaderValueOption_OVERWRITE_IF_EXISTS && !o.has(name):
		default: // by the protocol's words the default is to override, although the enum's first is to append
			v.Set = append(v.Set, [2]string{name, value})
		}
	}
	for _, name := range ok.GetHeadersToRemove() {
		if name = strings.ToLower(name); httpguts.ValidHeaderFieldName(name) && !reserved(name) {
			if len(v.Remove) == maxHeaders {
				return nil, fmt.Sprintf("its answer removes more than %d fields", maxHeaders)
			}
			v.Remove = append(v.Remove, name)
		}
	}
	return v, ""
}

// told are the fields for the caller. What may not be sent, and what is too much, is left out: nobody may be let in, or kept out, for that. A
// refusal has nothing of those names yet (not theirs: Beside is as good as any way), and Envoy, too, sends all of one name then, as of
// www-authenticate.
func told(list []*core.HeaderValueOption, theirs bool) (out []Told) {
	for _, h := range list {
		name, value, fine := header(h)
		if !fine || len(out) == maxHeaders {
			continue
		}
		t := Told{Name: name, Value: value}
		if theirs {
			t.How = how(h)
		}
		out = append(out, t)
	}
	return out
}

// how reads what Envoy reads: the deprecated word first, then the enum.
func how(h *core.HeaderValueOption) How {
	if add := h.GetAppend(); add != nil { //nolint:staticcheck // deprecated, and what services send
		if add.GetValue() {
			return Beside
		}
		return Instead
	}
	switch h.GetAppendAction() {
	case core.HeaderValueOption_ADD_IF_ABSENT:
		return IfAbsent
	case core.HeaderValueOption_OVERWRITE_IF_EXISTS:
		return IfPresent
	case core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		return Instead
	default:
		return Beside
	}
}

// denial is the status of a refusal. The service's own gRPC status stands if it is more than "denied"; else the HTTP status
// that it wants to be sent tells, for services that were written for HTTP.
func denial(code int32, denied *auth.DeniedHttpResponse) grpc.Status {
	if s := grpc.Status(code); code > 0 && s.Known() && s != grpc.PermissionDenied && s != grpc.Unknown {
		return s
	}
	switch http := denied.GetStatus().GetCode(); {
	case http == 401, http == 407:
		return grpc.Unauthenticated
	case http == 404:
		return grpc.NotFound
	case http == 429:
		return grpc.ResourceExhausted
	case http == 400:
		return grpc.InvalidArgument
	case http >= 500:
		return grpc.Unavailable
	}
	return grpc.PermissionDenied
}

// message is the denial's body, if it is text for people: short, and no page.
func message(denied *auth.DeniedHttpResponse) string {
	s := strings.TrimSpace(denied.GetBody())
	if s == "" || len(s) > maxMessage || s[0] == '<' || !utf8.ValidString(s) {
		return ""
	}
	for _, r := range s {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' {
			return ""
		}
	}
	return strings.Join(strings.Fields(s), " ")
}

// header is a field that may be sent: the service must be able neither to break the framing nor to change what the call
// means, nor to set what is told by the connection.
func header(h *core.HeaderValueOption) (name, value string, fine bool) {
	name, value = strings.ToLower(h.GetHeader().GetKey()), h.GetHeader().GetValue()
	if value == "" {
		value = string(h.GetHeader().GetRawValue())
	}
	value = strings.Trim(value, " ")
	return name, value, httpguts.ValidHeaderFieldName(name) && !reserved(name) && authn.ValidValue(value) && len(value) <= maxValue && decodes(name, value)
}

// decodes tells whether a value can be read by gRPC: what is called -bin is base64, with padding or without. A library that meets another
// ends the call for it.
func decodes(name, value string) bool {
	if !strings.HasSuffix(name, "-bin") {
		return true
	}
	_, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	return err == nil && (!strings.HasSuffix(value, "=") || len(value)%4 == 0)
}

// reserved are the names that belong to HTTP/2 (RFC 9113, 8.2.2), to gRPC's protocol and to Trunkline.
func reserved(name string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host",
		"content-type", "content-length", "user-agent", "x-forwarded-client-cert":
		return true
	}
	return strings.HasPrefix(name, "grpc-") || strings.HasPrefix(name, "x-trunkline-")
}
