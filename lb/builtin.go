package lb

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/test/bufconn"

	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/route"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// builtinName is the cluster and the address of the services that Trunkline answers itself.
const builtinName = "trunkline"

// builtinPolicies hold for them: none.
var builtinPolicies = serviceconfig.Default()

// builtin is a small gRPC server in memory, an endpoint like any other to the engine: on the listeners, the gRPC health
// service for those who balance Trunkline itself, and reflection of all that is routed for everybody else (see reflector).
type builtin struct {
	server *grpc.Server
	health *health.Server
	l      *bufconn.Listener
}

func newBuiltin(r *reflector) *builtin {
	b := &builtin{server: grpc.NewServer(), health: health.NewServer(), l: bufconn.Listen(64 << 10)}
	b.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING) // until the first full table
	healthpb.RegisterHealthServer(b.server, b.health)
	r.register(b.server)
	go func() { _ = b.server.Serve(b.l) }() // ends with stop
	return b
}

func (b *builtin) serving()    { b.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING) }
func (b *builtin) notServing() { b.health.Shutdown() }
func (b *builtin) stop()       { b.server.Stop() }

// dialer is next, but for the built-in endpoint.
func (b *builtin) dialer(next upstream.Dialer) upstream.Dialer {
	return func(ctx context.Context, address string) (net.Conn, error) {
		if address == builtinName {
			return b.l.DialContext(ctx)
		}
		return next(ctx, address)
	}
}

// addBuiltin routes those services to it, unless the configuration says otherwise.
func (c *compiler) addBuiltin() {
	ep := c.s.registry.Endpoint(builtinName, builtinName, upstreamOptions(c.cfg, builtinName))
	c.keep[ep] = true
	p, err := balance.New("", []balance.Member{{Endpoint: ep.Endpoint, Weight: 1}}, c.group(builtinName))
	if err != nil {
		return // one endpoint and the default policy always make a picker
	}
	t := forward.NewTarget(builtinName, p, []*upstream.Endpoint{ep}, "", len(c.s.shards))
	for _, service := range []string{healthpb.Health_ServiceDesc.ServiceName, reflectionv1.ServerReflection_ServiceDesc.ServiceName,
		reflectionv1alpha.ServerReflection_ServiceDesc.ServiceName} {
		c.rule(route.Rule{Tier: route.TierDeclared, Match: route.Match{Service: service}, Cluster: builtinName, Source: "built in", Data: t})
	}
}
