package decision

import (
	"fmt"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/retry"
)

// outcomeGone: the client cancelled, or its connection ended.
const outcomeGone = telemetry.OutcomeDownstreamEnd

// ending is why a call ended as it did, and what to do about it.
type ending struct {
	summary string
	advice  []string
}

func (e *ending) say(format string, args ...any) { e.summary += fmt.Sprintf(format, args...) }
func (e *ending) advise(format string, args ...any) {
	e.advice = append(e.advice, fmt.Sprintf(format, args...))
}

// ending finds what decided the call, from the most to the least telling.
func (d *Decision) ending() (e ending) {
	note := d.turnedAway()
	switch {
	case d.Status == grpc.OK:
		d.endedWell(&e)
	case d.Outcome == outcomeGone:
		d.endedByClient(&e)
	case note != nil:
		d.endedByNote(&e, note)
	case d.Status == grpc.DeadlineExceeded && (d.Local || d.Limit > 0 && d.Limit-d.Took < d.Limit/10):
		d.endedByDeadline(&e)
	case d.Outcome == telemetry.OutcomeNoRoute:
		d.endedWithoutRoute(&e)
	case d.Outcome == telemetry.OutcomeDownstreamProtocolError:
		e.say("Trunkline refused the call for what the client sent: %s.", d.Message)
		e.advise("Look at the client: nothing here is to be changed.")
	case d.Local && d.Outcome == telemetry.OutcomeOverloaded:
		e.say("Trunkline held more data for this client's connection than it may, because one side did not read what the other sent: %s.", d.message())
		e.advise("Look at who does not read: the client, or %s. limits.bufferBytesPerConnection is how much may be held.", d.clusterName())
	case d.Local && d.neverSent():
		d.endedUnplaced(&e)
	case d.Tried() == 0:
		e.say("Trunkline ended the call itself with %v, before an endpoint was asked: %s.", d.Status, d.message())
		e.advise("Nothing more is known than the message says.")
	default:
		d.endedByFailure(&e)
	}
	return e
}

// message is what the caller read, for the end of a sentence.
func (d *Decision) message() string {
	if d.Message == "" {
		return "no reason was given"
	}
	return strings.TrimSuffix(d.Message, ".")
}

// turnedAway is the note that ended the call; nil if it was no note.
func (d *Decision) turnedAway() *Note {
	if !d.Local {
		return nil
	}
	for i := len(d.Notes()) - 1; i >= 0; i-- {
		n := &d.Notes()[i]
		switch n.Kind {
		case NoteRateLimit, NoteGlobalLimit, NoteConcurrency, NoteAdaptive, NoteQueue, NoteBreaker, NoteOverload, NoteMessageSize, NoteHopeless, NoteIdle, NoteDrain, NoteGate, NotePayload:
			if n.Refused || n.Kind == NoteQueue && d.Reason == "QUEUE_TIMEOUT" {
				return n
			}
		}
	}
	return nil
}

// neverSent: no attempt got so far that an endpoint could have heard of the call.
func (d *Decision) neverSent() bool {
	for i := range d.Attempts() {
		if d.Attempts()[i].Evidence != retry.NeverSent {
			return false
		}
	}
	return d.Tried() > 0 || d.Outcome == telemetry.OutcomeNoHealthyUpstream || d.Outcome == telemetry.OutcomeUpstreamOverflow
}

// latest is the attempt that was made last; nil if there was none.
func (d *Decision) latest() *Attempt {
	if n := len(d.Attempts()); n > 0 {
		return &d.Attempts()[n-1]
	}
	return nil
}

// winner is the attempt whose answer the caller got: the latest that did not fail.
func (d *Decision) winner() *Attempt {
	for i := len(d.Attempts()) - 1; i >= 0; i-- {
		if a := &d.Attempts()[i]; !a.Lost && !a.bad() {
			return a
		}
	}
	return d.latest()
}

