package inspect

import (
	"fmt"

	"github.com/trunkline/trunkline/policy/methods"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Foresee says what the messages of a method ("pkg.Service/Method") would be held against, a sentence each, by the first rule that names it, as
// [Inspector.For] chooses it. cfg has its defaults and is good; no file is read, and no firewall built.
func Foresee(cfg *configv1.Config, method string) (told []string) {
	for n, p := range cfg.GetPayload() {
		if set, err := methods.Compile(p.GetMethods()); err == nil && set.Match(method) {
			return foresee(p, fmt.Sprintf("payload[%d]", n))
		}
	}
	return nil
}

func foresee(p *configv1.PayloadRule, at string) (told []string) {
	say := func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
	for _, l := range [...]struct {
		what, key string
		most      *uint64
	}{
		{"Each of its request messages", "maxRequestMessageBytes", p.MaxRequestMessageBytes}, {"All its request messages together", "maxRequestBytes", p.MaxRequestBytes},
		{"Each of its response messages", "maxResponseMessageBytes", p.MaxResponseMessageBytes}, {"All its response messages together", "maxResponseBytes", p.MaxResponseBytes},
	} {
		if l.most != nil {
			say("%s may have up to %d bytes (%s.%s).", l.what, *l.most, at, l.key)
		}
	}
	v, w := p.GetValidate(), p.GetWaf()
	if v != nil {
		told = append(told, validation(v, at+".validate"))
	}
	if w != nil {
		told = append(told, firewall(w, at+".waf"))
	}
	switch most := p.GetMaxInspectedBytes(); {
	case v == nil && w == nil:
	case v != nil && !v.GetShadow() || w.GetMode() == "block":
		say("A request message of more than %d bytes would be refused, for it could not be inspected (%s.maxInspectedBytes).", most, at)
	default:
		say("A request message of more than %d bytes would not be inspected, which is noted (%s.maxInspectedBytes).", most, at)
	}
	return told
}

func validation(v *configv1.PayloadValidation, at string) string {
	against := "the descriptors that endpoints tell by reflection"
	if v.GetRefuseUnknownFields() {
		against += ", which must know all its fields"
	}
	if v.GetProtovalidate() {
		against += ", and the rules of protovalidate in them"
	}
	if v.GetShadow() {
		return fmt.Sprintf("Each request message would be held against %s, but what does not fit is only noted (%s.shadow).", against, at)
	}
	return fmt.Sprintf("Each request message would be held against %s, and refused if it does not fit, or if there are no descriptors (%s).", against, at)
}

func firewall(w *configv1.Waf, at string) string {
	by := fmt.Sprintf("OWASP's core rule set at paranoia level %d", w.GetParanoia())
	switch n := len(w.GetDisabledRules()); n {
	case 0:
	case 1:
		by += " without one rule"
	default:
		by += fmt.Sprintf(" without %d rules", n)
	}
	if w.GetDirectivesFile() != "" {
		by += " and the directives of " + at + ".directivesFile"
	}
	then := "refused"
	if w.GetMode() == "detect" {
		then = "only noted and logged"
	}
	return fmt.Sprintf("The texts of each request message would be searched for attacks by %s, and from an anomaly score of %d on it is %s (%s.mode: %s, %s.anomalyThreshold).",
		by, w.GetAnomalyThreshold(), then, at, w.GetMode(), at)
}
