package forward

import (
	"fmt"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/deadline"
)

// Call is one stream as we carry it. Guarded by the shard.
type Call struct {
	f     *Forwarder // set once
	d     *Down
	down  *session.Stream // nil once it is closed
	gen   *Generation
	e     *entry          // nil if no route matched
	rules *policies.Rules // of e; nil if no route matched

	// The request, kept until commit.
	req      []*hpack.Field // one reference each
	trailers []*hpack.Field // request trailers (nearly never there); one reference each
	metadata int64          // bytes of these that its client's budget holds: see holdMetadata
	replay   []byte         // request data so far; owned, from the shard's buffers
	noReplay bool           // the request is not whole any more: committed, or larger than may be kept
	// noTrailers: the gate set or removed fields of the request. Trailers could bring them again; gRPC has none of requests.
	noTrailers bool
	ended      bool         // the client has ended its side
	path       *hpack.Field // in req; nil after commit
	auth       string       // :authority, or host; borrowed from told[0]
	// told are fields that the call's record names: authority, user-agent, traceparent. One reference each, until the call
	// is told of; nil where absent.
	told [3]*hpack.Field

	attempts []*Attempt // all, in their order
	winner   *Attempt   // whose response is the call's; nil before commit
	live     int        // attempts that have a stream or wait for one
	credit   int64      // bytes of request data for which the client got its window back: never twice for one byte

	started   bool   // response headers went down
	complete  bool   // the upstream's last word came
	canRepeat bool   // a policy may ask for another attempt, so the response is held until it is judged
	noHedge   bool   // a fatal status or pushback forbade further hedges
	fresh     bool   // it waits for the end of the round in which it came
	counted   bool   // among the calls that its client has under way
	wasted    bool   // it was refused for its own fault
	asking    bool   // somebody is being asked about the call
	askedFor  string // which phase that is, for people
	permits   uint8
	previous  int    // grpc-previous-rpc-attempts of the caller
	pushedAt  int    // attempts when a pushback was last obeyed: the backoff begins anew from there (gRFC A6)
	ticket    uint64 // tells this life of the object from earlier ones, for answers that come late

	// Times of things to come; 0: none. One timer rings for the earliest (see alarm.go).
	timer    shard.Timer
	ringAt   int64 // when timer is set to
	deadline int64 // shard time
	idle     int64 // duration; 0: no idle timeout
	seen     int64 // when the last frame passed
	retryAt  int64 // the end of a backoff
	hedgeAt  int64 // the next hedge is due
	holdAt   int64 // a held response goes down as it is
	queueEnd int64 // the end of patience in the queue

	queue        *queue      // in which it waits for a place; nil: none
	qprev, qnext *Call       // in queue, or in the client's fresh ones
	newest       *Generation // that it has looked at in the queue
	queuedAt     int64

	status      grpc.Status
	message     string
	reason      string // of ErrorInfo, if Trunkline made the reply
	local       bool
	outcome     telemetry.Outcome
	stats       *telemetry.Method
	trace       *telemetry.Trace
	inject      []string          // name, value, ...: header fields that are set for the attempt
	lastFailure failure           // of a hedged call: what it ends with if no other attempt follows
	notes       []decision.Note   // nearly never any
	shadowKeys  []string          // see policies.Shadow.Keys
	limit       deadline.Decision // how long the call may take, and who said so
	who         *authn.Principal  // nil: nobody knows
	dress       *gate.Verdict     // what it changes in the metadata is still to be done; nil: nothing
	forCaller   []gate.Told       // goes with the reply's headers; nil: nothing, or it is said
	late        func()            // refuses the call for what it says of time, once its caller is known; nil: nothing to refuse
	watch       *watch            // nil: its messages are not looked at
	carries     time.Duration     // what grpc-timeout says in req; 0: it is not there
	asked       int64             // the caller's grpc-timeout, nanoseconds; 0: none

	arrived, sent, upEnded    int64  // shard times
	round, sentRound, upRound uint64 // the rounds they fell into
	in                        grpc.MessageCounter
	messagesIn, messagesOut   uint32
	bytesIn, bytesOut         uint64

	prev, next *Call // in Forwarder.live
}

