package lb

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/health"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	"github.com/trunkline/trunkline/policy/shadow"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// The bounds of what is said of one cluster; clients can invent methods.
const (
	maxBreakersShown = 1000
	maxLimitsShown   = 200
	maxKindsShown    = 500
)

// policyOutlook is what is needed to say what policies are in force, taken at one moment.
type policyOutlook struct {
	documents documents // with a map of its own
	file      origin    // of what the configuration says
	states    map[string]*clusterState
	words     map[*serviceconfig.Config]*adminv1.ServiceConfig // said already; clusters share the configuration's
}

// origin is where settings stand, and how the newest version of them fared.
type origin struct {
	source  string
	since   time.Time
	err     string // why the newest version is not in force; "": it is
	errAt   time.Time
	warning string
}

func (s *Server) policyOutlook() policyOutlook {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := policyOutlook{documents: s.documents, states: s.targets, words: map[*serviceconfig.Config]*adminv1.ServiceConfig{},
		file: origin{since: s.cfgAt, err: s.notes.refused, errAt: s.notes.refusedAt}}
	o.documents.stored = maps.Clone(s.documents.stored) // the documents themselves do not change
	return o
}

// clusters are those that are there, and those that only a document of the KV store names, sorted.
func (o *policyOutlook) clusters() []string {
	names := map[string]bool{}
	for name := range o.states {
		names[name] = true
	}
	for key := range o.documents.stored {
		if name, _, ok := consul.SplitKey(consul.DocumentsPrefix, key); ok {
			names[name] = true
		}
	}
	delete(names, builtinName)
	return slices.Sorted(maps.Keys(names))
}

// of says where the settings of a cluster come from: which is consul.LiveDocument or consul.ShadowDocument, file is what holds
// without a document. cfg is nil if nothing is in force.
func (o *policyOutlook) of(cluster, which string, file *serviceconfig.Config) (cfg *serviceconfig.Config, from origin) {
	key := consul.DocumentsPrefix + cluster + "/" + which
	if cfg = file; cfg != nil {
		from = o.file
		from.source = cfg.Source
	}
	d := o.documents.stored[key]
	if d == nil {
		return cfg, from
	}
	if d.config != nil {
		cfg, from = d.config, origin{source: d.config.Source, since: d.at}
	}
	if d.err != "" {
		from.err, from.errAt = d.err, d.errAt
	}
	from.warning = d.warning
	return cfg, from
}

// Policies implements admin.Source.
func (s *Server) Policies() *adminv1.GetPoliciesResponse {
	o := s.policyOutlook()
	r := &adminv1.GetPoliciesResponse{Overload: &adminv1.Overload{}}
	if why := s.overload.Shedding(); why != nil {
		r.Overload = &adminv1.Overload{Shedding: true, Reason: why.Why, Since: stamp(why.Since)}
	}
	for _, name := range o.clusters() {
		r.Clusters = append(r.Clusters, s.clusterPolicies(&o, name))
	}
	return r
}

func (s *Server) clusterPolicies(o *policyOutlook, name string) *adminv1.ClusterPolicies {
	p := &adminv1.ClusterPolicies{Cluster: name}
	cfg, from := o.of(name, consul.LiveDocument, o.documents.live)
	p.Config = o.tell(cfg, from)
	if cfg, from := o.of(name, consul.ShadowDocument, o.documents.shadow); cfg != nil || from.err != "" {
		p.Shadow = o.tell(cfg, from)
	}
	st, c := o.states[name], s.policies.Cluster(name)
	if st == nil || c == nil {
		return p
	}
	s.tellBreakers(p, c, st)
	states := s.keeper.Snapshot(name)
	for i := range states {
		if e := tellEndpoint(&states[i], st); e != nil {
			p.Endpoints = append(p.Endpoints, e)
		}
	}
	slices.SortFunc(p.Endpoints, func(a, b *adminv1.EndpointHealth) int { return strings.Compare(a.Address, b.Address) })
	if c.Group.Panic() {
		p.Panic = panicWords(states, c.PanicShare)
	}
	for _, b := range c.Budgets() {
		p.Budgets = append(p.Budgets, &adminv1.Budget{Name: b.Name, Tokens: b.Tokens, MaxTokens: b.Max, Ratio: b.Ratio})
	}
	p.Limits = tellLimits(c, st)
	if source, found := c.ShadowReport(); source != "" {
		p.ShadowReport = s.tellShadow(&found)
	}
	return p
}

