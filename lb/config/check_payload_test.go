package config

import "testing"

// The first entry exempts what later ones would inspect.
func TestPayloadRulesCanExemptMethods(t *testing.T) {
	cfg, warnings, err := Parse("x.yaml", []byte(`
payload:
  - { methods: [ files.Upload/Put, "blobs.*" ] }
  - { methods: [ "files.Upload/*" ], maxRequestMessageBytes: 4096, maxRequestBytes: 4096 }
  - { methods: [ "shop.*", "files.*" ], validate: { protovalidate: true }, waf: { mode: detect, disabledRules: [ 942100, 1001 ], directivesFile: own.conf } }
  - { maxRequestMessageBytes: 1048576 }
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if got := cfg.GetPayload()[3].GetMethods(); len(got) != 1 || got[0] != "*" {
		t.Errorf("methods: %q", got)
	}
}
