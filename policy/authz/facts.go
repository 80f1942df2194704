package authz

import (
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/trunkline/trunkline/policy/authn"
)

// Facts are what rules may look at. They are borrowed until Decide returns, and nothing of them is kept.
type Facts struct {
	Authority string
	Address   string // of the client, without its port
	Peer      *authn.Peer
	Principal *authn.Principal // nil: not known
	Now       time.Time
	// Each yields the request's metadata. It is only asked if a rule looks at metadata.
	Each func(yield func(name, value string) bool)
	// Hidden tells of lower-case names that rules must not see, since only Trunkline may set them; nil: none.
	Hidden func(name string) bool
}

// facts are the rules' variables for one call (cel.Activation). A variable is made when a rule asks for it, for most rules
// look at two or three. It also stands for peer and identity, whose fields are read straight from it.
type facts struct {
	rules    *Rules
	f        Facts
	peer     *authn.Peer      // never nil
	who      *authn.Principal // never nil
	metadata metadata
	// What stands for the variables of a call of which nothing is known.
	noPeer authn.Peer
	nobody authn.Principal
}

func (w *facts) begin(r *Rules, f *Facts) {
	w.rules, w.f, w.peer, w.who = r, *f, f.Peer, f.Principal
	if w.peer == nil {
		w.peer = &w.noPeer
	}
	if w.who == nil {
		w.who = &w.nobody
	}
	w.metadata.f = &w.f
}

// end forgets what is borrowed.
func (w *facts) end() { *w = facts{} }

// Parent is there for cel.Activation.
func (w *facts) Parent() cel.Activation { return nil }

// ResolveName is a variable's value.
func (w *facts) ResolveName(name string) (any, bool) {
	switch name {
	case "method":
		return w.rules.boxedMethod, true
	case "service":
		return w.rules.boxedService, true
	case "authority":
		return types.String(w.f.Authority), true
	case "metadata":
		return &w.metadata, true
	case "peer", "identity":
		return w, true
	case "claims":
		return w.who.Claims, true
	case "now":
		return types.Timestamp{Time: w.f.Now}, true
	}
	return nil, false
}

// field is one of peer or identity.
type field struct {
	name string
	kind *cel.Type
	get  func(*facts) any
	set  func(*facts) bool
}

func text(name string, get func(*facts) string) field {
	return field{name: name, kind: cel.StringType,
		get: func(w *facts) any { return types.String(get(w)) },
		set: func(w *facts) bool { return get(w) != "" }}
}

func list(name string, get func(*facts) []string) field {
	return field{name: name, kind: cel.ListType(cel.StringType),
		get: func(w *facts) any { return types.NewStringList(types.DefaultTypeAdapter, get(w)) },
		set: func(w *facts) bool { return len(get(w)) > 0 }}
}

const (
	peerType     = "trunkline.Peer"
	identityType = "trunkline.Identity"
)

// fieldsOf are the fields of the two types.
func fieldsOf(kind string) []field {
	switch kind {
	case peerType:
		return []field{
			text("address", func(w *facts) string { return w.f.Address }),
			text("tls", func(w *facts) string { return w.peer.TLS }),
			text("server_name", func(w *facts) string { return w.peer.ServerName }),
			{name: "verified", kind: cel.BoolType,
				get: func(w *facts) any { return types.Bool(w.peer.Verified) },
				set: func(w *facts) bool { return w.peer.Verified }},
			text("name", func(w *facts) string { return w.peer.Name() }),
			text("spiffe", func(w *facts) string { return w.peer.SPIFFE }),
			list("dns", func(w *facts) []string { return w.peer.DNS }),
			list("uris", func(w *facts) []string { return w.peer.URIs }),
			list("emails", func(w *facts) []string { return w.peer.Emails }),
			text("common_name", func(w *facts) string { return w.peer.CommonName }),
			text("subject", func(w *facts) string { return w.peer.Subject }),
			text("issuer", func(w *facts) string { return w.peer.Issuer }),
			text("serial", func(w *facts) string { return w.peer.Serial }),
			text("fingerprint", func(w *facts) string { return w.peer.Fingerprint }),
		}
	case identityType:
		return []field{
			text("kind", func(w *facts) string { return w.who.Kind }),
			text("provider", func(w *facts) string { return w.who.Provider }),
			text("name", func(w *facts) string { return w.who.Name }),
		}
	}
	return nil
}

// provider adds the two types to those that CEL knows.
type provider struct {
	types.Provider
	peer, identity map[string]field
}

func newProvider(of types.Provider) *provider {
	p := &provider{Provider: of, peer: map[string]field{}, identity: map[string]field{}}
	for _, f := range fieldsOf(peerType) {
		p.peer[f.name] = f
	}
	for _, f := range fieldsOf(identityType) {
		p.identity[f.name] = f
	}
	return p
}

func (p *provider) fields(kind string) map[string]field {
	switch kind {
	case peerType:
		return p.peer
	case identityType:
		return p.identity
	}
	return nil
}

func (p *provider) FindStructType(kind string) (*types.Type, bool) {
	if p.fields(kind) != nil {
		return types.NewTypeTypeWithParam(types.NewObjectType(kind)), true
	}
	return p.Provider.FindStructType(kind)
}

func (p *provider) FindStructFieldNames(kind string) ([]string, bool) {
	if p.fields(kind) == nil {
		return p.Provider.FindStructFieldNames(kind)
	}
	var names []string
	for _, f := range fieldsOf(kind) {
		names = append(names, f.name)
	}
	return names, true
}

func (p *provider) FindStructFieldType(kind, name string) (*types.FieldType, bool) {
	fields := p.fields(kind)
	if fields == nil {
		return p.Provider.FindStructFieldType(kind, name)
	}
	f, ok := fields[name]
	if !ok {
		return nil, false
	}
	return &types.FieldType{Type: f.kind,
		IsSet: func(target any) bool {
			w, ok := target.(*facts)
			return ok && f.set(w)
		},
		GetFrom: func(target any) (any, error) {
			w, ok := target.(*facts)
			if !ok {
				return nil, errNotOurs
			}
			return f.get(w), nil
		}}, true
}

// NewValue refuses what no rule needs: peers that are made up.
func (p *provider) NewValue(kind string, fields map[string]ref.Val) ref.Val {
	if p.fields(kind) != nil {
		return types.NewErr("%s cannot be made in a rule", kind)
	}
	return p.Provider.NewValue(kind, fields)
}
