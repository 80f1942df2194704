package inspect

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trunkline/trunkline/lb/config"
)

// What messages would be held against, in words, with the key to change; the rule is the one that holds for real.
func TestWhatMessagesWouldBeHeldAgainstIsForeseen(t *testing.T) {
	const yaml = `
payload:
  - { methods: [ a.S/Upload ], maxRequestBytes: 1000, maxResponseBytes: 2000 }
  - { methods: [ a.S/Watched ], validate: { protovalidate: true, shadow: true }, waf: { mode: detect, paranoia: 2, anomalyThreshold: 7, disabledRules: [ 932235 ] } }
  - { methods: [ a.S/Searched ], validate: { refuseUnknownFields: true, shadow: true }, waf: { disabledRules: [ 932235, 932236 ], directivesFile: none.conf } }
  - { methods: [ a.S/Free ] }
  - { maxRequestMessageBytes: 10, maxResponseMessageBytes: 20, validate: { refuseUnknownFields: true, protovalidate: true }, maxInspectedBytes: 4096 }
`
	const refused = "A request message of more than 4194304 bytes would be refused, for it could not be inspected (payload[2].maxInspectedBytes)."
	cfg, _, err := config.Parse("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string][]string{
		"a.S/Upload": {"All its request messages together may have up to 1000 bytes (payload[0].maxRequestBytes).",
			"All its response messages together may have up to 2000 bytes (payload[0].maxResponseBytes)."},
		"a.S/Watched": {
			"Each request message would be held against the descriptors that endpoints tell by reflection, and the rules of protovalidate in them, but what does not fit is only noted (payload[1].validate.shadow).",
			"The texts of each request message would be searched for attacks by OWASP's core rule set at paranoia level 2 without one rule, and from an anomaly score of 7 on it is only noted and logged (payload[1].waf.mode: detect, payload[1].waf.anomalyThreshold).",
			"A request message of more than 4194304 bytes would not be inspected, which is noted (payload[1].maxInspectedBytes)."},
		"a.S/Searched": {
			"Each request message would be held against the descriptors that endpoints tell by reflection, which must know all its fields, but what does not fit is only noted (payload[2].validate.shadow).",
			"The texts of each request message would be searched for attacks by OWASP's core rule set at paranoia level 1 without 2 rules and the directives of payload[2].waf.directivesFile, and from an anomaly score of 5 on it is refused (payload[2].waf.mode: block, payload[2].waf.anomalyThreshold).",
			refused},
		"a.S/Free": nil,
		"a.S/Other": {"Each of its request messages may have up to 10 bytes (payload[4].maxRequestMessageBytes).",
			"Each of its response messages may have up to 20 bytes (payload[4].maxResponseMessageBytes).",
			"Each request message would be held against the descriptors that endpoints tell by reflection, which must know all its fields, and the rules of protovalidate in them, and refused if it does not fit, or if there are no descriptors (payload[4].validate).",
			"A request message of more than 4096 bytes would be refused, for it could not be inspected (payload[4].maxInspectedBytes)."},
	} {
		if d := cmp.Diff(want, Foresee(cfg, method)); d != "" {
			t.Errorf("%s (-want +got):\n%s", method, d)
		}
	}
	cfg.GetPayload()[2].Waf.DirectivesFile = "" // the file is not there: only Foresee does without it
	i := inspectorOf(t, cfg, nil)
	for _, method := range []string{"a.S/Upload", "a.S/Watched", "a.S/Searched", "a.S/Other"} {
		why := i.For(method, nil).Why
		for _, s := range Foresee(cfg, method) {
			if !strings.Contains(s, "("+why+".") {
				t.Errorf("%s holds for %s, foreseen is %q", why, method, s)
			}
		}
	}
}
