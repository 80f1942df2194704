package health

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// cluster is what is known of the endpoints of one cluster.
type cluster struct {
	k         *Keeper                            // set once in newCluster
	name      string                             // set once in newCluster
	wake      chan struct{}                      // set once in newCluster; room for one
	byAddress atomic.Pointer[map[string]*member] // atomic: of members, for Tripped

	mu       sync.Mutex // never held while anything blocks
	members  []*member
	subjects []outlier.Subject
	group    *balance.Group
	stop     context.CancelFunc // of the loop; nil: it does not run

	settings *outlier.Settings // a copy; nil: no detection
	detector *outlier.Detector // nil: no detection
	sweepAt  int64

	check *serviceconfig.HealthCheck // a copy; nil: no checks
	slow  time.Duration              // 0: no slow start
	share float64                    // panic below it; 0: never
	panic bool
}

// member is one endpoint. Guarded by the cluster's mu, but for tripped.
type member struct {
	address  string
	endpoint *balance.Endpoint
	host     *outlier.Host
	tripped  atomic.Bool // atomic: Tripped was called

	prober    *prober // nil: not checked
	health    string
	since     time.Time
	lastCheck time.Time
	err       string
	watched   bool
	passes    int // checks in a row
	fails     int // checks in a row

	ejections uint64 // ever

	out     bool  // the loop saw it with a bit set last time
	warming bool  // the loop raises its share
	warmed  int64 // since when
}

func newCluster(k *Keeper, name string) *cluster {
	c := &cluster{k: k, name: name, wake: make(chan struct{}, 1)}
	c.byAddress.Store(&map[string]*member{})
	return c
}

func (c *cluster) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default: // it is on its way
	}
}

// set is Keeper.Set. The keeper's mu is held.
func (c *cluster) set(members []Member, group *balance.Group, cfg *serviceconfig.Cluster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.k.now()
	if group != c.group && c.group != nil {
		c.group.SetMask(balance.Reasons)
		c.panic = false
	}
	c.group, c.share = group, cfg.PanicShare
	c.setSlowStart(cfg.SlowStart)
	c.setOutlier(cfg.Outlier, now)
	c.setMembers(members, now)
	c.setCheck(cfg.HealthCheck)

	switch busy := len(c.members) > 0 && (c.detector != nil || c.check != nil || c.slow > 0); {
	case busy && c.stop == nil:
		ctx, cancel := context.WithCancel(c.k.ctx)
		c.stop = cancel
		c.k.running.Go(func() { c.loop(ctx) })
	case !busy:
		if c.stop != nil {
			c.stop()
			c.stop = nil
		}
		c.judgePanic()
	}
	c.wakeUp()
}

func (c *cluster) setMembers(members []Member, now int64) {
	old := *c.byAddress.Load()
	next := make(map[string]*member, len(members))
	c.members, c.subjects = nil, nil
	for _, given := range members {
		if next[given.Address] != nil {
			continue
		}
		m := old[given.Address]
		if m == nil {
			m = &member{address: given.Address, endpoint: given.Endpoint, health: Unchecked, since: time.Now()}
			// Bits of an earlier life are nobody's any more.
			m.endpoint.Unmark(balance.Unhealthy | balance.Ejected)
			if c.slow > 0 && len(old) > 0 {
				c.startSlowly(m, now)
			} else {
				m.endpoint.SetWarm(1000)
			}
		} else if m.endpoint != given.Endpoint {
			m.adopt(given.Endpoint)
		}
		m.host = given.Host
		next[m.address] = m
		c.members = append(c.members, m)
		if m.host != nil {
			c.subjects = append(c.subjects, outlier.Subject{Key: m.address, Host: m.host})
		}
	}
	for address, m := range old {
		if next[address] == nil {
			m.stopProber() // its bits stay as they are, for the pickers of earlier generations that still have it
		}
	}
	c.byAddress.Store(&next)
}

// adopt carries what is known over to another object for the same address.
func (m *member) adopt(e *balance.Endpoint) {
	ours := balance.Unhealthy | balance.Ejected
	e.Unmark(ours &^ m.endpoint.State())
	e.Mark(ours & m.endpoint.State())
	e.SetWarm(m.endpoint.Warm())
	m.endpoint = e
}

func (c *cluster) setSlowStart(d time.Duration) {
	if d = max(d, 0); d == c.slow {
		return
	}
	was := c.slow
	c.slow = d
	for _, m := range c.members {
		switch {
		case d == 0:
			m.warming = false
			m.endpoint.SetWarm(1000)
		case was == 0:
			m.out = m.endpoint.State() != 0 // what was before is no return
		}
	}
}

func (c *cluster) setOutlier(s *outlier.Settings, now int64) {
	switch {
	case s == nil && c.detector == nil, s != nil && reflect.DeepEqual(s, c.settings):
		return
	case s == nil:
		c.detector, c.settings = nil, nil
		for _, m := range c.members {
			c.clear(m, balance.Ejected, now)
		}
		return
	}
	settings := *s
	c.settings = &settings
	if c.detector == nil {
		c.detector = outlier.NewDetector(s)
	} else {
		c.detector.Configure(s)
	}
	c.sweepAt = now + int64(c.interval())
}

// interval is the time between sweeps.
func (c *cluster) interval() time.Duration {
	if c.settings.Interval > 0 {
		return c.settings.Interval
	}
	return time.Second
}

func (c *cluster) setCheck(h *serviceconfig.HealthCheck) {
	changed := (h == nil) != (c.check == nil) || h != nil && *h != *c.check
	if changed {
		c.check = nil
		if h != nil {
			check := *h
			c.check = &check
		}
	}
	for _, m := range c.members {
		if changed {
			m.stopProber()
		}
		switch {
		case c.check == nil && m.health != Unchecked:
			m.health, m.since, m.lastCheck, m.err, m.watched, m.passes, m.fails = Unchecked, time.Now(), time.Time{}, "", false, 0, 0
			c.clear(m, balance.Unhealthy, c.k.now())
		case c.check != nil && m.prober == nil:
			if m.health == Unchecked {
				m.health, m.since = Unknown, time.Now()
			}
			c.startProber(m)
		}
	}
}

func (c *cluster) startProber(m *member) {
	ctx, cancel := context.WithCancel(c.k.ctx)
	p := newProber(c.k, c.name, m.address, *c.check, cancel)
	p.report = func(r result) (settled bool) { return c.checked(m, p, r) }
	m.prober = p
	c.k.running.Go(func() { p.run(ctx) })
}

func (m *member) stopProber() {
	if m.prober != nil {
		m.prober.cancel()
		m.prober = nil
	}
}

// clear takes one of our bits off; the endpoint returns slowly if nothing else keeps it out.
func (c *cluster) clear(m *member, bit uint32, now int64) {
	if c.slow > 0 && m.endpoint.State() == bit {
		c.startSlowly(m, now)
	}
	m.endpoint.Unmark(bit)
	m.out = m.endpoint.State() != 0
}
