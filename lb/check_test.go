package lb

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	acme := func(keys string) string {
		return "listeners: [ { address: 127.0.0.1:0, tls: { acme: { domains: [ a.test ], agreeToTerms: true, directoryUrl: 'https://127.0.0.1:1/dir', " + keys + " } } } ]"
	}
	for what, c := range map[string]struct{ yaml, says string }{
		"good":              {"listeners: [ { address: 127.0.0.1:0, tls: { certFile: " + cert + ", keyFile: " + good + ", clientCaFile: " + cert + " } } ]", ""},
		"connect":           {"clusters: [ { name: a, tls: { caFile: " + cert + ", certFile: " + cert + ", keyFile: " + good + " } } ]", ""},
		"another's key":     {"listeners: [ { address: 127.0.0.1:0, tls: { certFile: " + cert + ", keyFile: " + wrong + " } } ]", "listeners[0].tls.keyFile: " + wrong + ": is not the key"},
		"no CRL":            {"listeners: [ { address: 127.0.0.1:0, tls: { certFile: " + cert + ", keyFile: " + good + ", clientCaFile: " + cert + ", crlFile: " + none + " } } ]", "listeners[0].tls.crlFile: " + none},
		"no CA of servers":  {"clusters: [ { name: a, tls: { caFile: " + none + " } } ]", "clusters[0].tls.caFile: " + none},
		"no CA of Consul":   {"discovery: { consul: { address: 'https://127.0.0.1:1', tls: { caFile: " + none + " } } }", "discovery.consul.tls.caFile: open " + none},
		"no key for Consul": {"discovery: { consul: { address: 'https://127.0.0.1:1', tls: { certFile: " + cert + ", keyFile: " + none + " } } }", "discovery.consul.tls.keyFile: open " + none},
		"Consul, wrong key": {"discovery: { consul: { address: 'https://127.0.0.1:1', tls: { certFile: " + cert + ", keyFile: " + wrong + " } } }", "discovery.consul.tls: "},
		"no storage":        {acme("storageDir: " + filepath.Join(dir, "new", "acme")), ""}, // it is made
		"a file as storage": {acme("storageDir: " + filepath.Join(keys, "acme")), "listeners[0].tls.acme.storageDir: mkdir " + keys + ": not a directory"},
		"no CA of ACME":     {acme("storageDir: " + filepath.Join(dir, "acme") + ", caFile: " + none), "listeners[0].tls.acme.caFile: open " + none},
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
			if _, err := os.Stat(filepath.Join(dir, "new")); what == "no storage" && err == nil {
				t.Error("the check made the storage's folder")
			}
			s, err := New(context.Background(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				s.close()
			}
			switch {
			case c.says == "" && (err != nil || len(told) > 0):
				t.Errorf("the server says %v, the check %v", err, told)
			case c.says != "" && (err == nil || len(told) != 1 || !strings.HasPrefix(told[0].Error(), c.says) || !strings.HasSuffix(err.Error(), cause(told[0]))):
				t.Errorf("the server says %v, the check %v", err, told)
			}
		})
	}
}

// Without its token a Server starts, and Consul refuses it: the check tells before.
func TestATokenForConsulThatIsOfNoUseIsToldBeforehand(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "")
	dir := t.TempDir()
	file := func(name, text string) string { return save(t, filepath.Join(dir, name), text) }
	none := filepath.Join(dir, "none")
	for path, says := range map[string]string{
		file("good", "s3cret-b2c\n"):        "",
		none:                                "open " + none + ": no such file or directory",
		dir:                                 "read " + dir + ": is a directory",
		file("empty", " \n"):                filepath.Join(dir, "empty") + " is empty: write one ACL token",
		file("two", "s3cret-b2c\ns3cret\n"): filepath.Join(dir, "two") + " has more than one token, or one with other characters than printable ASCII: write one ACL token",
		file("long", strings.Repeat("s3cret", 1000)): filepath.Join(dir, "long") + " has more than 4096 bytes: write one ACL token",
	} {
		cfg, _, err := config.Parse("t.yaml", []byte("discovery: { consul: { address: 'http://127.0.0.1:1', tokenFile: "+path+" } }"))
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		if says != "" {
			want = []string{"discovery.consul.tokenFile: " + says}
		}
		var got []string
		for _, err := range CheckFiles(cfg) {
			got = append(got, err.Error())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// What the environment names for Consul a Server reads, whatever the configuration says, and so does the check.
func TestFilesForConsulThatTheEnvironmentNamesAreReadToo(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("CONSUL_CACERT", none)
	cfg, _, err := config.Parse("t.yaml", []byte("{ admin: { address: '-' }, discovery: { consul: { address: 'http://127.0.0.1:1' } } }"))
	if err != nil {
		t.Fatal(err)
	}
	told := CheckFiles(cfg)
	if len(told) != 1 || !strings.HasPrefix(told[0].Error(), "discovery.consul.tls: ") || !strings.Contains(told[0].Error(), none) {
		t.Errorf("%v", told)
	}
	if _, err := New(context.Background(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("the server starts")
	}
}

// cause is an error without the place of the configuration.
func cause(err error) string {
	_, text, _ := strings.Cut(err.Error(), ": ")
	return text
}
