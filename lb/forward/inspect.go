package forward

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/transport"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/route"
)

// View is a call under way as the admin API shows it. Its strings are its own.
type View struct {
	Method, Route, Cluster, Endpoint, Peer string
	Age, DeadlineLeft                      time.Duration // DeadlineLeft 0: none
	MessagesIn, MessagesOut                uint32
	BytesIn, BytesOut                      uint64
	Held                                   int64 // bytes that wait in us
	Attempts                               int
}

func (c *Call) view(now int64) View {
	v := View{Peer: c.d.Peer(), Age: time.Duration(now - c.arrived), MessagesIn: c.messagesIn, MessagesOut: c.messagesOut,
		BytesIn: c.bytesIn, BytesOut: c.bytesOut, Attempts: len(c.attempts), Held: int64(len(c.replay))}
	if c.e != nil {
		v.Method, v.Route, v.Cluster = c.e.service+"/"+c.e.method, c.e.route.Rule.Name, c.e.target.Cluster
	}
	if c.live > 0 {
		v.Endpoint = c.last().at.Address
	}
	if c.deadline != 0 {
		v.DeadlineLeft = max(1, time.Duration(c.deadline-now))
	}
	if c.down != nil {
		v.Held += int64(c.down.Held())
	}
	for _, a := range c.attempts {
		if a.up != nil {
			v.Held += int64(a.up.Held())
		}
		v.Held += int64(len(a.held))
	}
	return v
}

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

// EachEndpoint calls do for the endpoint of every call under way that has one, once per attempt: also for endpoints that no
// generation has any more. Inside the shard, or with its lock held to look.
func (f *Forwarder) EachEndpoint(do func(*upstream.Endpoint)) {
	for c := f.live.next; c != &f.live; c = c.next {
		for _, a := range c.attempts {
			if a.open {
				do(a.at)
			}
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
		no := c.noRoute()
		return nil, no.status, no.message
	}
	t := r.Rule.Data.(*Target)
	if slices.ContainsFunc(t.Endpoints, func(e *upstream.Endpoint) bool { return !e.Down() }) {
		return r, grpc.OK, ""
	}
	c.e = &entry{route: r, target: t}
	no := c.noEndpoint(picked{})
	return r, no.status, no.message
}
