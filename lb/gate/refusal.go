package gate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/extauthz"
	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/authz"
)

// deny turns what the rules say into what the caller is told: which rule, and what its writer says to do, but no condition and no value.
func (r *Rules) deny(v *Verdict, d *authz.Decision) {
	v.Refused, v.Source, v.Status = true, SourceAuthorization, grpc.PermissionDenied
	to := caller(v.Principal)
	switch {
	case d.Rule != "":
		v.Reason = "DENIED_BY_RULE"
		v.Message = fmt.Sprintf("rule %s denies %s to %s", d.Rule, r.method, to)
		if d.Unclear {
			v.Message += ", for its condition cannot be evaluated"
		}
	case len(d.Missing) > 0:
		v.Reason = "NOT_ALLOWED_BY_RULE"
		v.Message = fmt.Sprintf("no rule allows %s to %s: %s would have to", r.method, to, d.Wanting())
	default:
		v.Reason = "NOT_ALLOWED_BY_DEFAULT"
		v.Message = noRule(r.method)
		return
	}
	switch {
	case d.Message != "":
		v.Message += ": " + d.Message
	case v.Principal != nil || r.gate.always[d.Rule]:
		v.Message += "; ask whoever runs this service"
	}
	if by := r.gate.who.value.Known(); v.Principal == nil && by != "" && !r.gate.always[d.Rule] {
		v.Message += "; a caller is known by " + by
	}
	v.Message += " (authorization.rules)"
}

// noRule is why the default denies a method. The admin API's rules are its operator's own to write.
func noRule(method string) string {
	do := "ask for an allow rule (authorization.default)"
	if strings.HasPrefix(method, "trunkline.admin.v1.AdminService/") {
		do = "the admin API needs an allow rule, too, with methods: [ trunkline.admin.v1.AdminService/* ] (authorization.default)"
	}
	return fmt.Sprintf("no rule is about %s, and what no rule allows is denied: %s", method, do)
}

// heard adds what the external service says.
func (r *Rules) heard(v *Verdict, x *extauthz.Verdict) {
	const name = "externalAuthorization"
	note := Note{Name: name, Text: "allows it", Shadow: r.shadow}
	switch {
	case x.Failed:
		note.Text, note.Refused = x.Why, x.Denied
	case x.Denied:
		note.Text, note.Refused = "denies it with "+x.Status.String(), true
		if x.Message != "" {
			note.Text += ": " + x.Message
		}
	}
	v.Notes = append(slices.Clip(v.Notes), note) // those of the rules are shared
	if r.shadow {
		return
	}
	v.Told = x.Told
	if !x.Denied {
		v.change(x)
		return
	}
	v.Refused, v.Source = true, SourceExternal
	if x.Failed {
		v.Status, v.Reason = grpc.Unavailable, "AUTHORIZATION_SERVICE"
		v.Message = "the service that decides who may call " + r.method + " does not answer, and without its answer calls are refused: try again, or tell " +
			"whoever runs this balancer (externalAuthorization)"
		return
	}
	v.Status, v.Reason = x.Status, "DENIED_BY_SERVICE"
	v.Message = fmt.Sprintf("the authorization service denies %s to %s", r.method, caller(v.Principal))
	if x.Message != "" {
		v.Message += ": " + x.Message
	}
	v.Message += " (externalAuthorization)"
}

// change makes the service's changes of metadata after those of the proof.
func (v *Verdict) change(x *extauthz.Verdict) {
	if len(x.Set)+len(x.Remove) > 0 {
		var set [][2]string
		for _, f := range v.Set {
			if !slices.ContainsFunc(x.Set, func(g [2]string) bool { return g[0] == f[0] }) && !slices.Contains(x.Remove, f[0]) {
				set = append(set, f)
			}
		}
		v.Set = append(set, x.Set...)
		v.Remove = append(slices.Clip(v.Remove), x.Remove...)
	}
	v.Add = x.Add
}

// caller names who calls, to themselves and to whoever reads records.
func caller(p *authn.Principal) string {
	if p == nil || p.Name == "" {
		return "a caller who does not say who it is"
	}
	const most = 100
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, p.Name)
	if len(name) > most {
		name = name[:most] + "..."
	}
	return name
}
