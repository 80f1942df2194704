package balance

import (
	"math/bits"
	"slices"
)

// query is one pick off the way of nearly all calls: somebody has a bit set or warms up, or the call avoids somebody.
type query struct {
	members []Member
	ignored uint32 // reasons that do not count
	ask     *Ask   // may be nil
	rnd     uint64
	known   uint64 // of the first 64 members those that Closed said yes of: nobody is asked twice
	closed  bool   // it said so of somebody
}

func newQuery(members []Member, g *Group, rnd uint64, ask *Ask) query {
	return query{members: members, ignored: g.ignored.Load(), ask: ask, rnd: rnd}
}

// fate is what stands against choosing a member.
type fate uint8

const (
	fit fate = iota
	down
	unhealthy
	ejected
	avoided
	warming
	closed
)

// otherReasons says by the other's fate why of two drawn this one was chosen. Never written.
var otherReasons = [...]Reason{
	ReasonNone, ReasonP2COtherDown, ReasonP2COtherUnhealthy, ReasonP2COtherEjected, ReasonP2COtherAvoided, ReasonP2COtherWarming,
	ReasonP2COtherClosed,
}

// effort is how hard somebody must be found.
type effort uint8

const (
	ordinary    effort = iota
	tryWarming         // whoever warms up is accepted
	tryAvoiding        // and whoever is avoided
	efforts
)

// fate judges all but whether the member is closed. A member with a warmth of w is accepted in w of limit cases.
func (q *query) fate(i, limit int, how effort) fate {
	e := q.members[i].Endpoint
	s := e.state.Load()
	switch r := s & Reasons &^ q.ignored; {
	case r&Down != 0:
		return down
	case r&Unhealthy != 0:
		return unhealthy
	case r&Ejected != 0:
		return ejected
	}
	if how < tryAvoiding && q.ask != nil && slices.Contains(q.ask.Avoid, e) {
		return avoided
	}
	if s>>coldShift != 0 && how < tryWarming && q.roll(limit) >= warm(s) {
		return warming
	}
	return fit
}

// roll returns a number below n.
func (q *query) roll(n int) int {
	hi, _ := bits.Mul64(q.next(), uint64(n))
	return int(hi)
}

// next is splitmix64: fresh bits out of those that the call brought along.
func (q *query) next() uint64 {
	q.rnd += 0x9e3779b97f4a7c15
	z := q.rnd
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// open asks the call whether a member that would be chosen can take it.
func (q *query) open(i int) bool {
	if q.ask == nil || q.ask.Closed == nil {
		return true
	}
	if i < 64 && q.known>>i&1 != 0 {
		return false
	}
	if !q.ask.Closed(i) {
		return true
	}
	if i < 64 {
		q.known |= 1 << i
	}
	q.closed = true
	return false
}

// take is the end of a successful query.
func (q *query) take(i int, why Reason) (int, Reason, bool) {
	if q.members[i].Endpoint.state.Load()&q.ignored != 0 {
		why = ReasonPanic
	}
	return i, why, true
}

// none is the end of a query that found nobody.
func (q *query) none() (int, Reason, bool) {
	if q.closed {
		return 0, ReasonAllClosed, false
	}
	return 0, ReasonNone, false
}

// single is the pick from one member, or none.
func single(members []Member, g *Group, ask *Ask) (int, Reason, bool) {
	if len(members) == 0 {
		return 0, ReasonNone, false
	}
	if ask == nil && members[0].Endpoint.Ready() {
		return 0, ReasonOnlyOne, true
	}
	q := newQuery(members, g, 0, ask)
	if q.fate(0, 1, tryAvoiding) != fit || !q.open(0) {
		return q.none()
	}
	return q.take(0, ReasonOnlyOne)
}
