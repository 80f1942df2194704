package lb

import (
	"testing"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
	"github.com/trunkline/trunkline/lb/policies"
)

// In a rolling deploy a method is taken for idempotent, or for unary, only if all who describe it say so.
func TestWhereEndpointsDisagreeTheCautiousWordHolds(t *testing.T) {
	says := func(hash string, level reflection.Idempotency, streams bool) *reflection.Result {
		return &reflection.Result{Hash: hash, Services: []reflection.Service{{Name: "a.S", Methods: []reflection.Method{{Name: "M", Idempotency: level, ServerStreaming: streams}}}}}
	}
	for _, tt := range []struct {
		name string
		said map[string]*reflection.Result
		want policies.Facts
	}{
		{"nobody was asked", nil, policies.Facts{}},
		{"all say so", map[string]*reflection.Result{"one": says("1", reflection.Idempotent, false), "two": says("2", reflection.NoSideEffects, false)},
			policies.Facts{Known: true, Described: true, Idempotent: true, Unary: true}},
		{"one does not", map[string]*reflection.Result{"one": says("1", reflection.Idempotent, false), "two": says("2", reflection.IdempotencyUnknown, true)},
			policies.Facts{Known: true, Described: true}},
	} {
		c := &discovery.Cluster{Endpoints: []discovery.Endpoint{{Address: "one"}, {Address: "two"}, {Address: "three"}}}
		if got := factsOf(c, func(e discovery.Endpoint) *reflection.Result { return tt.said[e.Address] })["a.S/M"]; got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
