package admin

import (
	"google.golang.org/grpc"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	grpcreflection "google.golang.org/grpc/reflection"

	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// reflection answers gRPC server reflection for the AdminService, so that grpcurl needs no -proto. The API itself is
// Connect's; only this bidirectional stream is grpc-go's, mounted in the same mux.
type reflection struct {
	server *grpc.Server
	paths  []string
}

func newReflection() *reflection {
	r := &reflection{
		server: grpc.NewServer(),
		paths: []string{
			"/" + reflectionv1.ServerReflection_ServiceDesc.ServiceName + "/",
			"/" + reflectionv1alpha.ServerReflection_ServiceDesc.ServiceName + "/",
		},
	}
	opts := grpcreflection.ServerOptions{Services: named{}}
	reflectionv1.RegisterServerReflectionServer(r.server, grpcreflection.NewServerV1(opts))
	reflectionv1alpha.RegisterServerReflectionServer(r.server, grpcreflection.NewServer(opts))
	return r
}

// named tells reflection the one service it has to speak of.
type named struct{}

func (named) GetServiceInfo() map[string]grpc.ServiceInfo {
	return map[string]grpc.ServiceInfo{adminv1connect.AdminServiceName: {}}
}
