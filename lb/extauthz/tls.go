package extauthz

import (
	"context"
	"net"

	"github.com/trunkline/trunkline/lb/certs"
	"google.golang.org/grpc/credentials"
)

// Credentials are TLS to the service at address by c, whose files may change: each connection takes them as they are then. c stays its
// owner's, and must outlive them.
func Credentials(c *certs.Client, address string) credentials.TransportCredentials {
	return &reloaded{TransportCredentials: credentials.NewTLS(c.Config(address)), client: c, address: address}
}

// reloaded is grpc-go's TLS, but for the configuration of a handshake.
type reloaded struct {
	credentials.TransportCredentials
	client  *certs.Client
	address string
}

func (r *reloaded) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := credentials.NewTLS(r.client.Config(r.address)).ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, r.client.Explain(err)
	}
	return conn, info, nil
}

func (r *reloaded) Clone() credentials.TransportCredentials { return Credentials(r.client, r.address) }
