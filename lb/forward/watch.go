package forward

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/lb/telemetry"
)

// Payload is what holds for the messages of a method's calls. Immutable.
type Payload struct {
	// In bytes; -1: no limit.
	MaxRequestMessage, MaxResponseMessage int64 // of one message
	MaxRequest, MaxResponse               int64 // of all of one call
	// Judge is shown each request message before it goes on, in the order in which they came; nil: messages go on unseen. It answers by
	// then, once, from another goroutine. The message is its own until then.
	Judge func(m *inspect.Message, then func(*inspect.Verdict))
	// Users counts the calls whose messages Judge may still be shown; nil: nobody wants to know.
	Users        *sync.WaitGroup
	MaxInspected int64 // the longest message that is shown
	// TooLarge is what becomes of a longer one, number index of its call: it goes on unseen if that is not a refusal, as where rules are in
	// shadow. nil: it is refused.
	TooLarge func(method string, index int) *inspect.Verdict
	Why      string // the rule's place in the configuration: "payload[0]"
}

// watch holds the request messages of a call back until each was judged. Guarded by the shard.
type watch struct {
	c      *Call
	p      *Payload
	buf    []byte // from the first byte of the message that is not judged yet; owned, from the shard's buffers
	open   bool   // the call may be made; before that nothing is judged
	hold   bool   // nothing of the call goes on before its first message was judged
	busy   bool   // a message is being judged
	end    bool   // the client has ended its side
	passed int64  // bytes that went on
	n      int    // messages judged
	skip   int    // bytes still to come of a message that goes on unseen
}

// look has the messages of the call judged, if its method's rules want that.
func (c *Call) look(end bool) bool {
	p := c.e.payload
	if p == nil || p.Judge == nil {
		return false
	}
	c.watch = &watch{c: c, p: p, hold: c.rules.Unary, end: end}
	if p.Users != nil {
		p.Users.Add(1)
	}
	return true
}

// messagePrefix is the length of what stands before each message: a flag and a length (gRPC over HTTP/2, Length-Prefixed-Message).
const messagePrefix = 5

// begin is called when the call may be made.
func (w *watch) begin() {
	w.open = true
	if !w.hold {
		w.c.admit()
	} else {
		w.c.asking, w.c.askedFor = true, "while its message was inspected"
	}
	w.step()
}

// take takes request data, p, which is borrowed.
func (w *watch) take(p []byte, end bool) {
	c := w.c
	w.end = w.end || end
	if len(p) > 0 {
		if !c.d.Budget.Hold(int64(len(p))) {
			c.overBudget()
			return
		}
		w.buf = append(c.f.shard.Env.Buffers.Grow(w.buf, len(p)), p...)
	}
	w.step()
}

// step has the next message judged if it is whole.
func (w *watch) step() {
	c := w.c
	if !w.open || w.busy || c.complete || c.down == nil {
		return
	}
	if w.skip > 0 {
		w.unseen()
		return
	}
	size := -1
	if len(w.buf) >= messagePrefix {
		if w.buf[0] > 1 {
			w.refuse(grpc.Internal, "MESSAGE_FRAMING", fmt.Sprintf("request message %d begins with the flag %d, and gRPC knows 0 and 1: the client, or a proxy before it, is at fault; update it", w.n+1, w.buf[0]))
			return
		}
		size = int(binary.BigEndian.Uint32(w.buf[1:]))
		if int64(size) > w.p.MaxInspected {
			if w.passes(w.n + 1) {
				w.n++
				w.skip = messagePrefix + size
				w.unseen()
				return
			}
			w.refuse(grpc.ResourceExhausted, "MESSAGE_TOO_LARGE_TO_INSPECT", fmt.Sprintf("request message %d has %d bytes, and messages of this method are inspected, up to %d bytes (%s.maxInspectedBytes): send smaller messages",
				w.n+1, size, w.p.MaxInspected, w.p.Why))
			return
		}
	}
	switch whole := size >= 0 && len(w.buf) >= messagePrefix+size; {
	case whole:
		w.judge(size)
	case w.end && len(w.buf) > 0:
		w.refuse(grpc.Internal, "MESSAGE_FRAMING", fmt.Sprintf("the request ended amid message %d: the client, or a proxy before it, cuts messages off; see its log, or update it", w.n+1))
	case w.end:
		w.release() // no message at all
	default:
		w.ask()
	}
}

