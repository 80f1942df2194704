package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
)

// reflector answers gRPC server reflection on the listeners for everything that the table in force routes: one list, made of
// what the endpoints of all clusters said when discovery asked them. It asks nobody itself: of a cluster whose services were
// written down (grpcServices, Consul's meta grpc-services) it names the services, and says that it has no descriptors.
//
// A question about a service is answered with the files of the cluster that calls to it go to; where its endpoints disagree
// (a rolling deploy), of one that has the most of its methods. What a stream asks next, by file name or for a message, is
// looked for where its last answer came from first: so clusters may have different files of the same name.
// Extensions are known as far as files that services import define them.
type reflector struct {
	reflectionv1.UnimplementedServerReflectionServer
	outlook func() outlook                              // what is in force
	said    func(discovery.Endpoint) *reflection.Result // what an endpoint told; nil if nothing
	own     *reflection.Schema                          // of the services that Trunkline answers itself
}

func newReflector(outlook func() outlook, said func(discovery.Endpoint) *reflection.Result) *reflector {
	var raw [][]byte
	for _, f := range []protoreflect.FileDescriptor{healthpb.File_grpc_health_v1_health_proto,
		reflectionv1.File_grpc_reflection_v1_reflection_proto, reflectionv1alpha.File_grpc_reflection_v1alpha_reflection_proto,
		// And of the details of the errors that it makes, so that tools can show them.
		errdetails.File_google_rpc_error_details_proto, durationpb.File_google_protobuf_duration_proto} {
		if b, err := proto.Marshal(protodesc.ToFileDescriptorProto(f)); err == nil { // compiled in: it can be written
			raw = append(raw, b)
		}
	}
	return &reflector{outlook: outlook, said: said, own: reflection.NewSchema(raw)}
}

func (r *reflector) register(s *grpc.Server) {
	reflectionv1.RegisterServerReflectionServer(s, r)
	// The messages of v1alpha are those of v1 on the wire, so one implementation speaks both.
	alpha := reflectionv1.ServerReflection_ServiceDesc
	alpha.ServiceName = reflectionv1alpha.ServerReflection_ServiceDesc.ServiceName
	alpha.Metadata = reflectionv1alpha.ServerReflection_ServiceDesc.Metadata
	s.RegisterService(&alpha, r)
}

// ServerReflectionInfo implements both versions.
func (r *reflector) ServerReflectionInfo(stream reflectionv1.ServerReflection_ServerReflectionInfoServer) error {
	c := &conversation{reflector: r, authority: authorityOf(stream.Context()), sent: map[reflection.File]bool{}}
	for {
		q, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		a, err := c.answer(q)
		if err != nil {
			return err
		}
		a.ValidHost, a.OriginalRequest = q.GetHost(), q
		if err := stream.Send(a); err != nil {
			return err
		}
	}
}

func authorityOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(":authority"); len(v) > 0 {
		return v[0]
	}
	return ""
}

// conversation is one stream. It is owned by its handler.
type conversation struct {
	*reflector
	authority string
	catalog   *catalog                 // of the generation that the last question met; nil before the first
	recent    []*reflection.Schema     // where answers came from, the last one first
	sent      map[reflection.File]bool // what the client has
}

const (
	// maxRecent bounds the schemas that a long stream remembers.
	maxRecent = 64
	// maxAnswer bounds, in bytes, the imports that come unasked with a file: many clients take 4 MiB at most. They ask for
	// the rest by name.
	maxAnswer = 3 << 20
)

