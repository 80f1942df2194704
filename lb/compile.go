package lb

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/health"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/route"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// clusterState is a cluster of the generation in force, for those who look at it.
type clusterState struct {
	cluster   *discovery.Cluster
	policy    string
	config    *serviceconfig.Config // that holds for it
	endpoints []*upstream.Endpoint  // as cluster.Endpoints
}

// Apply puts a new configuration in force, all or nothing. Listeners, the admin address, the shards, tracing and logs are
// fixed at start: if they differ, the rest is applied and the difference is logged. No stream is cut.
func (s *Server) Apply(cfg *configv1.Config) error {
	config.ApplyDefaults(cfg)
	s.mu.Lock()
	defer s.mu.Unlock()
	oldCfg, oldSources, oldDocuments, oldEdge := s.cfg, s.sources, s.documents, s.edge.Load()
	next, err := s.newEdge(cfg, oldEdge)
	if err != nil {
		s.refuse(err)
		return err
	}
	if err := errors.Join(s.readPolicies(cfg), s.buildSources(cfg)); err != nil {
		s.documents = oldDocuments
		s.refuse(err)
		s.discard(next, oldEdge)
		return err
	}
	s.cfg = cfg
	s.cfgNum++
	s.next = next
	if err := s.compile(); err != nil {
		s.next = oldEdge
		s.discard(next, oldEdge)
		s.cfg, s.sources, s.documents = oldCfg, oldSources, oldDocuments
		s.cfgNum--
		s.refuse(err)
		return errors.Join(err, s.buildSources(oldCfg))
	}
	s.cfgAt = time.Now()
	s.notes.refused, s.notes.refusedAt = "", time.Time{}
	s.use(next)
	s.settings.Store(listenerSettings(cfg))
	s.setTotals(cfg)
	s.setOverload(cfg)
	s.hub.Replace(s.sourceList())
	for _, what := range needsRestart(oldCfg, cfg) {
		s.log.Warn("this change needs a restart", "field", what)
	}
	s.log.Info("configuration applied", "config", s.cfgNum, "table", s.gen.Load().Number)
	return nil
}

// publish takes a discovery snapshot.
func (s *Server) publish(snap *discovery.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = snap
	if err := s.compile(); err != nil {
		// Rules learned from discovery never fail a compilation, and the config's compiled before.
		s.log.Error("the snapshot does not compile; the last good one stays", "error", err)
		return
	}
	s.becomeReady()
}

// becomeReady notes that calls can be carried, the first time that they can. s.mu is held.
func (s *Server) becomeReady() {
	if s.ready || s.snapshot == nil || !s.snapshot.Complete || !s.next.ready() {
		return
	}
	s.ready = true
	s.builtin.serving()
	s.log.Info("ready", "clusters", len(s.snapshot.Clusters))
	s.notify()
}

// compile makes the generation of the configuration and the snapshot in force. s.mu is held.
func (s *Server) compile() error {
	c := newCompiler(&ground{registry: s.registry, shards: s.shards, snapshot: s.snapshot, cfgName: s.cfgName,
		policies: s.policies, said: s.hub.Reflected, documents: s.documents, edge: s.next, library: s.library}, s.cfg)
	g, err := c.generation()
	if err != nil {
		return err
	}
	if old := s.gen.Load(); old != nil {
		g.Number = old.Number + 1
	}
	s.watch(c)
	s.gen.Store(g)
	s.targets = c.states
	s.registry.Retire(c.keep)
	s.policies.Retire(func(name string) bool { return c.live[name] != nil })
	s.notify()
	return nil
}

// watch has the endpoints of all clusters watched as their policies say, before the generation that has them is in force. s.mu is held.
func (s *Server) watch(c *compiler) {
	for name, st := range c.states {
		members := make([]health.Member, 0, len(st.endpoints))
		for _, e := range st.endpoints {
			members = append(members, health.Member{Address: e.Address, Endpoint: e.Endpoint, Host: e.Host})
		}
		p := c.policy(name)
		s.keeper.Set(name, members, p.Group, &p.Cluster)
	}
	s.keeper.Retire(func(name string) bool { return c.states[name] != nil })
}

// ground is what a compilation stands on: a running Server's, or what there is without one (see Explain).
type ground struct {
	registry interface {
		Endpoint(cluster, address string, o *upstream.Options) *upstream.Endpoint
	}
	shards    []*shard.Shard
	snapshot  *discovery.Snapshot // nil before the first
	cfgName   string
	policies  *policies.Store // nil where nothing runs
	documents documents
	said      func(discovery.Endpoint) *reflection.Result // nil where nothing runs
	edge      *edge                                       // nil where nothing runs
	library   *inspect.Library                            // the same
}

