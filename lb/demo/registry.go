package demo

import (
	"context"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

// shopCluster is the cluster of the backends, also as a Consul service.
const shopCluster = "shop"

// registry is an embedded catalogue: a discovery.Source whose clusters never change.
type registry struct{ clusters []*discovery.Cluster }

// newRegistry lists the backends as the shop, to be asked what they serve.
func newRegistry(backends []*backend) *registry {
	r := &registry{}
	shop := &discovery.Cluster{Name: shopCluster, Source: r.Name(), WantReflection: true, ChangedAt: time.Now()}
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
