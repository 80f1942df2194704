package listener

import (
	"net/netip"
	"strings"
	"sync"
	"time"
)

// CutReason is for what a connection was cut off (GOAWAY with ENHANCE_YOUR_CALM).
type CutReason uint8

// The reasons.
const (
	CutResets  CutReason = iota // limits.abuse.resetsPerSecond
	CutIdle                     // limits.abuse.idleFramesPerSecond
	CutRefused                  // limits.abuse.refusedPerSecond
	CutSlow                     // a timeout
	CutHeld                     // it made us hold too much
	CutOther
	CutReasons // their number
)

// String is the reason as it stands in the metric.
func (r CutReason) String() string {
	if r < CutReasons {
		return [CutReasons]string{"resets", "idle_frames", "refused_calls", "slow", "held", "other"}[r]
	}
	return "unknown"
}

// cutReason reads the reason from what the client was told, which names the key of the limit.
func cutReason(told string) CutReason {
	for _, k := range [...]struct {
		key string
		r   CutReason
	}{
		{"limits.abuse.resetsPerSecond", CutResets}, {"limits.abuse.idleFramesPerSecond", CutIdle}, {"limits.abuse.refusedPerSecond", CutRefused},
		{"Timeout)", CutSlow}, {"limits.bufferBytes", CutHeld},
	} {
		if strings.Contains(told, k.key) {
			return k.r
		}
	}
	return CutOther
}

// cuts paces what is logged of connections that were cut off: an attacker shall not fill the log.
type cuts struct {
	mu     sync.Mutex
	next   time.Time // before that nothing is logged; guarded by mu
	unsaid int       // since the last line; guarded by mu
}

// cutEvery is how often a connection that was cut off is logged, by listener.
const cutEvery = time.Second

// say tells whether this one is logged, and how many before it were not.
func (c *cuts) say(now time.Time) (say bool, unsaid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.next) {
		c.unsaid++
		return false, 0
	}
	unsaid, c.unsaid, c.next = c.unsaid, 0, now.Add(cutEvery)
	return true, unsaid
}

// cutOff counts, remembers and logs that a connection of an address was cut off for abuse. It is called inside of a shard: it does not block.
func (l *Listener) cutOff(from netip.Addr, told string) {
	now := time.Now()
	l.counts.Cut[cutReason(told)].Add(1)
	if from.IsValid() {
		l.offenders.note(party(from), now)
	}
	if say, unsaid := l.cuts.say(now); say {
		go l.log.Warn("a client was cut off for abuse of HTTP/2", "listener", l.l.Addr().String(), "client", from.String(), "told", told, "not_logged_before", unsaid)
	}
}