// compiler gathers the rules of one generation.
type compiler struct {
	s       *ground
	cfg     *configv1.Config
	rules   []route.Rule
	states  map[string]*clusterState
	targets map[string]*forward.Target // by cluster and the set of members
	keep    map[*upstream.Endpoint]bool
	live    map[string]*policies.Cluster // what holds for each cluster, by name
}

func newCompiler(on *ground, cfg *configv1.Config) *compiler {
	return &compiler{s: on, cfg: cfg, keep: map[*upstream.Endpoint]bool{}, states: map[string]*clusterState{}, targets: map[string]*forward.Target{},
		live: map[string]*policies.Cluster{}}
}

// generation compiles; its Number is 1.
func (c *compiler) generation() (*forward.Generation, error) {
	snap := c.s.snapshot
	if snap != nil {
		for _, name := range slices.Sorted(maps.Keys(snap.Clusters)) {
			c.addCluster(snap.Clusters[name])
		}
	}
	c.addBuiltin()
	for i, r := range c.cfg.GetRoutes() {
		c.addRoute(i, r)
	}
	table, err := route.Compile(c.rules)
	if err != nil {
		return nil, err
	}
	g := &forward.Generation{Number: 1, Table: table, Conflicts: map[string][]string{}, Limits: forward.Limits{
		ReplayBytes: int(c.cfg.GetLimits().GetReplayBytesPerCall()),
		ReplayTotal: int64(c.cfg.GetLimits().GetReplayBytesTotal()) / int64(max(1, len(c.s.shards))),
	}}
	g.Rules = c.rulesOf()
	if e := c.s.edge; e != nil {
		g.Gate, g.Protected = e.gateOf()
		g.Mesh = e.meshOf()
		if e.payloads != nil {
			g.Payload = c.payloadOf(e.payloads)
		}
	}
	g.ByAuthority = slices.ContainsFunc(c.rules, func(r route.Rule) bool { return r.Match.Authority != "" })
	if snap != nil {
		for _, x := range snap.Conflicts {
			g.Conflicts[x.Service] = x.Clusters
		}
	}
	return g, nil
}

// policy is what holds for a cluster; nil where nothing runs.
func (c *compiler) policy(name string) *policies.Cluster {
	p := c.live[name]
	if p == nil && c.s.policies != nil {
		live, shadow := c.s.documents.of(name)
		if name == builtinName {
			live, shadow = builtinPolicies, nil
		}
		p = c.s.policies.Set(name, live, shadow)
		c.live[name] = p
	}
	return p
}

// group is what the pickers of a cluster share.
func (c *compiler) group(name string) *balance.Group {
	if p := c.policy(name); p != nil {
		return p.Group
	}
	return nil
}

// rulesOf is the generation's answer to what holds for a method.
func (c *compiler) rulesOf() func(*forward.Target, string, string, bool) *policies.Rules {
	facts := map[string]func() map[string]policies.Facts{}
	for name, st := range c.states {
		if c.s.said != nil {
			facts[name] = sync.OnceValue(func() map[string]policies.Facts { return factsOf(st.cluster, c.s.said) })
		}
	}
	live := c.live
	return func(t *forward.Target, service, method string, known bool) *policies.Rules {
		var f policies.Facts
		if all := facts[t.Cluster]; all != nil {
			f = all()[service+"/"+method]
		}
		f.Known = f.Known || known
		return live[t.Cluster].Rules(service, method, f)
	}
}

func (c *compiler) addCluster(cl *discovery.Cluster) {
	live, _ := c.s.documents.of(cl.Name)
	st := &clusterState{cluster: cl, policy: config.BalancerFor(c.cfg, cl.Name, live), config: live}
	opts := upstreamOptions(c.cfg, cl.Name)
	if c.s.edge != nil {
		opts.Secure = c.s.edge.secure(cl.Name)
	}
	for _, e := range cl.Endpoints {
		ep := c.s.registry.Endpoint(cl.Name, e.Address, opts)
		c.keep[ep] = true
		st.endpoints = append(st.endpoints, ep)
	}
	c.states[cl.Name] = st
	tier := route.TierDeclared
	source := "declared by cluster " + cl.Name
	switch cl.Claim {
	case discovery.ClaimNone:
		return
	case discovery.ClaimMeta:
		source = "meta grpc-services of " + cl.Name
	case discovery.ClaimReflection:
		tier, source = route.TierReflection, "reflection of "+cl.Name
	}
	for _, svc := range cl.Services {
		c.addService(st, svc, tier, source)
	}
}

