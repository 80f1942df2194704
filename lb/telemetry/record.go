package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

// CallRecord is all there is to say about a finished call that somebody wants to see. It and what it points to belong to
// this package once given to [Telemetry.Export]: no string may be borrowed from a buffer that is used again.
type CallRecord struct {
	Trace       *Trace // nil: not sampled
	Traceparent string // as the client sent it; names the trace in the access log of a call that is not sampled; optional

	Service, Method string // "pkg.Service" and "Method"; a path of another form: "" and the path
	Unknown         bool   // the route table does not know the method
	Authority       string // :authority
	Peer            string // the client's address, host:port
	Caller          string // the caller's name, by token, key or certificate; "" if nobody knows
	UserAgent       string

	Route      string
	Cluster    string
	Generation uint64 // of the configuration that the call used

	Start, End    time.Time
	Status        uint32 // gRPC status as the client saw it
	StatusMessage string // decoded
	Local         bool   // Trunkline made the reply
	Outcome       Outcome
	Attempts      []AttemptRecord // in the order of [Trace.StartAttempt]
	Events        []Event         // of the SERVER span, in the order of time

	MessagesIn, MessagesOut uint32
	BytesIn, BytesOut       uint64
	Total, Upstream, Own    time.Duration
}

// AttemptRecord is one try on one endpoint.
type AttemptRecord struct {
	Endpoint      string // host:port
	PickReason    string
	Start, End    time.Time
	Status        uint32
	StatusMessage string
	Outcome       Outcome
	Evidence      string // of a failure: never sent, refused, status, ambiguous; "" if it did not fail
	Kind          string // why it was made: first, retry, hedge, redispatch; "" is not told
	Why           string // what was decided after it failed: retry.Why's code; "" is not told
}

// Event is a moment of a call at which something was decided.
type Event struct {
	Name    string // one of the Event* names
	At      time.Time
	Attempt int                  // index of the attempt that it is about; -1: the call as a whole
	Attrs   []attribute.KeyValue // names under "trunkline."
}

// The names of events.
const (
	EventPick   = "lb.pick"   // an endpoint was picked for an attempt
	EventRetry  = "lb.retry"  // an attempt failed, and it was decided whether another follows
	EventHedge  = "lb.hedge"  // it was decided whether an attempt is sent beside one under way
	EventReject = "lb.reject" // a limit, a breaker or the like turned the call, or an attempt, away
)

// fullMethod returns "pkg.Service/Method", or what stands in its place when the client sent no such path.
func (rec *CallRecord) fullMethod() string {
	if rec.Service == "" {
		return rec.Method
	}
	return rec.Service + "/" + rec.Method
}

// WantRecord reports whether a trace or the access log wants a [CallRecord] of this call; total is in nanoseconds.
func (t *Telemetry) WantRecord(status uint32, total int64, tr *Trace) bool {
	return tr != nil || t.wantsLine(status, total)
}

func (t *Telemetry) wantsLine(status uint32, total int64) bool {
	switch t.accessLog {
	case AccessLogAll:
		return true
	case AccessLogFailures:
		return status != 0 || total >= t.slow
	}
	return false
}

// Export takes rec over. It never blocks: what the queues do not hold is dropped and counted. Call it outside the shard's
// lock (it may wake a goroutine).
func (t *Telemetry) Export(rec *CallRecord) {
	if rec.Trace != nil && t.spans != nil && !t.spans.offer(rec) {
		t.spansDropped.Add(uint64(1 + len(rec.Attempts)))
	}
	total := rec.Total
	if rec.MessagesIn > 1 || rec.MessagesOut > 1 {
		total = 0 // a stream is not slow because it lives long
	}
	if t.lines != nil && t.wantsLine(rec.Status, int64(total)) && !t.lines.offer(rec) {
		t.linesDropped.Add(1)
	}
}

// lane is a bounded queue to one goroutine.
type lane struct {
	queue    chan *CallRecord
	stopping chan struct{} // closed by stop
	done     chan struct{} // closed when the goroutine has ended
}

// A lane at leisure that has handled leisure records in a row rests for rest, as long as no more than a quarter of its queue waits: nobody waits
// for it, while the calls of that moment, in a burst, do wait for the processor.
const (
	leisure = 32
	rest    = time.Millisecond
)

// newLane returns a queue whose records go to handle, one after the other; idle, if it is not nil, is called when none is left for now, and before
// a lane at leisure rests.
func newLane(size int, atLeisure bool, handle func(*CallRecord), idle func()) *lane {
	l := &lane{queue: make(chan *CallRecord, size), stopping: make(chan struct{}), done: make(chan struct{})}
	if idle == nil {
		idle = func() {}
	}
	go l.run(atLeisure, handle, idle)
	return l
}

func (l *lane) run(atLeisure bool, handle func(*CallRecord), idle func()) {
	defer close(l.done)
	defer idle()
	for row := 0; ; {
		select {
		case rec := <-l.queue:
			handle(rec)
			row++
			switch n := len(l.queue); {
			case n == 0:
				row = 0
				idle()
			case atLeisure && row >= leisure && n <= cap(l.queue)/4:
				row = 0
				idle()
				time.Sleep(rest)
			}
		case <-l.stopping:
			for {
				select {
				case rec := <-l.queue:
					handle(rec)
				default:
					return
				}
			}
		}
	}
}

// offer queues rec, or reports that there is no room.
func (l *lane) offer(rec *CallRecord) bool {
	select {
	case l.queue <- rec:
		return true
	default:
		return false
	}
}

// stop lets the goroutine finish what is queued, and end. Called once.
func (l *lane) stop() { close(l.stopping) }

// wait waits for the goroutine's end, as long as ctx allows.
func (l *lane) wait(ctx context.Context) error {
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
