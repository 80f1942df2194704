package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/proxyproto"
	"github.com/trunkline/trunkline/lb/transport"
	"github.com/trunkline/trunkline/policy/authn"
)

// Door is what a connection passes before HTTP/2. Immutable.
type Door struct {
	TLS       TLS  // nil: none
	Plaintext bool // h2c is taken beside TLS
	// Bare is what is known of clients that come without TLS where both are taken; nil: nothing.
	Bare *authn.Peer
	// Trusted are the networks whose connections begin with a header of the PROXY protocol.
	Trusted []netip.Prefix
	// ProxyOptional: they may also begin without.
	ProxyOptional bool
}

// TLS is what clients are shown and asked for.
type TLS interface {
	Config() *tls.Config
	Peer(*tls.ConnectionState) *authn.Peer
}

func (d *Door) trusts(a netip.Addr) bool {
	return d != nil && slices.ContainsFunc(d.Trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

// tlsHandshake is the first byte of a TLS connection: a record of type handshake (RFC 8446 section 5.1).
const tlsHandshake = 22

// greet does what comes before HTTP/2. It reads no more than it must, but what it reads too much is passed on.
func (l *Listener) greet(g *guest, d *Door, from netip.Addr) error {
	if d.trusts(from) {
		_, stop := l.clock(g)
		at, err := l.header(g, d)
		if late := l.settled(stop); err == nil {
			err = late
		}
		if err != nil {
			return err
		}
		if why := g.judge(at); why != "" {
			return why
		}
	}
	if why := g.pause(l.ctx); why != "" {
		return why
	}
	ctx, stop := l.clock(g) // what it waited for us is not the client's time
	defer stop()
	if d == nil || d.TLS == nil {
		return l.settled(stop)
	}
	secured, err := g.beginsTLS()
	if err != nil {
		return err
	}
	if !secured {
		if g.Peer = d.Bare; !d.Plaintext {
			g.Peer = &authn.Peer{Refused: &authn.Refusal{Status: grpc.Unavailable, Reason: "TLS_REQUIRED",
				Message: "this listener takes TLS only, and the call came without: give the client transport credentials (TLS)"}}
		}
		return l.settled(stop)
	}
	s, err := transport.SecureServer(ctx, g.Conn, g.First, d.TLS.Config(), l.slots)
	if err != nil {
		l.counts.BadHandshakes.Add(1)
		if stop() {
			l.farewell(g.Conn)
		}
		return fmt.Errorf("TLS handshake: %w", err)
	}
	l.counts.Handshakes.Add(1)
	state := s.State()
	if state.DidResume {
		l.counts.Resumed.Add(1)
	}
	if !carriesCalls(&state) {
		return fmt.Errorf("the handshake was for %q only", state.NegotiatedProtocol)
	}
	g.Peer = d.TLS.Peer(&state)
	g.Conn, g.First = s, nil
	return l.settled(stop)
}

// clock begins the time that a connection has for what comes before HTTP/2. stop ends it; false: it is over.
func (l *Listener) clock(g *guest) (ctx context.Context, stop func() bool) {
	ctx, cancel, nc := l.ctx, func() {}, g.Conn
	if t := g.set.PrefaceTimeout; t > 0 {
		ctx, cancel = context.WithTimeout(ctx, t)
	}
	in := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	return ctx, func() bool {
		defer cancel()
		return in()
	}
}

// settled ends the greeting's deadline.
func (l *Listener) settled(stop func() bool) error {
	if !stop() {
		return errors.New("the time for a connection's preface is over (limits.prefaceTimeout)")
	}
	return nil
}

// beginsTLS tells whether a client begins with a TLS handshake. It reads the first byte if there is none yet.
func (g *guest) beginsTLS() (bool, error) {
	if len(g.First) == 0 {
		var b [1]byte
		if _, err := g.Conn.Read(b[:]); err != nil {
			return false, fmt.Errorf("before its first byte: %w", err)
		}
		g.First = append(g.First, b[0])
	}
	return g.First[0] == tlsHandshake, nil
}

// carriesCalls is false of a handshake for acme-tls/1: all is said with it.
func carriesCalls(s *tls.ConnectionState) bool {
	return s.NegotiatedProtocol == "" || s.NegotiatedProtocol == "h2"
}

// header reads whose connection a trusted proxy passes on.
func (l *Listener) header(g *guest, d *Door) (netip.Addr, error) {
	from, rest, err := proxyproto.Read(g.Conn)
	if err != nil && (!d.ProxyOptional || !errors.Is(err, proxyproto.ErrAbsent)) {
		l.counts.BadProxyHeader.Add(1)
		return netip.Addr{}, fmt.Errorf("proxyProtocol: %w", err)
	}
	g.First = rest
	if !from.IsValid() {
		return addressOf(g.Conn.RemoteAddr()), nil
	}
	g.Address = net.TCPAddrFromAddrPort(from)
	return from.Addr().Unmap(), nil
}
