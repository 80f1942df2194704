package reflection

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	v1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a real gRPC server on a free loopback port until the test ends.
func serve(t testing.TB, register func(s *grpc.Server)) (address string) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() { s.Serve(lis); close(done) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return lis.Addr().String()
}

func services(s *grpc.Server) {
	testpb.RegisterTestServiceServer(s, testpb.UnimplementedTestServiceServer{})
	healthpb.RegisterHealthServer(s, health.NewServer())
}

// Every version of reflection that a server may speak yields the same picture; health and reflection are not in it.
func TestEachVersionOfReflectionIsUnderstood(t *testing.T) {
	var hashes []string
	for _, c := range []struct {
		name, version string
		register      func(s *grpc.Server)
	}{
		{"both", "v1", func(s *grpc.Server) { reflection.Register(s) }},
		{"v1 only", "v1", func(s *grpc.Server) { reflection.RegisterV1(s) }},
		{"v1alpha only", "v1alpha", func(s *grpc.Server) {
			v1alpha.RegisterServerReflectionServer(s, reflection.NewServer(reflection.ServerOptions{Services: s}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := serve(t, func(s *grpc.Server) { services(s); c.register(s) })
			r, err := (&Asker{}).Ask(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			if r.Version != c.version || len(r.Services) != 1 || r.Services[0].Name != "grpc.testing.TestService" || r.At.IsZero() || r.Took <= 0 {
				t.Fatalf("%+v", r)
			}
			offers := r.Offers()["grpc.testing.TestService"]
			if len(r.Offers()) != 1 || len(offers) != 8 || !slices.IsSorted(offers) {
				t.Fatalf("offers %v", r.Offers())
			}
			for _, m := range r.Services[0].Methods {
				want := map[string][2]bool{
					"UnaryCall": {}, "EmptyCall": {}, "CacheableUnaryCall": {}, "UnimplementedCall": {},
					"StreamingOutputCall": {false, true}, "StreamingInputCall": {true, false},
					"FullDuplexCall": {true, true}, "HalfDuplexCall": {true, true},
				}[m.Name]
				if want != [2]bool{m.ClientStreaming, m.ServerStreaming} {
					t.Errorf("%+v", m)
				}
			}
			hashes = append(hashes, r.Hash)
		})
	}
	if len(slices.Compact(hashes)) != 1 {
		t.Fatalf("the hashes differ: %v", hashes)
	}
}

// A server without reflection says UNIMPLEMENTED; an address where nobody listens fails at once.
func TestNoReflectionAndNobodyThere(t *testing.T) {
	if _, err := (&Asker{}).Ask(t.Context(), serve(t, services)); status.Code(err) != codes.Unimplemented {
		t.Errorf("without reflection: %v", err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	began := time.Now()
	if _, err := (&Asker{}).Ask(t.Context(), lis.Addr().String()); status.Code(err) != codes.Unavailable || time.Since(began) > time.Second {
		t.Errorf("nobody there: %v after %v", err, time.Since(began))
	}
}

// The environment's proxy is not used: a question goes to the endpoint itself.
func TestProxyEnvironmentIsIgnored(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("NO_PROXY", "")
	if _, err := (&Asker{}).Ask(t.Context(), serve(t, func(s *grpc.Server) { services(s); reflection.Register(s) })); err != nil {
		t.Fatal(err)
	}
}

// scripted answers reflection as a test wants it.
type scripted struct {
	v1.UnimplementedServerReflectionServer
	answer func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error)
}

func (s scripted) ServerReflectionInfo(stream v1.ServerReflection_ServerReflectionInfoServer) error {
	for {
		q, err := stream.Recv()
		if err != nil {
			return nil
		}
		a, err := s.answer(q)
		if errors.Is(err, errNever) {
			<-stream.Context().Done()
		}
		if a == nil {
			return err
		}
		if err := stream.Send(a); err != nil {
			return err
		}
	}
}

// errNever makes scripted leave the question unanswered.
var errNever = errors.New("never")

func list(names ...string) *v1.ServerReflectionResponse {
	l := &v1.ListServiceResponse{}
	for _, n := range names {
		l.Service = append(l.Service, &v1.ServiceResponse{Name: n})
	}
	return &v1.ServerReflectionResponse{MessageResponse: &v1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: l}}
}

func files(raw ...[]byte) *v1.ServerReflectionResponse {
	return &v1.ServerReflectionResponse{MessageResponse: &v1.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &v1.FileDescriptorResponse{FileDescriptorProto: raw}}}
}

func refused(code codes.Code) *v1.ServerReflectionResponse {
	return &v1.ServerReflectionResponse{MessageResponse: &v1.ServerReflectionResponse_ErrorResponse{
		ErrorResponse: &v1.ErrorResponse{ErrorCode: int32(code), ErrorMessage: "no"}}}
}

// file is a serialized descriptor of package pkg with the services and the methods given as "S.m".
func file(pkg string, methods ...string) []byte {
	f := &descriptorpb.FileDescriptorProto{Name: proto.String(pkg + ".proto"), Package: proto.String(pkg), Dependency: []string{"not/there.proto"}}
	for _, m := range methods {
		service, method, _ := strings.Cut(m, ".")
		if len(f.Service) == 0 || f.Service[len(f.Service)-1].GetName() != service {
			f.Service = append(f.Service, &descriptorpb.ServiceDescriptorProto{Name: proto.String(service)})
		}
		s := f.Service[len(f.Service)-1]
		s.Method = append(s.Method, &descriptorpb.MethodDescriptorProto{
			Name: proto.String(method), Options: &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_IDEMPOTENT.Enum()},
		})
	}
	raw, err := proto.Marshal(f)
	if err != nil {
		panic(err)
	}
	return raw
}

// Odd but honest servers are understood as far as they go.
func TestOddServersAreUnderstood(t *testing.T) {
	asked := 0
	address := serve(t, func(s *grpc.Server) {
		v1.RegisterServerReflectionServer(s, scripted{answer: func(q *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			switch symbol := q.GetFileContainingSymbol(); symbol {
			case "":
				return list("p.B", "p.A", "p.A", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "no name!", "p.Undescribed", "p.Empty", "NoPackage"), nil
			case "p.Undescribed":
				return refused(codes.NotFound), nil
			case "NoPackage":
				return files(file("", "NoPackage.x")), nil
			default:
				asked++
				return files(file("p", "B.z", "B.a", "B.a", "B.bad name", "A.m", "Other.m", "Empty.")), nil
			}
		}})
	})
	r, err := (&Asker{}).Ask(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"p.A": {"m"}, "p.B": {"a", "z"}, "p.Undescribed": nil, "p.Empty": nil, "NoPackage": {"x"}}
	for name, methods := range want {
		if got, ok := r.Offers()[name]; !ok || !slices.Equal(got, methods) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if len(r.Offers()) != len(want) || asked != 1 {
		t.Errorf("%v after %d questions about p", r.Offers(), asked)
	}
	for _, s := range r.Services {
		if s.Name == "p.Undescribed" && s.Methods != nil || s.Name == "p.Empty" && s.Methods == nil {
			t.Errorf("%+v", s)
		}
		for _, m := range s.Methods {
			if m.Idempotency != Idempotent {
				t.Errorf("%+v", m)
			}
		}
	}
}

// Hostile servers are given up within bounds of time and memory, with an error that says why.
func TestHostileServersAreGivenUp(t *testing.T) {
	many := make([]string, 2000)
	for i := range many {
		many[i] = "p.S" + strings.Repeat("x", i)
	}
	big := bytes.Repeat([]byte("x"), 3<<20)
	for name, c := range map[string]struct {
		answer func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error)
		code   codes.Code
	}{
		"never answers": {func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			return nil, errNever
		}, codes.DeadlineExceeded},
		"ends the stream": {func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) { return nil, nil }, codes.Internal},
		"refuses": {func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			return refused(codes.PermissionDenied), nil
		}, codes.PermissionDenied},
		"refuses with OK": {func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) { return refused(codes.OK), nil }, codes.Unknown},
		"answers with nothing": {func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			return &v1.ServerReflectionResponse{}, nil
		}, codes.Internal},
		"answers another question": {func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) { return files(), nil }, codes.Internal},
		"too many services":        {func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) { return list(many...), nil }, codes.ResourceExhausted},
		"one huge message": {func(q *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			return files(big, big), nil
		}, codes.ResourceExhausted},
		"junk for a descriptor": {func(q *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			if q.GetFileContainingSymbol() == "" {
				return list("p.A"), nil
			}
			return files([]byte("\xff\xff\xff")), nil
		}, codes.Internal},
		"endless descriptors": {func(q *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			if q.GetFileContainingSymbol() == "" {
				return list(many[:100]...), nil
			}
			return files(file(strings.Repeat("q", 1<<20), "Z.z")), nil
		}, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, func(s *grpc.Server) { v1.RegisterServerReflectionServer(s, scripted{answer: c.answer}) })
			asker := &Asker{Limits: Limits{Timeout: time.Second, Bytes: 4 << 20}}
			began := time.Now()
			r, err := asker.Ask(t.Context(), address)
			if status.Code(err) != c.code || time.Since(began) > 1500*time.Millisecond {
				t.Fatalf("%+v, %v after %v", r, err, time.Since(began))
			}
		})
	}
}

