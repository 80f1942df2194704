package lb

import (
	"fmt"
	"log/slog"

	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/certs"
	"github.com/trunkline/trunkline/lb/identity"
	"github.com/trunkline/trunkline/lb/inspect"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// CheckFiles reads the files that a configuration names, by the code that a Server reads them with, and tells why it would not start; nothing
// is dialled, bound or watched. Each error begins with the key of the configuration, and a colon. cfg has its defaults.
func CheckFiles(cfg *configv1.Config) (wrong []error) {
	for i, l := range cfg.GetListeners() {
		wrong = append(wrong, certs.CheckServer(certs.ServerOptions{TLS: l.GetTls(), Path: fmt.Sprintf("listeners[%d].tls", i)})...)
	}
	for i, c := range cfg.GetClusters() {
		wrong = append(wrong, certs.CheckClient(certs.ClientOptions{TLS: c.GetTls(), Path: fmt.Sprintf("clusters[%d].tls", i)})...)
	}
	wrong = append(wrong, certs.CheckClient(certs.ClientOptions{TLS: cfg.GetExternalAuthorization().GetTls(), Path: "externalAuthorization.tls"})...)
	if c := cfg.GetDiscovery().GetConsul(); c.GetTls() != nil {
		_, closeIdle, err := consul.NewClient(consulOptions(c, slog.New(slog.DiscardHandler)))
		if err != nil {
			wrong = append(wrong, fmt.Errorf("discovery.consul.tls: %w", err))
		} else {
			closeIdle()
		}
	}
	if a := cfg.GetAdmin(); a.GetAddress() != "-" {
		wrong = append(wrong, admin.Check(a)...)
	}
	wrong = append(wrong, identity.Check(cfg.GetAuthentication())...)
	return append(wrong, inspect.Check(cfg)...)
}
