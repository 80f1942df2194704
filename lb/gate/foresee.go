package gate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/policy/methods"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Foresee says what a call of method ("pkg.Service/Method") would be asked before it is admitted: a sentence each, in the order of asking, without
// conditions and values. Refused is why it would be refused whoever calls, "" if that depends on the call. cfg has its defaults and is good; no file
// is read and nobody asked.
func Foresee(cfg *configv1.Config, method string) (asked []string, refused string) {
	for i, l := range cfg.GetListeners() {
		t, at := l.GetTls(), fmt.Sprintf("listeners[%d].tls", i)
		if mode := t.GetClientAuth(); mode == "required" || mode == "strict" {
			asked = append(asked, fmt.Sprintf("On %s it would need a good client certificate (%s.clientAuth: %s).", l.GetAddress(), at, mode))
		}
		if t.GetConnect() {
			asked = append(asked, fmt.Sprintf("On %s Consul's intentions would have to allow its caller (%s.connect).", l.GetAddress(), at))
		}
	}
	a := cfg.GetAuthentication()
	required := slices.IndexFunc(a.GetRequired(), func(p string) bool { return matches([]string{p}, method) })
	switch {
	case required >= 0 && !matches(a.GetAnonymous(), method):
		asked = append(asked, fmt.Sprintf("It would be asked for %s (authentication.required[%d]).", proofs(cfg), required))
	case len(a.GetJwt()) > 0 || a.GetApiKeys() != nil:
		asked = append(asked, "It needs no proof of who calls, but one that it shows would have to be good (authentication).")
	}
	said, refused := foreseeRules(cfg.GetAuthorization(), method)
	asked = append(asked, said...)
	x := cfg.GetExternalAuthorization()
	if refused != "" || x == nil || !matches(x.GetMethods(), method) || matches(x.GetExcept(), method) {
		return asked, refused
	}
	text := "The authorization service would be asked, and may refuse it (externalAuthorization)."
	if x.GetShadow() {
		text = "The authorization service would be asked, but its answer is only noted (externalAuthorization.shadow)."
	}
	return append(asked, text), ""
}

// foreseeRules is what authorization has to say to a method.
func foreseeRules(z *configv1.Authorization, method string) (asked []string, refused string) {
	var allow []string
	always := false // one of them lets every call in
	for i, r := range z.GetRules() {
		if r.GetShadow() || !matches(r.GetMethods(), method) {
			continue
		}
		which := fmt.Sprintf("rule %s (authorization.rules[%d])", r.GetName(), i)
		unconditional := strings.TrimSpace(r.GetWhen()) == ""
		switch deny := r.GetAction() == "deny"; {
		case deny && unconditional:
			if refused == "" {
				refused = fmt.Sprintf("rule %s denies %s, whoever calls", r.GetName(), method)
				if m := strings.TrimSpace(r.GetMessage()); m != "" {
					refused += ": " + m
				}
				refused += fmt.Sprintf(" (authorization.rules[%d])", i)
			}
		case deny:
			asked = append(asked, "It would be refused if it meets the condition of "+which+".")
		default:
			always = always || unconditional
			allow = append(allow, which)
		}
	}
	switch {
	case refused != "" || always:
	case len(allow) > 0:
		asked = append(asked, "It would be refused unless it meets the condition of "+strings.Join(allow, " or ")+".")
	case z.GetDefault() == "deny":
		refused = noRule(method)
	}
	return asked, refused
}

// proofs are the ways in which a caller can prove who it is.
func proofs(cfg *configv1.Config) string {
	var ways []string
	for _, p := range cfg.GetAuthentication().GetJwt() {
		ways = append(ways, "a token of "+p.GetIssuer())
	}
	if cfg.GetAuthentication().GetApiKeys() != nil {
		ways = append(ways, "an API key")
	}
	if TakesCertificates(cfg) {
		ways = append(ways, "a client certificate")
	}
	return strings.Join(ways, " or ")
}

// TakesCertificates tells whether any listener asks clients for certificates. cfg has its defaults.
func TakesCertificates(cfg *configv1.Config) bool {
	for _, l := range cfg.GetListeners() {
		if m := l.GetTls().GetClientAuth(); m != "" && m != "none" {
			return true
		}
	}
	return false
}

func matches(patterns []string, method string) bool {
	set, err := methods.Compile(patterns)
	return err == nil && set.Match(method)
}
