package forward

import (
	"slices"
	"strings"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/telemetry"
)

// forwardedCert tells endpoints of the client's certificate, in Envoy's form.
const forwardedCert = "x-forwarded-client-cert"

// Gate is what calls of one method are asked before anything else: lb/gate's Rules.
type Gate interface {
	// Check returns nil if it will call then, once, from another goroutine. The request is borrowed until it returns.
	Check(q *gate.Request, then func(*gate.Verdict)) *gate.Verdict
}

// Mesh says what a service mesh says of a client's calls to a cluster; nil if it will call then, once, from another goroutine. It must
// not block.
type Mesh func(peer string, serial string, then func(Leave)) Leave

// Leave says whether a mesh lets its client make the call whose metadata field reads: all values of a name with commas between, and whether there
// is any. It is asked inside the shard, and must not block; field is borrowed until it returns.
type Leave = func(field func(name string) (value string, there bool)) (allowed bool, why string)

// strip takes away what only Trunkline may say, and says what it knows about the client.
func (c *Call) strip() {
	in, d := c.f.shard.Env.Interner, c.d
	if slices.ContainsFunc(c.req, c.forged) {
		c.req = c.without(c.req, c.forged)
	}
	if d.Known != nil && d.Known.Forwarded != "" {
		c.req = append(c.req, in.Intern(forwardedCert, d.Known.Forwarded))
	}
}

// forged says whether only Trunkline may say that.
func (c *Call) forged(h *hpack.Field) bool {
	return h.Flags&hpack.Protected != 0 || c.gen.Protected != nil && c.gen.Protected[h.Name]
}

// without drops fields of the request.
func (c *Call) without(fields []*hpack.Field, which func(*hpack.Field) bool) []*hpack.Field {
	return slices.DeleteFunc(fields, func(h *hpack.Field) bool {
		if !which(h) {
			return false
		}
		c.f.shard.Env.Interner.Release(h)
		return true
	})
}

// knock asks who calls and whether he may: step 6 begins with it. Whoever passes goes on to the route that was found, if one was.
func (c *Call) knock() {
	f := c.f
	c.dress = nil
	if p := c.d.Known; p != nil && p.Refused != nil {
		c.deny(&gate.Verdict{Refused: true, Refusal: *p.Refused})
		return
	}
	door := c.door()
	if door == nil {
		c.passed()
		return
	}
	f.cur = c
	q := &f.query
	*q = gate.Request{Method: c.fullMethod(), Authority: c.auth, Address: c.d.address(), Peer: c.d.Known, Now: f.shard.Wall(f.shard.Now()),
		Field: f.wholeField, Each: f.eachField}
	c.asking, c.askedFor = true, "while the caller was identified"
	c.ticket++
	ticket := c.ticket
	v := door.Check(q, func(v *gate.Verdict) {
		f.shard.Enter()
		defer f.shard.Leave()
		if c.asking && c.ticket == ticket {
			f.shard.Timed()
			c.identified(v)
		}
	})
	if v != nil {
		c.identified(v)
	}
	f.query = gate.Request{}
}

// whole is the values of all request header fields of that name, as RFC 9110 section 5.3 joins them: who is asked about the first only
// does not know which one an endpoint reads. there is false if there is none.
func (c *Call) whole(name string) (value string, there bool) {
	n, size := 0, 0
	for _, h := range c.req {
		if h.Name == name {
			value = h.Value
			n, size = n+1, size+len(h.Value)+1
		}
	}
	if n < 2 {
		return value, n > 0
	}
	// A header table says a long field again in one byte: to join them one by one would cost a hundred times what there is to read.
	all := make([]byte, 0, size)
	for _, h := range c.req {
		if h.Name == name {
			all = append(append(all, h.Value...), ',')
		}
	}
	return string(all[:size-1]), true
}

// door is what the call is asked; nil: nothing.
func (c *Call) door() Gate {
	if c.e != nil {
		return c.e.gate
	}
	if c.gen.Gate == nil {
		return nil
	}
	return c.gen.Gate(c.fullMethod())
}

// fullMethod is "pkg.Service/Method", borrowed; a path that is none as it came.
func (c *Call) fullMethod() string {
	if c.path == nil {
		return ""
	}
	return strings.TrimPrefix(c.path.Value, "/")
}

