package edge

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/trunkline/trunkline/integration/harness"
)

// orders is a server whose descriptors carry rules of protovalidate: edge.test.Orders with Place, and Each, a bidirectional stream. Both
// answer with what they get.
type orders struct {
	address string
	order   protoreflect.MessageDescriptor
	seen    atomic.Int64 // messages
}

const (
	place = "edge.test.Orders/Place"
	each  = "edge.test.Orders/Each"
)

func startOrders(t testing.TB) *orders {
	t.Helper()
	field := func(name string, n int32, kind descriptorpb.FieldDescriptorProto_Type, rules *validate.FieldRules) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Options: &descriptorpb.FieldOptions{}}
		proto.SetExtension(f.Options, validate.E_Field, rules)
		return f
	}
	name := proto.String
	fd, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: name("edge/orders.proto"), Package: name("edge.test"), Syntax: name("proto3"), Dependency: []string{"buf/validate/validate.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: name("Order"), Field: []*descriptorpb.FieldDescriptorProto{
			field("title", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, &validate.FieldRules{Type: &validate.FieldRules_String_{String_: &validate.StringRules{MinLen: proto.Uint64(3)}}}),
			field("count", 2, descriptorpb.FieldDescriptorProto_TYPE_INT32, &validate.FieldRules{Type: &validate.FieldRules_Int32{Int32: &validate.Int32Rules{GreaterThan: &validate.Int32Rules_Gt{Gt: 0}}}}),
		}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: name("Orders"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: name("Place"), InputType: name(".edge.test.Order"), OutputType: name(".edge.test.Order")},
			{Name: name("Each"), InputType: name(".edge.test.Order"), OutputType: name(".edge.test.Order"), ClientStreaming: proto.Bool(true), ServerStreaming: proto.Bool(true)},
		}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	files := &protoregistry.Files{}
	if err := files.RegisterFile(fd); err != nil {
		t.Fatal(err)
	}
	o := &orders{order: fd.Messages().ByName("Order")}
	desc := grpc.ServiceDesc{ServiceName: "edge.test.Orders", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Place", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := dynamicpb.NewMessage(o.order)
			if err := decode(m); err != nil {
				return nil, err
			}
			o.seen.Add(1)
			return m, nil
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Each", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				m := dynamicpb.NewMessage(o.order)
				if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				o.seen.Add(1)
				if err := s.SendMsg(m); err != nil {
					return err
				}
			}
		}}}}
	o.address = harness.Serve(t, func(s *grpc.Server) {
		s.RegisterService(&desc, struct{}{})
		reflectpb.RegisterServerReflectionServer(s, reflection.NewServerV1(reflection.ServerOptions{Services: s, DescriptorResolver: both{files}}))
	})
	return o
}

// both finds files of the service's own and those that it imports.
type both struct{ own *protoregistry.Files }

func (b both) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if f, err := b.own.FindFileByPath(path); err == nil {
		return f, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (b both) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d, err := b.own.FindDescriptorByName(name); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

// make is an order.
func (o *orders) make(title string, count int32) *dynamicpb.Message {
	m := dynamicpb.NewMessage(o.order)
	m.Set(o.order.Fields().ByName("title"), protoreflect.ValueOfString(title))
	m.Set(o.order.Fields().ByName("count"), protoreflect.ValueOfInt32(count))
	return m
}

// place calls Place.
func (o *orders) place(t testing.TB, cc *grpc.ClientConn, m any, opts ...grpc.CallOption) error {
	t.Helper()
	return cc.Invoke(harness.Context(t, limit), "/"+place, m, dynamicpb.NewMessage(o.order), opts...)
}

// bytesAsTheyAre sends []byte as a message, and reads messages as protobuf does.
type bytesAsTheyAre struct{}

func (bytesAsTheyAre) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (bytesAsTheyAre) Unmarshal(b []byte, v any) error {
	return proto.Unmarshal(b, v.(proto.Message))
}
func (bytesAsTheyAre) Name() string { return "proto" }
