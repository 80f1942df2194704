package config

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// checkSemantics reports what no single field shows: duplicates, references, addresses and names of the wrong shape. cfg
// has no defaults yet, so what is absent is nobody's fault.
func (r *report) checkSemantics(cfg *configv1.Config) {
	complete := len(r.errors) == 0 // else a name may be missing only because its cluster could not be read
	r.checkAddresses(cfg)
	r.checkConsul(cfg.GetDiscovery().GetConsul())
	clusters := r.checkStatic(cfg)
	if d := cfg.GetDiscovery(); d != nil && d.Consul == nil && d.Static == nil && d.Reflection == nil {
		r.errorf("discovery", "names no source: write consul: {} or static: { clusters: [...] }, or remove it for Consul with its defaults")
	}
	if complete {
		r.checkReferences(cfg, clusters)
	}
	r.checkRoutes(cfg.GetRoutes())
	r.checkClusters(cfg)
	r.checkTracing(cfg.GetTracing())
	r.checkTLS(cfg)
	r.checkAuthentication(cfg)
	r.checkAuthorization(cfg)
	r.checkPayload(cfg)
}

func (r *report) checkAddresses(cfg *configv1.Config) {
	seen := map[string]string{}
	claim := func(path, address string) {
		if first, ok := seen[address]; ok && !strings.HasSuffix(address, ":0") {
			r.errorf(path, "%s is already the address of %s (line %d): give each its own port", address, parent(first), r.line(first))
			return
		}
		seen[address] = path
	}
	for i, l := range cfg.GetListeners() {
		path := fmt.Sprintf("listeners[%d].address", i)
		if l.GetAddress() == "" {
			continue // reported as missing
		}
		if msg := listenAddress(l.GetAddress()); msg != "" {
			r.errorf(path, "%s", msg)
			continue
		}
		claim(path, l.GetAddress())
	}
	if a := cfg.GetAdmin().GetAddress(); a != "" && a != "-" {
		if msg := listenAddress(a); msg != "" {
			r.errorf("admin.address", "%s", msg)
			return
		}
		claim("admin.address", a)
	}
}

func (r *report) checkConsul(c *configv1.Consul) {
	const at = "discovery.consul"
	if c == nil {
		return
	}
	if c.GetAddress() != "" {
		if msg := consulAddress(c.GetAddress()); msg != "" {
			r.errorf(at+".address", "%s", msg)
		}
		if c.GetTls() != nil && strings.HasPrefix(c.GetAddress(), "http://") {
			r.errorf(at+".tls", "is given, but the address (line %d) is plain http: write https://%s",
				r.line(at+".address"), strings.TrimPrefix(c.GetAddress(), "http://"))
		}
	}
	if c.GetToken() != "" && c.GetTokenFile() != "" {
		r.errorf(at+".tokenFile", "stands beside token (line %d): keep one, better tokenFile", r.line(at+".token"))
	}
	if t := c.GetTls(); (t.GetCertFile() == "") != (t.GetKeyFile() == "") {
		r.errorf(at+".tls", "has one of certFile and keyFile: a client certificate needs both")
	}
	r.checkSkipVerify(at+".tls", c.GetTls().GetInsecureSkipVerify(), "caFile", c.GetTls().GetCaFile())
	seen := map[string]string{}
	for i, s := range c.GetServices() {
		path := fmt.Sprintf("%s.services[%d].name", at, i)
		r.once(seen, s.GetName(), path, "Consul service")
	}
	if c.GetTag() == "-" && len(c.GetServices()) == 0 {
		r.warnf(at+".tag", "is \"-\" and no services are listed: nothing is discovered")
	}
}

// once reports name if it was seen before, with the line of the first.
func (r *report) once(seen map[string]string, name, path, what string) {
	if name == "" {
		return
	}
	if first, ok := seen[name]; ok {
		r.errorf(path, "%s %q is there twice, first on line %d: remove or rename one", what, name, r.line(first))
		return
	}
	seen[name] = path
}

// checkStatic returns the names of static clusters and explicitly watched Consul services.
func (r *report) checkStatic(cfg *configv1.Config) map[string]string {
	names := map[string]string{}
	for i, s := range cfg.GetDiscovery().GetConsul().GetServices() {
		if _, ok := names[s.GetName()]; !ok {
			names[s.GetName()] = fmt.Sprintf("discovery.consul.services[%d].name", i)
		}
	}
	claimed := map[string]string{}
	routed := map[string]bool{}
	for _, rt := range cfg.GetRoutes() {
		routed[rt.GetCluster()] = true
		routed["service "+rt.GetMatch().GetService()] = true
	}
	for i, c := range cfg.GetDiscovery().GetStatic().GetClusters() {
		at := fmt.Sprintf("discovery.static.clusters[%d]", i)
		r.once(names, c.GetName(), at+".name", "cluster")
		addresses := map[string]string{}
		for j, e := range c.GetEndpoints() {
			path := fmt.Sprintf("%s.endpoints[%d].address", at, j)
			if e.GetAddress() == "" {
				continue // reported as missing
			}
			if msg := dialAddress(e.GetAddress()); msg != "" {
				r.errorf(path, "%s", msg)
				continue
			}
			r.once(addresses, e.GetAddress(), path, "endpoint")
		}
		mine := map[string]string{}
		for j, s := range c.GetGrpcServices() {
			path := fmt.Sprintf("%s.grpcServices[%d]", at, j)
			if msg := serviceName(s); msg != "" {
				r.errorf(path, "%s", msg)
				continue
			}
			if strings.HasPrefix(s, "grpc.health.") || strings.HasPrefix(s, "grpc.reflection.") {
				r.warnf(path, "%s is never routed by discovery (every server has its own); an explicit route can", s)
			}
			r.once(mine, s, path, "service")
			if first, ok := claimed[s]; ok && mine[s] == path && !routed["service "+s] {
				r.warnf(path, "%s is also claimed by the cluster on line %d: it is routed to neither unless a route names one", s, r.line(first))
				continue
			}
			claimed[s] = path
		}
		if cfg.GetDiscovery().GetReflection().GetDisabled() && len(c.GetGrpcServices()) == 0 && !routed[c.GetName()] {
			r.warnf(at, "cluster %q gets no calls: reflection is disabled, and neither grpcServices nor a route lead to it", c.GetName())
		}
	}
	return names
}

