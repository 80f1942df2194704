package decision

import (
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/retry"
)

// Events are the record's decisions as events of the call's SERVER span, in the order of time. They allocate: they are for sampled
// calls only.
func (d *Decision) Events() []telemetry.Event {
	var list []telemetry.Event
	arrived := time.Unix(0, d.Arrived)
	add := func(name string, at time.Duration, attempt int, attrs ...attribute.KeyValue) {
		list = append(list, telemetry.Event{Name: name, At: arrived.Add(at), Attempt: attempt, Attrs: attrs})
	}
	for i := range d.Attempts() {
		a := &d.Attempts()[i]
		n := d.number(i) - 1
		if a.Kind == Hedge {
			add(telemetry.EventHedge, a.Start, n, attribute.Bool("trunkline.hedge.sent", true), millis("trunkline.wait_ms", d.waitBefore(i)))
		}
		attrs := []attribute.KeyValue{
			attribute.String("trunkline.endpoint", a.Endpoint), attribute.String("trunkline.pick.reason", a.Pick.String()),
			attribute.String("trunkline.attempt.kind", a.Kind.String()), attribute.Int("trunkline.pick.candidates", int(a.Of)),
		}
		for _, c := range a.Candidates() {
			if name, _ := d.Pool.Member(c.Member); name == a.Endpoint {
				attrs = append(attrs, attribute.Int("trunkline.pick.load", int(c.Load)))
			}
		}
		if out := d.passedOver(a); len(out) > 0 {
			attrs = append(attrs, attribute.StringSlice("trunkline.pick.unavailable", out))
		}
		if a.Given > 0 {
			attrs = append(attrs, millis("trunkline.attempt.given_ms", a.Given))
		}
		add(telemetry.EventPick, a.Start, n, attrs...)
		if a.Why != retry.WhyNone {
			attrs := []attribute.KeyValue{
				attribute.String("trunkline.retry.reason", a.Why.Code()), attribute.String("trunkline.attempt.evidence", a.Evidence.String()),
				attribute.String("trunkline.attempt.status", a.Status.String()), attribute.Bool("trunkline.retry.sent", d.followed(i)),
			}
			if wait := d.waitAfter(i); wait > 0 {
				attrs = append(attrs, millis("trunkline.wait_ms", wait))
			}
			add(telemetry.EventRetry, a.End, n, attrs...)
		}
	}
	rejected := false
	for i := range d.Notes() {
		n := &d.Notes()[i]
		switch {
		case n.Kind == NoteHedge:
			add(telemetry.EventHedge, n.At, int(n.Attempt), attribute.Bool("trunkline.hedge.sent", false), attribute.String("trunkline.hedge.reason", hedge.Why(max(0, min(n.A, 255))).Code()))
		case n.Refused && n.rejects():
			rejected = true
			add(telemetry.EventReject, n.At, int(n.Attempt), attribute.String("trunkline.reject.kind", n.Kind.String()), attribute.String("trunkline.reject.reason", n.String()))
		}
	}
	if !rejected && d.Local && d.Reason != "" {
		add(telemetry.EventReject, d.Took, -1, attribute.String("trunkline.reject.kind", d.Reason), attribute.String("trunkline.reject.reason", d.Message))
	}
	slices.SortStableFunc(list, func(a, b telemetry.Event) int { return a.At.Compare(b.At) })
	return list
}

// rejects: the note turns calls away, rather than retries.
func (n *Note) rejects() bool {
	switch n.Kind {
	case NoteBudget, NoteThrottle, NotePushback, NoteReplay, NoteHold, NotePanic, NoteProbe:
		return false
	}
	return true
}

// followed: another attempt was made for the failure of attempt i.
func (d *Decision) followed(i int) bool {
	for _, a := range d.Attempts()[i+1:] {
		if a.Kind != Hedge && a.Start >= d.Attempts()[i].End {
			return true
		}
	}
	return false
}

// passedOver are the candidates that could not be picked, and why.
func (d *Decision) passedOver(a *Attempt) (out []string) {
	for _, c := range a.Candidates() {
		why := balance.StateString(uint32(c.State))
		if c.Closed {
			why = "closed"
		}
		if name, _ := d.Pool.Member(c.Member); why != "" && name != a.Endpoint {
			out = append(out, name+" "+why)
		}
	}
	return out
}

func millis(key attribute.Key, d time.Duration) attribute.KeyValue {
	return key.Float64(float64(d.Microseconds()) / 1000)
}
