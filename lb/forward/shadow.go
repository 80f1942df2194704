package forward

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/shadow"
)

// shade gives a finished call to the policy that is looked at beside the one that held.
func (f *Forwarder) shade(c *Call, end int64) {
	r := c.rules
	s := &shadow.Call{
		Method: r.Full, Now: c.arrived, Received: time.Duration(c.asked), HasReceived: c.asked != 0, Took: time.Duration(end - c.arrived),
		Status: c.status, Local: c.local, LocalReason: c.reason, Cause: c.cause(),
		RequestLongest: c.in.Longest(), RequestBytes: int64(c.bytesIn), Previous: c.previous, Idempotent: r.Declared, RateKeys: c.shadowKeys,
		Attempts: make([]shadow.Attempt, 0, len(c.attempts)),
	}
	s.TraceID, _ = c.traceID()
	messages := uint32(0)
	for i, a := range c.attempts {
		at := shadow.Attempt{Evidence: a.rec.Evidence, Status: a.rec.Status, PerTry: a.rec.TimedOut, Wait: a.rec.Wait, Endpoint: a.at.Address,
			Hedge: a.rec.Kind == decision.Hedge && i > 0, Lost: a.rec.Lost, Pushback: a.pushback.after, HasPushback: a.pushback.has, NoRetry: a.pushback.no}
		if a.gone {
			at.Start = time.Duration(a.sent - c.arrived)
			if a.end >= a.sent {
				at.Took = time.Duration(a.end - a.sent)
			}
			if a.first != 0 {
				at.First = max(1, time.Duration(a.first-a.sent))
			}
		}
		if a == c.winner {
			s.ResponseLongest = a.out.Longest()
			messages = c.messagesOut
		}
		s.Attempts = append(s.Attempts, at)
	}
	s.Replayable = messages == 0
	r.Shadow.Offer(s)
}

// cause is why Trunkline itself ended the call, as far as a method's policy decides it.
func (c *Call) cause() shadow.Cause {
	if c.outcome == telemetry.OutcomeDownstreamEnd {
		return shadow.CauseCancel
	}
	if !c.local || c.status == grpc.OK {
		return shadow.CauseNone
	}
	switch c.reason {
	case "DEADLINE_EXCEEDED":
		return shadow.CauseDeadline
	case "DEADLINE_HOPELESS":
		return shadow.CauseHopeless
	case "RATE_LIMITED":
		return shadow.CauseRate
	case "CONCURRENCY_LIMIT", "QUEUE_TIMEOUT":
		if c.rules.Streams != nil {
			return shadow.CauseConcurrency
		}
	case "BREAKER_OPEN":
		return shadow.CauseBreaker
	case "MESSAGE_TOO_LARGE":
		if most := c.rules.MaxRequestBytes; most >= 0 && int64(c.in.Longest()) > most {
			return shadow.CauseRequestSize
		}
		return shadow.CauseResponseSize
	case "IDLE_TIMEOUT":
		return shadow.CauseIdle
	case "UPSTREAM_CONNECTION_LOST", "UPSTREAM_PROTOCOL_ERROR", "PER_TRY_TIMEOUT":
		return shadow.CauseNone
	}
	return shadow.CauseOther
}
