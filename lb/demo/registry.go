package demo

import (
	"context"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

// The clusters of the demo. Reflection itself is never learned, so that a client's grpcurl would find none; here one
// backend, of the newest version, answers it for all by an explicit route.
const (
	shopCluster       = "shop"
	reflectionCluster = "shop-reflection"
)

// registry is an embedded catalogue: a discovery.Source whose clusters never change.
type registry struct{ clusters []*discovery.Cluster }

// newRegistry lists the backends as the shop, unless they are registered elsewhere, and newest as the one that answers
// reflection.
func newRegistry(backends []*backend, elsewhere bool) *registry {
	now := time.Now()
	r := &registry{}
	newest := backends[len(backends)-1]
	r.clusters = append(r.clusters, &discovery.Cluster{Name: reflectionCluster, Source: r.Name(), ChangedAt: now,
		Endpoints: []discovery.Endpoint{{Address: newest.address, InstanceID: newest.name, Weight: 1}}})
	if elsewhere {
		return r
	}
	shop := &discovery.Cluster{Name: shopCluster, Source: r.Name(), WantReflection: true, ChangedAt: now}
	for _, b := range backends {
		shop.Endpoints = append(shop.Endpoints, discovery.Endpoint{Address: b.address, InstanceID: b.name, Weight: 1, Tags: []string{"grpc"}, Meta: map[string]string{"version": b.version}})
	}
	discovery.SortEndpoints(shop.Endpoints)
	r.clusters = append(r.clusters, shop)
	return r
}

func (r *registry) Name() string { return "demo" }

func (r *registry) Run(ctx context.Context, emit func([]*discovery.Cluster)) error {
	emit(r.clusters)
	<-ctx.Done()
	return nil
}
