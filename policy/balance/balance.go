// Package balance owns the choice of an endpoint for one call; it must not dial, block, count calls in flight or read a clock.
//
// An [Endpoint] lives as long as its address is known and is shared by all shards and all snapshots: what it holds is
// atomic. A [Picker] is built for one snapshot of a cluster ([New], slow) and asked once per attempt ([Picker.Pick], fast: no
// lock, no allocation). The engine does what a pick implies: it adds to InFlight and Picks, and takes from InFlight at the
// end of the attempt.
//
// A new policy is a new type with Pick, Members and Policy, and a line in [New]. ring_hash and maglev will take the call's
// hash in the place of rnd; they need nothing else from the engine.
package balance

import (
	"fmt"
	"slices"
)

// Member is one endpoint of a cluster with its weight relative to the others.
type Member struct {
	Endpoint *Endpoint
	Weight   uint32 // 0 counts as 1: "not given"
}

// Ask is what one call wants of a pick. Borrowed: valid until Pick returns.
type Ask struct {
	// Avoid is only chosen from if nobody else is available: these failed this call, or carry it already.
	Avoid []*Endpoint
	// Closed says that a member cannot take this call: its breaker is open, or it is full. Such a one is never chosen. It is
	// asked only about a member that would be chosen otherwise. Nil: none is.
	Closed func(member int) bool
}

// Picker chooses an endpoint for one call. It is immutable but for a position (round_robin), and safe for concurrent use.
type Picker interface {
	// Pick chooses among the available members (see [Group]) and returns an index into Members, and why. rnd is 64 fresh
	// random bits. ask may be nil: nothing is avoided or closed. A member whose [Endpoint.Warm] is w per mille is accepted
	// with that probability only, if there is another. ok is false, and why ReasonNone or ReasonAllClosed, when no member
	// is available. Pick never blocks, does not allocate and changes no Endpoint.
	Pick(rnd uint64, ask *Ask) (member int, why Reason, ok bool)
	// Members is what New was given; shared, not to be changed.
	Members() []Member
	// Policy is the name as in the config, e.g. "least_request".
	Policy() string
}

// The policies of [New].
const (
	LeastRequest = "least_request"
	RoundRobin   = "round_robin"
)

// New builds the picker of that policy ("" is least_request) over members, which it copies. No members are fine: such a picker
// picks nothing. g is the cluster's (nil: all reasons count). An unknown policy and a member without endpoint are errors.
func New(policy string, members []Member, g *Group) (Picker, error) {
	members = slices.Clone(members)
	for i := range members {
		if members[i].Endpoint == nil {
			return nil, fmt.Errorf("balance: member %d has no endpoint", i)
		}
		members[i].Weight = max(members[i].Weight, 1)
	}
	if g == nil {
		g = new(Group)
	}
	switch policy {
	case "", LeastRequest:
		return newLeastRequest(members, g), nil
	case RoundRobin:
		return newRoundRobin(members, g), nil
	}
	return nil, fmt.Errorf("balance: unknown policy %q, known are %s and %s", policy, LeastRequest, RoundRobin)
}