// tell puts settings in words. It says no source where the configuration says nothing at all.
func (o *policyOutlook) tell(cfg *serviceconfig.Config, from origin) *adminv1.ServiceConfig {
	said := &adminv1.ServiceConfig{}
	if cfg != nil {
		if said = o.words[cfg]; said == nil {
			said = &adminv1.ServiceConfig{ClusterWords: cfg.ClusterWords()}
			for _, m := range cfg.Methods() {
				if words := m.Words(); len(words) > 0 || m.Name != "default" {
					said.Methods = append(said.Methods, &adminv1.MethodPolicy{Name: m.Name, Words: words})
				}
			}
			o.words[cfg] = said
		}
	}
	out := &adminv1.ServiceConfig{Source: from.source, Since: stamp(from.since), LastError: from.err, LastErrorAt: stamp(from.errAt),
		Methods: said.Methods, ClusterWords: said.ClusterWords}
	if cfg == nil || cfg == o.documents.live && len(out.Methods)+len(out.ClusterWords) == 0 {
		out.Source, out.Since = "", nil
	}
	if from.warning != "" {
		out.ClusterWords = append(slices.Clip(out.ClusterWords), "warning: "+strings.ReplaceAll(from.warning, "\n", "; "))
	}
	return out
}

// tellBreakers lists the breakers that are not closed. Those of endpoints that left are not told: nobody will ever close them.
func (s *Server) tellBreakers(p *adminv1.ClusterPolicies, c *policies.Cluster, st *clusterState) {
	there, now := addresses(st), int64(time.Since(s.started))
	c.EachBreaker(func(endpoint, method string, b *breaker.Breaker) {
		if !there[endpoint] {
			return
		}
		p.BreakersTotal++
		if b.Closed() || len(p.Breakers) >= maxBreakersShown {
			return
		}
		v := b.View(now)
		d := &adminv1.Breaker{Endpoint: endpoint, Method: method, Reason: v.Reason, Rate: v.Rate, Volume: uint32(v.Volume),
			Consecutive: uint32(v.Consecutive), Opened: v.Opened}
		switch v.State {
		case breaker.StateClosed: // just now
			return
		case breaker.StateOpen:
			d.State, d.NextProbe = adminv1.BreakerState_BREAKER_STATE_OPEN, timestamppb.New(s.started.Add(time.Duration(v.OpenUntil)))
		case breaker.StateHalfOpen:
			d.State = adminv1.BreakerState_BREAKER_STATE_HALF_OPEN
		}
		p.Breakers = append(p.Breakers, d)
	})
	slices.SortFunc(p.Breakers, func(a, b *adminv1.Breaker) int {
		return cmp.Or(strings.Compare(a.Endpoint, b.Endpoint), strings.Compare(a.Method, b.Method))
	})
}

func addresses(st *clusterState) map[string]bool {
	there := make(map[string]bool, len(st.endpoints))
	for _, e := range st.endpoints {
		there[e.Address] = true
	}
	return there
}

