package inspect

import (
	"sync"
	"time"
)

// pace lets a few events a second through, and counts those between.
type pace struct {
	perSecond, burst float64
	now              func() time.Time

	mu     sync.Mutex
	tokens float64
	at     time.Time
	missed int
}

func newPace(perSecond, burst float64, now func() time.Time) *pace {
	return &pace{perSecond: perSecond, burst: burst, now: now, tokens: burst, at: now()}
}

// take tells whether an event may be told, and how many were not since the last that was.
func (p *pace) take() (missed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.tokens = min(p.burst, p.tokens+p.perSecond*now.Sub(p.at).Seconds())
	p.at = now
	if p.tokens < 1 {
		p.missed++
		return 0, false
	}
	p.tokens--
	missed, p.missed = p.missed, 0
	return missed, true
}