func (d *Decision) endedWell(e *ending) {
	w := d.winner()
	switch {
	case w == nil:
		e.say("Trunkline answered the call itself.")
		return
	case d.Tried() == 1:
		e.say("%s answered at the first attempt.", w.Endpoint)
		return
	}
	blame := d.blame()
	hedged, policy := false, false
	for i := range d.Attempts() {
		hedged = hedged || d.Attempts()[i].Kind == Hedge
		policy = policy || d.Attempts()[i].Kind == Retry
	}
	switch {
	case blame != "" && !policy && !hedged:
		e.say("%s. Trunkline sent the call to another endpoint at once, for it had not been executed, and %s answered: the caller noticed nothing but the time, %s.", blame, w.Endpoint, span(d.Took))
		d.adviseEndpoints(e)
	case blame != "":
		e.say("%s. Trunkline sent the call again, and %s answered: the caller noticed nothing but the time, %s.", blame, w.Endpoint, span(d.Took))
		d.adviseEndpoints(e)
		e.advise("The attempts are bounded by methodConfig[].retryPolicy.maxAttempts, and all retries to the cluster by trunkline.cluster.retryBudget.")
	case hedged:
		slow := ""
		for i := range d.Attempts() {
			if a := &d.Attempts()[i]; a.Lost {
				slow = a.Endpoint
				break
			}
		}
		if w.Kind == Hedge {
			e.say("%s had not answered within %s, so a copy of the call was sent to %s, which answered first: the caller had its answer after %s.", slow, span(d.waitBefore(d.index(w))), w.Endpoint, span(d.Took))
			e.advise("If %s is slow often, look at it; trunkline.cluster.outlierDetection.latency takes such an endpoint out by itself.", slow)
		} else {
			e.say("%s had not answered within the hedging delay, so a copy of the call was sent beside; %s was first after all.", w.Endpoint, w.Endpoint)
		}
		e.advise("How soon copies are sent is methodConfig[].hedgingPolicy.hedgingDelay, or trunkline.methodPolicy[].hedging.delayPercentile; how many in all, trunkline.cluster.hedgeBudget.")
	default:
		e.say("%s answered, at attempt %d.", w.Endpoint, d.Tried())
	}
}

// goesOn: another attempt was to follow.
func goesOn(w retry.Why) bool {
	switch w {
	case retry.RetryUnsent, retry.RetryRefused, retry.RetryStatus, retry.RetryPushback, retry.RetryAmbiguousIdempotent:
		return true
	}
	return false
}

// index is the place of an attempt of d.
func (d *Decision) index(a *Attempt) int {
	for i := range d.Attempts() {
		if &d.Attempts()[i] == a {
			return i
		}
	}
	return 0
}

func (d *Decision) endedByClient(e *ending) {
	a := d.latest()
	switch {
	case a == nil:
		e.say("The client cancelled the call, or its connection ended, after %s, before an endpoint was asked.", span(d.Took))
	case a.Sent == 0:
		e.say("The client cancelled the call, or its connection ended, after %s, while it waited for a connection to %s.", span(d.Took), a.Endpoint)
	case d.Committed:
		e.say("The client cancelled the call, or its connection ended, after %s, amid the answer of %s; the cancellation was passed on to it.", span(d.Took), a.Endpoint)
	default:
		e.say("The client cancelled the call, or its connection ended, after %s, while %s had not answered for %s; the cancellation was passed on to it.", span(d.Took), a.Endpoint, span(d.Took-a.Start))
	}
	switch left := d.Limit - d.Took; {
	case d.Limit > 0 && left < time.Second && left < d.Limit/10:
		e.advise("The call's time was nearly up (%s left): the client watches the same deadline and was first. Read it as a call that ran out of time.", span(max(0, left)))
		d.adviseSlow(e, a)
	default:
		e.advise("Look at the client for why it gave up: Trunkline did not end this call.")
		if a != nil && !d.Committed {
			e.advise("If %s is slow often, look at it.", a.Endpoint)
		}
	}
}

