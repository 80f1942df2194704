package reflection

import (
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	v1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

// alphaStream speaks v1alpha for someone who thinks in v1: the two differ in nothing but the package name
// (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md). Only the two questions that Ask puts are translated.
type alphaStream struct {
	stream v1alpha.ServerReflection_ServerReflectionInfoClient
}

func (a alphaStream) Send(r *v1.ServerReflectionRequest) error {
	out := &v1alpha.ServerReflectionRequest{}
	switch q := r.GetMessageRequest().(type) {
	case *v1.ServerReflectionRequest_ListServices:
		out.MessageRequest = &v1alpha.ServerReflectionRequest_ListServices{ListServices: q.ListServices}
	case *v1.ServerReflectionRequest_FileContainingSymbol:
		out.MessageRequest = &v1alpha.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: q.FileContainingSymbol}
	}
	return a.stream.Send(out)
}

func (a alphaStream) Recv() (*v1.ServerReflectionResponse, error) {
	in, err := a.stream.Recv()
	if err != nil {
		return nil, err
	}
	out := &v1.ServerReflectionResponse{}
	switch r := in.GetMessageResponse().(type) {
	case *v1alpha.ServerReflectionResponse_ListServicesResponse:
		list := &v1.ListServiceResponse{}
		for _, s := range r.ListServicesResponse.GetService() {
			list.Service = append(list.Service, &v1.ServiceResponse{Name: s.GetName()})
		}
		out.MessageResponse = &v1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: list}
	case *v1alpha.ServerReflectionResponse_FileDescriptorResponse:
		out.MessageResponse = &v1.ServerReflectionResponse_FileDescriptorResponse{
			FileDescriptorResponse: &v1.FileDescriptorResponse{FileDescriptorProto: r.FileDescriptorResponse.GetFileDescriptorProto()},
		}
	case *v1alpha.ServerReflectionResponse_ErrorResponse:
		out.MessageResponse = &v1.ServerReflectionResponse_ErrorResponse{
			ErrorResponse: &v1.ErrorResponse{ErrorCode: r.ErrorResponse.GetErrorCode(), ErrorMessage: r.ErrorResponse.GetErrorMessage()},
		}
	}
	return out, nil
}
