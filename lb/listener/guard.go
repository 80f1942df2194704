package listener

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/lb/forward"
)

// guard counts connections, in all and by address.
type guard struct {
	mu     sync.Mutex
	open   int                  // guarded by mu
	by     map[netip.Prefix]int // guarded by mu
	leaves int                  // guarded by mu: connections that are being told why they are turned away
}

func (g *guard) enter(most int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if most > 0 && g.open >= most {
		return false
	}
	g.open++
	return true
}

// guest is a connection that is counted, from accept to end.
type guest struct {
	forward.Guest
	l    *Listener
	set  *Settings
	from netip.Prefix // that it counts for; invalid before claim
}

// claim counts the connection for an address; false if that has its number.
func (g *guest) claim(from netip.Addr) bool {
	most := g.set.MaxPerAddress
	if most == 0 || !from.IsValid() {
		return true
	}
	at, k := party(from), &g.l.guard
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by[at] >= most {
		return false
	}
	if k.by == nil {
		k.by = map[netip.Prefix]int{}
	}
	k.by[at]++
	g.from = at
	return true
}

// leave uncounts it.
func (g *guest) leave() {
	k := &g.l.guard
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open--
	if !g.from.IsValid() {
		return
	}
	if k.by[g.from]--; k.by[g.from] == 0 {
		delete(k.by, g.from)
	}
}

// party is what counts as one address: one of IPv4, a /64 network of IPv6, which one host can have for itself.
func party(a netip.Addr) netip.Prefix {
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

func addressOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		ip, _ := netip.AddrFromSlice(t.IP)
		return ip.Unmap()
	}
	return netip.Addr{}
}

func crowded(set *Settings) string {
	return fmt.Sprintf("your address has %d connections already (limits.maxConnectionsPerAddress)", set.MaxPerAddress)
}

// How many connections are told at once why they are turned away, and for how long: in a flood the others are just closed.
const (
	maxTold = 64
	tellFor = time.Second
)

// turnAway closes a connection that is too many, with a GOAWAY that says why where its client may read that.
func (l *Listener) turnAway(nc net.Conn, d *Door, why string) {
	if d != nil && d.TLS != nil && !d.Plaintext || !l.guard.tell() {
		_ = nc.Close()
		return
	}
	go func() {
		defer func() {
			_ = nc.Close()
			l.guard.told()
		}()
		_ = nc.SetDeadline(time.Now().Add(tellFor))
		if _, err := nc.Write(h2.AppendGoAway(h2.AppendSettings(nil), 0, h2.EnhanceYourCalm, why)); err == nil {
			linger(nc)
		}
	}()
}

// farewell lets what was said on a connection, a TLS alert, reach its client before the connection is closed.
func (l *Listener) farewell(nc net.Conn) {
	if !l.guard.tell() {
		return
	}
	defer l.guard.told()
	_ = nc.SetDeadline(time.Now().Add(tellFor))
	linger(nc)
}

// tell takes one of the places of those that are told; false: none is free.
func (g *guard) tell() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaves >= maxTold {
		return false
	}
	g.leaves++
	return true
}

func (g *guard) told() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaves--
}

// linger ends our side and reads until the client has ended its own: a close with unread input would destroy what was said.
func linger(nc net.Conn) {
	if cw, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(nc, 64<<10))
}
