package shadow

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// The bounds of a [Report].
const (
	KeptCalls   = 100
	maxMethods  = 1000
	OtherMethod = "(other methods)" // stands for those beyond the first maxMethods
)

// Report counts what shadows found. It is of bounded size, and safe for use by any goroutine; it takes a lock, so it is not for the
// inside of a shard.
type Report struct {
	mu        sync.Mutex
	calls     uint64           // guarded by mu
	differing uint64           // guarded by mu
	kinds     map[count]uint64 // guarded by mu
	methods   map[string]bool  // guarded by mu
	kept      []Example        // guarded by mu; a ring, once it is full
	next      int              // guarded by mu; the oldest in kept
}

type count struct{ what, method string }

// Example is one call that would have gone otherwise.
type Example struct {
	At          int64 // when it arrived, in nanoseconds of shard time
	Method      string
	TraceID     [16]byte // zero: none
	Status      grpc.Status
	Took        time.Duration
	Differences []Difference
}

// Kind is how many calls of one method differed in one way.
type Kind struct {
	What, Method string
	Calls        uint64
}

// Summary is a report at one moment.
type Summary struct {
	Calls, Differing uint64
	Kinds            []Kind    // the most calls first
	Latest           []Example // the latest first
}

// Add counts a call and what [Policy.Judge] said of it. c is borrowed: valid until Add returns; found is kept, and not changed.
func (r *Report) Add(c *Call, found []Difference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if len(found) == 0 {
		return
	}
	r.differing++
	if r.kinds == nil {
		r.kinds, r.methods = map[count]uint64{}, map[string]bool{}
	}
	method := c.Method
	if !r.methods[method] {
		if len(r.methods) < maxMethods {
			r.methods[method] = true
		} else {
			method = OtherMethod
		}
	}
	for i, d := range found {
		if !slices.ContainsFunc(found[:i], func(e Difference) bool { return e.What == d.What }) {
			r.kinds[count{d.What, method}]++
		}
	}
	e := Example{At: c.Now, Method: c.Method, TraceID: c.TraceID, Status: c.Status, Took: c.Took, Differences: found}
	if len(r.kept) < KeptCalls {
		r.kept = append(r.kept, e)
		return
	}
	r.kept[r.next] = e
	r.next = (r.next + 1) % KeptCalls
}

// Summary is the report as it stands. It shares nothing that changes.
func (r *Report) Summary() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Summary{Calls: r.calls, Differing: r.differing}
	for k, n := range r.kinds {
		s.Kinds = append(s.Kinds, Kind{What: k.what, Method: k.method, Calls: n})
	}
	slices.SortFunc(s.Kinds, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Method, b.Method), cmp.Compare(a.What, b.What))
	})
	for i := range r.kept {
		s.Latest = append(s.Latest, r.kept[(r.next+len(r.kept)-1-i)%len(r.kept)])
	}
	return s
}