// identified goes on with the gate's verdict.
func (c *Call) identified(v *gate.Verdict) {
	c.asking = false
	if v.Principal != nil {
		c.who = v.Principal
	}
	for _, n := range v.Notes {
		c.noteGate(decision.NoteGate, n)
	}
	c.forCaller = v.Told
	if v.Refused {
		c.deny(v)
		return
	}
	c.dress = v
	c.passed()
}

// dressed makes the metadata what the gate said that endpoints shall see.
func (c *Call) dressed() {
	v := c.dress
	if v == nil {
		return
	}
	c.dress = nil
	if len(v.Remove) > 0 || len(v.Set) > 0 {
		c.noTrailers = true
		c.dropTrailers()
		c.req = c.without(c.req, func(h *hpack.Field) bool {
			return slices.Contains(v.Remove, h.Name) || slices.ContainsFunc(v.Set, func(kv [2]string) bool { return kv[0] == h.Name })
		})
	}
	for _, list := range [...][][2]string{v.Set, v.Add} {
		for _, kv := range list {
			c.req = append(c.req, c.f.shard.Env.Interner.Intern(kv[0], kv[1]))
		}
	}
}

func (c *Call) noteGate(kind decision.NoteKind, n gate.Note) {
	note := decision.Note{Kind: kind, Name: n.Name, Text: n.Text, Refused: n.Refused && !n.Shadow}
	if n.Shadow {
		note.A = 1
		if n.Refused {
			cluster := ""
			if c.rules != nil {
				cluster = c.rules.Cluster.Name
			}
			c.f.rec.WouldRefuse(cluster, n.Name)
		}
	}
	c.note(note)
}

// waste counts the call as one that is refused for its own fault.
func (c *Call) waste() {
	c.wasted = true
	c.d.Sess.Wasted()
}

// deny refuses a call for its caller's sake.
func (c *Call) deny(v *gate.Verdict) {
	cluster := ""
	if c.rules != nil {
		cluster = c.rules.Cluster.Name
	}
	c.waste()
	c.f.rec.Limited(cluster, telemetry.LimitGate)
	if !slices.ContainsFunc(c.notes, func(n decision.Note) bool { return n.Kind == decision.NoteGate && n.Refused }) {
		c.note(decision.Note{Kind: decision.NoteGate, Name: v.Reason, Text: v.Message, Refused: true})
	}
	c.refuse(refusal{status: v.Status, outcome: telemetry.OutcomeUnauthorized, reason: v.Reason, message: v.Message})
}

// passed goes on with a call whose caller may make it, as far as rules over methods say.
func (c *Call) passed() {
	if c.e == nil {
		c.waste()
		c.refuse(c.noRoute())
		return
	}
	if mesh := c.e.mesh; mesh != nil && c.d.Known != nil && c.d.Known.Mesh {
		c.intend(mesh)
		return
	}
	c.agreed()
}

// intend asks whether the mesh's intentions let the client call the cluster. They judge what the client sent, not what the gate makes of it.
func (c *Call) intend(mesh Mesh) {
	f := c.f
	c.asking, c.askedFor = true, "while the mesh was asked about intentions"
	c.ticket++
	ticket := c.ticket
	leave := mesh(c.d.Known.SPIFFE, c.d.Known.Serial, func(leave Leave) {
		f.shard.Enter()
		defer f.shard.Leave()
		if c.asking && c.ticket == ticket {
			f.shard.Timed()
			c.intended(leave)
		}
	})
	if leave != nil {
		c.intended(leave)
	}
}

func (c *Call) intended(leave Leave) {
	c.asking, c.f.cur = false, c
	if allowed, why := leave(c.f.anyField); !allowed {
		v := &gate.Verdict{Refused: true}
		v.Status, v.Reason, v.Message = grpc.PermissionDenied, "INTENTION_DENIED", why
		c.deny(v)
		return
	}
	c.agreed()
}

// agreed admits the call, or has its first message looked at before. Only here is it refused for what it says of time: whoever may not
// call shall not learn which methods there are, nor how long they take.
func (c *Call) agreed() {
	c.dressed()
	if c.late != nil {
		c.late()
		return
	}
	if c.watch != nil {
		c.watch.begin()
		return
	}
	c.admit()
}
