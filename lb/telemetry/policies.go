package telemetry

// Placeholders of the lead: helper H6 replaces this file (keep these signatures, or adapt the few calls in lb/forward).

// Limit is what turned a call away.
type Limit uint8

// The limits.
const (
	LimitRate        Limit = iota // a rate limit of ours
	LimitGlobal                   // the rate limit service
	LimitConcurrency              // too many at once, or queued too long
	LimitBreaker                  // all breakers open
	LimitOverload                 // short of memory or CPU
)

// Retried counts a further attempt of a call; why is retry.Why's code. Inside the shard.
func (r *Recorder) Retried(cluster, why string) {}

// Hedged counts an attempt beside others. Inside the shard.
func (r *Recorder) Hedged(cluster string) {}

// Limited counts a call that was turned away. Inside the shard.
func (r *Recorder) Limited(cluster string, by Limit) {}

// ID is the trace's id.
func (tr *Trace) ID() [16]byte { return tr.traceID }
