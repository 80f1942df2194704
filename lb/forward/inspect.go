package forward

import (
	"math"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/transport"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/route"
)

// Seen is a call under way as people see it: its View, with the times of the moment, and what tells it from others. Its
// strings are its own.
type Seen struct {
	View
	Conn      *transport.Conn // the client's
	Stream    uint32          // its id on Conn; 0 once the client has gone
	Arrived   int64           // shard time
	Authority string
	TraceID   string // "" for a call that is not sampled
}

// Oldest is at most limit calls under way, oldest first. Inside the shard, or with its lock held to look.
func (f *Forwarder) Oldest(limit int) []Seen {
	now := f.shard.Clock() // Now is the time of the last batch: nobody entered
	out := make([]Seen, 0, min(limit, f.nLive))
	for c := f.live.next; c != &f.live && len(out) < limit; c = c.next {
		s := Seen{View: c.view(now), Conn: c.d.Conn, Arrived: c.arrived, Authority: strings.Clone(c.auth)}
		if c.down != nil {
			s.Stream = c.down.ID
		}
		if c.e == nil && c.path != nil {
			s.Method = strings.Clone(strings.TrimPrefix(c.path.Value[:min(len(c.path.Value), 256)], "/"))
		}
		if c.trace != nil {
			s.TraceID = c.trace.TraceID()
		}
		out = append(out, s)
	}
	return out
}

// EachEndpoint calls do for the endpoint of every call under way that has one, once per call: also for endpoints that no
// generation has any more. Inside the shard, or with its lock held to look.
func (f *Forwarder) EachEndpoint(do func(*upstream.Endpoint)) {
	for c := f.live.next; c != &f.live; c = c.next {
		if c.ep != nil {
			do(c.ep)
		}
	}
}

// Foresee says what would become of a gRPC call that began now, by the code that decides it for real: its route (nil if none
// takes it), and the status and message that its caller would get without any endpoint being asked; OK if it would be placed.
func (g *Generation) Foresee(path, authority string) (r *route.Route, status grpc.Status, message string) {
	// A forwarder of its own, which has not searched for a near name yet.
	f := &Forwarder{shard: new(shard.Shard), suggested: math.MaxUint64}
	c := &Call{f: f, gen: g, path: &hpack.Field{Name: ":path", Value: path}}
	if r = g.Table.Match(path, authority); r == nil {
		no := c.noRoute(&session.Block{Method: &hpack.Field{Name: ":method", Value: "POST"}})
		return nil, no.status, no.message
	}
	t := r.Rule.Data.(*Target)
	if slices.ContainsFunc(t.Endpoints, func(e *upstream.Endpoint) bool { return !e.Down() }) {
		return r, grpc.OK, ""
	}
	c.e = &entry{route: r, target: t}
	no := c.noEndpoint()
	return r, no.status, no.message
}
