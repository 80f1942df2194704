package health

import (
	"time"

	"github.com/trunkline/trunkline/policy/outlier"
)

// The words of State.Health.
const (
	Unchecked = "unchecked" // no active checks are configured
	Unknown   = "unknown"   // no answer yet: taken as healthy
	Healthy   = "healthy"
	Unhealthy = "unhealthy"
)

// State is what is known of one endpoint of a cluster.
type State struct {
	Address string
	Bits    uint32 // of balance.Reasons that are set

	Health    string    // by active checks
	Since     time.Time // of Health
	LastCheck time.Time // when the last answer or failure came; zero: none yet
	Watched   bool      // the server tells changes by itself (Watch); else it is asked each interval (Check)
	// Err is what the last check failed with, and also what people should know of one that did not (the server has no health service);
	// "": nothing.
	Err string

	Ejected      bool // as an outlier
	EjectedSince time.Time
	EjectedUntil time.Time // the first sweep from then on takes it back
	Why          string    // it was ejected, with the figures
	Times        int       // it was ejected lately, which lengthens the next ejection
	Ejections    uint64    // ever, while it has been a member

	WarmPerMille int // 1000: its whole share
}

func (c *cluster) states() []State {
	c.mu.Lock()
	defer c.mu.Unlock()
	ejected := map[string]outlier.Ejection{}
	if c.detector != nil {
		for _, e := range c.detector.Ejected() {
			ejected[e.Key] = e
		}
	}
	states := make([]State, 0, len(c.members))
	for _, m := range c.members {
		s := State{Address: m.address, Bits: m.endpoint.State(), WarmPerMille: m.endpoint.Warm(), Health: m.health, Since: m.since,
			LastCheck: m.lastCheck, Err: m.err, Watched: m.watched, Ejections: m.ejections}
		if e, ok := ejected[m.address]; ok {
			s.Ejected, s.Why, s.Times = true, e.Why, e.Times
			s.EjectedSince, s.EjectedUntil = c.k.wall(e.Since), c.k.wall(e.Until)
		}
		states = append(states, s)
	}
	return states
}
