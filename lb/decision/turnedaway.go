package decision

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// endedByNote: a limit, a breaker or the like ended the call.
func (d *Decision) endedByNote(e *ending, n *Note) {
	again := ""
	if n.Wait > 0 {
		again = " The caller was told to come back after " + span(n.Wait) + "."
	}
	before := ""
	if blame := d.blame(); blame != "" {
		before = " Before, " + blame + "."
	}
	switch n.Kind {
	case NoteRateLimit:
		e.say("The call was over the rate limit of %s: %s calls/s with a burst of %d.%s No endpoint was asked.", n.Name, milli(n.A), n.B, again)
		e.advise("If so many calls are right, raise trunkline.methodPolicy[].rateLimits[].requestsPerSecond or .burst in %s; else look at who calls so often.", d.policy())
	case NoteGlobalLimit:
		e.say("The rate limit service turned the call away, domain %s: %s.%s No endpoint was asked.", n.Name, n.Text, again)
		e.advise("The limit is configured in the rate limit service. trunkline.cluster.rateLimitService says what it is asked, and failOpen what happens when it does not answer.")
	case NoteConcurrency:
		e.say("There was no place for the call: %s of %d calls at once on %s were in use.%s", milli(n.A*1000), n.B, n.Name, before)
		e.advise("Calls come faster than they end: look at whether %s got slower, or needs more endpoints.", d.clusterName())
		e.advise("The limit is %s; trunkline.cluster.concurrency.maxPending and .pendingTimeout let calls wait for a place instead.", concurrencyKey(n.Name))
	case NoteAdaptive:
		e.say("There was no place for the call: the adaptive limit of calls at once on %s stood at %d, and %d were under way.%s", n.Name, n.B, n.A, before)
		e.advise("The limit shrinks when the endpoints get slower: look at the latency of cluster %s. trunkline.cluster.adaptiveConcurrency.min is how far it may shrink, .tolerance how soon it does.", d.clusterName())
	case NoteQueue:
		full, key := "", "trunkline.cluster.concurrency.maxStreams"
		if limit := cmp.Or(d.noted1(NoteConcurrency), d.noted1(NoteAdaptive)); limit != nil {
			full, key = fmt.Sprintf(" (%d of %d calls at once on %s)", limit.A, limit.B, limit.Name), concurrencyKey(limit.Name)
			if limit.Kind == NoteAdaptive {
				key = "trunkline.cluster.adaptiveConcurrency"
			}
		}
		if n.Wait > 0 {
			e.say("The call waited %s for a place on cluster %s%s and got none.%s", span(n.Wait), n.Name, full, before)
			e.advise("trunkline.cluster.concurrency.pendingTimeout is how long a call may wait, %s how many places there are; more or faster endpoints make places free sooner.", key)
		} else {
			e.say("There was neither a place for the call on cluster %s%s nor one in its queue: %s waiting already.%s", n.Name, full, wereWaiting(n.A), before)
			e.advise("trunkline.cluster.concurrency.maxPending is how many calls may wait, %s how many places there are; first look at whether the endpoints got slower.", key)
		}
	case NoteBreaker:
		d.endedByBreakers(e, before)
		e.advise("`trunkline explain --last-errors 20 %s` shows the calls that opened it, as long as they are remembered.", d.name())
	case NoteOverload:
		e.say("Trunkline itself is short of memory or CPU and takes no new calls: %s.%s Calls under way go on.", n.Text, again)
		e.advise("Give this Trunkline more memory or CPU, or run more of them. When it refuses is set by overload.memoryShare, .cpuShare and .queueDelay.")
	case NoteMessageSize:
		key := "maxRequestMessageBytes"
		if n.Name == "response" {
			key = "maxResponseMessageBytes"
		}
		e.say("A %s message is %s long, and the policy allows %s.", n.Name, size(n.A), size(n.B))
		e.advise("If so large messages are right, raise methodConfig[].%s in %s.", key, d.policy())
	case NoteHopeless:
		e.say("The call came with %s left, and half of the last %d calls of this method took longer than %s: it was refused on arrival rather than begun in vain.", span(d.Received), n.B, span(time.Duration(n.A)))
		e.advise("Give the call more time at the caller, or look at why the method got slower. trunkline.methodPolicy[].refuseHopeless turns this refusal off.")
	case NoteIdle:
		e.say("Neither side sent anything for %s, so the stream was ended.%s", span(n.Wait), before)
		e.advise("If the stream may be silent for so long, raise trunkline.methodPolicy[].idleTimeout in %s.", d.policy())
	case NoteGate:
		e.say("The caller was turned away before the call was placed, by %s: %s. No endpoint was asked.", n.Name, strings.TrimSuffix(n.Text, "."))
		e.advise("If the caller should be let in: who proves what is set in authentication (and listeners[].tls), who may do what in authorization, and externalAuthorization names who else is asked.")
	case NotePayload:
		e.say("A message of the call breaks a rule on payloads, %s: %s. It was not sent on.", n.Name, strings.TrimSuffix(n.Text, "."))
		e.advise("If such messages are right, change the rule: %s in the configuration.", n.Name)
	case NoteDrain:
		e.say("Trunkline was stopped, and the call was still under way when its time was over.")
		e.advise("Give live calls more time to end: drain.timeout.")
	}
}