// checkReferences reports clusters that are named but not defined: an error when the file alone defines them, a warning
// when Consul may still bring them.
func (r *report) checkReferences(cfg *configv1.Config, clusters map[string]string) {
	d := cfg.GetDiscovery()
	consul := d == nil || d.Consul != nil
	known := make([]string, 0, len(clusters))
	for name := range clusters {
		known = append(known, name)
	}
	check := func(path, name string) {
		if _, ok := clusters[name]; ok || name == "" {
			return
		}
		hint := ""
		if guess := document.Nearest(name, known); guess != "" {
			hint = fmt.Sprintf("; did you mean %q?", guess)
		}
		if !consul {
			if hint == "" {
				hint = ": add it to discovery.static.clusters"
			}
			r.errorf(path, "there is no cluster %q%s", name, hint)
			return
		}
		r.warnf(path, "cluster %q is not in this file; it has to come from Consul%s", name, hint)
	}
	for i, rt := range cfg.GetRoutes() {
		check(fmt.Sprintf("routes[%d].cluster", i), rt.GetCluster())
	}
	if !consul {
		for i, c := range cfg.GetClusters() {
			check(fmt.Sprintf("clusters[%d].name", i), c.GetName())
		}
	}
}

func (r *report) checkRoutes(routes []*configv1.Route) {
	seen := map[string]string{}
	for i, rt := range routes {
		m := rt.GetMatch()
		at := fmt.Sprintf("routes[%d].match", i)
		if m == nil {
			continue // reported as missing
		}
		var given []string
		for _, kind := range []struct {
			name, value string
			check       func(string) string
		}{{"method", m.GetMethod(), methodName}, {"service", m.GetService(), serviceName}, {"prefix", m.GetPrefix(), prefix}} {
			if kind.value == "" {
				continue
			}
			given = append(given, kind.name)
			if msg := kind.check(kind.value); msg != "" {
				r.errorf(at+"."+kind.name, "%s", msg)
			}
		}
		if len(given) > 1 {
			r.errorf(at, "has %s: keep one", strings.Join(given, " and "))
			continue
		}
		if a := m.GetAuthority(); strings.ContainsAny(a, "/ @?#") {
			r.errorf(at+".authority", "%q is not an authority: write host or host:port, such as shop.example.com", a)
		}
		key := strings.Join([]string{m.GetMethod(), m.GetService(), m.GetPrefix(), strings.ToLower(m.GetAuthority())}, " ")
		if first, ok := seen[key]; ok {
			r.errorf(at, "matches the same calls as %s (line %d): remove one", parent(first), r.line(first))
			continue
		}
		seen[key] = at
	}
}

func (r *report) checkClusters(cfg *configv1.Config) {
	seen := map[string]string{}
	for i, c := range cfg.GetClusters() {
		r.once(seen, c.GetName(), fmt.Sprintf("clusters[%d].name", i), "cluster")
	}
	check := func(path string, u *configv1.Upstream) {
		if u.MinBackoff != nil && u.MaxBackoff != nil && u.MinBackoff.AsDuration() > u.MaxBackoff.AsDuration() {
			r.errorf(path+".minBackoff", "is longer than maxBackoff (line %d): swap them", r.line(path+".maxBackoff"))
		}
	}
	if cfg.GetUpstream() != nil {
		check("upstream", cfg.GetUpstream())
	}
	for i, c := range cfg.GetClusters() {
		if c.GetUpstream() != nil {
			check(fmt.Sprintf("clusters[%d].upstream", i), c.GetUpstream())
		}
	}
}

func (r *report) checkTracing(t *configv1.Tracing) {
	if len(t.GetPropagators()) > 1 {
		for i, p := range t.GetPropagators() {
			if p == "none" {
				r.errorf(fmt.Sprintf("tracing.propagators[%d]", i), "\"none\" stands beside others: keep one or the other")
			}
		}
	}
	endpoint := t.GetOtlpEndpoint()
	if endpoint == "" {
		return
	}
	const path = "tracing.otlpEndpoint"
	u, err := url.Parse(endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		r.errorf(path, "%q is not a receiver's URL: write http://host:4317 (grpc) or http://host:4318 (http/protobuf), https for TLS", endpoint)
		return
	}
	switch grpc := t.GetProtocol() == "grpc"; {
	case grpc && u.Port() == "4318":
		r.warnf(path, "4318 is the usual port of OTLP over HTTP, but the protocol is grpc: port 4317, or protocol: http/protobuf")
	case t.GetProtocol() == "" && u.Port() == "4318":
		r.warnf(path, "4318 is the usual port of OTLP over HTTP, but no protocol is given, and grpc is the default: add protocol: http/protobuf")
	case t.GetProtocol() == "http/protobuf" && u.Port() == "4317":
		r.warnf(path, "4317 is the usual port of OTLP over gRPC, but the protocol is http/protobuf: port 4318, or protocol: grpc")
	}
}
