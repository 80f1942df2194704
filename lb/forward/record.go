package forward

import (
	"net"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
)

// afterFlush tells metrics, traces and the access log of the calls that finished in this batch: step 13. end is when the
// batch's last byte went to the kernel.
func (f *Forwarder) afterFlush(end int64) {
	for i, c := range f.done {
		f.tell(c, end)
		for _, h := range c.told {
			if h != nil {
				f.shard.Env.Interner.Release(h)
			}
		}
		c.told, c.auth = [3]*hpack.Field{}, ""
		c.dropRequest()
		f.done[i] = nil
		f.recycle(c)
	}
	f.done = f.done[:0]
}

func (f *Forwarder) tell(c *Call, end int64) {
	if c.e != nil && !c.e.known && c.status == grpc.OK {
		// The endpoints know the method: it gets numbers of its own.
		c.e.known = true
		c.e.stats = f.tel.Method(c.e.service+"/"+c.e.method, true)
		f.rec.Rename(c.stats, c.e.stats)
		c.stats = c.e.stats
	}
	total := end - c.arrived
	up, own := c.times(end)
	r := &f.record
	*r = telemetry.Finish{
		Method: c.stats, Status: uint32(c.status), Local: c.local, Outcome: c.outcome, Attempts: uint8(len(c.attempts)),
		Total: total, Upstream: up, Own: own,
		MessagesIn: c.messagesIn, MessagesOut: c.messagesOut, BytesIn: c.bytesIn, BytesOut: c.bytesOut,
	}
	f.rec.Record(r)
	d := f.file(c, end, own)
	if c.rules != nil && c.rules.Shadow != nil {
		f.shade(c, end)
	}
	if f.tel.WantRecord(uint32(c.status), total, c.trace) {
		f.tel.Export(c.fullRecord(d, end, up, own))
	}
}

// times splits a call's time: with the upstream, and what Trunkline itself added (from the read of the request to the flush of
// it, waiting for a connection, and from the read of the end of the response to its flush).
func (c *Call) times(end int64) (up, own int64) {
	total := end - c.arrived
	if len(c.attempts) == 0 || c.sent == 0 {
		return 0, total
	}
	if len(c.attempts) > 1 {
		// Hedges run beside each other: their time counts once.
		until := c.arrived
		for _, a := range c.attempts {
			if a.open {
				a.end = end
			}
			if from := max(a.start, until); a.end > from {
				up += a.end - from
				until = a.end
			}
		}
		return up, max(0, total-up)
	}
	f := c.f
	flushed := func(round uint64, began int64) int64 {
		if round == f.shard.Round() {
			return end
		}
		return max(f.shard.FlushedAt(round), began)
	}
	gone := flushed(c.sentRound, c.sent)
	own = gone - c.arrived
	if c.upEnded == 0 {
		return max(0, end-gone), own
	}
	return max(0, c.upEnded-gone), own + flushed(c.upRound, c.upEnded) - c.upEnded
}

// fullRecord is all there is to say about a finished call. Every string in it is the record's own.
func (c *Call) fullRecord(d *decision.Decision, end, up, own int64) *telemetry.CallRecord {
	f := c.f
	r := &telemetry.CallRecord{
		Trace: c.trace, Authority: strings.Clone(c.auth), Peer: c.d.Peer(), Caller: c.who.Named(), Generation: c.gen.Number,
		Start: f.shard.Wall(c.arrived), End: f.shard.Wall(end),
		Status: uint32(c.status), StatusMessage: c.message, Local: c.local, Outcome: c.outcome,
		MessagesIn: c.messagesIn, MessagesOut: c.messagesOut, BytesIn: c.bytesIn, BytesOut: c.bytesOut,
		Total: time.Duration(end - c.arrived), Upstream: time.Duration(up), Own: time.Duration(own),
	}
	if c.e != nil {
		r.Service, r.Method, r.Route, r.Cluster = c.e.service, c.e.method, c.e.route.Rule.Name, c.e.target.Cluster
	} else {
		r.Unknown = true
		if c.path != nil {
			p := strings.Clone(c.path.Value[:min(len(c.path.Value), 256)])
			if s, m, ok := grpc.SplitPath(p); ok {
				r.Service, r.Method = s, m
			} else {
				r.Method = p
			}
		}
	}
	if c.trace != nil {
		r.Events = d.Events()
	}
	r.UserAgent, r.Traceparent = strings.Clone(c.heard(agent)), strings.Clone(c.heard(parent))
	for _, a := range c.attempts {
		if a.open {
			a.end = end
		}
		t := telemetry.AttemptRecord{
			Endpoint: a.at.Address, PickReason: a.rec.Pick.String(), Start: f.shard.Wall(a.start), End: f.shard.Wall(a.end),
			Status: uint32(a.rec.Status), Outcome: a.rec.Outcome, Evidence: a.rec.Evidence.String(),
			Kind: a.rec.Kind.String(), Why: a.rec.Why.Code(),
		}
		r.Attempts = append(r.Attempts, t)
	}
	return r
}

// Peer is the client's address.
func (d *Down) Peer() string {
	if d.peer == "" {
		if d.from == nil {
			d.from = d.Net.RemoteAddr()
		}
		if d.from != nil {
			d.peer = d.from.String()
		}
	}
	return d.peer
}

// address is the client's address without its port: what limits per client go by.
func (d *Down) address() string {
	if d.host == "" {
		d.host = d.Peer()
		if h, _, err := net.SplitHostPort(d.host); err == nil {
			d.host = h
		}
	}
	return d.host
}