// addService adds the rules of one protobuf service that a cluster serves: for the whole service where the methods are not
// known, else one per method, each with the endpoints that have it (a rolling deploy).
func (c *compiler) addService(st *clusterState, svc string, tier route.Tier, source string) {
	methods := map[string]bool{}
	whole := false
	for _, e := range st.cluster.Endpoints {
		ms, has := e.Services[svc]
		whole = whole || e.Services == nil || has && ms == nil
		for _, m := range ms {
			methods[m] = true
		}
	}
	if whole || len(methods) == 0 {
		c.rule(route.Rule{Tier: tier, Match: route.Match{Service: svc}, Cluster: st.cluster.Name, Source: source,
			Data: c.target(st, func(e discovery.Endpoint) bool { return offers(e, svc, "") })})
	}
	for _, m := range slices.Sorted(maps.Keys(methods)) {
		c.rule(route.Rule{Tier: tier, Match: route.Match{Method: svc + "/" + m}, Cluster: st.cluster.Name, Source: source,
			Data: c.target(st, func(e discovery.Endpoint) bool { return offers(e, svc, m) })})
	}
}

func (c *compiler) rule(r route.Rule) { c.rules = append(c.rules, r) }

// offers says whether an endpoint has a method (method "": the service), as far as is known.
func offers(e discovery.Endpoint, svc, method string) bool {
	if e.Services == nil {
		return true
	}
	ms, ok := e.Services[svc]
	return ok && (ms == nil || method == "" || slices.Contains(ms, method))
}

// target is the picker over those endpoints of a cluster that want says yes to; equal sets share one.
func (c *compiler) target(st *clusterState, want func(discovery.Endpoint) bool) *forward.Target {
	var members []balance.Member
	var eps []*upstream.Endpoint
	key := st.cluster.Name
	for i, e := range st.cluster.Endpoints {
		if want(e) {
			members = append(members, balance.Member{Endpoint: st.endpoints[i].Endpoint, Weight: e.Weight})
			eps = append(eps, st.endpoints[i])
			key += "\x00" + e.Address
		}
	}
	if t := c.targets[key]; t != nil {
		return t
	}
	p, err := balance.New(st.policy, members, c.group(st.cluster.Name))
	if err != nil { // the config was validated: an unknown policy cannot be here
		p, _ = balance.New("", members, c.group(st.cluster.Name))
	}
	why := ""
	if len(eps) == 0 {
		why = "cluster " + st.cluster.Name + " has no endpoints"
		if st.cluster.Err != "" {
			why += ": " + st.cluster.Err
		}
	}
	t := forward.NewTarget(st.cluster.Name, p, eps, why, len(c.s.shards))
	c.targets[key] = t
	return t
}

// addRoute adds a route of the config. Endpoints that are known not to have the route's method or service stay out of it,
// unless none would be left.
func (c *compiler) addRoute(i int, r *configv1.Route) {
	m := r.GetMatch()
	st := c.states[r.GetCluster()]
	var t *forward.Target
	if st == nil {
		c.policy(r.GetCluster())
		p, _ := balance.New("", nil, nil)
		why := fmt.Sprintf("no source has found cluster %s", r.GetCluster())
		if c.s.snapshot == nil || !c.s.snapshot.Complete {
			why += " yet"
		}
		t = forward.NewTarget(r.GetCluster(), p, nil, why, len(c.s.shards))
	} else {
		svc, method := m.GetService(), ""
		if m.GetMethod() != "" {
			svc, method, _ = strings.Cut(m.GetMethod(), "/")
		}
		has := func(e discovery.Endpoint) bool { return svc == "" || offers(e, svc, method) }
		if !slices.ContainsFunc(st.cluster.Endpoints, has) {
			has = func(discovery.Endpoint) bool { return true }
		}
		t = c.target(st, has)
	}
	c.rule(route.Rule{Name: fmt.Sprintf("routes[%d]", i), Tier: route.TierConfig, Cluster: r.GetCluster(), Data: t, Source: cmp.Or(c.s.cfgName, "configuration") + fmt.Sprintf(", routes[%d]", i),
		Match: route.Match{Method: m.GetMethod(), Service: m.GetService(), Prefix: m.GetPrefix(), Authority: m.GetAuthority()}})
}

// needsRestart names the parts of the configuration that differ and are fixed at start.
func needsRestart(old, cfg *configv1.Config) (fields []string) {
	same := func(name string, a, b proto.Message) {
		if !proto.Equal(a, b) {
			fields = append(fields, name)
		}
	}
	if !slices.EqualFunc(old.GetListeners(), cfg.GetListeners(), func(a, b *configv1.Listener) bool { return a.GetAddress() == b.GetAddress() }) {
		fields = append(fields, "listeners")
	}
	if old.GetShards() != cfg.GetShards() {
		fields = append(fields, "shards")
	}
	same("admin", old.GetAdmin(), cfg.GetAdmin())
	same("tracing", old.GetTracing(), cfg.GetTracing())
	same("metrics", old.GetMetrics(), cfg.GetMetrics())
	same("accessLog", old.GetAccessLog(), cfg.GetAccessLog())
	same("log", old.GetLog(), cfg.GetLog())
	same("decisions", old.GetDecisions(), cfg.GetDecisions())
	same("discovery.reflection", old.GetDiscovery().GetReflection(), cfg.GetDiscovery().GetReflection())
	return fields
}
