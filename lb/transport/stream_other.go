//go:build !unix

package transport

import "net"

func newSocket(nc net.Conn) socket { return &stream{nc: nc} }
