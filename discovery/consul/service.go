package consul

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

// service is what the loop knows of one Consul service. It is owned by the loop.
type service struct {
	name     string
	explicit bool               // named in Options.Services
	tagged   bool               // the catalog says that it bears the tag
	cancel   context.CancelFunc // ends its watch; nil: it has none yet
	answered bool               // by Consul, in this process
	failed   bool               // the first question failed
	live     []discovery.Endpoint
	faults   []string // of live
	guard    guard
	staleAt  time.Time // zero: not stale
	trouble  string    // why it is stale; "" when it is not
	dirty    time.Time // when the answer came that cluster does not show yet; zero: cluster is up to date
	cluster  *discovery.Cluster
}

// listed says whether the service still has a reason to be a cluster.
func (sv *service) listed() bool { return sv.explicit || sv.tagged }

// believe passes what Consul says of the endpoints through the guard. A service that the catalog no longer lists has none.
func (sv *service) believe(now time.Time) {
	endpoints := sv.live
	if !sv.listed() {
		endpoints = nil
	}
	sv.guard.answer(now, endpoints)
	sv.touch(now)
}

// touch notes that the cluster may look different since at.
func (sv *service) touch(at time.Time) {
	if sv.dirty.IsZero() || at.Before(sv.dirty) {
		sv.dirty = at
	}
}

// render brings cluster up to date and says whether it changed.
func (sv *service) render(source string) bool {
	if sv.dirty.IsZero() && sv.cluster != nil {
		return false
	}
	c := &discovery.Cluster{
		Name: sv.name, Source: source, Endpoints: sv.guard.published(), HeldBack: len(sv.guard.held),
		StaleSince: sv.staleAt, WantReflection: sv.tagged, ChangedAt: sv.dirty,
	}
	if !sv.listed() && sv.cluster != nil { // the tag vanished: until that is believed it is what it was
		c.WantReflection = sv.cluster.WantReflection
	}
	for _, e := range c.Endpoints {
		for s := range e.Services {
			c.Services = append(c.Services, s)
		}
	}
	if len(c.Services) > 0 {
		slices.Sort(c.Services)
		c.Services = slices.Compact(c.Services)
		c.Claim = discovery.ClaimMeta
	}
	if len(c.Endpoints) == 0 && sv.cluster != nil { // nobody is left to say it: what was served here is still what would be
		c.Services, c.Claim = sv.cluster.Services, sv.cluster.Claim
	}
	switch {
	case sv.trouble != "":
		c.Err = sv.trouble
	case c.HeldBack > 0 && !sv.listed():
		c.Err = fmt.Sprintf("Consul's catalog no longer lists it; %d endpoints are kept until %s", c.HeldBack, clock(sv.guard.next()))
	case c.HeldBack > 0:
		c.Err = fmt.Sprintf("Consul suddenly names %d of %d endpoints; the missing are kept until %s",
			len(sv.guard.live), len(c.Endpoints), clock(sv.guard.next()))
	case !sv.answered && sv.explicit:
		c.Err = "Consul has not answered yet"
	case len(sv.faults) > 0:
		c.Err = sv.faults[0]
		if n := len(sv.faults); n > 1 {
			c.Err += fmt.Sprintf(" (and %d more)", n-1)
		}
	}
	sv.dirty = time.Time{}
	if sv.cluster != nil {
		was := *sv.cluster
		was.ChangedAt = c.ChangedAt
		if reflect.DeepEqual(&was, c) {
			return false
		}
	}
	sv.cluster = c
	return true
}

func clock(t time.Time) string { return t.Format(time.TimeOnly) }
