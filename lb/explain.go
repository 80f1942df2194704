package lb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/hub"
	"github.com/trunkline/trunkline/discovery/static"
	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/route"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// outlook is what calls that begin now would meet: a generation, and the clusters that it was made of.
type outlook struct {
	gen    *forward.Generation
	states map[string]*clusterState
	cfg    *configv1.Config // with its defaults
	// unasked names, for people, who was not asked because nothing runs; "" for a running Server.
	unasked string
}

func (s *Server) outlook() outlook {
	s.mu.Lock()
	defer s.mu.Unlock()
	return outlook{gen: s.gen.Load(), states: s.targets, cfg: s.cfg}
}

// Explain implements admin.Source.
func (s *Server) Explain(method, authority string) *adminv1.ExplainResponse {
	return s.outlook().explain(method, authority)
}

// Explain says where a call would go under a configuration, by the code that a Server uses, without running one: nobody is
// asked, neither Consul nor an endpoint. Where they could say otherwise, the answer says so. The error is that of a
// configuration that does not compile.
func Explain(cfg *configv1.Config, method, authority string) (*adminv1.ExplainResponse, error) {
	config.ApplyDefaults(cfg)
	snap, err := writtenDown(cfg)
	if err != nil {
		return nil, err
	}
	live, _, err := config.ServiceConfig(cfg)
	if err != nil {
		return nil, err
	}
	c := newCompiler(&ground{registry: nowhere{}, snapshot: snap, documents: documents{live: live}}, cfg)
	g, err := c.generation()
	if err != nil {
		return nil, err
	}
	return outlook{gen: g, states: c.states, cfg: cfg, unasked: unasked(cfg)}.explain(method, authority), nil
}

// nowhere makes endpoints that nobody will dial.
type nowhere struct{}

func (nowhere) Endpoint(cluster, address string, _ *upstream.Options) *upstream.Endpoint {
	return &upstream.Endpoint{Endpoint: balance.NewEndpoint(address), Cluster: cluster}
}

