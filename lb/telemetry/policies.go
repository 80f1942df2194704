package telemetry

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// MaxClusters bounds the clusters that have policy counters of their own, per shard; all others share cluster="_other".
const MaxClusters = 1000

// Limit is what turned a call away.
type Limit uint8

// The limits.
const (
	LimitRate        Limit = iota // a rate limit of ours
	LimitGlobal                   // the rate limit service
	LimitConcurrency              // too many at once
	LimitBreaker                  // all breakers open
	LimitOverload                 // short of memory or CPU
	LimitAdaptive                 // too many at once, by the adaptive limit
	LimitQueue                    // the queue was full, or the wait too long
	LimitMessageSize              // a message was too long
	LimitHopeless                 // too little time was left on arrival
	LimitIdle                     // neither side sent anything for too long
	LimitGate                     // authentication or authorisation
	LimitPayload                  // a rule on payloads
	limits                        // their number
)

// limitNames is never written.
var limitNames = [limits]string{
	"rate_limit", "global_rate_limit", "concurrency", "breaker", "overload", "adaptive_concurrency", "queue", "message_size", "hopeless", "idle_timeout", "gate", "payload",
}

// String is the limit as it stands in the metric.
func (l Limit) String() string {
	if l < limits {
		return limitNames[l]
	}
	return "unknown"
}

// tally counts by a word of a small, fixed set; what comes beyond its places is counted as "_other", in the last.
type tally struct {
	n    int
	list [32]struct {
		word string
		n    uint64
	}
}

func (t *tally) add(word string, n uint64) {
	for i := range t.list[:t.n] {
		if e := &t.list[i]; e.word == word {
			e.n += n
			return
		}
	}
	if t.n == len(t.list) {
		t.list[t.n-1].n += n
		return
	}
	if t.n == len(t.list)-1 {
		word = otherMethod
	}
	t.list[t.n].word, t.list[t.n].n = word, n
	t.n++
}

func (t *tally) merge(o *tally) {
	for _, e := range o.list[:o.n] {
		t.add(e.word, e.n)
	}
}

// policyBlock holds the policy counters of one cluster in one shard.
type policyBlock struct {
	cluster                          string // set once
	hedged                           uint64
	limited                          [limits]uint64
	retried, retriesDenied, unhedged tally
	wouldRefuse                      tally
}

// Retried counts a further attempt of a call; why is retry.Why's code. Call it with the shard's lock held; the strings must be
// immutable.
func (r *Recorder) Retried(cluster, why string) { r.policy(cluster).retried.add(why, 1) }

// RetryDenied counts a failed attempt that none follows, although a retryPolicy holds; why as for [Recorder.Retried].
func (r *Recorder) RetryDenied(cluster, why string) { r.policy(cluster).retriesDenied.add(why, 1) }

// Hedged counts an attempt beside others. Call it with the shard's lock held.
func (r *Recorder) Hedged(cluster string) { r.policy(cluster).hedged++ }

// HedgeDenied counts a hedge that was due and not sent; why is hedge.Why's code. As [Recorder.Retried].
func (r *Recorder) HedgeDenied(cluster, why string) { r.policy(cluster).unhedged.add(why, 1) }

// Limited counts a call that was turned away. Call it with the shard's lock held. cluster "" is for what is not about one.
func (r *Recorder) Limited(cluster string, by Limit) {
	if by < limits {
		r.policy(cluster).limited[by]++
	}
}

// WouldRefuse counts what a rule in shadow would have refused, by the rule's name. As [Recorder.Retried]; cluster "" is for what is not about one.
func (r *Recorder) WouldRefuse(cluster, rule string) { r.policy(cluster).wouldRefuse.add(rule, 1) }

// policy returns the counters of a cluster. The shard's lock is held. It allocates at first sight only.
func (r *Recorder) policy(cluster string) *policyBlock {
	if b := r.byCluster[cluster]; b != nil {
		return b
	}
	if cluster == "" || len(r.policies) >= MaxClusters {
		cluster = otherMethod
		if b := r.byCluster[cluster]; b != nil {
			return b
		}
	}
	b := &policyBlock{cluster: strings.Clone(cluster)}
	r.byCluster[b.cluster] = b
	r.policies = append(r.policies, b)
	return b
}

// policiesInto adds the shard's counters to sums. It copies one block at a time under the lock.
func (r *Recorder) policiesInto(sums map[string]*policyBlock) {
	var b policyBlock
	for i := 0; ; i++ {
		r.lock.Lock()
		more := i < len(r.policies)
		if more {
			b = *r.policies[i]
		}
		r.lock.Unlock()
		if !more {
			return
		}
		sum := sums[b.cluster]
		if sum == nil {
			sum = &policyBlock{cluster: b.cluster}
			sums[b.cluster] = sum
		}
		sum.hedged += b.hedged
		for i, n := range b.limited {
			sum.limited[i] += n
		}
		sum.retried.merge(&b.retried)
		sum.retriesDenied.merge(&b.retriesDenied)
		sum.unhedged.merge(&b.unhedged)
		sum.wouldRefuse.merge(&b.wouldRefuse)
	}
}

func (t *Telemetry) producePolicies(m *page) {
	t.mu.Lock()
	recorders := t.recorders[:len(t.recorders):len(t.recorders)]
	t.mu.Unlock()
	sums := map[string]*policyBlock{}
	for _, r := range recorders {
		r.policiesInto(sums)
	}
	var retries, retriesDenied, hedges, hedgesDenied, limited, wouldRefuse []metricdata.DataPoint[int64]
	for _, b := range sums {
		cluster := attribute.String("cluster", valid(b.cluster))
		all := func(to *[]metricdata.DataPoint[int64], words *tally) {
			for _, e := range words.list[:words.n] {
				*to = append(*to, m.point(attribute.NewSet(cluster, attribute.String("reason", valid(e.word))), int64(e.n)))
			}
		}
		all(&retries, &b.retried)
		all(&retriesDenied, &b.retriesDenied)
		all(&hedgesDenied, &b.unhedged)
		all(&wouldRefuse, &b.wouldRefuse)
		if b.hedged > 0 {
			hedges = append(hedges, m.point(attribute.NewSet(cluster), int64(b.hedged)))
		}
		for l, n := range b.limited {
			if n > 0 {
				limited = append(limited, m.point(attribute.NewSet(cluster, attribute.String("kind", Limit(l).String())), int64(n)))
			}
		}
	}
	m.sum("retries", "{attempt}", "Attempts that followed a failed one, by why.", retries)
	m.sum("retries.denied", "{attempt}", "Failed attempts that no other followed, by why not.", retriesDenied)
	m.sum("hedges", "{attempt}", "Attempts sent beside one under way.", hedges)
	m.sum("hedges.denied", "{attempt}", "Hedges that were due and not sent, by why not.", hedgesDenied)
	m.sum("shadow.refusals", "{refusal}", "What rules in shadow would have refused, by rule.", wouldRefuse)
	m.sum("limited", "{call}", "Calls turned away by a limit, a breaker or the like.", limited)
}