func wereWaiting(n int64) string {
	if n == 1 {
		return "1 call was"
	}
	return count(int(n), "call") + " were"
}

// endedByBreakers: every endpoint that could have taken the call is behind an open breaker.
func (d *Decision) endedByBreakers(e *ending, before string) {
	var names, causes, endpoints []string
	perMethod := false
	soonest := time.Duration(0)
	for i := range d.Notes() {
		n := &d.Notes()[i]
		if n.Kind != NoteBreaker || !n.Refused {
			continue
		}
		endpoint, _, method := strings.Cut(n.Name, " x ")
		perMethod = perMethod || method
		names, endpoints, causes = append(names, n.Name), append(endpoints, endpoint), append(causes, n.Text)
		if soonest == 0 || n.Wait > 0 && n.Wait < soonest {
			soonest = n.Wait
		}
	}
	if len(names) == 1 {
		e.say("The circuit breaker of %s is open, and there is no other endpoint for the call: %s.", names[0], causes[0])
	} else {
		for i := range names {
			names[i] += " (" + causes[i] + ")"
		}
		e.say("The circuit breakers of %s are open, and there is no other endpoint for the call.", join(names))
	}
	e.say(" So it was refused at once rather than sent to where it would fail.%s", before)
	if soonest > 0 {
		e.say(" The next probe is let through in %s; when probes succeed, the breaker closes.", span(soonest))
	}
	it := "it is"
	if len(endpoints) > 1 {
		it = "they are"
	}
	e.advise("Look at %s: %s what failed. Nothing is to be done to a breaker, it closes by itself.", join(endpoints), it)
	key := "trunkline.cluster.breaker"
	if perMethod {
		key = "trunkline.methodPolicy[].breaker"
	}
	e.advise("When it opens, and for how long, is set by %s: consecutive, errorRate, window, minVolume, openFor; what counts as a fault by .faults.", key)
}

// clusterName is the cluster, for a sentence.
func (d *Decision) clusterName() string {
	if d.Cluster == "" {
		return "the cluster"
	}
	return d.Cluster
}

// concurrencyKey is where a limit of calls at once is set.
func concurrencyKey(name string) string {
	switch {
	case strings.HasPrefix(name, "endpoint "), strings.HasPrefix(name, "every endpoint "):
		return "trunkline.cluster.concurrency.maxStreamsPerEndpoint"
	case strings.HasPrefix(name, "method "):
		return "trunkline.methodPolicy[].maxStreams"
	}
	return "trunkline.cluster.concurrency.maxStreams"
}