func (c *conversation) answer(q *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	if o := c.outlook(); c.catalog == nil || c.catalog.gen.Number != o.gen.Number {
		c.catalog = newCatalog(o, c.authority)
	}
	switch m := q.GetMessageRequest().(type) {
	case *reflectionv1.ServerReflectionRequest_ListServices:
		list := &reflectionv1.ListServiceResponse{}
		for _, name := range c.catalog.services {
			list.Service = append(list.Service, &reflectionv1.ServiceResponse{Name: name})
		}
		return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: list}}, nil
	case *reflectionv1.ServerReflectionRequest_FileContainingSymbol:
		return c.file(c.symbol(m.FileContainingSymbol))
	case *reflectionv1.ServerReflectionRequest_FileByFilename:
		return c.file(c.find("file "+m.FileByFilename, func(s *reflection.Schema) (reflection.File, bool) { return s.File(m.FileByFilename) }))
	case *reflectionv1.ServerReflectionRequest_FileContainingExtension:
		x := m.FileContainingExtension
		return c.file(c.find(fmt.Sprintf("extension %d of %s", x.GetExtensionNumber(), x.GetContainingType()), func(s *reflection.Schema) (reflection.File, bool) {
			return s.Extension(x.GetContainingType(), x.GetExtensionNumber())
		}))
	case *reflectionv1.ServerReflectionRequest_AllExtensionNumbersOfType:
		name := m.AllExtensionNumbersOfType
		s, _, why := c.find("type "+name, func(s *reflection.Schema) (reflection.File, bool) { return s.Symbol(name) })
		if s == nil {
			return refusal(why), nil
		}
		return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_AllExtensionNumbersResponse{
			AllExtensionNumbersResponse: &reflectionv1.ExtensionNumberResponse{BaseTypeName: name, ExtensionNumber: s.ExtensionNumbers(name)},
		}}, nil
	}
	return nil, status.Error(codes.InvalidArgument, "reflection: a request without a question, or with an unknown one")
}

// symbol finds the file that defines a name: of a service or its method, where calls to it go; of anything else, anywhere.
func (c *conversation) symbol(name string) (*reflection.Schema, reflection.File, string) {
	for _, service := range []string{name, parent(name)} {
		if t := c.catalog.owner[service]; t != nil {
			return c.defines(service, name, t)
		}
		if claimants := c.catalog.gen.Conflicts[service]; claimants != nil {
			return nil, reflection.File{}, conflictText(service, claimants)
		}
	}
	return c.find("symbol "+name, func(s *reflection.Schema) (reflection.File, bool) { return s.Symbol(name) })
}

// find looks for a file where the last answers came from, then in every cluster that serves something.
func (c *conversation) find(what string, in func(*reflection.Schema) (reflection.File, bool)) (*reflection.Schema, reflection.File, string) {
	for _, s := range c.recent {
		if f, ok := in(s); ok {
			return s, f, ""
		}
	}
	for s := range c.schemas() {
		if f, ok := in(s); ok {
			return s, f, ""
		}
	}
	return nil, reflection.File{}, what + " is in no descriptor of a cluster that serves a routed service"
}

// file is the answer that brings a file, and those of its imports that the client does not have.
func (c *conversation) file(s *reflection.Schema, root reflection.File, why string) (*reflectionv1.ServerReflectionResponse, error) {
	if s == nil {
		return refusal(why), nil
	}
	c.recent = slices.DeleteFunc(c.recent, func(r *reflection.Schema) bool { return r == s })
	c.recent = slices.Insert(c.recent, 0, s)
	c.recent = c.recent[:min(len(c.recent), maxRecent)]
	var raw [][]byte
	bytes := 0
	for f := range s.WithImports(root) {
		if f != root && (c.sent[f] || bytes+f.Size() > maxAnswer) {
			continue
		}
		c.sent[f] = true
		bytes += f.Size()
		raw = append(raw, f.Raw())
	}
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &reflectionv1.FileDescriptorResponse{FileDescriptorProto: raw},
	}}, nil
}

func refusal(why string) *reflectionv1.ServerReflectionResponse {
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ErrorResponse{
		ErrorResponse: &reflectionv1.ErrorResponse{ErrorCode: int32(codes.NotFound), ErrorMessage: "Trunkline: " + why},
	}}
}