// writtenDown is the snapshot of the static clusters alone: what the hub makes of them before anybody is asked.
func writtenDown(cfg *configv1.Config) (snap *discovery.Snapshot, err error) {
	clusters, err := staticClusters(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h := hub.New(hub.Options{NoReflection: true})
	h.Replace([]discovery.Source{static.New(clusters)})
	err = h.Run(ctx, func(s *discovery.Snapshot) {
		snap = s
		cancel()
	})
	if snap != nil && cfg.GetDiscovery().GetConsul() != nil {
		partial := *snap
		partial.Complete = false
		snap = &partial
	}
	return snap, err
}

// unasked names what of cfg's clusters and services is only known to those who would be asked.
func unasked(cfg *configv1.Config) string {
	var who []string
	if !cfg.GetDiscovery().GetReflection().GetDisabled() {
		for _, c := range cfg.GetDiscovery().GetStatic().GetClusters() {
			if len(c.GetGrpcServices()) == 0 {
				who = append(who, "the endpoints of cluster "+c.GetName()+" (by reflection)")
			}
		}
	}
	if c := cfg.GetDiscovery().GetConsul(); c != nil {
		who = append(who, "Consul")
	}
	return strings.Join(who, ", ")
}

// explain tells the way of a call, "pkg.Service/Method".
func (o outlook) explain(method, authority string) *adminv1.ExplainResponse {
	method = strings.TrimPrefix(method, "/")
	path := "/" + method
	r := &adminv1.ExplainResponse{Method: method, Authority: authority}
	chosen, status, message := o.gen.Foresee(path, authority)
	r.Status, r.Message = uint32(status), message
	asked, refused := gate.Foresee(o.cfg, method)
	if refused == "" && status == grpc.OK {
		asked = append(asked, o.later(chosen, method)...)
	}
	if r.Asked = asked; refused != "" && status == grpc.OK {
		r.Status, r.Message = uint32(grpc.PermissionDenied), refused
	}
	for _, step := range o.gen.Table.Explain(path, authority) {
		reason := step.Why
		if step.Chosen && o.unasked != "" && isDefault(step.Rule.Match) { // what is learned outranks it
			reason += ", unless the service is known to " + o.unasked + ": nobody was asked offline"
		}
		r.Steps = append(r.Steps, &adminv1.ExplainStep{Route: o.route(step.Rule), Matched: step.Matched, Chosen: step.Chosen, Reason: reason})
	}
	if status != grpc.OK && o.unasked != "" && o.mayBeKnown(chosen) {
		r.Message += fmt.Sprintf(" (offline, nobody was asked: it may be known to %s)", o.unasked)
	}
	if chosen == nil {
		if near := o.gen.Table.Nearest(path); near != "" {
			r.Nearest = []string{near}
		}
		return r
	}
	t := chosen.Rule.Data.(*forward.Target)
	r.Route, r.Cluster = o.route(chosen.Rule), t.Cluster
	service, name, _ := grpc.SplitPath(path)
	st := o.states[t.Cluster]
	switch {
	case isBuiltin(t):
		r.ClusterSource, r.Balancer = "built in", t.Picker.Policy()
		r.Candidates = []*adminv1.Candidate{candidate(discovery.Endpoint{Address: builtinName, Weight: 1}, t.Endpoints[0], t, service, name)}
	case st != nil:
		r.ClusterSource, r.Balancer = st.cluster.Source, st.policy
		if m := st.config.For(service, name); len(m.Words()) > 0 {
			r.Policy, r.PolicySource = &adminv1.MethodPolicy{Name: m.Name, Words: m.Words()}, st.config.Source
		}
		for i, e := range st.cluster.Endpoints {
			r.Candidates = append(r.Candidates, candidate(e, st.endpoints[i], t, service, name))
		}
	}
	return r
}

// later is what an admitted call would meet beside the policy of its method: the rate limit service, and the rules on its messages.
func (o outlook) later(chosen *route.Route, method string) (told []string) {
	t := chosen.Rule.Data.(*forward.Target)
	if isBuiltin(t) {
		return nil // answered here
	}
	if st := o.states[t.Cluster]; st != nil {
		if g := st.config.Cluster.GlobalLimits; g != nil {
			told = append(told, g.Sentence())
		}
	}
	return append(told, inspect.Foresee(o.cfg, method)...)
}

// mayBeKnown says whether those who were not asked could turn a refusal into a placed call: no route was found, or one that
// leads to a cluster that nobody has found.
func (o outlook) mayBeKnown(chosen *route.Route) bool {
	return chosen == nil || isDefault(chosen.Rule.Match) || o.states[chosen.Rule.Cluster] == nil
}

func isDefault(m route.Match) bool { return m.Method == "" && m.Service == "" && m.Prefix == "" }

func isBuiltin(t *forward.Target) bool {
	return t.Cluster == builtinName && len(t.Endpoints) == 1 && t.Endpoints[0].Address == builtinName
}

// candidate is one endpoint as the target's picker sees it.
func candidate(e discovery.Endpoint, ep *upstream.Endpoint, t *forward.Target, service, method string) *adminv1.Candidate {
	c := &adminv1.Candidate{Address: e.Address, Weight: e.Weight, Load: load(ep), State: stateOf(e, ep), HasMethod: offers(e, service, method)}
	switch {
	case !slices.Contains(t.Endpoints, ep):
		c.Reason = "it does not have the method"
		if len(e.Services) == 0 && e.Services != nil {
			c.Reason = "it is not known yet to serve anything"
		}
	case ep.Down():
		c.Reason = cmp.Or(ep.LastError(), "its last dial failed")
	case ep.State() != 0:
		c.Reason = "it is " + balance.StateString(ep.State())
	default:
		c.Eligible = true
	}
	return c
}

// route is a rule of the table as the admin API shows it.
func (o outlook) route(r route.Rule) *adminv1.Route {
	m := r.Match
	out := &adminv1.Route{Name: r.Name, Authority: m.Authority, Cluster: r.Cluster}
	switch {
	case m.Method != "":
		out.Kind, out.Pattern = adminv1.RouteKind_ROUTE_KIND_METHOD, m.Method
	case m.Service != "":
		out.Kind, out.Pattern = adminv1.RouteKind_ROUTE_KIND_SERVICE, m.Service
	case m.Prefix != "":
		out.Kind, out.Pattern = adminv1.RouteKind_ROUTE_KIND_PREFIX, m.Prefix
	default:
		out.Kind = adminv1.RouteKind_ROUTE_KIND_DEFAULT
	}
	switch t, _ := r.Data.(*forward.Target); {
	case r.Tier == route.TierConfig:
		out.Claim = adminv1.Claim_CLAIM_ROUTE
	case t != nil && isBuiltin(t): // nobody's claim
	case o.states[r.Cluster] != nil:
		out.Claim = claimOf(o.states[r.Cluster].cluster.Claim)
	}
	return out
}
