package config

import (
	"fmt"
	"strings"
	"testing"
)

// Values of keys that hold secrets are in no error and no warning, however they are mistaken.
func TestNoSecretIsToldOfAWrongFile(t *testing.T) {
	const canary = "canary7531"
	for i, text := range []string{
		// In its place, beside a mistake elsewhere.
		"discovery: { consul: { token: canary7531, tokenFile: x } }",
		"discovery: { consul: { token: canary7531, tls: { certFile: x } } }",
		"tracing: { headers: { authorization: canary7531 }, otlpEndpoint: x }",
		// Of another shape.
		"discovery: { consul: { token: [ canary7531 ] } }",
		"discovery: { consul: { token: { value: canary7531 } } }",
		"discovery: { consul: { token: { canary7531: value } } }",
		"discovery: { consul: { token: \"canary7531\\n\" } }",
		"discovery: { consul: { token: canary7531, token: canary7531 } }",
		"discovery: { consul: { token: &canary7531 x, tokenFile: y } }",
		"discovery: { consul: { token: *canary7531 } }",
		"discovery: { consul: { token: @canary7531 } }",
		"discovery: { consul: { token: !canary7531 x, tokenFile: y } }",
		"discovery: { consul: { token: !!int canary7531, tokenFile: y } }",
		"discovery: { consul: { token: \"canary7531 } }",
		"discovery: { consul: { token: canary7531: x } }",
		"discovery: { consul: { token: \"\\qcanary7531\" } }",
		"tracing: { headers: canary7531 }",
		"tracing: { headers: [ canary7531 ] }",
		"tracing: { headers: { authorization: [ canary7531 ] } }",
		"tracing: { headers: { authorization: { Bearer: canary7531 } } }",
		"tracing: { headers: { authorization: canary7531, authorization: canary7531 } }",
		"tracing: { headers: { authorization: \"canary7531\\t\" } }",
		// In the user's part or the query of an address.
		"discovery: { consul: { address: \"https://user:canary7531@consul:8501/?a=canary7531\" } }",
		"discovery: { consul: { address: \"http://user:canary7531@consul:8500\" } }",
		"discovery: { consul: { address: \"ftp://user:canary7531@consul\" } }",
		"discovery: { consul: { address: \"http://user:canary7531@consul:8500\", tls: {} } }",
		"discovery: { consul: { address: \"http://user:canary7531@con sul:8500\" } }",
		"tracing: { otlpEndpoint: \"ftp://user:canary7531@collector:4317\" }",
		"tracing: { otlpEndpoint: \"http://user:canary7531@coll ector:4317\" }",
		"authentication: { jwt: [ { name: a, issuer: a, audiences: [ b ], jwksUrl: \"ftp://user:canary7531@keys/?key=canary7531\" } ] }",
		"authentication: { jwt: [ { name: a, issuer: a, audiences: [ b ], jwksUrl: \"https://user:canary7531@ke ys/?key=canary7531\" } ] }",
		"authentication: { jwt: [ { name: a, issuer: \"ftp://user:canary7531@keys/?key=canary7531\", audiences: [ b ] } ] }",
		"authentication: { jwt: [ { name: a, issuer: \"user:canary7531@keys\", audiences: [ b ] } ] }",
		"listeners: [ { address: \":7443\", tls: { acme: { domains: [ a.example.com ], directoryUrl: \"ftp://user:canary7531@acme\" } } } ]",
		// Where someone puts the secret itself instead of its file.
		"authentication: { apiKeys: { keys: [ canary7531 ] } }",
		"admin: { token: canary7531 }",
		"listeners: [ { address: \":7443\", tls: { key: canary7531 } } ]",
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			_, warnings, err := Parse("x.yaml", []byte(text+"\n"))
			if err == nil {
				t.Errorf("%s is taken", text)
				return
			}
			if told := err.Error() + Errors(warnings).Error(); strings.Contains(told, canary) {
				t.Errorf("%s\nis told as\n%s", text, told)
			}
		})
	}
}

func TestOnlyWhatIsSecretIsTakenOutOfAnAddress(t *testing.T) {
	for text, want := range map[string]string{
		`"https://user:pass@host:1/a?k=v" is wrong`:               `"https://...@host:1/a?..." is wrong`,
		`GET https://token@host/a: failed`:                        `GET https://...@host/a: failed`,
		`user:pass@host`:                                          `...@host`,
		`ask someone@example.com: write http://host:4317 (grpc)?`: `ask someone@example.com: write http://host:4317 (grpc)?`,
		`127.0.0.1:7443 and [::1]:7001, a: b`:                     `127.0.0.1:7443 and [::1]:7001, a: b`,
		`https://host/a/b#c`:                                      `https://host/a/b#c`,
		`https://user:p@ss:w0rd@host`:                             `https://...@host`,
	} {
		if got := Redact(text); got != want {
			t.Errorf("%s\n is shown as %s\n want %s", text, got, want)
		}
	}
}
