package lb

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trunkline/trunkline/lb/config"
)

// What a Server refuses to start with, CheckFiles tells, in the same words; and what it starts with, CheckFiles finds good.
func TestFilesThatServeRefusesAreToldBeforehand(t *testing.T) {
	dir := t.TempDir()
	mine, key := certificate(t, "edge.test", 1)
	_, other := certificate(t, "other.test", 2)
	cert, good := save(t, filepath.Join(dir, "edge.pem"), mine), save(t, filepath.Join(dir, "edge.key"), key)
	wrong, none := save(t, filepath.Join(dir, "other.key"), other), filepath.Join(dir, "none")
	keys := save(t, filepath.Join(dir, "keys"), "not a key\n")
	token := save(t, filepath.Join(dir, "token"), "short\n")
	rules := save(t, filepath.Join(dir, "rules.conf"), "SecRool ARGS\n")
	for what, c := range map[string]struct{ yaml, says string }{
		"good":              {"listeners: [ { address: 127.0.0.1:0, tls: { certFile: " + cert + ", keyFile: " + good + ", clientCaFile: " + cert + " } } ]", ""},
		"connect":           {"clusters: [ { name: a, tls: { caFile: " + cert + ", certFile: " + cert + ", keyFile: " + good + " } } ]", ""},
		"another's key":     {"listeners: [ { address: 127.0.0.1:0, tls: { certFile: " + cert + ", keyFile: " + wrong + " } } ]", "listeners[0].tls.keyFile: " + wrong + ": is not the key"},
		"no CRL":            {"listeners: [ { address: 127.0.0.1:0, tls: { certFile: " + cert + ", keyFile: " + good + ", clientCaFile: " + cert + ", crlFile: " + none + " } } ]", "listeners[0].tls.crlFile: " + none},
		"no CA of servers":  {"clusters: [ { name: a, tls: { caFile: " + none + " } } ]", "clusters[0].tls.caFile: " + none},
		"no CA of Consul":   {"discovery: { consul: { address: 'https://127.0.0.1:1', tls: { caFile: " + none + " } } }", "discovery.consul"},
		"no JWKS":           {"authentication: { jwt: [ { name: corp, issuer: 'https://a.test', audiences: [ a ], jwksFile: " + none + " } ] }", "authentication.jwt[0].jwksFile: "},
		"no key in JWKS":    {"authentication: { jwt: [ { name: corp, issuer: 'https://a.test', audiences: [ a ], jwksFile: " + keys + " } ] }", "authentication.jwt[0].jwksFile: "},
		"wrong API keys":    {"authentication: { apiKeys: { file: " + keys + " } }", "authentication.apiKeys.file: " + keys},
		"short admin token": {"admin: { address: 127.0.0.1:0, tokenFile: " + token + " }", "admin.tokenFile: " + token},
		"no admin's token":  {"admin: { address: '-', tokenFile: " + none + " }", ""}, // nobody asks for it
		"no CA of a judge":  {"externalAuthorization: { address: 127.0.0.1:1, tls: { caFile: " + none + " } }", "externalAuthorization.tls.caFile: " + none},
		"wrong directives":  {"payload: [ { waf: { directivesFile: " + rules + " } } ]", "payload[0].waf.directivesFile: " + rules},
	} {
		t.Run(what, func(t *testing.T) {
			text := c.yaml + "\n"
			for key, some := range map[string]string{"listeners": "[ { address: 127.0.0.1:0 } ]", "admin": "{ address: '-' }",
				"discovery": "{ static: { clusters: [ { name: a, endpoints: [ { address: 127.0.0.1:1 } ], grpcServices: [ x.Y ] } ] } }"} {
				if !strings.HasPrefix(text, key) {
					text += key + ": " + some + "\n"
				}
			}
			cfg, _, err := config.Parse("t.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			told := CheckFiles(cfg)
			s, err := New(context.Background(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				s.close()
			}
			switch {
			case c.says == "" && (err != nil || len(told) > 0):
				t.Errorf("the server says %v, the check %v", err, told)
			case c.says != "" && (err == nil || len(told) != 1 || !strings.HasPrefix(told[0].Error(), c.says) || !strings.HasSuffix(told[0].Error(), cause(err))):
				t.Errorf("the server says %v, the check %v", err, told)
			}
		})
	}
}

// cause is an error without the place of the configuration.
func cause(err error) string {
	_, text, _ := strings.Cut(err.Error(), ": ")
	return text
}