// The places of Call.told.
const (
	host = iota
	agent
	parent
)

// heard is the value of one of the told fields, borrowed; "" if it was absent.
func (c *Call) heard(i int) string {
	if h := c.told[i]; h != nil {
		return h.Value
	}
	return ""
}

// maxDials bounds how often a call is placed in all, with the endpoints that could not even be dialled (each is out of the
// pick from then on).
const maxDials = 32

// start takes a new call from its request's header block: steps 4 to 8 of a call's way.
func (f *Forwarder) start(d *Down, s *session.Stream, b *session.Block) {
	c := f.newCall()
	c.d, c.down, c.gen, c.who = d, s, f.gen.Load(), d.who
	s.Owner = c
	s.SetBudget(&d.Budget)
	c.arrived, c.round, c.ended = f.shard.Now(), f.shard.Round(), b.End
	c.seen = c.arrived
	f.shard.Timed()
	if b.TooLarge {
		f.rec.Start(nil)
		c.waste()
		c.refuse(refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeDownstreamProtocolError, reason: "METADATA_TOO_LARGE",
			message: "the request's metadata have more than " + d.limitText()})
		return
	}
	b.Taken = true
	c.req = append(c.req, b.Fields...)
	c.path = b.Path
	c.told[host] = b.Authority
	var said timing
	var traceparent string
	size := 0
	for _, h := range c.req {
		size += h.Size()
		switch h.ID {
		case hpack.GrpcTimeout:
			said.timeout(h.Value)
		case hpack.GrpcPreviousRPCAttempts:
			c.previous = max(c.previous, grpc.ParsePreviousAttempts(h.Value))
		case hpack.Traceparent:
			traceparent = h.Value
			c.told[parent] = h
		case hpack.UserAgent:
			c.told[agent] = h
		case hpack.Host:
			if b.Authority == nil {
				c.told[host] = h
			}
		}
	}
	for _, h := range c.told {
		if h != nil {
			f.shard.Env.Interner.Retain(h)
		}
	}
	c.auth = c.heard(host)
	if b.Path != nil && b.Method.Value != "CONNECT" {
		c.e = f.lookup(c.gen, b.Path, c.auth)
	}
	if c.e != nil {
		c.stats, c.rules = c.e.stats, c.e.rules
		c.look(b.End)
	}
	c.strip()
	f.rec.Start(c.stats)
	f.cur = c
	c.trace = f.tel.StartTrace(traceparent, f.lookupField, f.shard.Rand())
	if size > freeMetadata && !c.holdMetadata(size) {
		c.waste()
		c.refuse(noRoom("request's", size))
		return
	}
	if c.e != nil {
		c.clock(&said)
	}
	c.later()
}

// freeMetadata is how many bytes of a header block of a request are in nobody's budget, as RFC 9113 section 6.5.2 counts them: calls that are
// like most cost no more than a comparison.
const freeMetadata = 8 << 10

// holdMetadata counts a header block of the request, of size bytes, in the client's budget. It says false if that has no room. What is counted is
// at least what is held: calls that bring the same fields share them.
func (c *Call) holdMetadata(size int) bool {
	n := int64(size - freeMetadata)
	if !c.d.Budget.Hold(n) {
		return false
	}
	c.metadata += n
	return true
}

// releaseMetadata gives back what was counted, but for the fields that are kept for the call's record.
func (c *Call) releaseMetadata() {
	size := 0
	for _, h := range c.told {
		if h != nil {
			size += h.Size()
		}
	}
	left := min(c.metadata, int64(max(0, size-freeMetadata)))
	c.d.Budget.Release(c.metadata - left)
	c.metadata = left
}

