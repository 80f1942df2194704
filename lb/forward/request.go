package forward

import (
	"fmt"
	"strconv"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/retry"
)

// rewrite puts the request's fields together where they differ from how they came: the time left, the attempts before, the
// attempt's trace context.
func (f *Forwarder) rewrite(a *Attempt, retime bool) []*hpack.Field {
	in, c := f.shard.Env.Interner, a.c
	f.scratch, f.cur = f.scratch[:0], c
	c.inject = c.inject[:0]
	if c.trace != nil {
		at := c.trace.StartAttempt()
		for at < len(c.attempts)-1 { // attempts that came to no stream have spans, too
			at = c.trace.StartAttempt()
		}
		c.trace.Inject(at, f.setField)
	}
	before := c.attemptsBefore(a)
	for _, h := range c.req {
		switch {
		case h.ID == hpack.GrpcTimeout && retime, h.ID == hpack.GrpcPreviousRPCAttempts && before > 0:
		case c.injected(h.Name):
		default:
			f.scratch = append(f.scratch, h)
		}
	}
	if retime {
		var b [16]byte
		f.add(in.InternBytes([]byte("grpc-timeout"), grpc.AppendTimeout(b[:0], a.rec.Given)))
	}
	if before > 0 {
		f.add(in.Intern("grpc-previous-rpc-attempts", strconv.Itoa(before+c.previous)))
	}
	for i := 0; i < len(c.inject); i += 2 {
		if c.inject[i+1] != "" { // else it is to be removed
			f.add(in.Intern(c.inject[i], c.inject[i+1]))
		}
	}
	return f.scratch
}

// add puts a field that was interned for the block into it.
func (f *Forwarder) add(h *hpack.Field) {
	f.made = append(f.made, h)
	f.scratch = append(f.scratch, h)
}

func (f *Forwarder) override(name, value string) {
	f.cur.inject = append(f.cur.inject, name, value)
}

func (c *Call) injected(name string) bool {
	for i := 0; i < len(c.inject); i += 2 {
		if c.inject[i] == name {
			return true
		}
	}
	return false
}

func (f *Forwarder) releaseMade() {
	for _, h := range f.made {
		f.shard.Env.Interner.Release(h)
	}
	f.made = f.made[:0]
}

// body takes request data: p is borrowed.
func (c *Call) body(p []byte, end bool) {
	c.seen = c.f.shard.Now()
	c.bytesIn += uint64(len(p))
	c.messagesIn += uint32(c.in.Add(p))
	if c.fresh {
		c.grown(len(p))
	}
	if c.complete && c.live == 0 {
		c.ended = c.ended || end
		c.creditDown(int64(len(p))) // the reply is made already: what still comes is thrown away
		return
	}
	if r := c.rules; r != nil && r.MaxRequestBytes >= 0 && int64(c.in.Longest()) > r.MaxRequestBytes {
		c.tooLong("request", c.in.Longest(), r.MaxRequestBytes)
		return
	}
	if c.e != nil && c.e.payload != nil && !c.fits("request", c.e.payload.MaxRequestMessage, c.e.payload.MaxRequest, c.in.Longest(), c.bytesIn) {
		return
	}
	if c.watch != nil {
		c.watch.take(p, end)
		return
	}
	c.onward(p, end)
}

// onward takes request data that may go on: p is borrowed.
func (c *Call) onward(p []byte, end bool) {
	c.ended = c.ended || end
	if !c.noReplay {
		c.keep(p)
		if c.down == nil {
			return
		}
	}
	said := false
	for i := 0; i < len(c.attempts) && c.live > 0; i++ {
		a := c.attempts[i]
		if a.up == nil {
			continue
		}
		said = true
		n, ok := a.conn.Sess.SendData(a.up, p, end)
		a.wasHanded(n)
		if !ok {
			c.overBudget()
			return
		}
	}
	if !said && c.live == 0 && !c.waiting() {
		c.creditDown(int64(len(p)))
	}
}

// tooLong refuses a call with a message over the policy's limit, before any of that message went on.
func (c *Call) tooLong(side string, n uint32, limit int64) {
	c.note(decision.Note{Kind: decision.NoteMessageSize, Name: side, A: int64(n), B: limit, Refused: true})
	c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitMessageSize)
	c.abandon(h2.Cancel, grpc.ResourceExhausted, telemetry.OutcomeOverloaded)
	c.refuse(refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeOverloaded, reason: "MESSAGE_TOO_LARGE",
		message: "a " + side + " message of " + strconv.Itoa(int(n)) + " bytes exceeds the method's limit of " + strconv.FormatInt(limit, 10) +
			" (serviceConfig.methodConfig[].max" + map[string]string{"request": "Request", "response": "Response"}[side] + "MessageBytes)"})
}

