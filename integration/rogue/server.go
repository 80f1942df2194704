// Package rogue owns gRPC servers that misbehave on purpose, one plan per call, and count what reached them: a server that is
// written in frames (Server), which can break every rule, and a stock grpc-go one (Stock). It must not judge who calls.
package rogue

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/integration/harness"
)

// Options of a Server.
type Options struct {
	Addr   string  // to listen on, from harness.FreeAddr; "": a free one
	Ledger *Ledger // nil: one of its own
	// Script chooses what a call is in for, when it bears no PlanKey. nil: OK.
	Script func(*Stream) Script
	// Settings are sent at the begin of each connection.
	Settings []http2.Setting
	// NoCredit: no WINDOW_UPDATE is ever sent, on neither level.
	NoCredit bool
}

// Server speaks HTTP/2 in frames. Each stream is served by a goroutine that follows its Script.
type Server struct {
	Name   string
	Addr   string
	Ledger *Ledger
	opts   Options
	script atomic.Pointer[func(*Stream) Script]
	calls  atomic.Int64
	conned atomic.Int64
	open   atomic.Int64
	peak   atomic.Int64
	all    sync.WaitGroup

	mu    sync.Mutex
	l     net.Listener       // guarded by mu; nil while stopped
	conns map[*conn]struct{} // guarded by mu
}

// Start starts a server; it is stopped when the test ends.
func Start(t testing.TB, name string, o Options) *Server {
	t.Helper()
	s := &Server{Name: name, Addr: o.Addr, Ledger: o.Ledger, opts: o, conns: map[*conn]struct{}{}}
	if s.Ledger == nil {
		s.Ledger = NewLedger()
	}
	script := o.Script
	if script == nil {
		script = func(*Stream) Script { return OK() }
	}
	s.Become(script)
	l := listen(t, s.Addr)
	s.Addr = l.Addr().String()
	s.serve(l)
	t.Cleanup(s.Stop)
	return s
}

// listen takes an address, or a free one.
func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	if addr == "" {
		addr = harness.FreeAddr(t)
	}
	return harness.Listen(t, addr)
}

// Become replaces the server's script for calls that arrive from now on.
func (s *Server) Become(script func(*Stream) Script) { s.script.Store(&script) }

// Listen begins to accept connections, also again after Stop.
func (s *Server) Listen(t testing.TB) {
	t.Helper()
	s.serve(listen(t, s.Addr))
}

func (s *Server) serve(l net.Listener) {
	s.mu.Lock()
	s.l = l
	s.mu.Unlock()
	s.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conned.Add(1)
			served := newConn(s, c)
			s.mu.Lock()
			live := s.l == l
			if live {
				s.conns[served] = struct{}{}
			}
			s.mu.Unlock()
			if !live {
				c.Close()
				return
			}
			s.all.Go(func() {
				served.run()
				s.mu.Lock()
				delete(s.conns, served)
				s.mu.Unlock()
			})
		}
	})
}

// Stop closes the listener and cuts all connections, and waits until they are gone.
func (s *Server) Stop() {
	s.mu.Lock()
	if s.l != nil {
		s.l.Close()
		s.l = nil
	}
	s.mu.Unlock()
	s.CutAll()
	s.all.Wait()
}

// CutAll closes all connections without a word.
func (s *Server) CutAll() {
	for _, c := range s.snapshot() {
		c.nc.Close()
	}
}

// GoAway says on every connection that no stream above last was or will be processed; the connections stay open for the
// others. With last 1<<31-1 it is the first step of a graceful end.
func (s *Server) GoAway(last uint32, code http2.ErrCode) {
	for _, c := range s.snapshot() {
		c.goAway(last, code)
	}
}

func (s *Server) snapshot() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*conn
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

// Calls is how many streams have arrived here.
func (s *Server) Calls() int64 { return s.calls.Load() }

// Conns is how many connections were accepted.
func (s *Server) Conns() int64 { return s.conned.Load() }

// OpenCalls is how many streams are being served now.
func (s *Server) OpenCalls() int64 { return s.open.Load() }

// PeakCalls is the most streams that were ever served at the same time.
func (s *Server) PeakCalls() int64 { return s.peak.Load() }

// begin counts a stream that is served from now on.
func (s *Server) begin() (number int64) {
	open := s.open.Add(1)
	for peak := s.peak.Load(); open > peak && !s.peak.CompareAndSwap(peak, open); peak = s.peak.Load() {
	}
	return s.calls.Add(1)
}
