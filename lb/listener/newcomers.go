package listener

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// newcomers paces the connections of an address that are not used: of which no call was answered (yet). Making one costs its client no more than
// us, and a TLS handshake more than a hundred calls. Each address has a purse of connections, which fills by a rate, and gets back what it paid
// for those that turn out to be used. While it is empty its connections wait in line.
type newcomers struct {
	mu    sync.Mutex
	by    map[netip.Prefix]*newcomer // guarded by mu
	swept time.Time                  // guarded by mu: when those were forgotten that owe nothing
}

// newcomer is what is known of an address. Guarded by newcomers.mu but for used.
type newcomer struct {
	left float64 // connections
	at   time.Time
	used atomic.Int64 // connections of which a call was answered since at; counted in shards
	line []*ticket
}

// ticket is a connection's place in line. The first in line watches the purse, for all.
type ticket struct {
	of    *newcomer
	rate  float64
	enter chan struct{} // closed when it may come in
	first chan struct{} // closed when it is the first
}

// What is free at first, in seconds of the rate; how long the line may be, likewise, and how long a connection stays in it; how often the purse is
// looked at meanwhile; how many addresses are kept in mind.
const (
	unusedFree   = 2
	unusedLine   = 5
	maxInLine    = 2 * unusedLine * time.Second // the rate may have been lowered since
	lineLook     = 10 * time.Millisecond
	maxNewcomers = 10000
)

// come counts a connection of an address that may make rate of them per second without using them. If t is not nil the connection has to wait.
// used is where its first answered call is to be counted (nil: nowhere); ok is false if too many wait already.
func (n *newcomers) come(p netip.Prefix, rate float64, now time.Time) (t *ticket, used *atomic.Int64, ok bool) {
	if rate <= 0 || !p.IsValid() {
		return nil, nil, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.by[p]
	if k == nil {
		if len(n.by) >= maxNewcomers && !n.sweep(rate, now) {
			return nil, nil, true // who has so many addresses is not kept out by counting them
		}
		if n.by == nil {
			n.by = map[netip.Prefix]*newcomer{}
		}
		k = &newcomer{left: unusedFree * rate, at: now}
		n.by[p] = k
	}
	k.fill(rate, now)
	switch {
	case len(k.line) == 0 && k.left >= 1:
		k.left--
		return nil, &k.used, true
	case float64(len(k.line)) >= unusedLine*rate:
		return nil, nil, false
	}
	t = &ticket{of: k, rate: rate, enter: make(chan struct{}), first: make(chan struct{})}
	if k.line = append(k.line, t); len(k.line) == 1 {
		close(t.first)
	}
	return t, &k.used, true
}

// wait has a connection wait in line; false: it took too long, or ctx has ended.
func (n *newcomers) wait(ctx context.Context, t *ticket) bool {
	ctx, cancel := context.WithTimeout(ctx, maxInLine)
	defer cancel()
	select {
	case <-t.enter:
		return true
	case <-ctx.Done():
	case <-t.first:
		for ctx.Err() == nil {
			if n.look(t, time.Now()) {
				return true
			}
			sleep(ctx, lineLook)
		}
	}
	return n.drop(t)
}

// look lets in as many of the line as the purse has; true: the first, t, too.
func (n *newcomers) look(t *ticket, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := t.of
	k.fill(t.rate, now)
	came := min(int(k.left), len(k.line))
	for _, in := range k.line[:came] {
		close(in.enter)
	}
	k.left -= float64(came)
	k.leave(0, came)
	return came > 0
}

// drop takes a ticket out of its line; true: it was let in before.
func (n *newcomers) drop(t *ticket) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.Index(t.of.line, t)
	if i >= 0 {
		t.of.leave(i, i+1)
	}
	return i < 0
}

// leave takes a part out of the line, and tells who is the first then.
func (k *newcomer) leave(from, to int) {
	if k.line = slices.Delete(k.line, from, to); from == 0 && to > 0 && len(k.line) > 0 {
		close(k.line[0].first)
	}
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
		if k.fill(rate, now); k.left >= unusedFree*rate && len(k.line) == 0 {
			delete(n.by, p)
		}
	}
	return len(n.by) < maxNewcomers
}
