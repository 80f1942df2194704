package lb

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/trunkline/trunkline/lb/transport"
	"github.com/trunkline/trunkline/lb/upstream"
)

// secure is how connections for the calls of a cluster shake hands; nil: they do not.
func (e *edge) secure(cluster string) func(ctx context.Context, address string, nc net.Conn) (net.Conn, error) {
	d := e.dials[cluster]
	if d == nil {
		return nil
	}
	return func(ctx context.Context, address string, nc net.Conn) (net.Conn, error) {
		c, err := transport.SecureClient(ctx, nc, d.certs.Config(address))
		if err != nil {
			return nil, d.certs.Explain(err)
		}
		c.Explain = d.certs.Explain
		return c, nil
	}
}

// shake is secure for probes and questions, which want a connection that can be read. It takes nc.
func (s *Server) shake(ctx context.Context, cluster, address string, nc net.Conn) (net.Conn, error) {
	e := s.edge.Load()
	if e == nil || e.dials[cluster] == nil {
		return nc, nil
	}
	d := e.dials[cluster]
	c := tls.Client(nc, d.certs.Config(address))
	if err := c.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, d.certs.Explain(err)
	}
	return explained{c, d.certs.Explain}, nil
}

// explained is a connection on which it may only be read what the server thinks of our certificate (TLS 1.3).
type explained struct {
	net.Conn
	explain func(error) error
}

// Read implements net.Conn.
func (e explained) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	return n, e.explain(err)
}

// dialIn is dial for probes.
func (s *Server) dialIn(dial upstream.Dialer) func(ctx context.Context, cluster, address string) (net.Conn, error) {
	return func(ctx context.Context, cluster, address string) (net.Conn, error) {
		nc, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return s.shake(ctx, cluster, address, nc)
	}
}