// fits refuses a call whose messages are larger than the payload rules allow, before what is too much went on.
func (c *Call) fits(side string, message, all int64, longest uint32, sum uint64) bool {
	what, limit, n := "a "+side+" message", message, uint64(longest)
	advice := map[string]string{"request": "send less at once", "response": "ask for less at once"}[side]
	key := "max" + map[string]string{"request": "Request", "response": "Response"}[side]
	switch {
	case message >= 0 && int64(longest) > message:
		key += "MessageBytes"
	case all >= 0 && sum > uint64(all):
		what, limit, n = "all "+side+" messages together", all, sum
		key += "Bytes"
	default:
		return true
	}
	c.note(decision.Note{Kind: decision.NoteMessageSize, Name: side, A: int64(n), B: limit, Refused: true})
	c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitMessageSize)
	c.abandon(h2.Cancel, grpc.ResourceExhausted, telemetry.OutcomeOverloaded)
	c.refuse(refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeOverloaded, reason: "MESSAGE_TOO_LARGE",
		message: fmt.Sprintf("%s: %d bytes, and %d are allowed (%s.%s): %s", what, n, limit, c.e.payload.Why, key, advice)})
	return false
}

// keep copies request data for an attempt to come, as long as it is allowed.
func (c *Call) keep(p []byte) {
	if len(p) == 0 {
		return
	}
	// While no attempt has a stream the data must stay somewhere: the stream's window bounds it.
	if c.sending() && c.outgrows(len(p)) {
		return
	}
	if !c.d.Budget.Hold(int64(len(p))) {
		c.overBudget()
		return
	}
	c.f.replaying += int64(len(p))
	c.replay = append(c.f.shard.Env.Buffers.Grow(c.replay, len(p)), p...)
}

// outgrows gives up what is kept of the request if n bytes more would be too much: the call is this attempt's then.
func (c *Call) outgrows(n int) bool {
	most, l := c.rules.ReplayBytes, &c.gen.Limits
	if most < 0 {
		most = l.ReplayBytes
	}
	if len(c.replay)+n <= most && (l.ReplayTotal == 0 || c.f.replaying+int64(n) <= l.ReplayTotal) {
		return false
	}
	if c.canRepeat {
		c.note(decision.Note{Kind: decision.NoteReplay, A: int64(len(c.replay) + n), B: int64(most)})
	}
	c.single()
	return true
}

// sending says whether an attempt takes the request as it comes.
func (c *Call) sending() bool {
	for i := 0; i < len(c.attempts) && c.live > 0; i++ {
		if c.attempts[i].up != nil {
			return true
		}
	}
	return false
}

// single: no further attempt can be made of the request, nor can one that still waits for its connection.
func (c *Call) single() {
	c.dropReplay()
	for i := 0; i < len(c.attempts) && c.live > 0; i++ {
		if a := c.attempts[i]; a.waitsAt != nil {
			a.rec.Why = retry.NoReplay
			a.abandon(h2.Cancel, ending{status: grpc.Canceled, outcome: telemetry.OutcomeLocalReset, evidence: retry.NeverSent})
		}
	}
}

func (c *Call) dropReplay() {
	c.noReplay = true
	if c.replay != nil {
		c.d.Budget.Release(int64(len(c.replay)))
		c.f.replaying -= int64(len(c.replay))
		c.f.shard.Env.Buffers.Put(c.replay)
		c.replay = nil
	}
}

// wasHanded counts request data that the attempt's connection took, and gives the client its window back for it.
func (a *Attempt) wasHanded(n int) {
	if a.handed += int64(n); a.handed > a.c.credit {
		a.c.creditDown(a.handed - a.c.credit)
		if w := a.c.watch; w != nil {
			w.ask()
		}
	}
}

func (c *Call) creditDown(n int64) {
	c.credit += n
	if c.down != nil {
		c.d.Sess.Credit(c.down, int(n))
	}
}

func (c *Call) dropRequest() {
	c.dropReplay()
	in := c.f.shard.Env.Interner
	for _, h := range c.req {
		in.Release(h)
	}
	c.req, c.path = c.req[:0], nil
	c.dropTrailers()
	if c.metadata > 0 {
		c.releaseMetadata()
	}
}

// dropTrailers lets go of the request's trailers; its end stands.
func (c *Call) dropTrailers() {
	for _, h := range c.trailers {
		c.f.shard.Env.Interner.Release(h)
	}
	c.trailers = nil
}
