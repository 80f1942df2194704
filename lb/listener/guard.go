package listener

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/trunkline/trunkline/lb/forward"
)

// guard counts connections, in all and by address.
type guard struct {
	mu      sync.Mutex
	open    int                  // guarded by mu
	by      map[netip.Prefix]int // guarded by mu
	telling int                  // guarded by mu: connections that are being told why they are turned away
	second  time.Time            // guarded by mu: the present one's beginning
	told    int                  // guarded by mu: connections that began to be told in it
	shaken  int                  // guarded by mu: handshakes of theirs that began in it
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
	l     *Listener
	set   *Settings
	at    netip.Addr   // whose connection it is; invalid before judge
	from  netip.Prefix // that it counts for; invalid before claim
	waits bool         // it has a place among those of a remembered address that wait
	turn  *ticket      // its place in the line of an address that does not use its connections; nil: it need not wait
}

// tooMany is why a connection is turned away, in words for its client.
type tooMany string

func (t tooMany) Error() string { return string(t) }

// judge asks whether the address of a connection may have one more, whether connections of it were cut off lately, and whether it uses those it
// makes. "": it may come, after pause. leave follows in any case.
func (g *guest) judge(at netip.Addr) tooMany {
	g.at = at
	if !g.claim(at) {
		g.l.counts.CrowdedAddress.Add(1)
		return tooMany(fmt.Sprintf("your address has %d connections already, and may have no more (limits.maxConnectionsPerAddress): carry more calls on each, or close those that are not used", g.set.MaxPerAddress))
	}
	turn, used, ok := g.l.newcomers.come(party(at), g.set.UnusedPerSecond, time.Now())
	if !ok {
		return g.unused()
	}
	g.turn, g.Used = turn, used
	if turn != nil {
		return "" // what follows is asked when its turn has come
	}
	return g.suspect()
}

// suspect asks whether connections of its address were cut off lately.
func (g *guest) suspect() tooMany {
	known, room := g.l.offenders.known(party(g.at), time.Now())
	if !room {
		g.l.counts.Offenders.Add(1)
		return tooMany("connections of your address were cut off for abuse of HTTP/2 lately, and others of it wait already: connect again later, once")
	}
	g.Wary, g.waits = known, known
	return ""
}

func (g *guest) unused() tooMany {
	g.l.counts.Unused.Add(1)
	return tooMany(fmt.Sprintf("your address makes more than %g connections per second of which no call is answered, and too many of them wait already (limits.abuse.unusedConnectionsPerSecond): keep connections, and use them", g.set.UnusedPerSecond))
}

// mustWait says whether pause takes time.
func (g *guest) mustWait() bool { return g.waits || g.turn != nil }

// pause has a connection wait: for its turn, if its address makes too many, and if that is remembered for abuse. "": it may come.
func (g *guest) pause(ctx context.Context) tooMany {
	if t := g.turn; t != nil {
		g.turn = nil
		if !g.l.newcomers.wait(ctx, t) && ctx.Err() == nil {
			return g.unused()
		}
		if why := g.suspect(); why != "" {
			return why
		}
	}
	if g.waits {
		g.waits = false
		g.l.offenders.pause(ctx, party(g.at))
	}
	return ""
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
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
	if g.waits {
		g.l.offenders.leave(party(g.at))
	}
	if g.turn != nil {
		g.l.newcomers.drop(g.turn)
	}
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
