package lb

import (
	"maps"
	"slices"
	"time"

	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/certs"
	"github.com/trunkline/trunkline/lb/health"
	"github.com/trunkline/trunkline/lb/listener"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/breaker"
)

// observe fills in the process's gauges at each scrape.
func (s *Server) observe(g *telemetry.Gauges) {
	g.DownstreamConnections = s.openConns()
	s.observeEdge(g)
	g.ConfigRejected = s.rejected.Load()
	g.Shedding = s.overload.Shedding() != nil
	s.mu.Lock()
	g.ConfigGeneration = s.cfgNum
	if s.snapshot != nil {
		g.DiscoveryLag = s.snapshot.Lag
		for _, name := range slices.Sorted(maps.Keys(s.snapshot.Clusters)) {
			c := s.snapshot.Clusters[name]
			cg := telemetry.ClusterGauges{Name: name, Endpoints: len(c.Endpoints)}
			if !c.StaleSince.IsZero() {
				cg.Stale = time.Since(c.StaleSince)
			}
			g.Clusters = append(g.Clusters, cg)
		}
	}
	s.mu.Unlock()
	o := s.policyOutlook()
	for i := range g.Clusters {
		s.observePolicies(&o, &g.Clusters[i])
	}
	s.registry.Each(func(e *upstream.Endpoint) {
		e.Stats.Picks.Store(e.Picks.Load())
		e.Stats.Streams.Store(e.InFlight.Load())
		e.Stats.Down.Store(e.Down())
	})
}

// observeEdge fills in what has to do with connections and certificates.
func (s *Server) observeEdge(g *telemetry.Gauges) {
	for _, l := range s.listeners {
		c := l.Counts()
		cut := make([]telemetry.ReasonCount, listener.CutReasons)
		for r := range listener.CutReasons {
			cut[r] = telemetry.ReasonCount{Reason: r.String(), N: c.Cut[r].Load()}
		}
		resumed := c.Resumed.Load() // before Handshakes, which is never less
		g.Listeners = append(g.Listeners, telemetry.ListenerGauges{Listener: l.Addr().String(), Accepted: c.Accepted.Load(), Crowded: c.Crowded.Load(),
			CrowdedAddress: c.CrowdedAddress.Load(), BadProxyHeader: c.BadProxyHeader.Load(), Handshakes: c.Handshakes.Load(), Resumed: resumed,
			BadHandshakes: c.BadHandshakes.Load(), Offenders: c.Offenders.Load(), Unused: c.Unused.Load(), Cut: cut})
	}
	e := s.edge.Load()
	if e == nil {
		return
	}
	shown := func(where, name string, until time.Time) {
		if !until.IsZero() {
			g.Certificates = append(g.Certificates, telemetry.CertificateGauges{Name: name, Where: where, Left: time.Until(until)})
		}
	}
	e.eachCertificate(func(where string, c certs.Certificate) {
		name := c.Subject
		if len(c.Names) > 0 {
			name = c.Names[0]
		}
		shown(where, name, c.NotAfter)
	}, func(where string, d *door) {
		for _, st := range d.acme.Status() {
			shown(where, st.Domain, st.NotAfter)
		}
	})
	if e.mesh != nil {
		shown("discovery.consul.connect", e.mesh.service, e.mesh.Status().NotAfter)
	}
}

// observePolicies fills in what policies have to do with a cluster.
func (s *Server) observePolicies(o *policyOutlook, g *telemetry.ClusterGauges) {
	_, live := o.of(g.Name, consul.LiveDocument, o.documents.live)
	_, beside := o.of(g.Name, consul.ShadowDocument, o.documents.shadow)
	g.ConfigError = live.err != "" || beside.err != ""
	st, c := o.states[g.Name], s.policies.Cluster(g.Name)
	if st == nil || c == nil {
		return
	}
	g.Panic = c.Group.Panic()
	s.observeBreakers(g, c, st)
	for _, h := range s.keeper.Snapshot(g.Name) {
		g.Health = append(g.Health, telemetry.HealthGauges{Endpoint: h.Address, Healthy: h.Health != health.Unhealthy, Ejected: h.Ejected, Ejections: h.Ejections,
			Warm: float64(h.WarmPerMille) / 1000})
	}
	for _, b := range c.Budgets() {
		g.Budgets = append(g.Budgets, telemetry.BudgetGauges{Name: b.Name, Tokens: b.Tokens})
	}
	if l := clusterLimit(c); l != nil {
		g.Limits = append(g.Limits, telemetry.LimitGauges{Kind: l.What, InUse: int64(l.InUse), Limit: int64(l.Limit), Waiting: int64(l.Waiting)})
	}
	if source, found := c.ShadowReport(); source != "" {
		g.Shadow = &telemetry.ShadowGauges{Calls: found.Calls}
		kinds := map[string]uint64{}
		for _, k := range found.Kinds {
			kinds[k.What] += k.Calls
		}
		for _, what := range slices.Sorted(maps.Keys(kinds)) {
			g.Shadow.Differ = append(g.Shadow.Differ, telemetry.ShadowCount{Kind: what, Calls: kinds[what]})
		}
	}
}

// observeBreakers names the breakers that are not closed, but those of endpoints that left.
func (s *Server) observeBreakers(g *telemetry.ClusterGauges, c *policies.Cluster, st *clusterState) {
	there, now, opened := addresses(st), int64(time.Since(s.started)), uint64(0)
	c.EachBreaker(func(endpoint, method string, b *breaker.Breaker) {
		v := b.View(now)
		opened += v.Opened
		if v.State != breaker.StateClosed && there[endpoint] && len(g.Breakers) < maxBreakersShown {
			g.Breakers = append(g.Breakers, telemetry.BreakerGauges{Endpoint: endpoint, Method: method, HalfOpen: v.State == breaker.StateHalfOpen})
		}
	})
	g.BreakerOpened = c.Opened(opened)
}
