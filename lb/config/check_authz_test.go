package config

import (
	"strings"
	"testing"
)

// What is checked here is what the gate compiles: a condition that compiles is used as it is written.
func TestAnExternalServiceAndRulesCanBeWritten(t *testing.T) {
	cfg, warnings, err := Parse("x.yaml", []byte(`
authentication: { jwt: [ { name: shop, issuer: "https://id.example.com", audiences: [ shop ] } ] }
authorization:
  rules:
    - { name: readers, methods: [ "shop.*" ], action: allow, when: 'has(claims.role) && claims.role in ["reader", "writer"]' }
    - name: tenants
      action: deny
      shadow: true
      when: >-
        !("x-tenant" in metadata) ||
        metadata["x-tenant"][0] != claims.tenant
externalAuthorization: { address: "authz.example.com:9191", metadata: [ X-Tenant ] }
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if when := cfg.GetAuthorization().GetRules()[1].GetWhen(); !strings.Contains(when, "x-tenant") {
		t.Errorf("when: %q", when)
	}
	if d := cfg.GetAuthorization().GetDefault(); d != "allow" {
		t.Errorf("default: %q", d)
	}
}
