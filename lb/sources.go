package lb

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/discovery/static"
	"github.com/trunkline/trunkline/lb/telemetry"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"google.golang.org/protobuf/proto"
)

// sources are the discovery sources of the configuration in force.
type sources struct {
	static *static.Source
	consul []discovery.Source
	from   *configv1.Consul // what consul was made of
}

// buildSources makes the sources of cfg, keeping those that did not change. s.mu is held, or the Server is new.
func (s *Server) buildSources(cfg *configv1.Config) error {
	clusters, err := staticClusters(cfg)
	if err != nil {
		return err
	}
	next := &sources{}
	if old := s.sources; old != nil {
		*next = *old
	} else {
		next.static = static.New(clusters)
	}
	c := cfg.GetDiscovery().GetConsul()
	if !proto.Equal(c, next.from) {
		if next.consul, err = consulSources(c, s.log, s.takeDocuments); err != nil {
			return err
		}
		next.from = c
	}
	if s.sources != nil {
		next.static.Set(clusters)
	}
	s.sources = next
	return nil
}

func (s *Server) sourceList() []discovery.Source {
	list := append([]discovery.Source{s.sources.static}, s.sources.consul...)
	return append(list, s.opts.ExtraSources...)
}

func staticClusters(cfg *configv1.Config) ([]*discovery.Cluster, error) {
	var defs []static.Cluster
	for _, c := range cfg.GetDiscovery().GetStatic().GetClusters() {
		def := static.Cluster{Name: c.GetName(), NoReflection: cfg.GetDiscovery().GetReflection().GetDisabled()}
		if len(c.GetGrpcServices()) > 0 {
			def.GRPCServices = c.GetGrpcServices()
		}
		for _, e := range c.GetEndpoints() {
			def.Endpoints = append(def.Endpoints, static.Endpoint{Address: e.GetAddress(), Weight: e.GetWeight(), Meta: e.GetMeta()})
		}
		defs = append(defs, def)
	}
	return static.Clusters(defs)
}

// consulOptions is how to reach the agent, and what to believe.
func consulOptions(c *configv1.Consul, log *slog.Logger) consul.Options {
	base := consul.Options{
		Address: c.GetAddress(), Tag: c.GetTag(), Warning: c.GetIncludeWarning(), TaggedAddress: c.GetTaggedAddress(),
		Datacenter: c.GetDatacenter(), Namespace: c.GetNamespace(), Token: c.GetToken(), TokenFile: c.GetTokenFile(),
		HoldShare: c.GetMassDisappearance().GetShare(), HoldFor: c.GetMassDisappearance().GetHoldFor().AsDuration(), Logger: log,
		TLS: consul.TLS{CAFile: c.GetTls().GetCaFile(), CertFile: c.GetTls().GetCertFile(), KeyFile: c.GetTls().GetKeyFile(),
			ServerName: c.GetTls().GetServerName(), InsecureSkipVerify: c.GetTls().GetInsecureSkipVerify()},
	}
	if base.HoldFor == 0 || base.HoldShare >= 1 {
		base.HoldFor = -1 // the options' zero means the default
	}
	if d := c.GetSnapshotDir(); d != "-" {
		base.Dir = d
	}
	return base
}

// consulSources is one source per datacenter that is named, since a blocking query asks one, and one for the policies in the
// KV store, which take is given.
func consulSources(c *configv1.Consul, log *slog.Logger, take func(map[string]consul.Document)) ([]discovery.Source, error) {
	if c == nil {
		return nil, nil
	}
	base := consulOptions(c, log)
	groups := []consul.Options{base}
	if base.Tag == "-" {
		groups[0].Tag, groups[0].NoTag = "", true
	}
	for _, svc := range c.GetServices() {
		dc := svc.GetDatacenter()
		if dc == "" {
			dc = base.Datacenter
		}
		named := consul.Service{Name: svc.GetName(), Tag: svc.GetTag(), Connect: svc.GetConnect()}
		if dc == base.Datacenter {
			groups[0].Services = append(groups[0].Services, named)
			continue
		}
		g := base
		g.NoTag, g.Tag, g.Datacenter = true, "", dc
		g.Services = []consul.Service{named}
		g.Name = fmt.Sprintf("consul/%s/%s", dc, svc.GetName())
		groups = append(groups, g)
	}
	var list []discovery.Source
	for _, g := range groups {
		if g.NoTag && len(g.Services) == 0 {
			continue
		}
		src, err := consul.New(g)
		if err != nil {
			return nil, fmt.Errorf("discovery.consul: %w", err)
		}
		list = append(list, src)
	}
	docs, err := consul.NewDocuments(base, consul.DocumentsPrefix)
	if err != nil {
		return nil, fmt.Errorf("discovery.consul: %w", err)
	}
	return append(list, &documentSource{docs, take}), nil
}

// telemetryConfig maps what the configuration says of traces and the access log.
func telemetryConfig(o Options) (telemetry.Config, error) {
	t, a := o.Config.GetTracing(), o.Config.GetAccessLog()
	c := telemetry.Config{
		ServiceName: t.GetServiceName(), Version: o.Version, OTLPEndpoint: t.GetOtlpEndpoint(), OTLPProtocol: t.GetProtocol(),
		Headers: t.GetHeaders(), SampleRatio: t.SampleRatio, Propagators: t.GetPropagators(),
		SlowThreshold: a.GetSlowThreshold().AsDuration(), Diagnostics: o.Logger,
	}
	switch a.GetMode() {
	case "all":
		c.AccessLog = telemetry.AccessLogAll
	case "failures":
		c.AccessLog = telemetry.AccessLogFailures
	}
	if c.AccessLog != telemetry.AccessLogOff {
		var w io.Writer = os.Stdout
		if p := a.GetPath(); p != "-" {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640) //nolint:gosec // those who collect logs read them by their group
			if err != nil {
				return c, fmt.Errorf("accessLog.path: %w", err)
			}
			w = f
		}
		lines := &lineWriter{to: w}
		c.Logger, c.FlushLog = slog.New(slog.NewJSONHandler(lines, nil)), lines.flush
	}
	return c, nil
}
