// Package decision owns the records of how calls were decided, kept in bounded rings, and their telling in words for people
// who never saw the code; it must not decide anything, nor keep what belongs to a live call.
//
// The engine embeds an [Attempt] in each try and keeps the [Note]s of the few calls that have some; when a call has finished
// it takes a slot ([Book.Next]), fills it in and files it ([Book.Done]), all in one hold of the shard's lock: no allocation,
// and no copy but that of the facts. Readers ([Books]) take copies, a few at a time.
//
// A record outlives its call: every string in it must be immutable and owned by nobody who uses its bytes again. [Book.Own]
// makes such a string of one that is borrowed from an interner's field, without allocating for one that it saw lately.
package decision

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// The bounds of one record: what does not fit is counted only.
const (
	MaxAttempts   = 6 // the last slot is that of the latest attempt
	MaxCandidates = 8 // of one attempt
	MaxNotes      = 6 // the last slot is that of the latest note
)

// Decision is the record of one finished call: its facts, its attempts, and what else had a say.
type Decision struct {
	Facts
	attempts [MaxAttempts]Attempt // the first of them are in use: see Attempts
	notes    [MaxNotes]Note
}

// Facts are what a record says once for its call. Durations of 0 mean "none", where nothing else is said.
type Facts struct {
	Seq     uint64        // set by Book.Done, grows; 0: empty slot
	Arrived int64         // wall clock, ns since 1970
	Took    time.Duration // from the request's headers to the flush of the reply's end
	Own     time.Duration // of these spent in Trunkline itself

	TraceID  [16]byte // of the client's traceparent (sampled or not), else of the trace begun here
	HasTrace bool

	Method    string // "pkg.Service/Method"; of a path of another form: the path. To be cloned where no route matched
	Authority string // Book.Own
	Peer      string // host:port
	Caller    string // the caller's name; "" if nobody knows

	Route      string // "routes[0]"; "" if none matched
	Match      string // what it matches, in words: "service pkg.Service"
	Cluster    string
	Balancer   string // "least_request"
	Generation uint64
	Policy     string // name of the policy in force: "pkg.S/M", "pkg.S", "default"; "" if there is none
	PolicyFrom string // file or KV key that it stands in
	Pool       *Pool  // the endpoints among which was picked; nil if none was
	// Settings is the policy itself, for its words; nil: not known.
	Settings *serviceconfig.Method

	Status  grpc.Status
	Message string // as the client saw it, decoded; cloned if borrowed
	Local   bool   // Trunkline made the reply
	Outcome telemetry.Outcome
	Reason  string // of google.rpc.ErrorInfo, for replies that Trunkline made: "DEADLINE_EXCEEDED"

	Received    time.Duration // grpc-timeout as the caller sent it
	HasReceived bool
	Timeout     time.Duration // the policy's
	Limit       time.Duration // the one in force; 0: none

	Retries    bool // the policy has a retryPolicy
	Hedges     bool // the policy has a hedgingPolicy
	Idempotent bool // by the policy or the descriptors
	// IdempotentWhy says who declares it or denies it, or that nobody does: "declared by idempotency_level ..."; optional.
	IdempotentWhy string

	Committed bool // the response had begun: no further attempt was possible
	Previous  uint16

	MessagesIn, MessagesOut uint32
	BytesIn, BytesOut       uint64

	tried uint16 // attempts made; more than MaxAttempts may have been
	noted uint16
}

// Pool is the endpoints of a target by their member index. Immutable once made; made with its generation and shared by its
// records.
type Pool struct {
	Names   []string // host:port
	Weights []uint32 // 0 counts as 1
}

// Member is the name and the weight of a member; "" for one that is none.
func (p *Pool) Member(i uint16) (name string, weight uint32) {
	if p == nil || int(i) >= len(p.Names) {
		return "", 0
	}
	if int(i) < len(p.Weights) {
		weight = p.Weights[i]
	}
	return p.Names[i], max(weight, 1)
}

// Kind is why an attempt was made.
type Kind uint8

// The kinds.
const (
	First      Kind = iota
	Retry           // after a failure, by the policy
	Hedge           // beside one that had not answered yet
	Redispatch      // after one that provably was not processed: free
)

// kindNames is never written.
var kindNames = [...]string{"first", "retry", "hedge", "redispatch"}

// String is the kind as it stands in spans.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Attempt is one try on one endpoint. Times are offsets from the call's arrival.
type Attempt struct {
	Endpoint string        // host:port
	Start    time.Duration // picked
	Sent     time.Duration // its stream was opened; 0: it never was
	End      time.Duration
	Wait     time.Duration // backoff or hedging delay before it; 0: told from the times
	Given    time.Duration // the time it was given, min(per-try, remaining); 0: no limit
	PerTry   time.Duration // the policy's per-try timeout; 0: none
	Status   grpc.Status

	Kind     Kind
	Evidence retry.Evidence // of a failure
	Outcome  telemetry.Outcome
	Pick     balance.Reason
	TimedOut bool      // cut by its per-try timeout
	Lost     bool      // given up because another attempt of the call won
	Why      retry.Why // what was decided after it failed; 0: nothing was asked

	seen       uint8  // candidates in use
	Of         uint16 // members that the picker had, shown or not
	candidates [MaxCandidates]Candidate
}

