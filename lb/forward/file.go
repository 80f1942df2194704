package forward

import (
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
)

// file keeps the record of how a finished call was decided: nothing in it may be borrowed from the call. The record is valid
// until the next call is filed.
func (f *Forwarder) file(c *Call, end, own int64) *decision.Decision {
	d := f.book.Next()
	d.Arrived, d.Took, d.Own = f.shard.Wall(c.arrived).UnixNano(), time.Duration(end-c.arrived), time.Duration(own)
	d.TraceID, d.HasTrace = c.traceID()
	d.Peer, d.Caller, d.Generation = c.d.Peer(), c.who.Named(), c.gen.Number
	d.Status, d.Local, d.Outcome = c.status, c.local, c.outcome
	d.Committed, d.Previous = c.started, uint16(c.previous)
	d.MessagesIn, d.MessagesOut, d.BytesIn, d.BytesOut = c.messagesIn, c.messagesOut, c.bytesIn, c.bytesOut
	if c.status != grpc.OK {
		d.Message, d.Reason = c.message, c.reason
	}
	if c.asked != 0 {
		d.Received, d.HasReceived = time.Duration(c.asked), true
	}
	if c.deadline != 0 {
		d.Limit = time.Duration(c.deadline - c.arrived)
	}
	if c.e != nil {
		d.Method, d.Route, d.Match, d.Cluster = c.rules.Full, c.e.route.Rule.Name, c.e.match, c.e.target.Cluster
		d.Balancer, d.Pool = c.e.target.Picker.Policy(), c.e.target.Pool
		r := c.rules
		d.Policy, d.PolicyFrom, d.Timeout = r.Name, r.Cluster.Source, r.Timeout
		d.Settings, d.IdempotentWhy = r.Method, r.IdempotentWhy
		d.Retries, d.Hedges, d.Idempotent = r.Retry != nil, r.Hedge != nil, r.Idempotent
	} else {
		d.Method = c.pathText()
	}
	d.Authority = f.book.Own(c.auth)
	for _, a := range c.attempts {
		to := d.AddAttempt()
		*to = a.rec
		to.Endpoint = a.at.Address
		to.Start, to.End = time.Duration(a.start-c.arrived), time.Duration(a.end-c.arrived)
		if a.open {
			to.End = time.Duration(end - c.arrived)
		}
		if a.gone {
			to.Sent = max(1, time.Duration(a.sent-c.arrived))
		}
	}
	for i := range c.notes {
		*d.AddNote() = c.notes[i]
	}
	f.book.Done(d)
	return d
}

// pathText is the path of a call that no route took, its own.
func (c *Call) pathText() string {
	if c.path == nil {
		return ""
	}
	return strings.Clone(strings.TrimPrefix(c.path.Value[:min(len(c.path.Value), 256)], "/"))
}

// traceID is the call's, from its traceparent whether it is sampled or not.
func (c *Call) traceID() (id [16]byte, ok bool) {
	if c.trace != nil {
		return c.trace.ID(), true
	}
	return telemetry.ParseTraceID(c.heard(parent))
}
