package harness

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

// Service is the protobuf service of every Backend, and of the official interop cases.
const Service = "grpc.testing.TestService"

// Request metadata by which a test steers a Backend.
const (
	// SleepKey makes the handler sleep for a duration ("50ms") and, with "!" at its end, not even look at cancellation.
	SleepKey = "x-test-sleep"
	// GateKey makes a server stream wait, after its first message, until the test opens the gate of this name.
	GateKey = "x-test-gate"
)

// Backend is a stock grpc-go server in the test's process: the interop test service, health and reflection. Every
// answer bears its name: SimpleResponse.server_id, and the body of stream messages.
type Backend struct {
	testpb.UnimplementedTestServiceServer
	Name   string
	Addr   string
	Server *grpc.Server
	Health *health.Server
	calls  atomic.Int64
	conns  atomic.Int64
	active atomic.Int64
	peak   atomic.Int64
	seen   sync.Map // gate name -> chan struct{}, closed when the test opens it
}

// StartBackend starts a backend on a free port; it is stopped when the test ends.
func StartBackend(t testing.TB, name string, opts ...grpc.ServerOption) *Backend {
	t.Helper()
	return StartBackendAt(t, name, FreeAddr(t), opts...)
}

// StartBackendAt starts a backend on an address that the test got from FreeAddr.
func StartBackendAt(t testing.TB, name, addr string, opts ...grpc.ServerOption) *Backend {
	t.Helper()
	b := &Backend{Name: name, Addr: addr, Health: health.NewServer()}
	b.Server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(b.countUnary), grpc.ChainStreamInterceptor(b.countStream),
	}, opts...)...)
	testpb.RegisterTestServiceServer(b.Server, b)
	healthpb.RegisterHealthServer(b.Server, b.Health)
	reflection.Register(b.Server)
	ServeOn(t, b.Server, countingListener{Listen(t, addr), &b.conns})
	t.Cleanup(b.OpenAllGates)
	return b
}

// Serve starts a grpc-go server of the test's own making on a free port and returns its address; it is stopped when
// the test ends.
func Serve(t testing.TB, register func(*grpc.Server), opts ...grpc.ServerOption) string {
	t.Helper()
	s := grpc.NewServer(opts...)
	register(s)
	l := Listen(t, FreeAddr(t))
	ServeOn(t, s, l)
	return l.Addr().String()
}

// Listen takes an address that the test got from FreeAddr. It was tried a moment ago, and a process that another test is starting may
// hold the trial's socket until it execs; nor is one free at once that was just closed.
func Listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	for until := time.Now().Add(5 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
		l, err = net.Listen("tcp", addr)
	}
	if err != nil {
		t.Fatalf("a server of the test: %v", err)
	}
	return l
}

// ServeOn serves s on l until the test ends.
func ServeOn(t testing.TB, s *grpc.Server, l net.Listener) {
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // ends by Stop
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
}

// Calls is how many calls of the test service have reached this backend.
func (b *Backend) Calls() int64 { return b.calls.Load() }

// Conns is how many connections this backend has accepted.
func (b *Backend) Conns() int64 { return b.conns.Load() }

// PeakCalls is the most calls that were ever open here at the same time.
func (b *Backend) PeakCalls() int64 { return b.peak.Load() }

// OpenCalls is how many calls are open here now.
func (b *Backend) OpenCalls() int64 { return b.active.Load() }

// OpenGate lets the streams that wait at the gate of this name go on.
func (b *Backend) OpenGate(name string) { closeOnce(b.gate(name)) }

// OpenAllGates lets every waiting stream go on.
func (b *Backend) OpenAllGates() {
	b.seen.Range(func(_, gate any) bool {
		closeOnce(gate.(chan struct{}))
		return true
	})
}

func (b *Backend) gate(name string) chan struct{} {
	gate, _ := b.seen.LoadOrStore(name, make(chan struct{}))
	return gate.(chan struct{})
}

// closeOnce is called from the test's goroutine only.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func (b *Backend) begin(method string) func() {
	if !strings.HasPrefix(method, "/"+Service+"/") {
		return func() {}
	}
	b.calls.Add(1)
	active := b.active.Add(1)
	for peak := b.peak.Load(); active > peak && !b.peak.CompareAndSwap(peak, active); peak = b.peak.Load() {
	}
	return func() { b.active.Add(-1) }
}

func (b *Backend) countUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	defer b.begin(info.FullMethod)()
	if err := sleepAsAsked(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (b *Backend) countStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	defer b.begin(info.FullMethod)()
	if err := sleepAsAsked(ss.Context()); err != nil {
		return err
	}
	return next(srv, ss)
}

func sleepAsAsked(ctx context.Context) error {
	value := first(ctx, SleepKey)
	if value == "" {
		return nil
	}
	d, err := time.ParseDuration(strings.TrimSuffix(value, "!"))
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	done := ctx.Done()
	if strings.HasSuffix(value, "!") {
		done = nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-done:
		return status.FromContextError(ctx.Err()).Err()
	}
}

func first(ctx context.Context, key string) string {
	if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// EmptyCall answers nothing.
func (b *Backend) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

// UnaryCall answers with the backend's name and a body of the asked size, or with the asked status.
func (b *Backend) UnaryCall(_ context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if st := in.GetResponseStatus(); st.GetCode() != 0 {
		return nil, status.Error(codes.Code(st.GetCode()), st.GetMessage())
	}
	return &testpb.SimpleResponse{ServerId: b.Name, Payload: &testpb.Payload{Body: make([]byte, in.GetResponseSize())}}, nil
}

// StreamingOutputCall sends the asked messages; a size of 0 sends the backend's name.
func (b *Backend) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	for i, p := range in.GetResponseParameters() {
		if err := s.Send(b.message(p.GetSize())); err != nil {
			return err
		}
		if name := first(s.Context(), GateKey); i == 0 && name != "" {
			select {
			case <-b.gate(name):
			case <-s.Context().Done():
				return status.FromContextError(s.Context().Err()).Err()
			}
		}
	}
	return nil
}

// StreamingInputCall answers with the total of the payloads' sizes.
func (b *Backend) StreamingInputCall(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	var sum int32
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: sum})
		}
		if err != nil {
			return err
		}
		sum += int32(len(in.GetPayload().GetBody()))
	}
}

// FullDuplexCall answers every request with the asked messages, at once.
func (b *Backend) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if st := in.GetResponseStatus(); st.GetCode() != 0 {
			return status.Error(codes.Code(st.GetCode()), st.GetMessage())
		}
		for _, p := range in.GetResponseParameters() {
			if err := s.Send(b.message(p.GetSize())); err != nil {
				return err
			}
		}
	}
}

func (b *Backend) message(size int32) *testpb.StreamingOutputCallResponse {
	body := []byte(b.Name)
	if size > 0 {
		body = make([]byte, size)
	}
	return &testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: body}}
}

// countingListener counts accepted connections.
type countingListener struct {
	net.Listener
	n *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}
