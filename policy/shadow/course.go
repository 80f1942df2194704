package shadow

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/deadline"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/retry"
)

// middling makes a backoff's jitter exactly 1.
const middling = 1 << 63

// course goes through the call's attempts until shadow and live part.
func (j *judgement) course() {
	c := j.c
	attempts := c.Attempts
	if hedged(attempts) {
		switch {
		case j.s.Hedge != nil && j.idempotent():
			j.deadlineBy(c.Took) // how the shadow would have spaced the copies is not gone into
			return
		case attempts[0].Lost || attempts[0].Evidence != retry.EvidenceNone:
			if !j.deadlineBy(attempts[0].Start + attempts[0].Took) {
				j.parts(KindHedge, "would have been sent to %s alone", attempts[0].Endpoint)
			}
			return
		}
		attempts = attempts[:1] // it won: the copies changed nothing
	}
	f := retry.Failure{Previous: c.Previous, Idempotent: j.idempotent(), Random: middling}
	for i := range attempts {
		if j.attempt(&f, attempts, i) {
			return
		}
	}
	if len(attempts) == 0 && j.outOfTime(c.Took) {
		return
	}
	j.end()
}

func hedged(attempts []Attempt) bool {
	for i := range attempts {
		if attempts[i].Hedge {
			return true
		}
	}
	return false
}

// attempt judges attempt i and what follows it. Parted: nothing that came after would have been the same, or nothing did come.
func (j *judgement) attempt(f *retry.Failure, attempts []Attempt, i int) (parted bool) {
	c, s, a := j.c, j.s, &attempts[i]
	last := i == len(attempts)-1
	start, cut := a.Start-j.gained, s.PerTryTimeout > 0 && a.answered() > s.PerTryTimeout
	end := start + a.Took
	if cut {
		end = start + s.PerTryTimeout
		j.gained += a.Took - s.PerTryTimeout
	}
	if j.breaks(a, cut) || i == 0 && j.hedgesSlow(a, end) || j.deadlineBy(end) {
		return true
	}
	f.HasDeadline, f.Left = j.time.Limit > 0, j.time.Limit-end
	if cut && !a.PerTry {
		j.cutShort(f, i, a)
		return true
	}
	f.Evidence, f.Status, f.PerTry = a.Evidence, a.Status, a.PerTry
	f.Pushback, f.HasPushback, f.NoRetry = a.Pushback, a.HasPushback, a.NoRetry
	switch {
	case a.PerTry && (s.PerTryTimeout == 0 || s.PerTryTimeout > j.p.live.PerTryTimeout):
		j.parts(KindPerTry, "attempt %d would have been given more than its %s", i+1, brief(a.Took))
		return true
	case c.Cause == CauseDeadline && last && !a.PerTry:
		j.outOfTime(end)
		return true
	case a.Evidence == retry.EvidenceNone, last && c.Cause != CauseNone && c.Cause != CauseOther:
		return false // something else ended the call
	case a.Evidence == retry.NeverSent || a.Evidence == retry.Refused:
		return j.redispatch(f, a, last)
	}
	f.Attempts++
	f.Replayable = j.keeps() && (c.Replayable || !last) // what was sent again could be
	if s.Hedge != nil {
		return j.hedgesFailed(a, f, last)
	}
	d := retry.Decide(s.Retry, f, j.p.o.Retries, j.p.o.Throttle)
	switch {
	case d.Retry && last:
		j.parts(KindRetry, "attempt %d failed with %s: would have been %s", f.Attempts, a.Status, d.Why)
		return true
	case !d.Retry && !last:
		j.ends(KindRetry, a.Status, "would have ended with %s after attempt %d: %s", a.Status, f.Attempts, d.Why)
		return true
	}
	if d.Why == retry.RetryPushback {
		f.PushedAt = f.Attempts
	}
	return false
}

// redispatch judges what follows an attempt that was certainly not executed. No policy decides that, but a deadline may.
func (j *judgement) redispatch(f *retry.Failure, a *Attempt, last bool) bool {
	f.Replayable = true // and how often is not counted: the rest of the decision is the live one's
	d := retry.Decide(nil, f, nil, nil)
	if !d.Retry && !last {
		j.ends(KindDeadline, a.Status, "would have ended with %s: its deadline of %s had come", a.Status, brief(j.time.Limit))
		return true
	}
	t := deadline.Decide(deadline.Facts{Received: j.c.Received, HasReceived: j.c.HasReceived, Policy: j.p.live.Timeout})
	if d.Retry && last && t.Limit > 0 && a.Start+a.Took >= t.Limit {
		j.parts(KindDeadline, "would have had time to be sent again")
		return true
	}
	return false
}

// answered is how long the attempt was without an answer.
func (a *Attempt) answered() time.Duration {
	if a.First > 0 {
		return a.First
	}
	return a.Took
}

// hedgesSlow judges a first attempt that was not answered in time for a policy that hedges. It was over at end.
func (j *judgement) hedgesSlow(a *Attempt, end time.Duration) bool {
	p := j.s.Hedge
	if p == nil {
		return false
	}
	delay := hedge.Delay(p, j.p.recent, j.now)
	at := a.Start + delay
	if at >= min(a.Start+a.answered(), end) || j.time.Limit > 0 && at >= j.time.Limit {
		return false
	}
	facts := hedge.Facts{Sent: 1, Live: 1, Previous: j.c.Previous, Idempotent: j.idempotent(), Replayable: j.keeps(), Throttle: j.p.o.Throttle, Budget: j.p.o.Hedges}
	if !hedge.Decide(p, &facts).Send {
		return false
	}
	j.parts(KindHedge, "would have been sent to a second endpoint after %s (the first took %s to answer)", brief(delay), brief(a.answered()))
	return true
}

