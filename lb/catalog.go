package lb

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/policy/route"
)

// catalog says which protobuf services one generation routes, for calls to one authority, and where to. Immutable.
type catalog struct {
	outlook
	services []string                   // sorted
	owner    map[string]*forward.Target // by service: where (most of) its known methods go
	clusters []string                   // of the owners, sorted
}

// newCatalog takes as known what a rule names, and what a cluster is known to serve and a wider rule leads to it.
func newCatalog(o outlook, authority string) *catalog {
	c := &catalog{outlook: o, owner: map[string]*forward.Target{}}
	known := map[string]map[string]bool{} // by service: its methods
	know := func(service string, methods ...string) {
		if known[service] == nil {
			known[service] = map[string]bool{}
		}
		for _, m := range methods {
			known[service][m] = true
		}
	}
	for _, r := range o.gen.Table.Rules() {
		if r.Match.Service != "" {
			know(r.Match.Service)
		} else if service, method, ok := strings.Cut(r.Match.Method, "/"); ok {
			know(service, method)
		}
	}
	for _, st := range o.states {
		for _, service := range st.cluster.Services {
			know(service)
		}
		for _, e := range st.cluster.Endpoints {
			for service, methods := range e.Services {
				know(service, methods...)
			}
		}
	}
	for service, methods := range known {
		if t := c.find(service, methods, authority); t != nil {
			c.owner[service] = t
			c.clusters = append(c.clusters, t.Cluster)
		}
	}
	c.services = slices.Sorted(maps.Keys(c.owner))
	slices.Sort(c.clusters)
	c.clusters = slices.Compact(c.clusters)
	return c
}

// find says where the methods of a service go; where routes part them, the most of them. Nil: nowhere.
func (c *catalog) find(service string, methods map[string]bool, authority string) (most *forward.Target) {
	if len(methods) == 0 {
		methods = map[string]bool{"*": true} // stands for whatever it has
	}
	votes := map[string]int{}
	for _, m := range slices.Sorted(maps.Keys(methods)) {
		r := c.gen.Table.Match("/"+service+"/"+m, authority)
		if r == nil {
			continue
		}
		t := r.Rule.Data.(*forward.Target)
		if !named(r.Rule.Match) && !c.serves(t.Cluster, service) {
			continue // it would be sent there, but is not known to be there
		}
		votes[t.Cluster]++
		if most == nil || votes[t.Cluster] > votes[most.Cluster] {
			most = t
		}
	}
	return most
}

func named(m route.Match) bool { return m.Method != "" || m.Service != "" }

// serves says whether a cluster is known to have a service.
func (c *catalog) serves(cluster, service string) bool {
	st := c.states[cluster]
	return st != nil && (slices.Contains(st.cluster.Services, service) || slices.ContainsFunc(st.cluster.Endpoints, func(e discovery.Endpoint) bool {
		_, has := e.Services[service]
		return has
	}))
}

// defines finds the file of a service's, or its method's, name in what the endpoints of its cluster told: that of an
// endpoint that has the most of its methods; among those, where the stream's last answer came from.
func (c *conversation) defines(service, name string, t *forward.Target) (best *reflection.Schema, file reflection.File, why string) {
	if isBuiltin(t) {
		if file, ok := c.own.Symbol(name); ok {
			return c.own, file, ""
		}
		return nil, file, "there is no " + name
	}
	st, methods := c.catalog.states[t.Cluster], -1
	if st == nil {
		return nil, file, t.Why
	}
	dropped := false
	for _, e := range st.cluster.Endpoints {
		said := c.said(e)
		if said == nil {
			continue
		}
		n := len(said.Offers()[service])
		dropped = dropped || said.Schema == nil
		if f, ok := said.Schema.Symbol(name); ok && (n > methods || n == methods && len(c.recent) > 0 && said.Schema == c.recent[0]) {
			best, file, methods = said.Schema, f, n
		}
	}
	if best == nil {
		why = silence(st.cluster, name, dropped)
	}
	return best, file, why
}

// silence says why nothing is known of a name that belongs to a cluster.
func silence(c *discovery.Cluster, name string, dropped bool) string {
	switch {
	case c.Claim == discovery.ClaimConfig:
		return fmt.Sprintf("no descriptor of %s: the services of cluster %s are written down (grpcServices), so its endpoints are not asked; use the .proto files", name, c.Name)
	case c.Claim == discovery.ClaimMeta:
		return fmt.Sprintf("no descriptor of %s: the services of cluster %s are in its meta (grpc-services), so its endpoints are not asked; use the .proto files", name, c.Name)
	case dropped:
		return fmt.Sprintf("no descriptor of %s: those of cluster %s are not kept, there are too many", name, c.Name)
	case !c.WantReflection:
		return fmt.Sprintf("no descriptor of %s: the endpoints of cluster %s are not asked", name, c.Name)
	case c.Err != "":
		return fmt.Sprintf("no descriptor of %s: no endpoint of cluster %s has told: %s", name, c.Name, c.Err)
	}
	return fmt.Sprintf("no descriptor of %s: no endpoint of cluster %s has it", name, c.Name)
}

func conflictText(service string, clusters []string) string {
	return fmt.Sprintf("%s is claimed by the clusters %s and so routed to none; a route in the configuration decides", service, strings.Join(clusters, ", "))
}

// schemas yields what the endpoints of all clusters that own a service told, in the order of the clusters' names, then
// Trunkline's own.
func (c *conversation) schemas() iter.Seq[*reflection.Schema] {
	return func(yield func(*reflection.Schema) bool) {
		seen := map[*reflection.Schema]bool{nil: true}
		for _, name := range c.catalog.clusters {
			st := c.catalog.states[name]
			if st == nil {
				continue
			}
			for _, e := range st.cluster.Endpoints {
				if said := c.said(e); said != nil && !seen[said.Schema] {
					seen[said.Schema] = true
					if !yield(said.Schema) {
						return
					}
				}
			}
		}
		yield(c.own)
	}
}

// parent is the name that a name stands in: "a.B" of "a.B.c".
func parent(name string) string {
	i := strings.LastIndexByte(name, '.')
	return name[:max(i, 0)]
}