// noRoom is the refusal of a call whose metadata the client's budget has no room for.
func noRoom(of string, size int) refusal {
	return refusal{status: grpc.ResourceExhausted, outcome: telemetry.OutcomeOverloaded, reason: "CONNECTION_BUDGET",
		message: fmt.Sprintf("there is no room for the %d bytes of the %s metadata beside what this client, or all clients, make Trunkline hold already: send less "+
			"metadata, or fewer calls at once (limits.bufferBytesPerConnection, limits.bufferBytesTotal)", size, of)}
}

// waiting says whether the call has no attempt at the moment but will have one: because it is fresh, in a backoff, in a queue, or while somebody is
// asked.
func (c *Call) waiting() bool {
	return c.fresh || c.retryAt != 0 || c.queue != nil || c.asking || c.hedgeAt != 0 && c.live == 0
}

// stopWaiting: there will be no attempt any more.
func (c *Call) stopWaiting() {
	c.retryAt, c.hedgeAt, c.holdAt = 0, 0, 0
	c.asking = false
	c.notFresh()
	c.leaveQueue()
}

// endAnswered ends a call whose client has all of the reply and only has not ended its own side; the reply's status stands. It
// says false for any other call.
func (c *Call) endAnswered() bool {
	if !c.complete || c.down == nil || !c.down.SendClosed() {
		return false
	}
	c.abandon(h2.Cancel, c.status, c.outcome)
	c.d.Sess.Reset(c.down, h2.NoError)
	return true
}

// abandon gives up all attempts and all waiting for one.
func (c *Call) abandon(code h2.Code, status grpc.Status, o telemetry.Outcome) {
	c.stopWaiting()
	for i := len(c.attempts) - 1; i >= 0 && c.live > 0; i-- {
		if a := c.attempts[i]; a.alive() {
			a.abandon(code, ending{status: status, outcome: o})
		}
	}
}

// phase says for people where a call is.
func (c *Call) phase() string {
	switch {
	case c.queue != nil:
		return "while waiting in the queue of cluster " + c.e.target.Cluster
	case c.asking:
		return c.askedFor
	case c.retryAt != 0:
		return "while waiting to try again"
	case c.complete:
		return "before the client had read the response"
	}
	switch a := c.last(); {
	case a == nil:
		return "before it was sent to any endpoint"
	case a.waitsAt != nil:
		return "while waiting for a connection to " + a.at.Address
	case !a.open:
		return "after " + a.at.Address + " had failed it"
	case c.started:
		return "amid the response of " + a.at.Address
	default:
		return "while waiting for the response of " + a.at.Address
	}
}

// last is the winner, else the youngest live attempt, else the last one; nil if there was none.
func (c *Call) last() *Attempt {
	if c.winner != nil {
		return c.winner
	}
	for i := len(c.attempts) - 1; i >= 0; i-- {
		if c.attempts[i].alive() {
			return c.attempts[i]
		}
	}
	if n := len(c.attempts); n > 0 {
		return c.attempts[n-1]
	}
	return nil
}

// overBudget: the client makes us hold more than it may.
func (c *Call) overBudget() {
	c.abandon(h2.Cancel, grpc.ResourceExhausted, telemetry.OutcomeOverloaded)
	c.status, c.outcome, c.local, c.reason = grpc.ResourceExhausted, telemetry.OutcomeOverloaded, true, "CONNECTION_BUDGET"
	c.message = "the client's connection holds more unread data than its budget"
	if c.down != nil {
		c.d.Sess.Reset(c.down, h2.EnhanceYourCalm)
	}
}

// settle finishes the call when neither end is left.
func (c *Call) settle() {
	if c.down != nil || c.live > 0 || c.prev == nil {
		return
	}
	c.stopWaiting()
	c.dropWatch()
	c.hasEnded()
	f := c.f
	f.shard.Timer.Clear(&c.timer)
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	f.nLive--
	f.done = append(f.done, c)
	f.shard.Timed()
	c.leave()
}
