// Package balance owns the choice of an endpoint for one call; it must not dial, block, count calls in flight or read a clock.
//
// An [Endpoint] lives as long as its address is known and is shared by all shards and all snapshots: what it holds is
// atomic. A [Picker] is built for one snapshot of a cluster ([New], slow) and asked once per call ([Picker.Pick], fast: no
// lock, no allocation). The engine does what a pick implies: it adds to InFlight and Picks, and takes from InFlight at the
// end of the attempt.
//
// A new policy is a new type with Pick, Members and Policy, and a line in [New]. ring_hash and maglev will take the call's
// hash in the place of rnd; they need nothing else from the engine. Ejected (outlier) and draining endpoints will be
// further bits beside [Endpoint.Down], read by the one function available.
package balance

import (
	"fmt"
	"slices"
	"sync/atomic"
)

// Endpoint is one address that calls can go to, with what everybody needs to know about it at the moment.
// It fills one cache line: whoever reads one field for a pick reads them all.
type Endpoint struct {
	Address  string        // set once in NewEndpoint
	InFlight atomic.Int64  // atomic: attempts that are open on it, kept by the engine
	Picks    atomic.Uint64 // atomic: attempts ever sent to it, kept by the engine
	down     atomic.Bool   // atomic
	_        [28]byte
}

// NewEndpoint returns an endpoint that is up and idle. addr is host:port, for people and for the dialler.
func NewEndpoint(addr string) *Endpoint { return &Endpoint{Address: addr} }

// MarkDown takes the endpoint out of the pick at once, in every picker that holds it (a dial was refused).
func (e *Endpoint) MarkDown() { e.down.Store(true) }

// MarkUp puts it back (it answered).
func (e *Endpoint) MarkUp() {
	if e.down.Load() { // called for every connection that opens: do not dirty the line for nothing
		e.down.Store(false)
	}
}

// Down says whether the endpoint is out of the pick.
func (e *Endpoint) Down() bool { return e.down.Load() }

// Member is one endpoint of a cluster with its weight relative to the others.
type Member struct {
	Endpoint *Endpoint
	Weight   uint32 // 0 counts as 1: "not given"
}

// Picker chooses an endpoint for one call. It is immutable but for a position (round_robin), and safe for concurrent use.
type Picker interface {
	// Pick chooses among the members that are not down and returns an index into Members, and why. rnd is 64 fresh random
	// bits. avoid (may be nil) is not chosen if another member is available: it just failed this call. ok is false when no
	// member is available. Pick never blocks, does not allocate and changes no Endpoint.
	Pick(rnd uint64, avoid *Endpoint) (member int, why Reason, ok bool)
	// Members is what New was given; shared, not to be changed.
	Members() []Member
	// Policy is the name as in the config, e.g. "least_request".
	Policy() string
}

// Reason says why Pick chose what it chose, for spans and metrics.
type Reason uint8

// The reasons.
const (
	ReasonNone              Reason = iota // nothing was chosen
	ReasonOnlyOne                         // the cluster has one endpoint
	ReasonP2CLessLoaded                   // of two drawn, the less loaded
	ReasonP2CTie                          // of two drawn neither is less loaded: the one drawn first
	ReasonP2COtherDown                    // of two drawn, the other is down
	ReasonP2COtherAvoided                 // of two drawn, the other failed this call before
	ReasonRoundRobin                      // its turn
	ReasonRoundRobinSkipped               // its turn, after others that are down or avoided
	ReasonScanAvailable                   // both drawn were not available: the least loaded of all that are
	ReasonOnlyAvoided                     // the one to avoid, because no other is available
)

// reasonNames is never written.
var reasonNames = [...]string{
	"none", "only_one", "p2c_less_loaded", "p2c_tie", "p2c_other_down", "p2c_other_avoided", "round_robin",
	"round_robin_skipped", "scan_available", "only_avoided",
}

// String is the reason as it appears in spans and metrics: snake case, never changing.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// The policies of [New].
const (
	LeastRequest = "least_request"
	RoundRobin   = "round_robin"
)

// New builds the picker of that policy ("" is least_request) over members, which it copies. No members are fine: such a picker
// picks nothing. An unknown policy and a member without endpoint are errors.
func New(policy string, members []Member) (Picker, error) {
	members = slices.Clone(members)
	for i := range members {
		if members[i].Endpoint == nil {
			return nil, fmt.Errorf("balance: member %d has no endpoint", i)
		}
		members[i].Weight = max(members[i].Weight, 1)
	}
	switch policy {
	case "", LeastRequest:
		return newLeastRequest(members), nil
	case RoundRobin:
		return newRoundRobin(members), nil
	}
	return nil, fmt.Errorf("balance: unknown policy %q, known are %s and %s", policy, LeastRequest, RoundRobin)
}

// available is the one place that says whether an endpoint may be picked.
func available(e *Endpoint) bool { return !e.down.Load() }
