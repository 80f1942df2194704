package demo

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// suggestTea is the method that demo.proto does not have and the new version's backend does: Trunkline and its clients
// were built without knowing it, and it is placed all the same.
const suggestTea = "SuggestTea"

// newVersion is what a backend of the new version registers and what its reflection tells: the Shop with one method more.
// It takes GetTea's messages.
func newVersion() (grpc.ServiceDesc, protodesc.Resolver, error) {
	file := protodesc.ToFileDescriptorProto(demov1.File_trunkline_demo_v1_demo_proto)
	for _, s := range file.GetService() {
		if s.GetName() == "Shop" {
			s.Method = append(s.Method, &descriptorpb.MethodDescriptorProto{
				Name:       proto.String(suggestTea),
				InputType:  proto.String(".trunkline.demo.v1.GetTeaRequest"),
				OutputType: proto.String(".trunkline.demo.v1.GetTeaResponse"),
			})
		}
	}
	built, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		return grpc.ServiceDesc{}, nil, fmt.Errorf("the demo's new version: %w", err)
	}
	desc := demov1.Shop_ServiceDesc
	desc.Methods = append([]grpc.MethodDesc{{MethodName: suggestTea, Handler: handleSuggestTea}}, desc.Methods...)
	return desc, overlay{built}, nil
}

// handleSuggestTea is what protoc-gen-go-grpc would have generated.
func handleSuggestTea(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	in := new(demov1.GetTeaRequest)
	if err := decode(in); err != nil {
		return nil, err
	}
	handler := func(ctx context.Context, req any) (any, error) {
		return srv.(*shop).suggestTea(ctx, req.(*demov1.GetTeaRequest))
	}
	if intercept == nil {
		return handler(ctx, in)
	}
	return intercept(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + demov1.Shop_ServiceDesc.ServiceName + "/" + suggestTea}, handler)
}

// overlay resolves descriptors to one file's where it has them, else to those the process was built with.
type overlay struct{ file protoreflect.FileDescriptor }

func (o overlay) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if path == o.file.Path() {
		return o.file, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (o overlay) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if name.Parent() == o.file.Package() {
		if s := o.file.Services().ByName(name.Name()); s != nil {
			return s, nil
		}
		if m := o.file.Messages().ByName(name.Name()); m != nil {
			return m, nil
		}
	}
	if s := o.file.Services().ByName(name.Parent().Name()); s != nil && name.Parent() == s.FullName() {
		if m := s.Methods().ByName(name.Name()); m != nil {
			return m, nil
		}
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}
