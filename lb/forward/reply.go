package forward

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
)

// refusal is a reply that Trunkline makes itself.
type refusal struct {
	status  grpc.Status
	outcome telemetry.Outcome
	reason  string        // of google.rpc.ErrorInfo: UPPER_SNAKE
	message string        // names cause and phase
	after   time.Duration // when it is worth trying again; 0: not said
}

// domain is who says so, in google.rpc.ErrorInfo.
const domain = "trunkline"

// refuse ends the call towards the client: with a Trailers-Only reply if nothing was said yet, else with trailers. Any
// attempt has been given up before.
func (c *Call) refuse(r refusal) {
	c.status, c.message, c.outcome, c.reason, c.local, c.complete = r.status, r.message, r.outcome, r.reason, true, true
	c.stopWaiting()
	if c.down == nil {
		c.settle()
		return
	}
	in := c.f.shard.Env.Interner
	details := grpc.Details{Reason: r.reason, Domain: domain, RetryAfter: r.after}
	if c.e != nil {
		details.Metadata = append(details.Metadata, [2]string{"cluster", c.e.target.Cluster}, [2]string{"route", c.e.route.Rule.Name})
	}
	if n := len(c.attempts); n > 0 {
		details.Metadata = append(details.Metadata, [2]string{"endpoint", c.attempts[n-1].at.Address}, [2]string{"attempts", strconv.Itoa(n)})
		for i, a := range c.attempts[:min(n, decision.MaxAttempts)] {
			details.Metadata = append(details.Metadata, [2]string{"attempt." + strconv.Itoa(i+1), a.tell()})
		}
	}
	f := c.f
	f.scratch = f.scratch[:0]
	if !c.started {
		f.scratch = append(f.scratch, f.statusOK, f.contentType)
	}
	for _, kv := range [...][2]string{
		{"grpc-status", strconv.Itoa(int(r.status))},
		{"grpc-message", string(grpc.AppendMessage(nil, r.message))},
		{"grpc-status-details-bin", string(grpc.AppendStatusDetailsBin(nil, r.status, r.message, details))},
	} {
		f.add(in.Intern(kv[0], kv[1]))
	}
	if r.after > 0 {
		f.add(in.Intern("grpc-retry-pushback-ms", strconv.FormatInt(max(1, int64((r.after+time.Millisecond-1)/time.Millisecond)), 10)))
	}
	if c.forCaller != nil && !c.started {
		c.tellCaller()
	}
	s, id := c.down, c.down.ID
	if s.Held() > 0 && (r.status == grpc.DeadlineExceeded || r.reason == idleTimeout) {
		// The client does not read: the reply would wait behind what it does not take, and its time is over now.
		f.releaseMade()
		c.d.Sess.Reset(s, h2.Cancel)
		return
	}
	c.d.Sess.SendHeaders(s, f.scratch, true)
	f.releaseMade()
	if c.down == s && s.ID == id && !s.RecvClosed() {
		// The client is still sending; it need not (RFC 9113 section 8.1).
		c.d.Sess.ResetAfter(s, h2.NoError)
	}
}

// sendTold begins the response with these fields and what the gate has to tell the caller.
func (c *Call) sendTold(fields []*hpack.Field, end bool) {
	f := c.f
	f.scratch = append(f.scratch[:0], fields...)
	c.tellCaller()
	c.d.Sess.SendHeaders(c.down, f.scratch, end)
	f.releaseMade()
}

// tellCaller puts what the gate has to tell the caller into the block, once. What there is no room for is left out.
func (c *Call) tellCaller() {
	f := c.f
	size, left := 0, 0
	for _, h := range f.scratch {
		size += h.Size()
	}
	for i := range c.forCaller {
		t := &c.forCaller[i]
		named := func(h *hpack.Field) bool { return h.Name == t.Name }
		send, instead := t.Place(slices.ContainsFunc(f.scratch, named))
		if !send {
			continue
		}
		h := f.shard.Env.Interner.Intern(t.Name, t.Value)
		if size+h.Size() > gate.ReplyRoom {
			f.shard.Env.Interner.Release(h)
			left++
			continue
		}
		size += h.Size()
		if instead {
			f.scratch = slices.DeleteFunc(f.scratch, named)
		}
		f.add(h)
	}
	if c.forCaller = nil; left > 0 {
		c.note(decision.Note{Kind: decision.NoteGate, Name: "externalAuthorization",
			Text: fmt.Sprintf("left out %d of its fields for the caller: a reply's headers get no larger than %d bytes by them", left, gate.ReplyRoom)})
	}
}

// noRoute is the refusal of a call that no route takes.
func (c *Call) noRoute() refusal {
	r := refusal{status: grpc.Unimplemented, outcome: telemetry.OutcomeNoRoute, reason: "NO_ROUTE"}
	if verb := c.field(":method"); c.path == nil || verb == "CONNECT" {
		r.message = fmt.Sprintf("Trunkline carries calls to methods; this is a %s", verb)
		return r
	}
	path := c.path.Value
	if len(path) > 256 {
		path = path[:256] + "..."
	}
	service, _, ok := grpc.SplitPath(path)
	if !ok {
		r.message = fmt.Sprintf("the path %q is not /package.Service/Method", path)
		return r
	}
	r.message = fmt.Sprintf("no route for method %s", strings.TrimPrefix(path, "/"))
	if claims := c.gen.Conflicts[service]; len(claims) > 0 {
		r.reason = "CONFLICTING_CLAIMS"
		r.message += fmt.Sprintf(": the clusters %s all claim %s; a route in the configuration decides", strings.Join(claims, " and "), service)
	} else if f := c.f; f.suggested != f.shard.Round() {
		// A search costs as much as thousands of calls: one in a batch, so that nobody can make it our main work.
		f.suggested = f.shard.Round()
		if near := c.gen.Table.Nearest(c.path.Value); near != "" {
			r.message += "; the nearest known one is " + near
		}
	}
	return r
}

