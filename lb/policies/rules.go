// Package policies owns the live state of policies, over all generations of the table: budgets, breakers, limits and memories of
// latency, by cluster, method and endpoint; it must not decide anything (that is policy's) nor carry calls (that is
// forward's).
//
// What shards share of it is atomic; a lock is taken only where a method is looked up for the first time in a generation.
package policies

import (
	"github.com/trunkline/trunkline/lb/ratelimit"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/latency"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// Rules is what holds for the calls of one method to one cluster. Immutable, but for the live state that it points to.
type Rules struct {
	*serviceconfig.Method // the settings; never nil
	Cluster               *Cluster

	// Full is "pkg.Service/Method", cut to 256 bytes: a client may have made it up, and records keep it.
	Full string
	// Idempotent: an attempt may be repeated though it may have been processed; IdempotentWhy says for people who said so.
	Idempotent    bool
	IdempotentWhy string
	Declared      bool // by the descriptors, before any policy overrides it
	// Unary: the method is known to take and give one message, so that response headers alone tell its client nothing.
	Unary bool
	// Guarded: something has to be asked before a call is placed (rates, concurrency, a rate limit service).
	Guarded bool
	// Judged: how attempts end is of interest to somebody (breakers, outliers, latency, adaptive limit).
	Judged bool

	Streams  *limit.Concurrency // of the method; nil: no limit
	Rates    []*Rate
	Latency  *latency.Window // nil where nobody asks for it
	Breakers *breaker.Table  // by endpoint and method; nil: none
	Shadow   *Shadow         // nil: none
}

// Rate is one rate limit at work: exactly one of Bucket and Keyed is set.
type Rate struct {
	serviceconfig.RateLimit
	Bucket *limit.Bucket
	Keyed  *limit.Keyed
}

// Cluster is what holds for a cluster, and its live state. The settings are immutable: other settings make another Cluster, that
// takes over the state whose settings are the same.
type Cluster struct {
	Name   string
	Source string // of the settings: a file, or a KV key
	serviceconfig.Cluster

	Budget   *retry.Budget
	Hedges   *retry.Budget
	Throttle *retry.Throttle    // nil: none
	Streams  *limit.Concurrency // nil: no limit
	Gradient *limit.Gradient    // nil: none; it then sets the limit of Streams
	Group    *balance.Group     // never nil
	Global   *ratelimit.Client  // nil: none
	// Fallen counts the endpoints' own breakers (the roll-up) that are not closed.
	Fallen *breaker.Table // nil: none

	config    *serviceconfig.Config
	shadowing *shadowing // nil: none
	store     *Store
	state     *state
}

// Facts are what is known about a method beside the settings.
type Facts struct {
	Known      bool // a route or a descriptor names the method
	Described  bool // an endpoint describes it
	Idempotent bool // all that describe it declare it idempotent or without side effects
	Unary      bool
}

// measures says whether the settings look at the latency of calls.
func measures(m *serviceconfig.Method) bool {
	return m.RefuseHopeless || m.Hedge != nil && m.Hedge.Percentile > 0
}

// Enqueue counts a call that waits for a place in the cluster; false if most wait already.
func (c *Cluster) Enqueue(most int) bool {
	if c.state.pending.Add(1) > int64(most) {
		c.state.pending.Add(-1)
		return false
	}
	return true
}

// Dequeue counts a call that waits no more.
func (c *Cluster) Dequeue() { c.state.pending.Add(-1) }

// Pending is how many calls wait for a place.
func (c *Cluster) Pending() int { return int(c.state.pending.Load()) }
