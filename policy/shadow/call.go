package shadow

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/retry"
)

// Cause is why Trunkline itself ended a call.
type Cause uint8

// The causes.
const (
	CauseNone         Cause = iota // it did not: an endpoint answered, or a connection was lost
	CauseDeadline                  // the call's deadline came, the caller's or the policy's
	CauseHopeless                  // refused on arrival for too little time left
	CauseRate                      // over a rate limit of the method's policy
	CauseConcurrency               // over the policy's MaxStreams
	CauseBreaker                   // a breaker was open
	CauseRequestSize               // a request message was over the policy's limit
	CauseResponseSize              // a response message was
	CauseIdle                      // the policy's idle timeout
	CauseCancel                    // the caller cancelled or went away
	CauseOther                     // anything that a method's policy does not decide: no route, no endpoint, overload, a cluster's limits
)

// Attempt is one attempt of a call as it happened.
type Attempt struct {
	Evidence retry.Evidence // EvidenceNone: it was the call's outcome and OK, or it was cancelled
	Status   grpc.Status
	PerTry   bool          // cut by its per-try timeout
	Start    time.Duration // when its stream was assigned, since the call arrived
	Took     time.Duration // from then to its end
	First    time.Duration // from Start to the first frame of its response; 0: none came. Per-try timeout and hedging look at this
	Wait     time.Duration // before it, for backoff or pushback; in Start already
	Endpoint string
	Hedge    bool // not the first, and sent beside another that was not answered yet
	Lost     bool // cancelled, because another copy had won

	// What the server said of retrying, see [retry.Failure].
	Pushback             time.Duration
	HasPushback, NoRetry bool
}

// Call is a finished call. It holds no pointers into whoever made it but the strings and Attempts.
type Call struct {
	Method  string   // "pkg.Service/Method"
	TraceID [16]byte // zero: none
	Now     int64    // when it arrived, in nanoseconds of shard time

	Received    time.Duration // the caller's grpc-timeout
	HasReceived bool
	Took        time.Duration // from Now to its end
	Idle        time.Duration // the longest time without a frame in either direction; 0: not known
	InFlight    int           // calls of the method beside it when it arrived; 0: none, or not known

	Status      grpc.Status // that the caller got
	Local       bool        // made by Trunkline
	LocalReason string      // if Local: the reason of its ErrorInfo, for people
	Cause       Cause       // with Local, and when the caller cancelled

	Attempts                        []Attempt // in the order of their start
	RequestLongest, ResponseLongest uint32    // the longest message announced, see [grpc.MessageCounter.Longest]
	RequestBytes                    int64     // of DATA that the caller sent, what a replay buffer must hold

	Previous   int  // grpc-previous-rpc-attempts
	Idempotent bool // by the descriptors, before any policy overrides it
	Replayable bool // no message of a response had come when its last attempt failed: who holds headers back could send it again

	// RateKeys are the values that the shadow's rate limits go by, in their order: the metadata's value, or the client's address;
	// "" for a limit without key and where the field is absent. Shorter: "" too.
	RateKeys []string
}

// Difference is one thing that would have been otherwise.
type Difference struct {
	What         string // one of the kinds below: a fixed, small set
	Live, Shadow string // in words: what happened, and what would have
	// Known says whether the call's end is known: its status would have been Status. Else nobody saw it.
	Known  bool
	Status grpc.Status
}

// The kinds of difference.
const (
	KindDeadline    = "deadline"
	KindPerTry      = "per-try timeout"
	KindRetry       = "retry"
	KindHedge       = "hedge"
	KindMessageSize = "message size"
	KindRate        = "rate limit"
	KindConcurrency = "concurrency"
	KindBreaker     = "breaker"
	KindIdle        = "idle timeout"
)
