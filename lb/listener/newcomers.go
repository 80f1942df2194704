package listener

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// newcomers paces the connections of an address that are not used: of which no call was answered (yet). Making one costs its client no more than
// us, and a TLS handshake more than a hundred calls. Each address has a purse of connections, which fills by a rate, and gets back what it paid
// for those that turn out to be used; one that is empty lets its connections wait in line.
type newcomers struct {
	mu    sync.Mutex
	by    map[netip.Prefix]*newcomer // guarded by mu
	swept time.Time                  // guarded by mu: when those were forgotten that owe nothing
}

// newcomer is what is known of an address.
type newcomer struct {
	left float64   // connections; below 0: so many wait. Guarded by newcomers.mu
	at   time.Time // of left
	used atomic.Int64
}

// What is free at first, in seconds of the rate, how long a connection may have to wait, and how many addresses are kept in mind.
const (
	unusedFree   = 2
	unusedWait   = 5 * time.Second
	maxNewcomers = 10000
)

// come counts a connection of an address that may make rate of them per second without using them. It says how long it has to wait, and where its
// first answered call is to be counted (nil: nowhere); ok is false if too many wait already.
func (n *newcomers) come(p netip.Prefix, rate float64, now time.Time) (wait time.Duration, used *atomic.Int64, ok bool) {
	if rate <= 0 || !p.IsValid() {
		return 0, nil, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.by[p]
	if k == nil {
		if len(n.by) >= maxNewcomers && !n.sweep(rate, now) {
			return 0, nil, true // who has so many addresses is not kept out by counting them
		}
		if n.by == nil {
			n.by = map[netip.Prefix]*newcomer{}
		}
		k = &newcomer{left: unusedFree * rate, at: now}
		n.by[p] = k
	}
	k.fill(rate, now)
	if k.left-1 < -rate*unusedWait.Seconds() {
		return 0, nil, false
	}
	if k.left--; k.left < 0 {
		wait = time.Duration(-k.left / rate * float64(time.Second))
	}
	return wait, &k.used, true
}

// fill adds what time and calls have brought.
func (k *newcomer) fill(rate float64, now time.Time) {
	k.left = min(unusedFree*rate, k.left+max(0, now.Sub(k.at).Seconds())*rate+float64(k.used.Swap(0)))
	k.at = now
}

// sweep forgets addresses whose purse is full, once in a second at most, and says whether there is room for another.
func (n *newcomers) sweep(rate float64, now time.Time) bool {
	if now.Sub(n.swept) < time.Second {
		return false
	}
	n.swept = now
	for p, k := range n.by {
		if k.fill(rate, now); k.left >= unusedFree*rate {
			delete(n.by, p)
		}
	}
	return len(n.by) < maxNewcomers
}