// What is not gRPC at all is given up too: silence, HTTP/1, noise, an endless trickle.
func TestNotEvenGRPC(t *testing.T) {
	for name, handle := range map[string]func(net.Conn){
		"silence": func(c net.Conn) { io.Copy(io.Discard, c) },
		"close":   func(c net.Conn) {},
		"noise": func(c net.Conn) {
			for {
				if _, err := c.Write(bytes.Repeat([]byte{0xfe, 0x01}, 4096)); err != nil {
					return
				}
			}
		},
		"HTTP/1": func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			io.Copy(io.Discard, c)
		},
		"trickle of SETTINGS": func(c net.Conn) {
			for {
				if _, err := c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}); err != nil {
					return
				}
				runtime.Gosched()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := lis.Accept()
					if err != nil {
						return
					}
					handle(c)
					c.Close()
				}
			}()
			t.Cleanup(func() { lis.Close(); <-done })
			asker := &Asker{Limits: Limits{Timeout: 500 * time.Millisecond}}
			began := time.Now()
			if r, err := asker.Ask(t.Context(), lis.Addr().String()); err == nil || time.Since(began) > 1500*time.Millisecond {
				t.Fatalf("%+v, %v after %v", r, err, time.Since(began))
			}
		})
	}
}

// Cancelling ends a question at once.
func TestAskEndsWithItsContext(t *testing.T) {
	entered := make(chan struct{})
	release := make(chan struct{})
	address := serve(t, func(s *grpc.Server) {
		v1.RegisterServerReflectionServer(s, scripted{answer: func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			close(entered)
			<-release
			return nil, nil
		}})
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	began := time.Now()
	if _, err := (&Asker{Limits: Limits{Timeout: time.Minute}}).Ask(ctx, address); status.Code(err) != codes.Canceled || time.Since(began) > 5*time.Second {
		t.Fatalf("%v after %v", err, time.Since(began))
	}
}

// The hash tells any two different answers apart, and no two equal ones.
func TestHashFollowsContent(t *testing.T) {
	seen := map[string]int{}
	for i, s := range [][]Service{
		nil,
		{{Name: "a"}},
		{{Name: "a", Methods: []Method{}}},
		{{Name: "a", Methods: []Method{{Name: "m"}}}},
		{{Name: "a", Methods: []Method{{Name: "m", ClientStreaming: true}}}},
		{{Name: "a", Methods: []Method{{Name: "m", ServerStreaming: true}}}},
		{{Name: "a", Methods: []Method{{Name: "m", Idempotency: Idempotent}}}},
		{{Name: "a", Methods: []Method{{Name: "m"}}}, {Name: "b"}},
	} {
		h := newResult(slices.Clone(s), newSchema(), "v1").Hash
		if j, dup := seen[h]; dup {
			t.Errorf("%d and %d have the same hash", i, j)
		}
		seen[h] = i
		slices.Reverse(s)
		if newResult(s, newSchema(), "v1alpha").Hash != h {
			t.Errorf("%d: the hash depends on order or version", i)
		}
	}
}

// Whatever a server sends, the conversation ends without a crash, and what it yields keeps the promises of Result.
func FuzzConversation(f *testing.F) {
	marshal := func(m proto.Message) []byte { b, _ := proto.Marshal(m); return b }
	f.Add(marshal(list("p.A", "p.B")), marshal(files(file("p", "A.x"))), marshal(refused(codes.NotFound)))
	f.Add(marshal(list("p.A")), marshal(files([]byte("junk"))), []byte{})
	f.Add(marshal(refused(codes.Unimplemented)), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		services, schema, err := converse(t.Context(), Limits{}.withDefaults(), func(context.Context) (stream, error) {
			return &replay{messages: [][]byte{a, b, c}}, nil
		})
		if err != nil {
			return
		}
		r := newResult(services, schema, "v1")
		for i, s := range r.Services {
			if i > 0 && r.Services[i-1].Name >= s.Name || !slices.IsSortedFunc(s.Methods, func(a, b Method) int { return strings.Compare(a.Name, b.Name) }) {
				t.Fatalf("%+v", r.Services)
			}
		}
	})
}

// replay answers each question with the next message.
type replay struct{ messages [][]byte }

func (r *replay) Send(*v1.ServerReflectionRequest) error { return nil }
func (r *replay) Recv() (*v1.ServerReflectionResponse, error) {
	if len(r.messages) == 0 {
		return nil, io.EOF
	}
	m := &v1.ServerReflectionResponse{}
	err := proto.Unmarshal(r.messages[0], m)
	r.messages = r.messages[1:]
	return m, err
}
