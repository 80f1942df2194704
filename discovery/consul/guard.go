package consul

import (
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

// burst is how far apart losses may be and still count as one: a restarted agent writes its services' checks one by one.
const burst = time.Second

// guard decides, for one service, which endpoints to publish when Consul names fewer than before. It is pure: time is an
// argument. Endpoints in and out are sorted by address.
type guard struct {
	share   float64       // set once: of the endpoints that must vanish
	holdFor time.Duration // set once; 0 or less: never hold

	live []discovery.Endpoint // what was last answered
	gone []loss               // let go within the last burst
	held []hold               // no longer answered, still published
	base int                  // how many endpoints there were before the loss that is being held
}

type loss struct {
	endpoint discovery.Endpoint
	at       time.Time
	before   int // how many were live before it
}

type hold struct {
	endpoint discovery.Endpoint
	until    time.Time
}

// mass says whether going from before to after endpoints looks like an accident rather than daily life. One of two or of
// three is daily life.
func (g *guard) mass(before, after int) bool {
	lost := before - after
	return g.holdFor > 0 && (after == 0 && before > 0 || lost >= 2 && float64(lost) > g.share*float64(before))
}

// answer takes in what Consul now says.
func (g *guard) answer(now time.Time, endpoints []discovery.Endpoint) {
	lost := missing(g.live, endpoints)
	g.gone = slices.DeleteFunc(g.gone, func(l loss) bool { return now.Sub(l.at) > burst || contains(endpoints, l.endpoint.Address) })
	g.held = slices.DeleteFunc(g.held, func(h hold) bool { return contains(endpoints, h.endpoint.Address) })

	before := len(g.live)
	for _, l := range g.gone {
		before = max(before, l.before)
	}
	if len(g.held) > 0 {
		before = max(before, g.base)
	}
	if g.mass(before, len(endpoints)) {
		g.base = before
		for _, l := range g.gone { // they went a moment ago, as the first of many
			lost = append(lost, l.endpoint)
		}
		g.gone = nil
		for _, e := range lost {
			g.held = append(g.held, hold{e, now.Add(g.holdFor)})
		}
	} else { // a loss that is held is believed when the service is well again without it
		g.held = nil
		for _, e := range lost {
			g.gone = append(g.gone, loss{e, now, len(g.live)})
		}
	}
	g.live = endpoints
}

// expire lets go of what has been held for long enough.
func (g *guard) expire(now time.Time) {
	g.held = slices.DeleteFunc(g.held, func(h hold) bool { return !now.Before(h.until) })
}

// next is when expire will have something to do; zero: never.
func (g *guard) next() time.Time {
	var t time.Time
	for _, h := range g.held {
		if t.IsZero() || h.until.Before(t) {
			t = h.until
		}
	}
	return t
}

// published is what to show, in a new slice.
func (g *guard) published() []discovery.Endpoint {
	out := slices.Clone(g.live)
	for _, h := range g.held {
		out = append(out, h.endpoint)
	}
	discovery.SortEndpoints(out)
	return out
}

func contains(endpoints []discovery.Endpoint, address string) bool {
	_, found := slices.BinarySearchFunc(endpoints, address, func(e discovery.Endpoint, a string) int { return strings.Compare(e.Address, a) })
	return found
}

// missing is what from has and in has not.
func missing(from, in []discovery.Endpoint) []discovery.Endpoint {
	var out []discovery.Endpoint
	for _, e := range from {
		if !contains(in, e.Address) {
			out = append(out, e)
		}
	}
	return out
}