// Candidate is one endpoint as it stood when an attempt was placed.
type Candidate struct {
	Load   int32  // attempts open on it, before this one
	Member uint16 // index into Facts.Pool
	Warm   uint16 // share of its weight while it warms up, per mille; 0: whole
	State  uint8  // the bits of balance.Endpoint
	Closed bool   // a breaker or a limit kept it from being chosen
	Failed bool   // it failed this call before, so others were preferred
}

// Consider notes a candidate; beyond [MaxCandidates] the last slot is used anew, so that whoever is noted last is there: note
// the picked one last.
func (a *Attempt) Consider(c Candidate) {
	if a.seen < MaxCandidates {
		a.seen++
	}
	a.candidates[a.seen-1] = c
}

// Candidates are those that were noted; valid as long as a.
func (a *Attempt) Candidates() []Candidate { return a.candidates[:a.seen] }

// NoteKind says what else had a say in a call.
type NoteKind uint8

// The kinds. Where A, B, Wait and Text mean something it is said here; Refused says that the call, or the attempt, was turned
// away by it.
const (
	NoteNone        NoteKind = iota
	NoteRateLimit            // a token bucket. Name: what is limited; A: thousandths of requests per second; B: burst; Wait: until a token is there
	NoteGlobalLimit          // the rate limit service. Name: its domain; Text: its verdict; Wait: retry after
	NoteConcurrency          // a limit of what runs at once. Name: "cluster shop", "endpoint 10.0.0.1:7001", "method pkg.S/M"; A: in use; B: limit
	NoteAdaptive             // the adaptive limit of the cluster. As NoteConcurrency
	NoteQueue                // the call waited for a place. Name: cluster; A: waiting before it; B: maxPending; Wait: how long it waited
	NoteBreaker              // a breaker that is not closed. Name: endpoint, or "endpoint x method"; Text: its reason; Wait: until it lets a probe through; A: times it opened
	NoteProbe                // the call was a probe of a half-open breaker. Name, Text: as NoteBreaker
	NoteOverload             // Trunkline is short of memory or CPU. Text: why; Wait: the pushback told
	NoteReplay               // the request outgrew the replay buffer. A: bytes of the request so far; B: the limit
	NoteHold                 // response headers could be held back no longer. Wait: how long they were
	NoteMessageSize          // Name: "request" or "response"; A: length; B: limit
	NotePanic                // too few endpoints are healthy: all are picked from. A: healthy; B: all
	NoteHopeless             // less time is left than the method needs. A: its median in ns; B: samples
	NotePushback             // grpc-retry-pushback-ms of the server. Wait: the pause; Refused: it forbade retries
	NoteIdle                 // no frame in either direction. Wait: the idle timeout
	NoteBudget               // the retry budget. Name: cluster; A: thousandths of tokens left
	NoteThrottle             // retryThrottling. Name: cluster; A: thousandths of tokens left; B: thousandths of maxTokens
	NoteHedge                // a hedge was due and not sent. A: the hedge.Why; Wait: the delay
	NoteDrain                // Trunkline drains. Wait: the time that live calls had
	NoteGate                 // authentication or authorisation. Name: the rule, provider or service; Text: what it says; A: 1 for a shadow
	NotePayload              // rules on payloads. Name: the rule; Text: what it says; A: 1 for a shadow
	noteKinds
)

// noteNames is never written.
var noteNames = [noteKinds]string{
	"", "rate_limit", "global_rate_limit", "concurrency", "adaptive_concurrency", "queue", "breaker", "probe", "overload", "replay_overflow",
	"hold_timeout", "message_size", "panic", "hopeless", "pushback", "idle_timeout", "retry_budget", "retry_throttling", "hedge", "drain",
	"gate", "payload",
}

// String is the kind as one word.
func (k NoteKind) String() string {
	if k < noteKinds {
		return noteNames[k]
	}
	return "unknown"
}

// Note is something that had a say.
type Note struct {
	Name, Text string
	At         time.Duration // offset from the call's arrival
	Wait       time.Duration
	A, B       int64
	Kind       NoteKind
	Refused    bool
	Attempt    int8 // which it is about, from 0; -1: the call as a whole
}

// AddAttempt returns the slot for the next attempt, which is not cleared: assign it whole.
func (d *Decision) AddAttempt() *Attempt {
	d.tried++
	return &d.attempts[min(d.tried, MaxAttempts)-1]
}

// AddNote returns the slot for the next note, which is not cleared: assign it whole.
func (d *Decision) AddNote() *Note {
	d.noted++
	return &d.notes[min(d.noted, MaxNotes)-1]
}

// Attempts are those that were recorded: all, or the first ones and the latest. Valid as long as d.
func (d *Decision) Attempts() []Attempt { return d.attempts[:min(d.tried, MaxAttempts)] }

// Tried is how many attempts were made.
func (d *Decision) Tried() int { return int(d.tried) }

// Notes are those that were recorded: all, or the first ones and the latest. Valid as long as d.
func (d *Decision) Notes() []Note { return d.notes[:min(d.noted, MaxNotes)] }