// hedgesFailed judges a failed attempt for a policy that hedges.
func (j *judgement) hedgesFailed(a *Attempt, f *retry.Failure, last bool) bool {
	p := j.s.Hedge
	fatal := hedge.Fatal(p, a.Status)
	if !fatal || a.NoRetry {
		j.p.o.Throttle.Failed()
	}
	facts := hedge.Facts{Sent: f.Attempts, Previous: f.Previous, Idempotent: f.Idempotent, NoMore: fatal || a.NoRetry, Replayable: f.Replayable,
		Throttle: j.p.o.Throttle, Budget: j.p.o.Hedges, Left: f.Left, HasDeadline: f.HasDeadline}
	d := hedge.Decide(p, &facts)
	switch {
	case d.Send && last:
		j.parts(KindHedge, "attempt %d failed with %s: would have been followed by another copy", f.Attempts, a.Status)
	case !d.Send && !last:
		j.ends(KindHedge, a.Status, "would have ended with %s after attempt %d: %s", a.Status, f.Attempts, d.Why)
	}
	return d.Send == last // else both went on, or both ended here
}

// deadlineBy judges whether the shadow's time would have been up before something happened that long after arrival.
func (j *judgement) deadlineBy(at time.Duration) bool {
	if j.time.Limit == 0 || j.time.Limit >= at {
		return false
	}
	if j.c.Cause != CauseDeadline && j.c.Status != grpc.DeadlineExceeded {
		j.ends(KindDeadline, grpc.DeadlineExceeded, "would have met its deadline of %s, the %s's (it took %s)", brief(j.time.Limit), j.time.Source, brief(j.c.Took))
	}
	return true
}

// outOfTime judges a call that met its deadline after the given time.
func (j *judgement) outOfTime(at time.Duration) bool {
	if j.c.Cause != CauseDeadline {
		return j.deadlineBy(at)
	}
	if j.time.Limit == 0 {
		j.parts(KindDeadline, "would have had no deadline")
	} else if j.time.Limit > j.c.Took {
		j.parts(KindDeadline, "would have had %s, the %s's", brief(j.time.Limit), j.time.Source)
	}
	return true
}

// cutShort notes an attempt that the shadow's per-try timeout would have cut, before anything of its response had come.
func (j *judgement) cutShort(f *retry.Failure, i int, a *Attempt) {
	f.Evidence, f.Status, f.PerTry = retry.Ambiguous, grpc.Unavailable, true
	f.HasPushback, f.NoRetry = false, false
	f.Attempts++
	f.Replayable = j.keeps()
	d := retry.Decide(j.s.Retry, f, j.p.o.Retries, j.p.o.Throttle)
	if d.Retry {
		j.parts(KindPerTry, "attempt %d would have been cut after %s (it took %s to answer), and %s", i+1, brief(j.s.PerTryTimeout), brief(a.answered()), d.Why)
		return
	}
	j.ends(KindPerTry, grpc.Unavailable, "attempt %d would have been cut after %s (it took %s to answer), and %s", i+1, brief(j.s.PerTryTimeout), brief(a.answered()), d.Why)
}

// breaks asks the shadow's breaker for the attempt's endpoint, and tells it how the attempt ended.
func (j *judgement) breaks(a *Attempt, cut bool) bool {
	if j.p.breakers == nil || a.Evidence == retry.NeverSent || a.Endpoint == "" {
		return false
	}
	b := j.p.breakers.Get(a.Endpoint, j.c.Method, j.now)
	ok, probe := b.Admit(j.now)
	if !ok {
		j.parts(KindBreaker, "would not have gone to %s: its breaker would have been open (%s)", a.Endpoint, b.View(j.now).Reason)
		return true
	}
	r := breaker.OK
	switch {
	case a.Lost || a.Evidence == retry.Refused || j.c.Cause == CauseCancel:
		r = breaker.Neutral
	case cut || a.PerTry:
		if j.p.faults.Has(grpc.DeadlineExceeded) {
			r = breaker.Fault
		}
	case a.Evidence != retry.EvidenceNone && j.p.faults.Has(a.Status):
		r = breaker.Fault
	}
	b.Done(j.now, r, probe)
	return false
}

// end judges a call whose attempts would all have been the same.
func (j *judgement) end() {
	c, s := j.c, j.s
	if c.Status == grpc.OK {
		j.p.o.Throttle.Succeeded()
	}
	tooLong := exceeds(c.ResponseLongest, s.MaxResponseBytes)
	switch {
	case tooLong && c.Cause != CauseResponseSize:
		j.ends(KindMessageSize, grpc.ResourceExhausted, "a response message of %s would have been refused: over %s", bytes(int64(c.ResponseLongest)), bytes(s.MaxResponseBytes))
	case !tooLong && c.Cause == CauseResponseSize:
		j.parts(KindMessageSize, "a response message of %s would have been let through", bytes(int64(c.ResponseLongest)))
	}
	idle := s.IdleTimeout > 0 && c.Idle > s.IdleTimeout
	switch {
	case idle && c.Cause != CauseIdle:
		j.parts(KindIdle, "would have been ended after %s without a frame (it was silent for %s)", brief(s.IdleTimeout), brief(c.Idle))
	case c.Cause == CauseIdle && (s.IdleTimeout == 0 || s.IdleTimeout > j.p.live.IdleTimeout):
		j.parts(KindIdle, "would have been let be after %s without a frame", brief(j.p.live.IdleTimeout))
	}
}
