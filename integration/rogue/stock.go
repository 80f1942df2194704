package rogue

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/trunkline/trunkline/integration/harness"
)

// StockOptions are those of a Stock server.
type StockOptions struct {
	Addr   string  // to listen on, from harness.FreeAddr; "": a free one
	Ledger *Ledger // nil: one of its own
	// Plan says what a call without PlanKey is in for, by its number on this server, from 1. nil: "ok".
	Plan func(number int64) string
	// Reflect is a service that server reflection tells of; nil: there is no reflection.
	Reflect *descriptorpb.FileDescriptorProto
	Server  []grpc.ServerOption
}

// Stock is a grpc-go server that takes every method as one request and one SimpleResponse (or failure), as its plan says: the
// words ok, trailers, only, pushback, slow:D, silent and cut of Parse. It serves grpc.health.v1 too.
type Stock struct {
	Name   string
	Addr   string
	Ledger *Ledger
	Health *health.Server
	Server *grpc.Server
	opts   StockOptions
	calls  atomic.Int64
	open   atomic.Int64
	peak   atomic.Int64
	conns  sync.Map // remote address -> net.Conn
}

// StartStock starts a Stock server; it is stopped when the test ends.
func StartStock(t testing.TB, name string, o StockOptions) *Stock {
	t.Helper()
	s := &Stock{Name: name, Addr: o.Addr, Ledger: o.Ledger, Health: health.NewServer(), opts: o}
	if s.Ledger == nil {
		s.Ledger = NewLedger()
	}
	s.Server = grpc.NewServer(append([]grpc.ServerOption{grpc.UnknownServiceHandler(s.handle)}, o.Server...)...)
	healthpb.RegisterHealthServer(s.Server, s.Health)
	if o.Reflect != nil {
		s.reflect(t, o.Reflect)
	}
	l := listen(t, s.Addr)
	s.Addr = l.Addr().String()
	harness.ServeOn(t, s.Server, keepingListener{l, &s.conns})
	return s
}

// Calls is how many calls have arrived here.
func (s *Stock) Calls() int64 { return s.calls.Load() }

// OpenCalls is how many calls are being served now.
func (s *Stock) OpenCalls() int64 { return s.open.Load() }

// PeakCalls is the most calls that were ever served at the same time.
func (s *Stock) PeakCalls() int64 { return s.peak.Load() }

func (s *Stock) handle(_ any, stream grpc.ServerStream) error {
	open := s.open.Add(1)
	defer s.open.Add(-1)
	for peak := s.peak.Load(); open > peak && !s.peak.CompareAndSwap(peak, open); peak = s.peak.Load() {
	}
	ctx := stream.Context()
	a := Attempt{Server: s.Name, At: time.Now()}
	md, _ := metadata.FromIncomingContext(ctx)
	for name, values := range md {
		for _, v := range values {
			a.Fields = append(a.Fields, hpack.HeaderField{Name: name, Value: v})
		}
	}
	number, id := s.calls.Add(1), a.Get(CallKey)
	attempt := s.Ledger.arrived(id, a)
	text := "ok"
	if s.opts.Plan != nil {
		text = s.opts.Plan(number)
	}
	if plan := a.Get(PlanKey); plan != "" {
		text = plan
	}
	if err := stream.RecvMsg(&testpb.Empty{}); err != nil {
		return err
	}
	s.Ledger.execute(id)
	steps := strings.Split(text, "|")
	err := s.step(stream, steps[min(attempt, len(steps))-1])
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.Ledger.cancel(id)
	}
	return err
}

func (s *Stock) step(stream grpc.ServerStream, step string) error {
	word, rest, _ := strings.Cut(step, ":")
	first, more, _ := strings.Cut(rest, ",")
	n, err := strconv.Atoi(first)
	code := codes.Code(n)
	ctx := stream.Context()
	switch {
	case word == "ok":
		return stream.SendMsg(&testpb.SimpleResponse{ServerId: s.Name})
	case word == "trailers" && err == nil:
		if err := stream.SendHeader(nil); err != nil {
			return err
		}
		return status.Error(code, "rogue: in trailers")
	case word == "only" && err == nil:
		return status.Error(code, "rogue: Trailers-Only")
	case word == "pushback" && err == nil:
		stream.SetTrailer(metadata.MD{"grpc-retry-pushback-ms": strings.Split(more, ",")})
		return status.Error(code, "rogue: pushback")
	case word == "slow":
		d, err := time.ParseDuration(first)
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return stream.SendMsg(&testpb.SimpleResponse{ServerId: s.Name})
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	case word == "silent":
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	case word == "cut":
		if p, ok := peer.FromContext(ctx); ok {
			if c, ok := s.conns.Load(p.Addr.String()); ok {
				c.(net.Conn).Close()
			}
		}
		<-ctx.Done()
		return status.Error(codes.Aborted, "rogue: cut")
	}
	return status.Errorf(codes.InvalidArgument, "plan %q: no such script of a stock server", step)
}

// reflect serves reflection of one file.
func (s *Stock) reflect(t testing.TB, file *descriptorpb.FileDescriptorProto) {
	t.Helper()
	d, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatalf("rogue %s: %v", s.Name, err)
	}
	r := &resolver{}
	if err := r.RegisterFile(d); err != nil {
		t.Fatalf("rogue %s: %v", s.Name, err)
	}
	reflectionpb.RegisterServerReflectionServer(s.Server, reflection.NewServerV1(reflection.ServerOptions{Services: services{d}, DescriptorResolver: r}))
}

// services tells reflection the names of a file's services.
type services struct{ d protoreflect.FileDescriptor }

func (s services) GetServiceInfo() map[string]grpc.ServiceInfo {
	all := map[string]grpc.ServiceInfo{}
	for i := range s.d.Services().Len() {
		all[string(s.d.Services().Get(i).FullName())] = grpc.ServiceInfo{}
	}
	return all
}

// resolver knows its own files, then the program's.
type resolver struct{ protoregistry.Files }

func (r *resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if d, err := r.Files.FindFileByPath(path); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (r *resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d, err := r.Files.FindDescriptorByName(name); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

// keepingListener remembers its connections by their remote address.
type keepingListener struct {
	net.Listener
	conns *sync.Map
}

func (l keepingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns.Store(c.RemoteAddr().String(), c)
	}
	return c, err
}
