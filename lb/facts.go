package lb

import (
	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
	"github.com/trunkline/trunkline/lb/policies"
)

// factsOf is what the endpoints of a cluster declare of their methods, by "pkg.Service/Method". Where they disagree (a rolling
// deploy), the cautious word holds: idempotent and unary is what all say that describe the method.
func factsOf(c *discovery.Cluster, said func(discovery.Endpoint) *reflection.Result) map[string]policies.Facts {
	out := map[string]policies.Facts{}
	heard := map[string]bool{} // equal answers once: a cluster may have a thousand endpoints
	for _, e := range c.Endpoints {
		r := said(e)
		if r == nil || heard[r.Hash] {
			continue
		}
		heard[r.Hash] = true
		for _, s := range r.Services {
			for _, m := range s.Methods {
				name := s.Name + "/" + m.Name
				f := policies.Facts{Known: true, Described: true, Idempotent: m.Idempotency != reflection.IdempotencyUnknown,
					Unary: !m.ClientStreaming && !m.ServerStreaming}
				if before, ok := out[name]; ok {
					f.Idempotent = f.Idempotent && before.Idempotent
					f.Unary = f.Unary && before.Unary
				}
				out[name] = f
			}
		}
	}
	return out
}
