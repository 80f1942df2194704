package health

import (
	"context"
	"time"

	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/outlier"
)

const (
	// coldest is the share that an endpoint starts with, in thousandths (Envoy's min_weight_percent).
	coldest = 100
	// notice is how soon the loop sees what others set on endpoints (Down) while it matters, and lazily how soon otherwise.
	notice = 100 * time.Millisecond
	lazily = time.Second
)

// loop does what is due and sleeps until the next is.
func (c *cluster) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		c.mu.Lock()
		if ctx.Err() != nil { // another loop may run already
			c.mu.Unlock()
			return
		}
		next := c.step(c.k.now())
		c.mu.Unlock()
		timer.Reset(next)
	}
}

// step does all that is due and says after how long it wants to be called again at the latest.
func (c *cluster) step(now int64) time.Duration {
	next := time.Hour // nothing
	if c.detector != nil {
		next = c.detect(now)
	}
	if c.slow > 0 {
		next = min(next, c.warmUp(now))
	}
	if c.judgePanic() {
		next = min(next, notice)
	}
	return next
}

// detect asks the detector about those that tripped and, when the interval is over, about all.
func (c *cluster) detect(now int64) (next time.Duration) {
	for _, m := range c.members {
		if m.tripped.Load() && m.tripped.Swap(false) {
			c.apply(c.detector.Trip(now, m.address, c.subjects), now)
		}
	}
	if now >= c.sweepAt {
		c.apply(c.detector.Sweep(now, c.subjects), now)
		c.sweepAt = now + int64(c.interval())
	}
	return time.Duration(c.sweepAt - now)
}

func (c *cluster) apply(changes []outlier.Change, now int64) {
	all := *c.byAddress.Load()
	for _, ch := range changes {
		m := all[ch.Key]
		if m == nil {
			continue
		}
		if !ch.Eject {
			c.clear(m, balance.Ejected, now)
			c.k.log.Info("endpoint returns from ejection", "cluster", c.name, "endpoint", m.address, "why", ch.Why)
			continue
		}
		m.endpoint.Mark(balance.Ejected)
		m.ejections++
		c.k.log.Warn("endpoint is ejected", "cluster", c.name, "endpoint", m.address, "why", ch.Why,
			"until", c.k.wall(ch.Until).Format(time.RFC3339), "for", time.Duration(ch.Until-now).Round(time.Millisecond))
	}
}

// startSlowly gives an endpoint that comes or returns its first share. Before a bit is cleared, so that no call sees it with all of it.
func (c *cluster) startSlowly(m *member, now int64) {
	m.warming, m.warmed = true, now
	m.endpoint.SetWarm(coldest)
}

// warmUp raises the shares of those that warm up: linearly with time, from coldest on (Envoy's slow start with aggression 1).
func (c *cluster) warmUp(now int64) (next time.Duration) {
	next = lazily
	for _, m := range c.members {
		s := m.endpoint.State()
		switch {
		case s != 0:
			m.out, m.warming = true, false
			if s&balance.Down != 0 {
				m.endpoint.SetWarm(coldest) // nobody picks it; whoever finds it up again has no need to tell us first
				next = min(next, notice)
			}
			continue
		case m.out:
			m.out = false
			c.startSlowly(m, now)
		}
		if !m.warming {
			continue
		}
		part := float64(now-m.warmed) / float64(c.slow)
		m.endpoint.SetWarm(max(coldest, int(1000*part)))
		if part >= 1 {
			m.warming = false
			continue
		}
		next = min(next, max(c.slow/100, 20*time.Millisecond), c.slow-time.Duration(now-m.warmed))
	}
	return next
}

// judgePanic lets unhealthy and ejected endpoints be picked from again while too few others are there. Those that are down
// never are; so if that is all that stands against anybody there is no panic. It says whether somebody's state matters to it.
func (c *cluster) judgePanic() (watch bool) {
	if c.group == nil {
		return false
	}
	good, spurned := 0, 0
	for _, m := range c.members {
		switch s := m.endpoint.State(); {
		case s == 0:
			good++
		case s&balance.Down == 0:
			spurned++
		}
	}
	n := len(c.members)
	on := spurned > 0 && float64(good) < c.share*float64(n)
	if on != c.panic {
		c.panic = on
		if on {
			c.group.SetMask(balance.Down)
			c.k.log.Warn("panic: too few healthy endpoints, unhealthy and ejected ones are used again", "cluster", c.name,
				"healthy", good, "endpoints", n, "unhealthy_or_ejected", spurned, "panic_share", c.share)
		} else {
			c.group.SetMask(balance.Reasons)
			c.k.log.Info("panic is over", "cluster", c.name, "healthy", good, "endpoints", n)
		}
	}
	return spurned > 0
}
