// Package static owns the clusters that were written down rather than discovered. It must not read files or the config's
// schema: lb hands it plain values and replaces them when the config is reloaded.
package static

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

// SourceName is what Cluster.Source says for clusters of this package.
const SourceName = "static"

// Endpoint is one written-down address.
type Endpoint struct {
	Address string // host:port
	Weight  uint32 // 0: not given, counts as 1
	Tags    []string
	Meta    map[string]string
}

// Cluster is one written-down cluster.
type Cluster struct {
	Name      string
	Endpoints []Endpoint
	// GRPCServices are the protobuf services it serves. Nil: not given, so the endpoints are asked by reflection (unless
	// NoReflection). Empty but not nil: none, only explicit routes lead here.
	GRPCServices []string
	NoReflection bool
}

// Clusters checks the definitions and turns them into what Set takes. The error names every fault found.
func Clusters(defs []Cluster) ([]*discovery.Cluster, error) {
	var errs []error
	seen := map[string]bool{}
	out := make([]*discovery.Cluster, 0, len(defs))
	now := time.Now()
	for i, def := range defs {
		if def.Name == "" {
			errs = append(errs, fmt.Errorf("static cluster %d: it has no name", i))
			continue
		}
		if seen[def.Name] {
			errs = append(errs, fmt.Errorf("static cluster %q: defined twice", def.Name))
			continue
		}
		seen[def.Name] = true
		c := &discovery.Cluster{
			Name: def.Name, Source: SourceName, ChangedAt: now,
			WantReflection: def.GRPCServices == nil && !def.NoReflection,
		}
		if def.GRPCServices != nil {
			c.Claim = discovery.ClaimConfig
		}
		for _, s := range def.GRPCServices {
			switch {
			case !discovery.ValidServiceName(s):
				errs = append(errs, fmt.Errorf("static cluster %q: %q is no protobuf service name (like pkg.Service)", def.Name, s))
			case discovery.Learnable(s):
				c.Services = append(c.Services, s)
			}
		}
		slices.Sort(c.Services)
		c.Services = slices.Compact(c.Services)
		for _, e := range def.Endpoints {
			if err := checkAddress(e.Address); err != nil {
				errs = append(errs, fmt.Errorf("static cluster %q: %w", def.Name, err))
				continue
			}
			c.Endpoints = append(c.Endpoints, discovery.Endpoint{
				Address: e.Address, Weight: max(e.Weight, 1), Tags: slices.Clone(e.Tags), Meta: maps.Clone(e.Meta),
			})
		}
		discovery.SortEndpoints(c.Endpoints)
		for j := 1; j < len(c.Endpoints); j++ {
			if c.Endpoints[j].Address == c.Endpoints[j-1].Address {
				errs = append(errs, fmt.Errorf("static cluster %q: endpoint %s is listed twice", def.Name, c.Endpoints[j].Address))
			}
		}
		out = append(out, c)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("endpoint %q: it must be host:port: %w", address, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); host == "" || err != nil || n == 0 {
		return fmt.Errorf("endpoint %q: it must be host:port with a port of 1 to 65535", address)
	}
	return nil
}

// Source emits the clusters it was last given.
type Source struct {
	changed chan struct{} // set once in New; one pending signal is enough

	mu       sync.Mutex
	clusters []*discovery.Cluster // guarded by mu
	setAt    time.Time            // guarded by mu
}

// New returns a Source of these clusters, which it takes over.
func New(clusters []*discovery.Cluster) *Source {
	s := &Source{changed: make(chan struct{}, 1)}
	s.Set(clusters)
	return s
}

// Set replaces the whole set, which the Source takes over. It may be called at any time, from any goroutine.
func (s *Source) Set(clusters []*discovery.Cluster) {
	s.mu.Lock()
	s.clusters, s.setAt = slices.Clone(clusters), time.Now()
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Name implements discovery.Source.
func (s *Source) Name() string { return SourceName }

// Run implements discovery.Source: it emits at once, and after each Set. It returns nil when ctx ends.
func (s *Source) Run(ctx context.Context, emit func([]*discovery.Cluster)) error {
	for {
		s.mu.Lock()
		clusters := s.clusters
		s.mu.Unlock()
		emit(slices.Clone(clusters))
		select {
		case <-s.changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Report implements discovery.Reporter.
func (s *Source) Report() discovery.SourceReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return discovery.SourceReport{Name: SourceName, LastSuccess: s.setAt, Clusters: len(s.clusters)}
}
