package balance

import (
	"strings"
	"sync/atomic"
)

// The reasons for which an endpoint is not picked. Each bit is set and cleared by its owner only; any of them takes the
// endpoint out, unless its [Group] says that the bit does not count at the moment.
const (
	Down      uint32 = 1 << iota // it cannot be dialled (lb/upstream)
	Unhealthy                    // an active health check says so (lb/health)
	Ejected                      // outlier detection says so (lb/health)

	// Reasons are all of them.
	Reasons = Down | Unhealthy | Ejected
)

// coldShift is where the state keeps 1000 - warm: a state of 0 is "available, with its whole share", the one thing that the
// way of nearly all calls asks.
const coldShift = 16

// Endpoint is one address that calls can go to, with what everybody needs to know about it at the moment.
// It fills one cache line: whoever reads one field for a pick reads them all.
type Endpoint struct {
	Address  string        // set once in NewEndpoint
	InFlight atomic.Int64  // atomic: attempts that are open on it, kept by the engine
	Picks    atomic.Uint64 // atomic: attempts ever sent to it, kept by the engine
	state    atomic.Uint32 // atomic: Reasons, and 1000 - warm from coldShift on
	_        [28]byte
}

// NewEndpoint returns an endpoint that is up, warm and idle. addr is host:port, for people and for the dialler.
func NewEndpoint(addr string) *Endpoint { return &Endpoint{Address: addr} }

// Mark sets one of [Reasons] or several, in every picker that holds the endpoint at once. It returns whether that changed anything.
func (e *Endpoint) Mark(reasons uint32) bool {
	reasons &= Reasons
	// Called for what is set already, too: do not dirty the line for nothing.
	return e.state.Load()&reasons != reasons && e.state.Or(reasons)&reasons != reasons
}

// Unmark clears one of [Reasons] or several. It returns whether that changed anything.
func (e *Endpoint) Unmark(reasons uint32) bool {
	reasons &= Reasons
	return e.state.Load()&reasons != 0 && e.state.And(^reasons)&reasons != 0
}

// State is which of [Reasons] are set.
func (e *Endpoint) State() uint32 { return e.state.Load() & Reasons }

// Ready says that nothing is set and that the endpoint takes its whole share: whoever repeats an earlier choice of this
// endpoint without asking the picker may go on doing so.
func (e *Endpoint) Ready() bool { return e.state.Load() == 0 }

// MarkDown takes the endpoint out of the pick at once, in every picker that holds it (a dial was refused).
func (e *Endpoint) MarkDown() { e.Mark(Down) }

// MarkUp puts it back (it answered).
func (e *Endpoint) MarkUp() { e.Unmark(Down) }

// Down says whether the endpoint could not be dialled.
func (e *Endpoint) Down() bool { return e.state.Load()&Down != 0 }

// SetWarm gives it that share, in thousandths, of what it would get (slow start); 1000 is all. Clamped to 0..1000.
func (e *Endpoint) SetWarm(perMille int) {
	cold := uint32(1000-min(max(perMille, 0), 1000)) << coldShift
	for {
		old := e.state.Load()
		if old&^Reasons == cold || e.state.CompareAndSwap(old, old&Reasons|cold) {
			return
		}
	}
}

// Warm is what SetWarm said, in thousandths.
func (e *Endpoint) Warm() int { return warm(e.state.Load()) }

func warm(state uint32) int { return 1000 - int(state>>coldShift) }

// StateString is the state as people read it: "down, ejected", "" if nothing is set.
func StateString(state uint32) string {
	var words []string
	for i, w := range [...]string{"down", "unhealthy", "ejected"} {
		if state>>i&1 != 0 {
			words = append(words, w)
		}
	}
	return strings.Join(words, ", ")
}

// Group is what the pickers of one cluster have in common, over all snapshots and shards. The zero value is ready: all
// reasons count.
type Group struct {
	ignored atomic.Uint32 // atomic: reasons that do not count
	_       [60]byte      // written rarely, read by all: a line of its own
}

// SetMask says which of [Reasons] count from now on, for all pickers of the group. In panic only [Down] does.
func (g *Group) SetMask(reasons uint32) {
	if ignored := Reasons &^ reasons; g.ignored.Load() != ignored {
		g.ignored.Store(ignored)
	}
}

// Mask is which of [Reasons] count. A nil group's is all of them.
func (g *Group) Mask() uint32 {
	if g == nil {
		return Reasons
	}
	return Reasons &^ g.ignored.Load()
}

// Panic says that the mask is not all of [Reasons].
func (g *Group) Panic() bool { return g.Mask() != Reasons }
