package rogue

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Request metadata by which a test steers a rogue server.
const (
	// CallKey is the call's id: attempts and executions are counted by it. Calls without one are counted together.
	CallKey = "x-rogue-call"
	// PlanKey says what to do, by attempt of this call over all servers of a ledger: "reset:8|only:14|ok". The last one stays.
	// See Parse for the words.
	PlanKey = "x-rogue-plan"
)

// Attempt is one stream that reached a server.
type Attempt struct {
	Server string
	At     time.Time
	Fields []hpack.HeaderField // as they came; from a grpc-go server only those of the application, grpc-timeout and the attempts
}

// Get is the value of a header field, "" if it is absent.
func (a Attempt) Get(name string) string {
	for _, f := range a.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Ledger counts what reached the servers that share it. Safe for concurrent use.
type Ledger struct {
	mu         sync.Mutex
	attempts   map[string][]Attempt // guarded by mu; by call id, those that were not taken note of in full left out
	number     map[string]int       // guarded by mu; attempts by call id
	executions map[string]int       // guarded by mu; by call id
	cancelled  map[string]int       // guarded by mu; attempts that the other side ended, by call id
	brief      bool                 // set once in newX

	streams, executed, cancels atomic.Int64
}

// NewLedger is a ledger that keeps every attempt.
func NewLedger() *Ledger {
	return &Ledger{attempts: map[string][]Attempt{}, number: map[string]int{}, executions: map[string]int{}, cancelled: map[string]int{}}
}

// NewBriefLedger is a ledger for load: it counts, but does not keep attempts.
func NewBriefLedger() *Ledger {
	l := NewLedger()
	l.brief = true
	return l
}

// arrived files an attempt and returns its number, from 1, among those of its call.
func (l *Ledger) arrived(id string, a Attempt) int {
	l.streams.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.brief {
		l.attempts[id] = append(l.attempts[id], a)
	}
	l.number[id]++
	return l.number[id]
}

func (l *Ledger) execute(id string) {
	l.executed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.executions[id]++
}

func (l *Ledger) cancel(id string) {
	l.cancels.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancelled[id]++
}

// Streams is how many attempts have arrived, of all calls.
func (l *Ledger) Streams() int64 { return l.streams.Load() }

// Executed is how often a server has executed a call, of all calls.
func (l *Ledger) Executed() int64 { return l.executed.Load() }

// Cancels is how many attempts were ended by the other side.
func (l *Ledger) Cancels() int64 { return l.cancels.Load() }

// Attempts are those of one call, in the order of arrival.
func (l *Ledger) Attempts(id string) []Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.attempts[id])
}

// Executions is how often one call was executed.
func (l *Ledger) Executions(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.executions[id]
}

// Cancelled is how many attempts of one call were ended by the other side.
func (l *Ledger) Cancelled(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cancelled[id]
}

// MoreThanOnce lists the calls that were executed more than once, sorted.
func (l *Ledger) MoreThanOnce() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id, n := range l.executions {
		if n > 1 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
