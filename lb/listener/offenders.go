package listener

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// offenders remembers the addresses of which a connection was cut off for abuse. The budgets are a connection's: without this a new
// connection would bring all of what is free at its start. Their next connections are let in a moment later, with a hundredth of it;
// connections that are open, and other addresses, lose nothing. A harmless client behind the same address loses that moment.
type offenders struct {
	mu sync.Mutex
	by map[netip.Prefix]*offender // guarded by mu
}

type offender struct {
	until   time.Time // is forgotten then
	waiting int       // connections that wait to be let in
}

// How long an address is remembered, how long its connections wait, how many of them may, and how many addresses are remembered.
const (
	rememberFor  = 30 * time.Second
	pauseFor     = 40 * time.Millisecond
	maxPausing   = 64
	maxOffenders = 10000
)

// note remembers an address.
func (o *offenders) note(p netip.Prefix, now time.Time) {
	if !p.IsValid() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.by == nil {
		o.by = map[netip.Prefix]*offender{}
	}
	if k := o.by[p]; k != nil {
		k.until = now.Add(rememberFor)
		return
	}
	if len(o.by) >= maxOffenders {
		for q, k := range o.by {
			if k.waiting == 0 && now.After(k.until) {
				delete(o.by, q)
			}
		}
		if len(o.by) >= maxOffenders {
			return // who has so many addresses is not kept out by remembering them
		}
	}
	o.by[p] = &offender{until: now.Add(rememberFor)}
}

// known says whether an address is remembered, and whether there is room for one more of its connections to wait: then leave follows.
func (o *offenders) known(p netip.Prefix, now time.Time) (known, room bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := o.by[p]
	switch {
	case k == nil:
		return false, true
	case k.waiting == 0 && now.After(k.until):
		delete(o.by, p)
		return false, true
	case k.waiting >= maxPausing:
		return true, false
	}
	k.waiting++
	return true, true
}

func (o *offenders) leave(p netip.Prefix) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if k := o.by[p]; k != nil {
		k.waiting--
	}
}

// pause lets a connection of a remembered address wait.
func (o *offenders) pause(ctx context.Context, p netip.Prefix) {
	defer o.leave(p)
	sleep(ctx, pauseFor)
}
