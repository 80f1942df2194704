package demo

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	experimental "google.golang.org/grpc/experimental/opentelemetry"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/stats/opentelemetry"

	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// character is what makes one backend unlike the others.
type character struct {
	name, version string
	says          string        // for people
	pace          time.Duration // per step of a call
	refuseStream  uint64        // each so many-th stream is refused in HTTP/2, unprocessed; 0: none
	refuseGet     uint64        // each so many-th GetTea ends UNAVAILABLE; 0: none
	dawdle        uint64        // each so many-th ListTeas takes dawdling; 0: none
	closes        bool          // for a while it fails every call; see demo.ring
	extraMethod   bool
}

// dawdling is how long a ListTeas takes that is slow.
const dawdling = 200 * time.Millisecond

func cast() []character {
	return []character{
		{name: "shop-a", version: "v1", says: "slow", pace: 30 * time.Millisecond},
		{name: "shop-b", version: "v1", says: "every 8th stream refused, every 10th GetTea UNAVAILABLE, every 3rd ListTeas takes 200 ms", pace: 2 * time.Millisecond, refuseStream: 8, refuseGet: 10, dawdle: 3},
		{name: "shop-c", version: "v2", says: "a new version: it alone has " + suggestTea, pace: 2 * time.Millisecond, extraMethod: true},
		{name: "shop-d", version: "v1", says: "closes now and then, and fails every call meanwhile", pace: 2 * time.Millisecond, closes: true},
	}
}

// backend is one grpc-go server with the Shop, health and reflection, on a free port.
type backend struct {
	character
	address string // host:port
	shop    *shop
	gate    *refuser // nil for one that refuses no streams
	server  *grpc.Server
	served  sync.WaitGroup
}

// startBackend serves on a free port of host. traces may be nil. Stop it with stop.
func startBackend(c character, host string, traces *trace.TracerProvider) (*backend, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("demo backend %s: %w", c.name, err)
	}
	b := &backend{character: c, address: listener.Addr().String(), shop: &shop{
		me: &demov1.Server{Name: c.name, Version: c.version}, pace: c.pace, refuse: c.refuseGet, dawdle: c.dawdle,
	}}
	if c.refuseStream > 0 {
		gate, err := newRefuser(listener, c.refuseStream)
		if err != nil {
			_ = listener.Close()
			return nil, fmt.Errorf("demo backend %s: %w", c.name, err)
		}
		b.gate, listener = gate, gate
	}
	if err := b.register(traces); err != nil {
		_ = listener.Close()
		return nil, err
	}
	b.served.Go(func() { _ = b.server.Serve(listener) })
	return b, nil
}

func (b *backend) register(traces *trace.TracerProvider) error {
	opts := []grpc.ServerOption{grpc.UnaryInterceptor(b.shop.doorUnary), grpc.StreamInterceptor(b.shop.doorStream)}
	if traces != nil {
		opts = append(opts, opentelemetry.ServerOption(opentelemetry.Options{TraceOptions: traceOptions(traces)}))
	}
	b.server = grpc.NewServer(opts...)
	desc, tells := demov1.Shop_ServiceDesc, reflection.ServerOptions{Services: b.server}
	if b.extraMethod {
		var err error
		if desc, tells.DescriptorResolver, err = newVersion(); err != nil {
			return err
		}
	}
	b.server.RegisterService(&desc, b.shop)
	alive := health.NewServer()
	alive.SetServingStatus(desc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(b.server, alive)
	reflectionv1.RegisterServerReflectionServer(b.server, reflection.NewServerV1(tells))
	reflectionv1alpha.RegisterServerReflectionServer(b.server, reflection.NewServer(tells))
	return nil
}

// refusedStreams is how many streams it refused unprocessed; no caller must ever have noticed one.
func (b *backend) refusedStreams() uint64 {
	if b.gate == nil {
		return 0
	}
	return b.gate.refused.Load()
}

// port is the number in address.
func (b *backend) port() int {
	_, p, _ := net.SplitHostPort(b.address)
	n, _ := strconv.Atoi(p)
	return n
}

// stop ends the server at once.
func (b *backend) stop() {
	b.server.Stop()
	b.served.Wait()
	if b.gate != nil {
		b.gate.wait()
	}
}

// traceOptions makes a grpc-go server or client write spans to traces and read or write W3C trace context.
func traceOptions(traces *trace.TracerProvider) experimental.TraceOptions {
	return experimental.TraceOptions{TracerProvider: traces, TextMapPropagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})}
}
