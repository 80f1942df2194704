package config

import (
	"fmt"
	"strings"

	"github.com/trunkline/trunkline/policy/methods"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// checkPayload reports what is wrong with rules over messages. Of a method the first entry that names it holds, so one that asks
// for nothing is of use: it exempts methods from later ones.
func (r *report) checkPayload(cfg *configv1.Config) {
	entries := cfg.GetPayload()
	var before []string // patterns of the entries so far
	for i, p := range entries {
		at := fmt.Sprintf("payload[%d]", i)
		r.checkMethods(at+".methods", p.GetMethods())
		r.checkReach(at, p.GetMethods(), before, entries[:i])
		before = append(before, patterns(p)...)
		if asksNothing(p) && i == len(entries)-1 {
			r.errorf(at, "asks for nothing: give it a limit, validate or waf, or remove it")
		}
		r.checkMessageLimits(at, p)
		if p.MaxInspectedBytes != nil && p.Validate == nil && p.Waf == nil {
			r.warnf(at+".maxInspectedBytes", "has no effect: without validate or waf nothing is inspected")
		}
		if v := p.GetValidate(); v.GetShadow() && !v.GetRefuseUnknownFields() && !v.GetProtovalidate() {
			r.warnf(at+".validate", "only counts messages that do not parse: add refuseUnknownFields or protovalidate")
		}
		if p.Waf != nil {
			r.checkWaf(at+".waf", p.GetWaf())
		}
	}
}

func patterns(p *configv1.PayloadRule) []string {
	if len(p.GetMethods()) == 0 {
		return []string{"*"}
	}
	return p.GetMethods()
}

func asksNothing(p *configv1.PayloadRule) bool {
	return p.MaxRequestMessageBytes == nil && p.MaxResponseMessageBytes == nil && p.MaxRequestBytes == nil && p.MaxResponseBytes == nil &&
		p.Validate == nil && p.Waf == nil
}

// checkReach reports patterns whose methods are all named by earlier entries.
func (r *report) checkReach(at string, given, before []string, earlier []*configv1.PayloadRule) {
	set, err := methods.Compile(before)
	if err != nil {
		return // reported where it stands
	}
	mine := given
	if len(mine) == 0 {
		mine = []string{"*"}
	}
	var covered []int
	for i, p := range mine {
		// A pattern in a method's place: "*" is no name, so only wider patterns match it.
		probe := p
		if !strings.Contains(p, "/") {
			probe = p + "/*"
		}
		if set.Match(probe) {
			covered = append(covered, i)
		}
	}
	if len(covered) == len(mine) {
		r.errorf(at, "never holds: earlier entries name all its methods (the first of them on line %d), and the first entry that names a method holds; "+
			"move it up, or merge them", r.line(fmt.Sprintf("payload[%d]", firstMatch(earlier, mine[0]))))
		return
	}
	for _, i := range covered {
		r.warnf(fmt.Sprintf("%s.methods[%d]", at, i), "%q has no effect: line %d names its methods already, and the first entry that names a method holds",
			mine[i], r.line(fmt.Sprintf("payload[%d]", firstMatch(earlier, mine[i]))))
	}
}

// firstMatch is the first entry that names all methods of a pattern; there is one.
func firstMatch(earlier []*configv1.PayloadRule, pattern string) int {
	if !strings.Contains(pattern, "/") {
		pattern += "/*"
	}
	for i, p := range earlier {
		if set, err := methods.Compile(patterns(p)); err == nil && set.Match(pattern) {
			return i
		}
	}
	return 0
}

func (r *report) checkMessageLimits(at string, p *configv1.PayloadRule) {
	for _, l := range []struct {
		name  string
		value *uint64
	}{{"maxRequestMessageBytes", p.MaxRequestMessageBytes}, {"maxResponseMessageBytes", p.MaxResponseMessageBytes},
		{"maxRequestBytes", p.MaxRequestBytes}, {"maxResponseBytes", p.MaxResponseBytes}} {
		if l.value != nil && *l.value == 0 {
			r.errorf(at+"."+l.name, "is 0: only empty messages would pass; leave it out for no limit")
		}
	}
	for _, l := range []struct {
		one, all      string
		oneIs, allAre *uint64
	}{{"maxRequestMessageBytes", "maxRequestBytes", p.MaxRequestMessageBytes, p.MaxRequestBytes},
		{"maxResponseMessageBytes", "maxResponseBytes", p.MaxResponseMessageBytes, p.MaxResponseBytes}} {
		if l.oneIs != nil && l.allAre != nil && *l.oneIs > *l.allAre && *l.allAre > 0 {
			r.warnf(at+"."+l.one, "has no effect: it is more than %s (line %d) leaves for all messages of a call", l.all, r.line(at+"."+l.all))
		}
	}
}

// checkWaf looks at rule ids by the core rule set's numbering: https://coreruleset.org/docs/2-how-crs-works/2-5-rule-ids
func (r *report) checkWaf(at string, w *configv1.Waf) {
	seen := map[uint32]bool{}
	for i, id := range w.GetDisabledRules() {
		path := fmt.Sprintf("%s.disabledRules[%d]", at, i)
		family := id / 1000
		switch {
		case seen[id]:
			r.warnf(path, "%d is there twice: remove one", id)
		case family == 901 || family == 949:
			r.errorf(path, "%d sets the rule set up or sums its findings: without it nothing would be found; write mode: detect to block nothing", id)
		case family >= 905 && family <= 922 || family >= 950 && family <= 980:
			r.warnf(path, "%d has no effect: Trunkline does not run the rules about HTTP itself (905 to 922) and about responses (950 to 980)", id)
		case (family < 930 || family > 944) && w.GetDirectivesFile() == "":
			r.warnf(path, "%d is no rule of the core rule set that looks for attacks (930000 to 944999), and no directivesFile is given that could have it", id)
		}
		seen[id] = true
	}
}