func (d *Decision) endedByDeadline(e *ending) {
	whose := "the time that the caller gave, " + span(d.Limit) + ","
	if d.Limit > 0 && (!d.HasReceived || d.Limit < d.Received) {
		whose = "the policy's timeout of " + span(d.Limit)
	}
	a := d.latest()
	switch {
	case d.HasReceived && d.Received <= 1:
		e.say("The call arrived with no time left: the caller's deadline had passed on the way.")
		e.advise("Look at the caller: it sent a call that it had no time for.")
		return
	case a == nil:
		e.say("The call ran out of time: %s was used up before an endpoint could be asked.", whose)
	case a.Sent == 0:
		e.say("The call ran out of time: %s was used up while the call waited for a connection to %s.", whose, a.Endpoint)
	case a.bad() && goesOn(a.Why):
		e.say("The call ran out of time: %s was used up while Trunkline waited to send the call again; before, %s.", whose, d.blame())
		d.adviseEndpoints(e)
		e.advise("How long Trunkline waits before a retry is methodConfig[].retryPolicy.initialBackoff, unless the server says it (grpc-retry-pushback-ms).")
		if d.HasReceived && d.Limit >= d.Received {
			e.advise("For a retry there must be time: the caller gave %s.", span(d.Received))
		} else {
			e.advise("For a retry there must be time: methodConfig[].timeout in %s is %s.", d.policy(), span(d.Limit))
		}
		return
	case d.Committed:
		e.say("The call ran out of time: %s was used up amid the answer of %s.", whose, a.Endpoint)
	case d.Tried() == 1:
		e.say("The call ran out of time: %s was used up, and %s had not answered for %s.", whose, a.Endpoint, span(a.End-a.Start))
	default:
		e.say("The call ran out of time: %s was used up by %s: %s.", whose, count(d.Tried(), "attempt"), d.blame())
	}
	if a != nil && a.Sent == 0 {
		e.advise("Look at why there was no connection to %s: upstream.connectTimeout bounds a dial.", a.Endpoint)
	}
	d.adviseSlow(e, a)
}

// adviseSlow is for a call whose time was up.
func (d *Decision) adviseSlow(e *ending, a *Attempt) {
	if a != nil && a.Sent > 0 {
		e.advise("Look at why %s takes so long. To compare: trunkline_upstream_duration_seconds of the method on /metrics.", a.Endpoint)
	}
	switch {
	case d.Limit > 0 && d.HasReceived && d.Limit < d.Received:
		e.advise("If the method may take longer, raise methodConfig[].timeout in %s: the caller would have waited %s.", d.policy(), span(d.Received))
	case d.HasReceived:
		e.advise("If the method may take longer, the caller must give it more than %s: no setting of Trunkline can.", span(d.Received))
	case d.Limit > 0:
		e.advise("If the method may take longer, raise methodConfig[].timeout in %s.", d.policy())
	}
	if a != nil && d.Tried() == 1 && a.PerTry == 0 && !d.Committed && a.Sent > 0 {
		s := "So that another endpoint gets a chance while there is time, set trunkline.methodPolicy[].perTryTimeout well below the deadline, with a retryPolicy that lists DEADLINE_EXCEEDED or UNAVAILABLE"
		if !d.Idempotent {
			s += "; only for a method that may be executed twice (trunkline.methodPolicy[].idempotent)"
		}
		e.advise("%s.", s)
	}
	if 2*d.Own > d.Took && d.Took > 0 {
		e.advise("Most of the time, %s, passed in Trunkline itself: see above what it waited for.", span(d.Own))
	}
}

func (d *Decision) endedWithoutRoute(e *ending) {
	e.say("No route leads anywhere for this method: %s.", d.message())
	e.advise("If the method's name is right, register the service that has it (Consul tag \"grpc\", or discovery.static.clusters), or write a route (routes[]).")
	if d.Method != "" {
		e.advise("`trunkline explain %s` says for each rule why it does not match.", d.Method)
	}
}

// endedUnplaced: nobody could be asked.
func (d *Decision) endedUnplaced(e *ending) {
	if d.Outcome == telemetry.OutcomeUpstreamOverflow {
		e.say("There was no place for the call: %s.", d.message())
		e.advise("The endpoint takes connections or streams more slowly than calls come. More endpoints help; upstream.maxPendingPerEndpoint lets more calls wait.")
		return
	}
	if d.Tried() == 0 {
		e.say("Cluster %s has no endpoint that could take the call: %s.", d.Cluster, d.message())
		e.advise("Look at the endpoints of cluster %s: `trunkline explain %s` and the admin page show each with its state and last error.", d.Cluster, d.name())
		e.advise("If they are all ejected or unhealthy though they work, trunkline.cluster.panicShare lets calls through when too few are left.")
		return
	}
	e.say("None of the endpoints of cluster %s could be reached: %s. No endpoint has seen the call.", d.Cluster, d.message())
	d.adviseEndpoints(e)
}

