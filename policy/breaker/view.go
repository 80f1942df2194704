package breaker

import (
	"fmt"
	"strconv"
)

// View is a breaker's state for people and metrics. Its parts are read one after the other, while results come in.
type View struct {
	State State
	// Reason says in words what opened it, and for a half-open one how its probes fare; empty if closed.
	Reason string
	// Rate of faults (0 to 1), Volume of results and Consecutive faults: now if closed, else those that opened it.
	Rate                float64
	Volume, Consecutive int
	OpenUntil           int64  // shard time from which probes may go; 0 unless open
	Opened              uint64 // how often it opened, after failed probes too
}

// View tells the state at now. It allocates; for the admin API and metrics.
func (b *Breaker) View(now int64) View {
	v := View{Opened: b.opened.Load()}
	p := b.phase.Load()
	var c cause
	if p != nil {
		c = p.cause
	} else {
		c.consecutive = b.consecutive.Load()
		c.total, c.faults = b.window.sum(now)
	}
	v.Volume, v.Consecutive = c.total, int(c.consecutive)
	if c.total > 0 {
		v.Rate = float64(c.faults) / float64(c.total)
	}
	if p == nil {
		return v
	}
	v.State, v.Reason = p.state, b.reason(c)
	if p.again > 0 {
		v.Reason += "; then " + probes(p.again) + " failed"
	}
	if p.state == StateOpen {
		v.OpenUntil = p.until
	} else {
		v.Reason += fmt.Sprintf("; probing: %d of %d succeeded, %d under way", p.successes.Load(), b.s.Probes, p.places.Load())
	}
	return v
}

func (b *Breaker) reason(c cause) string {
	switch {
	case c.consecutive == 1:
		return "1 call failed (limit 1)"
	case c.consecutive > 0:
		return fmt.Sprintf("%d calls in a row failed (limit %d)", c.consecutive, b.s.Consecutive)
	}
	return fmt.Sprintf("%d of %d calls failed in %v (limit %s%%)", c.faults, c.total, b.s.Window,
		strconv.FormatFloat(100*b.s.ErrorRate, 'g', 4, 64))
}

func probes(n int) string {
	if n == 1 {
		return "1 probe"
	}
	return strconv.Itoa(n) + " probes"
}
