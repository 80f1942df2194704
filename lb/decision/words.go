package decision

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/retry"
)

// span writes a duration with three digits at most: "0.12 ms", "34.2 ms", "1.2 s", "2m5s".
func span(d time.Duration) string {
	if d < 0 {
		return "-" + span(-d)
	}
	digits := func(v float64, unit string) string {
		decimals := 0
		switch {
		case v < 10:
			decimals = 2
		case v < 100:
			decimals = 1
		}
		s := strconv.FormatFloat(v, 'f', decimals, 64)
		if decimals > 0 {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s + " " + unit
	}
	switch {
	case d < 999500*time.Microsecond:
		return digits(float64(d)/1e6, "ms")
	case d < 100*time.Second:
		return digits(d.Seconds(), "s")
	}
	return d.Round(time.Second).String()
}

// ago writes how long ago something was, coarsely.
func ago(d time.Duration) string {
	switch {
	case d < 100*time.Second:
		return span(d)
	case d < 100*time.Minute:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " days"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// join writes "a", "a and b", "a, b and c".
func join(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

func size(n int64) string {
	switch {
	case n < 10<<10:
		return count(int(n), "byte")
	case n < 10<<20:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n>>20, 10) + " MiB"
}

// milli writes thousandths: 1500 as "1.5".
func milli(n int64) string { return strconv.FormatFloat(float64(n)/1000, 'f', -1, 64) }

// picked says why the picker chose an endpoint.
func picked(r balance.Reason) string {
	switch r {
	case balance.ReasonOnlyOne:
		return "there is no other"
	case balance.ReasonP2CLessLoaded:
		return "the less loaded of two drawn at random"
	case balance.ReasonP2CTie:
		return "the first of two drawn at random, which were equally loaded"
	case balance.ReasonP2COtherDown:
		return "two were drawn at random, and the other cannot be reached"
	case balance.ReasonP2COtherAvoided:
		return "two were drawn at random, and the other had failed this call before"
	case balance.ReasonP2COtherUnhealthy:
		return "two were drawn at random, and the other fails its health check"
	case balance.ReasonP2COtherEjected:
		return "two were drawn at random, and the other is ejected for failing too often"
	case balance.ReasonP2COtherWarming:
		return "two were drawn at random, and the other has just come and warms up"
	case balance.ReasonP2COtherClosed:
		return "two were drawn at random, and the other is kept shut by its breaker or its limit"
	case balance.ReasonRoundRobin:
		return "it was its turn"
	case balance.ReasonRoundRobinSkipped:
		return "it was its turn, after others that could not be taken"
	case balance.ReasonScanAvailable:
		return "both that were drawn could not be taken; it was the least loaded of all that could"
	case balance.ReasonOnlyAvoided:
		return "it had failed this call before, but no other is available"
	case balance.ReasonOnlyWarming:
		return "it has just come and warms up, but no other is available"
	case balance.ReasonPanic:
		return "it is unhealthy or ejected, but so are too many others, and then all are used"
	}
	return r.String()
}

// cut: Trunkline gave the attempt up for a reason of its own, which says nothing of the endpoint.
func (a *Attempt) cut() bool {
	if a.Evidence != retry.EvidenceNone || a.Lost {
		return false
	}
	switch a.Outcome {
	case telemetry.OutcomeLocalReset, telemetry.OutcomeOverloaded, telemetry.OutcomeDownstreamProtocolError, telemetry.OutcomeRateLimited:
		return true
	}
	return false
}

// failed says how an attempt failed, the endpoint being the subject: "answered UNAVAILABLE".
func (a *Attempt) failed() string {
	switch {
	case a.TimedOut || a.Outcome == telemetry.OutcomeUpstreamTimeout && a.PerTry > 0 && a.Sent > 0 && a.End-a.Sent >= a.PerTry:
		return "did not answer within its per-try timeout of " + span(a.PerTry)
	case a.Evidence == retry.NeverSent:
		return "could not be reached, so the call was never sent to it"
	case a.Evidence == retry.Refused:
		return "refused the call unprocessed"
	case a.Evidence == retry.ByStatus, a.Outcome == telemetry.OutcomeOK && a.Status != grpc.OK:
		return "answered " + a.Status.String()
	}
	switch a.Outcome {
	case telemetry.OutcomeUpstreamConnectionEnd:
		return "lost the connection before its answer was complete"
	case telemetry.OutcomeUpstreamReset:
		return "reset the stream (" + a.Status.String() + ")"
	case telemetry.OutcomeUpstreamTimeout:
		if a.Status == grpc.Unavailable {
			return "was silent for too long"
		}
		return "had not answered when the call's time was up"
	case telemetry.OutcomeUpstreamProtocolError:
		return "broke the HTTP/2 protocol"
	case telemetry.OutcomeUpstreamConnectFailure:
		return "could not be reached"
	case telemetry.OutcomeDownstreamEnd:
		return "had not answered when the client went away"
	case telemetry.OutcomeUpstreamOverflow:
		return "has as many calls waiting for a connection as it may have"
	}
	return "ended the attempt with " + a.Status.String()
}

// bad says that an attempt failed, rather than ended well or was given up for another reason.
func (a *Attempt) bad() bool {
	return !a.Lost && (a.Status != grpc.OK || a.Evidence != retry.EvidenceNone)
}

// fault is how an endpoint failed attempts of a call.
type fault struct {
	endpoint, how string // "10.0.0.3:7001", "answered UNAVAILABLE"
	times, of     int    // of its attempts
}

func (d *Decision) faults() (list []fault) {
	tries := map[string]int{}
	at := map[[2]string]int{}
	for i := range d.Attempts() {
		a := &d.Attempts()[i]
		tries[a.Endpoint]++
		if !a.bad() {
			continue
		}
		k := [2]string{a.Endpoint, a.failed()}
		if _, ok := at[k]; !ok {
			at[k] = len(list)
			list = append(list, fault{endpoint: k[0], how: k[1]})
		}
		list[at[k]].times++
	}
	for i := range list {
		list[i].of = tries[list[i].endpoint]
	}
	return list
}

// share is "(2 of 3 attempts)"; "" for the only one.
func (f *fault) share() string {
	if f.of < 2 {
		return ""
	}
	return fmt.Sprintf(" (%d of %d attempts)", f.times, f.of)
}

// blame says who failed the call, and how: "10.0.0.3:7001 answered UNAVAILABLE (2 of 2 attempts)"; "" if nobody did.
func (d *Decision) blame() string {
	var list []string
	for _, f := range d.faults() {
		list = append(list, f.endpoint+" "+f.how+f.share())
	}
	return join(list)
}

// String says in words what a note is about.
func (n *Note) String() string {
	refused := func(no, yes string) string {
		if n.Refused {
			return no
		}
		return yes
	}
	wait := func(format string) string {
		if n.Wait <= 0 {
			return ""
		}
		return fmt.Sprintf(format, span(n.Wait))
	}
	switch n.Kind {
	case NoteRateLimit:
		return fmt.Sprintf("rate limit of %s, %s calls/s with a burst of %d: %s", n.Name, milli(n.A), n.B, refused("over it"+wait("; the next call would be let through in %s"), "within it"))
	case NoteGlobalLimit:
		return "rate limit service, domain " + n.Name + ": " + n.Text + wait("; to be tried again in %s")
	case NoteConcurrency:
		return fmt.Sprintf("limit of calls at once on %s: %d of %d in use%s", n.Name, n.A, n.B, refused(", so there is no place", ""))
	case NoteAdaptive:
		return fmt.Sprintf("adaptive limit of calls at once on %s: %d of %d in use%s; it shrinks when the endpoints get slower", n.Name, n.A, n.B, refused(", so there is no place", ""))
	case NoteQueue:
		s := fmt.Sprintf("queue for a place on cluster %s, with %s waiting", n.Name, count(int(n.A), "other call"))
		if n.B > 0 {
			s += fmt.Sprintf(" (%d may)", n.B)
		}
		if n.Wait <= 0 {
			return s + refused(", and there is no more room in it", "")
		}
		return s + wait("; it waited %s") + refused(" and got none", "")
	case NoteBreaker:
		return "circuit breaker of " + n.Name + " is open, nothing is sent there: " + n.Text + wait("; it lets a probe through in %s") + opened(n.A)
	case NoteProbe:
		return "circuit breaker of " + n.Name + " is half open, and this call is a probe: " + n.Text
	case NoteOverload:
		return "Trunkline itself is overloaded: " + n.Text
	case NoteReplay:
		return fmt.Sprintf("the request has %s so far, more than the %s that are kept for another attempt: from here on none is possible", size(n.A), size(n.B))
	case NoteHold:
		return "the response headers had been held back for " + span(n.Wait) + " and were let go: from here on no other attempt is possible"
	case NoteMessageSize:
		return fmt.Sprintf("a %s message of %s, where the limit is %s", n.Name, size(n.A), size(n.B))
	case NotePanic:
		return fmt.Sprintf("only %d of %s are healthy: too few, so all of them are used again", n.A, count(int(n.B), "endpoint"))
	case NoteHopeless:
		return fmt.Sprintf("half of the last %d calls of the method took longer than %s", n.B, span(time.Duration(n.A)))
	case NotePushback:
		return refused("the server says by grpc-retry-pushback-ms that the call must not be retried", "the server asks by grpc-retry-pushback-ms to wait "+span(n.Wait)+" before a retry")
	case NoteIdle:
		return "no frame in either direction for " + span(n.Wait)
	case NoteBudget:
		return fmt.Sprintf("retry budget of cluster %s: %s retries left%s", n.Name, milli(n.A), refused(", and a retry takes 1", ""))
	case NoteThrottle:
		return fmt.Sprintf("retryThrottling of cluster %s: %s of %s tokens left; retries need more than half", n.Name, milli(n.A), milli(n.B))
	case NoteHedge:
		return "a hedge was due" + wait(" after %s without an answer") + ": " + hedgeWords(n.A)
	case NoteDrain:
		return "Trunkline drains; live calls had " + span(n.Wait)
	case NoteGate, NotePayload:
		if n.A != 0 {
			return "(shadow) " + n.Name + " would have refused the call: " + n.Text
		}
		return n.Name + ": " + n.Text
	}
	return strings.TrimSpace(n.Kind.String() + " " + n.Name + " " + n.Text)
}

func opened(times int64) string {
	if times < 2 {
		return ""
	}
	return fmt.Sprintf(" (it opened %d times so far)", times)
}
