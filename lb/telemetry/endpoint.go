package telemetry

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
)

// Endpoint is the handle of an endpoint's metrics: counters and gauges that the engine sets, from any shard.
type Endpoint struct {
	_ [64]byte // keeps shards that count on neighbouring endpoints out of each other's cache line

	Picks        atomic.Uint64 // times the picker chose it
	Streams      atomic.Int64  // calls under way on it
	DialFailures atomic.Uint64
	Connections  atomic.Int64 // open upstream connections
	Down         atomic.Bool  // out of the pick

	key endpointKey   // set once in Endpoint
	set attribute.Set // the two labels; set once in Endpoint
	_   [64]byte
}

type endpointKey struct{ cluster, address string }

// endpoints is the registry of handles.
type endpoints struct {
	mu    sync.Mutex
	byKey map[endpointKey]*Endpoint // guarded by mu
}

// Endpoint returns the handle of an endpoint of a cluster, making it at first sight: the same handle until [Telemetry.Forget].
// It is for the slow path (a new snapshot): it takes a lock.
func (t *Telemetry) Endpoint(cluster, address string) *Endpoint {
	key := endpointKey{valid(cluster), valid(address)}
	t.endpoints.mu.Lock()
	defer t.endpoints.mu.Unlock()
	e := t.endpoints.byKey[key]
	if e == nil {
		key = endpointKey{strings.Clone(key.cluster), strings.Clone(key.address)}
		e = &Endpoint{key: key, set: attribute.NewSet(
			attribute.String("cluster", key.cluster), attribute.String("endpoint", key.address))}
		t.endpoints.byKey[key] = e
	}
	return e
}

// Forget removes e's series. Call it when the endpoint is gone and its last stream has ended; the handle may still be used,
// its numbers are shown nowhere.
func (t *Telemetry) Forget(e *Endpoint) {
	t.endpoints.mu.Lock()
	defer t.endpoints.mu.Unlock()
	if t.endpoints.byKey[e.key] == e {
		delete(t.endpoints.byKey, e.key)
	}
}

// all returns the handles in a stable order.
func (s *endpoints) all() []*Endpoint {
	s.mu.Lock()
	list := make([]*Endpoint, 0, len(s.byKey))
	for _, e := range s.byKey {
		list = append(list, e)
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b *Endpoint) int {
		return cmp.Or(cmp.Compare(a.key.cluster, b.key.cluster), cmp.Compare(a.key.address, b.key.address))
	})
	return list
}
