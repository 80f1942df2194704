package lb

import (
	"maps"
	"slices"
	"time"

	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/health"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/breaker"
)

// observe fills in the process's gauges at each scrape.
func (s *Server) observe(g *telemetry.Gauges) {
	g.DownstreamConnections = s.openConns()
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