// endedByFailure: the last attempt failed, and no other followed.
func (d *Decision) endedByFailure(e *ending) {
	a := d.latest()
	if a == nil {
		return
	}
	switch blame := d.blame(); {
	case blame == "":
		e.say("%s answered %v.", a.Endpoint, d.Status)
	case d.Tried() == 1:
		e.say("%s.", blame)
	default:
		e.say("All %d attempts failed: %s.", d.Tried(), blame)
	}
	if !d.Local && callersFaults.Has(d.Status) && d.Tried() == 1 {
		e.advise("%v is an answer about the call rather than a fault of the endpoint: look at what the caller asked for.", d.Status)
		return
	}
	why := d.decided(a)
	if why != retry.WhyNone && why != retry.NoFailure {
		e.say(" It was %s.", d.whyNot(a))
	}
	d.adviseEndpoints(e)
	if strings.Contains(a.failed(), "per-try timeout") {
		e.advise("If one attempt may take longer, raise trunkline.methodPolicy[].perTryTimeout in %s.", d.policy())
	}
	d.adviseRetry(e, a, why)
}

// decided is the retry decision after a; if nobody asked for one, the reason for that.
func (d *Decision) decided(a *Attempt) retry.Why {
	switch {
	case a.Why != retry.WhyNone || a.Outcome != telemetry.OutcomeOK: // else it answered, and its answer was relayed
		return a.Why
	case !d.Retries && !d.Hedges:
		return retry.NoPolicy
	case d.Committed:
		return retry.NoCommit
	}
	return retry.WhyNone
}

// whyNot is the retry decision after a, with its numbers.
func (d *Decision) whyNot(a *Attempt) string {
	why := d.decided(a)
	switch why {
	case retry.NoStatus:
		if d.Hedges && !d.Retries {
			return fmt.Sprintf("not sent again: the hedgingPolicy of %s does not list %v among its nonFatalStatusCodes, so it is the call's answer", d.policy(), a.Status)
		}
		return fmt.Sprintf("not retried: the retryPolicy of %s does not list %v among its retryableStatusCodes", d.policy(), a.Status)
	case retry.NoAttempts:
		s := fmt.Sprintf("not retried again: %s are all that the retryPolicy allows", count(d.Tried(), "attempt"))
		if d.Previous > 0 {
			s += fmt.Sprintf(", for the caller had made %d before", d.Previous)
		}
		return s
	case retry.NoBudget:
		if n := d.noted1(NoteBudget); n != nil {
			return fmt.Sprintf("not retried: the retry budget of cluster %s is spent (%s retries left, and a retry takes 1), which keeps retries from multiplying the load of endpoints that fail", n.Name, milli(n.A))
		}
	case retry.NoThrottle:
		if n := d.noted1(NoteThrottle); n != nil {
			return fmt.Sprintf("not retried: retryThrottling holds retries back after too many failures (%s of %s tokens, and retries need more than half)", milli(n.A), milli(n.B))
		}
	case retry.NoReplay:
		if n := d.noted1(NoteReplay); n != nil {
			return fmt.Sprintf("not retried: the request is not kept any more, for it is larger than the %s that are kept", size(n.B))
		}
	case retry.NoTime:
		return fmt.Sprintf("not retried: of its %s only %s were left, less than the wait before a retry", span(d.Limit), span(max(0, d.Limit-a.End)))
	}
	return why.String()
}

// noted1 is the latest note of a kind; nil if there is none.
func (d *Decision) noted1(k NoteKind) *Note {
	for i := len(d.Notes()) - 1; i >= 0; i-- {
		if n := &d.Notes()[i]; n.Kind == k {
			return n
		}
	}
	return nil
}
