package health

import (
	"fmt"
	"time"

	"github.com/trunkline/trunkline/policy/balance"
)

// result is how one check ended.
type result struct {
	ok bool
	// said: the server itself spoke of its health. Else it could not be asked.
	said bool
	// told: it said so of its own accord (Watch), and will not say it again. Such a "not serving" needs no second one.
	told bool
	note string // why it failed, or what people should know
}

// checked takes in a result. settled is false while there are results of this kind in a row, but not enough of them yet.
func (c *cluster) checked(m *member, from *prober, r result) (settled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.prober != from {
		return true // it was told to stop
	}
	m.lastCheck, m.err, m.watched = time.Now(), r.note, from.watching
	if r.ok {
		m.passes, m.fails = m.passes+1, 0
	} else {
		m.passes, m.fails = 0, m.fails+1
	}
	// The first answer decides alone, either way: until then it was healthy for want of knowledge.
	first := m.health == Unknown && r.said
	switch {
	case r.ok && m.health != Healthy:
		if !first && m.passes < c.check.HealthyThreshold {
			return false
		}
		again := m.health == Unhealthy
		m.health, m.since = Healthy, time.Now()
		c.clear(m, balance.Unhealthy, c.k.now())
		if again {
			c.k.log.Info("endpoint is healthy again", "cluster", c.name, "endpoint", m.address, "passed", m.passes, "note", r.note)
		} else if r.note != "" {
			c.k.log.Info("endpoint is taken as healthy", "cluster", c.name, "endpoint", m.address, "note", r.note)
		}
	case !r.ok && m.health != Unhealthy:
		if !first && !r.told && m.fails < c.check.UnhealthyThreshold {
			return false
		}
		m.health, m.since = Unhealthy, time.Now()
		m.endpoint.Mark(balance.Unhealthy)
		c.k.log.Warn("endpoint is unhealthy", "cluster", c.name, "endpoint", m.address, "why", r.note, "failed", m.fails,
			"until", fmt.Sprintf("it passes %d in a row", max(c.check.HealthyThreshold, 1)))
	default:
		return true
	}
	c.wakeUp() // panic
	return true
}