// tellEndpoint is what keeps an endpoint from its full share; nil if nothing does.
func tellEndpoint(h *health.State, st *clusterState) *adminv1.EndpointHealth {
	if h.Bits == 0 && h.WarmPerMille >= 1000 {
		return nil
	}
	e := &adminv1.EndpointHealth{Address: h.Address, State: balance.StateString(h.Bits), Ejections: uint32(h.Times),
		Warm: float64(h.WarmPerMille) / 1000, LastCheck: stamp(h.LastCheck), Error: h.Err}
	var why []string
	if h.Bits&balance.Down != 0 {
		if i := slices.IndexFunc(st.endpoints, func(u *upstream.Endpoint) bool { return u.Address == h.Address }); i >= 0 {
			why = append(why, cmp.Or(st.endpoints[i].LastError(), "it cannot be dialled"))
		}
	}
	if h.Bits&balance.Unhealthy != 0 {
		e.Since = stamp(h.Since)
		why = append(why, cmp.Or(h.Err, "its health check says so"))
	}
	if h.Ejected {
		e.Since, e.EjectedUntil = stamp(h.EjectedSince), stamp(h.EjectedUntil)
		why = append(why, h.Why)
	}
	if h.WarmPerMille < 1000 {
		e.State = strings.TrimPrefix(e.State+", warming", ", ")
		why = append(why, fmt.Sprintf("it came or returned a moment ago: %.3g%% of its share (slowStart)", 100*e.Warm))
	}
	e.Why = strings.Join(why, "; ")
	return e
}

func panicWords(states []health.State, share float64) string {
	good := 0
	for i := range states {
		if states[i].Bits == 0 {
			good++
		}
	}
	return fmt.Sprintf("%d of %d endpoints are healthy, less than %s%% (panicShare): unhealthy and ejected ones are used again", good, len(states),
		strconv.FormatFloat(100*share, 'g', 4, 64))
}

// tellLimits lists the limits of calls at once: the cluster's, and the fullest of its endpoints' and methods'.
func tellLimits(c *policies.Cluster, st *clusterState) (all []*adminv1.Limit) {
	if whole := clusterLimit(c); whole != nil {
		all = append(all, whole)
	}
	if most := c.Concurrency.MaxStreamsPerEndpoint; most > 0 {
		var each []*adminv1.Limit
		for _, e := range st.endpoints {
			each = append(each, &adminv1.Limit{What: "endpoint " + e.Address, InUse: count(e.InFlight.Load()), Limit: uint64(most)})
		}
		slices.SortFunc(each, func(a, b *adminv1.Limit) int {
			return cmp.Or(cmp.Compare(b.InUse, a.InUse), strings.Compare(a.What, b.What))
		})
		all = append(all, each[:min(maxLimitsShown, len(each))]...)
	}
	for _, m := range c.MethodLimits(maxLimitsShown) {
		all = append(all, &adminv1.Limit{What: "method " + cmp.Or(m.Method, "(others)"), InUse: count(m.InUse), Limit: count(m.Limit)})
	}
	return all
}

// clusterLimit is the limit of calls at once in all of the cluster, and who waits for a place of whatever limit; nil if there is
// nothing to wait for.
func clusterLimit(c *policies.Cluster) *adminv1.Limit {
	if c.Streams == nil && c.Concurrency.MaxPending == 0 {
		return nil
	}
	whole := &adminv1.Limit{What: "cluster", Waiting: count(int64(c.Pending()))}
	if c.Gradient != nil {
		whole.What = "adaptive"
	}
	if c.Streams != nil {
		whole.InUse, whole.Limit = count(c.Streams.InUse()), count(c.Streams.Limit())
	}
	return whole
}

// count is a number that others change while it is read: never below 0.
func count(n int64) uint64 { return uint64(max(0, n)) }

func (s *Server) tellShadow(found *shadow.Summary) *adminv1.ShadowReport {
	r := &adminv1.ShadowReport{Calls: found.Calls, Differing: found.Differing}
	for _, k := range found.Kinds[:min(maxKindsShown, len(found.Kinds))] {
		r.Kinds = append(r.Kinds, &adminv1.ShadowKind{What: k.What, Method: k.Method, Calls: k.Calls})
	}
	for _, e := range found.Latest {
		call := &adminv1.ShadowCall{At: timestamppb.New(s.started.Add(time.Duration(e.At))), Method: e.Method, Took: durationpb.New(e.Took)}
		for _, d := range e.Differences {
			call.Differences = append(call.Differences, &adminv1.ShadowDifference{What: d.What, Live: d.Live, Shadow: d.Shadow})
		}
		r.Latest = append(r.Latest, call)
	}
	return r
}
