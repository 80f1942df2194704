package hub

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/discovery"
)

// settleClaims lets each protobuf service be served by one cluster. The strongest claim wins; between equally strong ones
// nobody does, and that is a Conflict. clusters are owned by the caller, which made them for this; sorted by name.
func settleClaims(clusters []*discovery.Cluster) []discovery.Conflict {
	claimants := map[string][]*discovery.Cluster{}
	for _, c := range clusters {
		for _, s := range c.Services {
			claimants[s] = append(claimants[s], c)
		}
	}
	refused := map[*discovery.Cluster][]string{} // what each cluster may not serve
	var conflicts []discovery.Conflict
	for service, list := range claimants {
		if len(list) == 1 {
			continue
		}
		best := strength(list[0])
		for _, c := range list {
			best = min(best, strength(c))
		}
		var winners []string
		for _, c := range list {
			if strength(c) == best {
				winners = append(winners, c.Name)
			}
		}
		if len(winners) > 1 {
			conflicts = append(conflicts, discovery.Conflict{Service: service, Clusters: winners})
		}
		for _, c := range list {
			if len(winners) > 1 || c.Name != winners[0] {
				refused[c] = append(refused[c], service)
			}
		}
	}
	for c, services := range refused {
		slices.Sort(services)
		c.Services = slices.DeleteFunc(slices.Clone(c.Services), func(s string) bool { return slices.Contains(services, s) })
		addErr(c, fmt.Sprintf("claimed by another cluster too, so not routed here: %s", abbreviate(services)))
	}
	slices.SortFunc(conflicts, func(a, b discovery.Conflict) int { return strings.Compare(a.Service, b.Service) })
	return conflicts
}

// strength ranks a cluster's claim; lower is stronger. A cluster whose source names none of its endpoints any more (they
// are gone, or held back) yields to one that is alive: so a Consul service can be renamed without a conflict.
func strength(c *discovery.Cluster) int {
	n := int(c.Claim)
	if c.Claim != discovery.ClaimConfig && c.HeldBack >= len(c.Endpoints) {
		n += 100
	}
	return n
}

func addErr(c *discovery.Cluster, text string) {
	if c.Err != "" {
		c.Err += "; "
	}
	c.Err += text
}

func abbreviate(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}
