package lb

import (
	"slices"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/trunkline/trunkline/lb/forward"
)

// payloadOf is what holds for the messages of a method, by the generation's endpoints and what they said of themselves.
func (c *compiler) payloadOf(p *payloads) func(t *forward.Target, service, method string) *forward.Payload {
	return func(t *forward.Target, service, method string) *forward.Payload {
		full := service + "/" + method
		r := p.For(full, sync.OnceValue(func() protoreflect.MethodDescriptor { return c.describe(t.Cluster, service, method) }))
		if r == nil || t.Cluster == builtinName {
			return nil
		}
		out := &forward.Payload{MaxRequestMessage: r.MaxRequestMessage, MaxResponseMessage: r.MaxResponseMessage, MaxRequest: r.MaxRequest, MaxResponse: r.MaxResponse,
			MaxInspected: r.MaxInspected, Why: r.Why, Users: &p.users}
		if r.Judges {
			out.Judge, out.TooLarge = r.Judge, r.TooLarge
		}
		return out
	}
}

// describe finds the descriptor of a method; nil where no endpoint of the cluster gave one. It may take milliseconds.
func (c *compiler) describe(cluster, service, method string) protoreflect.MethodDescriptor {
	st := c.states[cluster]
	if st == nil || c.s.said == nil {
		return nil
	}
	for _, e := range st.cluster.Endpoints {
		if methods := e.Services[service]; e.Services != nil && !slices.Contains(methods, method) {
			continue
		}
		if r := c.s.said(e); r != nil && r.Schema != nil {
			if d, err := c.s.library.Method(r.Schema, service+"/"+method); err == nil {
				return d
			}
		}
	}
	return nil
}
