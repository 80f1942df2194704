package listener

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

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
	return fmt.Sprintf("your address has %d connections already, and may have no more (limits.maxConnectionsPerAddress): carry more calls on each, or close those that are not used", set.MaxPerAddress)
}