// tell says in a few words how the attempt went.
func (a *Attempt) tell() string {
	r := &a.rec
	said := a.at.Address + " " + r.Kind.String()
	if a.open {
		return said + ", under way"
	}
	said += ": " + r.Status.String()
	if e := r.Evidence.String(); e != "" {
		said += " (" + e + ")"
	}
	return said + " after " + time.Duration(a.end-a.start).Round(time.Microsecond).String()
}

// noEndpoint is the refusal of a call for which no endpoint is up.
func (c *Call) noEndpoint(p picked) refusal {
	t := c.e.target
	r := refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeNoHealthyUpstream, reason: "NO_HEALTHY_ENDPOINT"}
	tried := ""
	for i, a := range c.attempts {
		if a.gone {
			tried = fmt.Sprintf("; attempt %d went to %s", i+1, a.tell())
		}
	}
	n := len(t.Endpoints)
	switch {
	case n == 0 && t.Why != "":
		r.message = "no healthy endpoint: " + t.Why
	case n == 0:
		r.message = "no healthy endpoint: cluster " + t.Cluster + " has none"
	case p.sawOpen:
		r.outcome, r.reason = telemetry.OutcomeUpstreamOverflow, "BREAKER_OPEN"
		var why string
		why, r.after = c.broken()
		r.message = fmt.Sprintf("the circuit breakers of all available endpoints of cluster %s are open for %s: %s", t.Cluster, c.rules.Full, why)
		c.f.rec.Limited(t.Cluster, telemetry.LimitBreaker)
	case p.sawFull:
		r.outcome, r.reason = telemetry.OutcomeUpstreamOverflow, "ENDPOINTS_FULL"
		r.message = fmt.Sprintf("each available endpoint of cluster %s has its %d calls (trunkline.cluster.concurrency.maxStreamsPerEndpoint)",
			t.Cluster, c.rules.Cluster.Concurrency.MaxStreamsPerEndpoint)
		c.note(decision.Note{Kind: decision.NoteConcurrency, Name: "every endpoint of " + t.Cluster, A: int64(c.rules.Cluster.Concurrency.MaxStreamsPerEndpoint),
			B: int64(c.rules.Cluster.Concurrency.MaxStreamsPerEndpoint), Refused: true})
		c.f.rec.Limited(t.Cluster, telemetry.LimitConcurrency)
	default:
		last := t.Endpoints[0].LastError()
		if k := len(c.attempts); k > 0 {
			r.outcome, last = telemetry.OutcomeUpstreamConnectFailure, c.attempts[k-1].at.LastError()
		}
		states := map[string]int{}
		for _, ep := range t.Endpoints {
			states[balance.StateString(ep.State())]++
		}
		var list []string
		for _, s := range slices.Sorted(maps.Keys(states)) {
			list = append(list, fmt.Sprintf("%d %s", states[s], cmp.Or(s, "ready")))
		}
		r.message = fmt.Sprintf("no healthy endpoint: cluster %s has %d, none is up (%s)", t.Cluster, n, strings.Join(list, "; "))
		if last != "" {
			r.message += "; last error: " + last
		}
	}
	r.message += tried
	return r
}

// broken says of the first breakers that shut off the call's endpoints why, and when the earliest lets a probe through.
func (c *Call) broken() (why string, after time.Duration) {
	now := c.f.shard.Now()
	var said []string
	for i, ep := range c.e.target.Endpoints {
		for k, b := range c.breakers(i) {
			if b == nil || b.Closed() {
				continue
			}
			v := b.View(now)
			wait := time.Duration(max(0, v.OpenUntil-now))
			name := ep.Address
			if k == 0 {
				name += " x " + c.rules.Full
			}
			c.note(decision.Note{Kind: decision.NoteBreaker, Name: name, Text: v.Reason, Wait: wait, A: int64(v.Opened), Refused: true})
			if len(said) < 3 {
				said = append(said, fmt.Sprintf("%s %s: %s", name, v.State, v.Reason))
			}
			if after == 0 || wait < after {
				after = wait
			}
		}
	}
	return strings.Join(said, "; "), max(after, time.Millisecond)
}

// exhausted is the refusal of a call that was turned away too often.
func (c *Call) exhausted() refusal {
	return refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeRetryLimit, reason: "NOT_PLACED",
		message: fmt.Sprintf("cluster %s: %d endpoints in a row did not take the call; last: %s", c.e.target.Cluster, len(c.attempts), c.message)}
}

// note keeps what else had a say in the call, for its record.
func (c *Call) note(n decision.Note) {
	if len(c.notes) >= decision.MaxNotes {
		c.notes[decision.MaxNotes-1] = n
		return
	}
	n.At = time.Duration(c.f.shard.Now() - c.arrived)
	if n.Attempt = int8(len(c.attempts) - 1); n.Refused && n.Kind != decision.NoteBudget && n.Kind != decision.NoteThrottle {
		n.Attempt = -1
	}
	c.notes = append(c.notes, n)
}
