//go:build !unix

package transport

import "net"

func newSocket(_ *Conn, nc net.Conn) socket {
	if t, ok := nc.(*Secured); ok {
		nc = t.tls
	}
	return &stream{nc: nc}
}
