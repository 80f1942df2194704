package config

import (
	"path/filepath"
	"time"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// securityDefaults fills in what is absent of TLS, identity, authorisation and payload rules.
func securityDefaults(cfg *configv1.Config, env func(string) string) {
	for _, l := range cfg.Listeners {
		if t := l.Tls; t != nil {
			str(&t.MinVersion, "1.2")
			switch {
			case t.ClientCaFile != "" || t.Connect:
				str(&t.ClientAuth, "required")
			default:
				str(&t.ClientAuth, "none")
			}
			if a := t.Acme; a != nil {
				str(&a.Challenge, "tls-alpn-01")
				str(&a.HttpAddress, ":80")
				if dir := snapshotDir(env); dir != "-" {
					str(&a.StorageDir, filepath.Join(dir, "acme"))
				}
			}
		}
	}
	if a := cfg.Authentication; a != nil {
		for _, p := range a.Jwt {
			if len(p.Algorithms) == 0 {
				p.Algorithms = []string{"RS256", "ES256", "EdDSA"}
			}
			dur(&p.ClockSkew, 30*time.Second)
			dur(&p.RefreshInterval, 10*time.Minute)
			str(&p.Metadata, "authorization")
		}
		if k := a.ApiKeys; k != nil {
			str(&k.Metadata, "x-api-key")
		}
	}
	if a := cfg.Authorization; a != nil {
		str(&a.Default, "allow")
		for _, r := range a.Rules {
			everyMethod(&r.Methods)
		}
	}
	if x := cfg.ExternalAuthorization; x != nil {
		dur(&x.Timeout, 200*time.Millisecond)
		everyMethod(&x.Methods)
	}
	for _, p := range cfg.Payload {
		everyMethod(&p.Methods)
		opt(&p.MaxInspectedBytes, 4<<20)
		if w := p.Waf; w != nil {
			str(&w.Mode, "block")
			opt(&w.Paranoia, 1)
			opt(&w.AnomalyThreshold, 5)
		}
	}
}

func everyMethod(methods *[]string) {
	if len(*methods) == 0 {
		*methods = []string{"*"}
	}
}
