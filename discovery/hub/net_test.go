package hub

import (
	"context"
	"net"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// network is a handful of addresses in memory where gRPC servers offer reflection, so that a Hub runs in virtual time.
type network struct {
	mu    sync.Mutex
	hosts map[string]*host
}

type host struct {
	services map[string][]string // by full name "p.S": methods; nil: no reflection here
	hold     chan struct{}       // not nil: questions wait until it is closed
}

func newNetwork() *network { return &network{hosts: map[string]*host{}} }

// offer lets a server at address offer "p.S" with methods, for each given as "S.m".
func (n *network) offer(address string, hold chan struct{}, methods ...string) {
	h := &host{hold: hold}
	for _, m := range methods {
		if h.services == nil {
			h.services = map[string][]string{}
		}
		for i := range m {
			if m[i] == '.' {
				h.services["p."+m[:i]] = append(h.services["p."+m[:i]], m[i+1:])
			}
		}
	}
	n.mu.Lock()
	n.hosts[address] = h
	n.mu.Unlock()
}

func (n *network) remove(address string) {
	n.mu.Lock()
	delete(n.hosts, address)
	n.mu.Unlock()
}

func (n *network) dial(_ context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	h := n.hosts[address]
	n.mu.Unlock()
	if h == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	s := grpc.NewServer()
	if h.services != nil {
		v1.RegisterServerReflectionServer(s, h)
	}
	go s.Serve(&oneConn{conn: server, done: make(chan struct{})}) // ends with its connection
	return client, nil
}

// oneConn is a listener that accepts one connection, and ends when that does.
type oneConn struct {
	conn net.Conn
	once sync.Once
	done chan struct{}
}

func (l *oneConn) Accept() (c net.Conn, err error) {
	l.once.Do(func() { c = closing{l.conn, l.done} })
	if c != nil {
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

type closing struct {
	net.Conn
	done chan struct{}
}

func (c closing) Close() error {
	err := c.Conn.Close()
	select {
	case <-c.done:
	default:
		close(c.done)
	}
	return err
}

// ServerReflectionInfo implements the reflection service of a host.
func (h *host) ServerReflectionInfo(stream v1.ServerReflection_ServerReflectionInfoServer) error {
	for {
		q, err := stream.Recv()
		if err != nil {
			return nil
		}
		if h.hold != nil {
			select {
			case <-h.hold:
			case <-stream.Context().Done():
				return status.Error(codes.Canceled, "")
			}
		}
		a := &v1.ServerReflectionResponse{}
		if name := q.GetFileContainingSymbol(); name == "" {
			l := &v1.ListServiceResponse{}
			for s := range h.services {
				l.Service = append(l.Service, &v1.ServiceResponse{Name: s})
			}
			a.MessageResponse = &v1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: l}
		} else {
			s := &descriptorpb.ServiceDescriptorProto{Name: proto.String(name[2:])}
			for _, m := range h.services[name] {
				s.Method = append(s.Method, &descriptorpb.MethodDescriptorProto{Name: proto.String(m)})
			}
			raw, _ := proto.Marshal(&descriptorpb.FileDescriptorProto{Package: proto.String("p"), Service: []*descriptorpb.ServiceDescriptorProto{s}})
			a.MessageResponse = &v1.ServerReflectionResponse_FileDescriptorResponse{
				FileDescriptorResponse: &v1.FileDescriptorResponse{FileDescriptorProto: [][]byte{raw}}}
		}
		if err := stream.Send(a); err != nil {
			return err
		}
	}
}
