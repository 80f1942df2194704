package reflection

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/discovery"
)

// Limits bound what one endpoint may make us hold. The zero value means the defaults.
type Limits struct {
	Timeout  time.Duration // of the whole question, dialling included; 0: 2 s
	Bytes    int           // of all its responses together; 0: 16 MiB
	Message  int           // of one response; 0: 4 MiB
	Services int           // that it may offer; 0: 1000
	Imports  int           // that are asked for by name because no answer brought them; 0: 200
}

func (l Limits) withDefaults() Limits {
	if l.Timeout <= 0 {
		l.Timeout = 2 * time.Second
	}
	if l.Bytes <= 0 {
		l.Bytes = 16 << 20
	}
	if l.Message <= 0 {
		l.Message = 4 << 20
	}
	if l.Services <= 0 {
		l.Services = 1000
	}
	if l.Imports <= 0 {
		l.Imports = 200
	}
	return l
}

// Asker puts reflection questions. The zero value asks in plain HTTP/2 with the default limits.
type Asker struct {
	Limits Limits
	// Credentials secure the connection; nil: h2c.
	Credentials credentials.TransportCredentials
	// Dial makes the connection to host:port; nil: plain TCP. The environment's proxy settings are never used.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Secure shakes hands over TLS where a cluster wants that, and returns nc itself where not; nil: none does.
	Secure func(ctx context.Context, cluster, address string, nc net.Conn) (net.Conn, error)
}

// Ask asks the endpoint at address (host:port), first by grpc.reflection.v1, then by v1alpha where v1 is not implemented.
// The whole conversation is one stream and so comes from one instance. Errors carry a gRPC status; UNIMPLEMENTED means
// that the endpoint has no reflection.
func (a *Asker) Ask(ctx context.Context, address string) (*Result, error) {
	return a.AskIn(ctx, "", address)
}

// AskIn is Ask of an endpoint of that cluster.
func (a *Asker) AskIn(ctx context.Context, cluster, address string) (*Result, error) {
	limits := a.Limits.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, limits.Timeout)
	defer cancel()
	start := time.Now()
	creds := a.Credentials
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDisableHealthCheck(), grpc.WithUserAgent("trunkline-reflection"), grpc.WithMaxHeaderListSize(64 << 10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limits.Message)),
	}
	dial := a.Dial
	if dial == nil && a.Secure != nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	if dial != nil {
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			nc, err := dial(ctx, address)
			if err != nil || a.Secure == nil {
				return nc, err
			}
			return a.Secure(ctx, cluster, address, nc)
		}))
	}
	// passthrough: the dialler resolves names; grpc's own DNS resolver would look up TXT records too.
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	defer conn.Close()

	version := "v1"
	services, schema, err := converse(ctx, limits, func(ctx context.Context) (stream, error) {
		return v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	})
	if status.Code(err) == codes.Unimplemented {
		version = "v1alpha"
		services, schema, err = converse(ctx, limits, func(ctx context.Context) (stream, error) {
			s, err := conn.NewStream(ctx, &v1.ServerReflection_ServiceDesc.Streams[0], alphaMethod)
			return &grpc.GenericClientStream[v1.ServerReflectionRequest, v1.ServerReflectionResponse]{ClientStream: s}, err
		})
	}
	if err != nil {
		return nil, err
	}
	r := newResult(services, schema, version)
	r.At = time.Now()
	r.Took = r.At.Sub(start)
	return r, nil
}

// alphaMethod is the one method of v1alpha, whose messages are, on the wire, those of v1.
const alphaMethod = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

// stream is the conversation in terms of v1, whatever is spoken.
type stream interface {
	Send(*v1.ServerReflectionRequest) error
	Recv() (*v1.ServerReflectionResponse, error)
}

func converse(ctx context.Context, limits Limits, open func(context.Context) (stream, error)) ([]Service, *Schema, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, also one that the server would keep open
	s, err := open(ctx)
	if err != nil {
		return nil, nil, err
	}
	bytes := 0
	ask := func(request *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
		if err := s.Send(request); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv has the status
			return nil, err
		}
		response, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil, status.Error(codes.Internal, "reflection: the server ended the stream before it answered")
		}
		if err != nil {
			return nil, err
		}
		for _, f := range response.GetFileDescriptorResponse().GetFileDescriptorProto() {
			bytes += len(f)
		}
		for _, l := range response.GetListServicesResponse().GetService() {
			bytes += len(l.GetName())
		}
		if bytes > limits.Bytes {
			return nil, status.Errorf(codes.ResourceExhausted, "reflection: the server sent more than %d bytes", limits.Bytes)
		}
		return response, nil
	}

	list, err := ask(&v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return nil, nil, err
	}
	if e := list.GetErrorResponse(); e != nil {
		return nil, nil, status.Errorf(refusal(e), "reflection: list_services: %.200s", e.GetErrorMessage())
	}
	if list.GetListServicesResponse() == nil {
		return nil, nil, status.Error(codes.Internal, "reflection: list_services got an answer to another question")
	}
	wanted := map[string]bool{}
	var names []string
	for _, l := range list.GetListServicesResponse().GetService() {
		name := l.GetName()
		if !discovery.ValidServiceName(name) || !discovery.Learnable(name) || wanted[name] {
			continue
		}
		if len(names) == limits.Services {
			return nil, nil, status.Errorf(codes.ResourceExhausted, "reflection: the server offers more than %d services", limits.Services)
		}
		wanted[name] = true
		names = append(names, name)
	}

	found, schema := map[string][]Method{}, newSchema()
	services := make([]Service, 0, len(names))
	for _, name := range names {
		if _, have := found[name]; !have { // else it stood in the file of an earlier one
			response, err := ask(&v1.ServerReflectionRequest{
				MessageRequest: &v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name},
			})
			if err != nil {
				return nil, nil, err
			}
			// An error response here means: a service without a descriptor. It is kept with its methods unknown.
			if err := collect(response.GetFileDescriptorResponse().GetFileDescriptorProto(), wanted, found, schema); err != nil {
				return nil, nil, status.Error(codes.Internal, fmt.Sprintf("reflection: %s: %v", name, err))
			}
		}
		services = append(services, Service{Name: name, Methods: found[name]})
	}
	complete(schema, limits.Imports, ask)
	return services, schema, nil
}

// complete asks by name for the imports that came with no answer: some servers send only the file that was asked for. What
// is learned of services does not hang on it, so a server that fails here is asked no more, and that is all.
func complete(schema *Schema, most int, ask func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error)) {
	asked := map[string]bool{}
	for {
		missing := slices.DeleteFunc(schema.missing(), func(name string) bool { return asked[name] })
		if len(missing) == 0 {
			return
		}
		for _, name := range missing {
			if len(asked) == most {
				return
			}
			asked[name] = true
			response, err := ask(&v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_FileByFilename{FileByFilename: name}})
			if err != nil || collect(response.GetFileDescriptorResponse().GetFileDescriptorProto(), nil, nil, schema) != nil {
				return
			}
		}
	}
}

// refusal keeps an UNIMPLEMENTED or PERMISSION_DENIED that a server put into the response instead of the status.
func refusal(e *v1.ErrorResponse) codes.Code {
	if c := codes.Code(e.GetErrorCode()); c > codes.OK && c <= codes.Unauthenticated {
		return c
	}
	return codes.Unknown
}
