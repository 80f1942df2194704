package lb

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/acme"
	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/certs"
	"github.com/trunkline/trunkline/lb/identity"
	"github.com/trunkline/trunkline/lb/inspect"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// CheckFiles reads the files that a configuration names, by the code that a Server reads them with, and tells why it would not start, or not get
// far: without the file of Consul's token it starts, and is refused by Consul. Nothing is dialled, bound, watched or written. Each error begins
// with the key of the configuration, and a colon. cfg has its defaults.
func CheckFiles(cfg *configv1.Config) (wrong []error) {
	for i, l := range cfg.GetListeners() {
		path := fmt.Sprintf("listeners[%d].tls", i)
		wrong = append(wrong, certs.CheckServer(certs.ServerOptions{TLS: l.GetTls(), Path: path})...)
		if a := l.GetTls().GetAcme(); a != nil {
			wrong = append(wrong, acme.Check(acme.Options{Acme: a, Path: path + ".acme"})...)
		}
	}
	for i, c := range cfg.GetClusters() {
		wrong = append(wrong, certs.CheckClient(certs.ClientOptions{TLS: c.GetTls(), Path: fmt.Sprintf("clusters[%d].tls", i)})...)
	}
	wrong = append(wrong, certs.CheckClient(certs.ClientOptions{TLS: cfg.GetExternalAuthorization().GetTls(), Path: "externalAuthorization.tls"})...)
	wrong = append(wrong, checkConsul(cfg.GetDiscovery().GetConsul())...)
	if a := cfg.GetAdmin(); a.GetAddress() != "-" {
		wrong = append(wrong, admin.Check(a)...)
	}
	wrong = append(wrong, identity.Check(cfg.GetAuthentication())...)
	return append(wrong, inspect.Check(cfg)...)
}

// checkConsul reads what a client of Consul reads; c may be nil.
func checkConsul(c *configv1.Consul) (wrong []error) {
	if c == nil {
		return nil
	}
	for _, f := range [...]struct{ key, path string }{
		{"caFile", c.GetTls().GetCaFile()}, {"certFile", c.GetTls().GetCertFile()}, {"keyFile", c.GetTls().GetKeyFile()},
	} {
		if f.path == "" {
			continue
		}
		if file, err := os.Open(f.path); err != nil {
			wrong = append(wrong, fmt.Errorf("discovery.consul.tls.%s: %w", f.key, err))
		} else {
			_ = file.Close() // it was not written to
		}
	}
	// What they hold, and what the environment names, is the client's to judge. It names one file, which may be one of those.
	_, closeIdle, err := consul.NewClient(consulOptions(c, slog.New(slog.DiscardHandler)))
	switch {
	case err == nil:
		closeIdle()
	case len(wrong) == 0:
		wrong = append(wrong, fmt.Errorf("discovery.consul.tls: %w", err))
	}
	if c.GetTokenFile() != "" {
		if err := consul.CheckToken(c.GetTokenFile()); err != nil {
			wrong = append(wrong, fmt.Errorf("discovery.consul.tokenFile: %w", err))
		}
	}
	return wrong
}