// ask has the client send the rest of a message, once all that was let go before it has been handed on: of one larger than the window it
// would never come else.
func (w *watch) ask() {
	c := w.c
	if held := w.passed + int64(len(w.buf)); w.open && !w.busy && !c.complete && w.passed <= c.credit && held > c.credit {
		c.creditDown(held - c.credit)
	}
}

// passes tells whether a message that is too large to be judged goes on all the same, and notes what is said of it.
func (w *watch) passes(index int) bool {
	if w.p.TooLarge == nil {
		return false
	}
	v := w.p.TooLarge(w.c.rules.Full, index)
	if v.Refused {
		return false
	}
	for _, n := range v.Notes {
		w.c.noteGate(decision.NotePayload, n)
	}
	return true
}

// unseen lets what there is of such a message go on.
func (w *watch) unseen() {
	n := min(w.skip, len(w.buf))
	w.skip -= n
	w.letGo(n)
}

func (w *watch) judge(size int) {
	c, f := w.c, w.c.f
	w.busy = true
	w.n++
	m := &inspect.Message{Method: c.rules.Full, Encoding: strings.Clone(c.field("grpc-encoding")), Compressed: w.buf[0] == 1, Index: w.n,
		Body: append([]byte(nil), w.buf[messagePrefix:messagePrefix+size]...), Address: c.d.address()}
	if c.who != nil {
		m.Principal = c.who.Name
	}
	w.p.Judge(m, func(v *inspect.Verdict) {
		f.shard.Enter()
		defer f.shard.Leave()
		if c.watch != w {
			return // the call has ended
		}
		w.busy = false
		f.shard.Timed()
		w.judged(size, v)
	})
}

func (w *watch) judged(size int, v *inspect.Verdict) {
	c := w.c
	if c.complete || c.down == nil {
		return
	}
	for _, n := range v.Notes {
		c.noteGate(decision.NotePayload, n)
	}
	if v.Refused {
		w.refuse(v.Status, v.Reason, v.Message)
		return
	}
	w.letGo(messagePrefix + size)
}

// letGo lets the first n bytes go on, and the call with them, and looks at what comes next.
func (w *watch) letGo(n int) {
	c := w.c
	if n > 0 {
		w.pass(n, w.end && len(w.buf) == n)
	}
	if c.watch != w || c.complete || c.down == nil {
		return
	}
	if w.hold {
		w.release()
	}
	switch {
	case w.skip == 0:
		w.step()
	case w.end:
		w.release() // cut off: the endpoint finds out
	}
}

// release lets the call go on to an endpoint.
func (w *watch) release() {
	c := w.c
	if w.hold {
		w.hold, c.asking = false, false
		if w.end && len(w.buf) == 0 {
			c.ended = true
		}
		c.admit()
	} else if w.end && !c.ended && len(w.buf) == 0 {
		c.onward(nil, true)
	}
}

// pass lets the first n bytes go on.
func (w *watch) pass(n int, end bool) {
	c := w.c
	p := w.buf[:n]
	c.d.Budget.Release(int64(n))
	w.passed += int64(n)
	buf := w.buf
	w.buf = nil
	rest := buf[n:]
	c.onward(p, end)
	if c.watch == w && len(rest) > 0 {
		w.buf = append(c.f.shard.Env.Buffers.Get(len(rest)), rest...)
	} else if c.watch != w {
		c.d.Budget.Release(int64(len(rest)))
	}
	c.f.shard.Env.Buffers.Put(buf)
}

// refuse ends the call for the sake of a message of which nothing went on.
func (w *watch) refuse(status grpc.Status, reason, message string) {
	c := w.c
	c.f.rec.Limited(c.rules.Cluster.Name, telemetry.LimitPayload)
	c.note(decision.Note{Kind: decision.NotePayload, Name: w.p.Why, Text: message, Refused: true})
	c.abandon(h2.Cancel, status, telemetry.OutcomeUnauthorized)
	c.refuse(refusal{status: status, outcome: telemetry.OutcomeUnauthorized, reason: reason, message: message})
	c.dropWatch()
}

// dropWatch gives back what is held of messages.
func (c *Call) dropWatch() {
	w := c.watch
	if w == nil {
		return
	}
	c.watch = nil
	if w.p.Users != nil {
		w.p.Users.Done()
	}
	c.d.Budget.Release(int64(len(w.buf)))
	c.f.shard.Env.Buffers.Put(w.buf)
	w.buf = nil
}
