package telemetry

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// MaxMethods bounds the methods that have series of their own, and maxPerService those of one protobuf service, so that a
// client that invents method names on a service route cannot push the real ones of other services out.
const (
	MaxMethods    = 2000
	maxPerService = 200
	maxMethodName = 256 // bytes
	otherMethod   = "_other"
)

// Method is the handle of a method's metrics, for the life of the process. Safe to share.
type Method struct {
	name  string // "pkg.Service/Method" or "_other"; set once in newMethods
	index int    // set once in newMethods
}

// Name returns the label, "pkg.Service/Method" or "_other".
func (m *Method) Name() string { return m.name }

// methods is the bounded registry of handles.
type methods struct {
	mu       sync.Mutex
	byName   map[string]*Method // guarded by mu
	services map[string]int     // methods per service; guarded by mu
	list     []*Method          // by index; guarded by mu
	other    *Method            // set once in newMethods
}

func newMethods() *methods {
	other := &Method{name: otherMethod}
	return &methods{byName: map[string]*Method{}, services: map[string]int{}, list: []*Method{other}, other: other}
}

// Method returns the handle of fullMethod, "pkg.Service/Method" with or without the leading slash, making it at first sight.
// It is for the slow path: it takes a lock. Methods that are not known (no descriptor, no route and no successful answer
// vouches for them), names that are no names, and all beyond [MaxMethods] share one handle, "_other". fullMethod is
// borrowed until return.
func (t *Telemetry) Method(fullMethod string, known bool) *Method {
	s := t.methods
	fullMethod = strings.TrimPrefix(fullMethod, "/")
	if !known || fullMethod == "" || len(fullMethod) > maxMethodName || !utf8.ValidString(fullMethod) {
		return s.other
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.byName[fullMethod]; m != nil {
		return m
	}
	service, _, _ := strings.Cut(fullMethod, "/")
	if len(s.list) > MaxMethods || s.services[service] >= maxPerService {
		return s.other
	}
	fullMethod = strings.Clone(fullMethod)
	service, _, _ = strings.Cut(fullMethod, "/")
	m := &Method{name: fullMethod, index: len(s.list)}
	s.byName[fullMethod], s.list = m, append(s.list, m)
	s.services[service]++
	return m
}

// all returns the handles by index.
func (s *methods) all() []*Method {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[:len(s.list):len(s.list)]
}

// Finish is what the metrics need of a finished call. Times are nanoseconds; those below zero count as zero.
type Finish struct {
	Method      *Method // nil counts as "_other"
	Status      uint32  // gRPC status
	Local       bool    // Trunkline made the reply
	Outcome     Outcome
	Attempts    uint8  // tries on endpoints; 0 if there was none
	Total       int64  // from the request's headers to the end of the reply
	Upstream    int64  // of these with the upstream; not recorded when there was no attempt
	Own         int64  // of these added by Trunkline
	MessagesIn  uint32 // request messages
	MessagesOut uint32 // response messages
	BytesIn     uint64 // request DATA
	BytesOut    uint64 // response DATA
}

// The three histograms of a method.
const (
	histTotal = iota
	histUpstream
	histOwn
	hists
)

// block holds the numbers of one method in one shard.
type block struct {
	open        int64
	attempts    uint64
	messagesIn  uint64
	messagesOut uint64
	bytesIn     uint64
	bytesOut    uint64
	sums        [hists]uint64          // nanoseconds
	calls       [2][statusSlots]uint64 // by the upstream's and local replies
	counts      [hists][buckets]uint64
}

// add adds o to b.
func (b *block) add(o *block) {
	b.open += o.open
	b.attempts += o.attempts
	b.messagesIn += o.messagesIn
	b.messagesOut += o.messagesOut
	b.bytesIn += o.bytesIn
	b.bytesOut += o.bytesOut
	for i := range b.sums {
		b.sums[i] += o.sums[i]
		for j := range b.counts[i] {
			b.counts[i][j] += o.counts[i][j]
		}
	}
	for i := range b.calls {
		for j := range b.calls[i] {
			b.calls[i][j] += o.calls[i][j]
		}
	}
}

// Recorder is one shard's numbers: plain adds under the lock that the shard holds anyway.
type Recorder struct {
	lock     sync.Locker      // the shard's; set once in NewRecorder
	other    *Method          // set once in NewRecorder
	call     *bounds          // set once in NewRecorder
	added    *bounds          // set once in NewRecorder
	blocks   []*block         // by Method.index, nil where nothing happened yet; guarded by the shard
	outcomes [outcomes]uint64 // guarded by the shard

	policies  []*policyBlock          // in the order of first sight; guarded by the shard
	byCluster map[string]*policyBlock // guarded by the shard
}

// NewRecorder returns the recorder of a shard whose lock is lock. The scrape takes the lock for less than a microsecond at
// a time. A recorder lives as long as its Telemetry.
func (t *Telemetry) NewRecorder(lock sync.Locker) *Recorder {
	r := &Recorder{lock: lock, other: t.methods.other, call: t.callBounds, added: t.addedBounds, byCluster: map[string]*policyBlock{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recorders = append(t.recorders, r)
	return r
}

// Start counts a stream as open. Call it with the shard's lock held.
func (r *Recorder) Start(m *Method) { r.block(m).open++ }

// Rename moves an open stream from one method to another: a method that turned out to exist gets its first call, too. Call it
// with the shard's lock held.
func (r *Recorder) Rename(from, to *Method) {
	r.block(from).open--
	r.block(to).open++
}

// Record counts a finished stream, once for each Start, with the same method. Call it with the shard's lock held; f is
// borrowed until return.
func (r *Recorder) Record(f *Finish) {
	b := r.block(f.Method)
	b.open--
	b.attempts += uint64(f.Attempts)
	b.messagesIn += uint64(f.MessagesIn)
	b.messagesOut += uint64(f.MessagesOut)
	b.bytesIn += f.BytesIn
	b.bytesOut += f.BytesOut
	by := 0
	if f.Local {
		by = 1
	}
	b.calls[by][min(f.Status, statusSlots-1)]++
	if f.Outcome < outcomes {
		r.outcomes[f.Outcome]++
	}
	total, own := uint64(max(f.Total, 0)), uint64(max(f.Own, 0))
	b.sums[histTotal] += total
	b.counts[histTotal][r.call.index(total)]++
	b.sums[histOwn] += own
	b.counts[histOwn][r.added.index(own)]++
	if f.Attempts > 0 {
		upstream := uint64(max(f.Upstream, 0))
		b.sums[histUpstream] += upstream
		b.counts[histUpstream][r.call.index(upstream)]++
	}
}

// block returns the block of m (nil: "_other"). The shard's lock is held.
func (r *Recorder) block(m *Method) *block {
	if m == nil {
		m = r.other
	}
	if m.index < len(r.blocks) {
		if b := r.blocks[m.index]; b != nil {
			return b
		}
	}
	return r.newBlock(m.index)
}

// newBlock makes the block of a method that this shard sees for the first time.
func (r *Recorder) newBlock(index int) *block {
	for len(r.blocks) <= index {
		r.blocks = append(r.blocks, nil)
	}
	b := new(block)
	r.blocks[index] = b
	return b
}

// mergeInto adds the shard's numbers to sums (by method index) and to byOutcome. It copies a few blocks at a time under the
// lock and adds outside, so a shard waits for a copy of some kilobytes at most.
func (r *Recorder) mergeInto(sums []block, byOutcome *[outcomes]uint64) {
	const stride = 4
	var copied [stride]block
	for from := 0; from < len(sums); from += stride {
		n := 0
		var index [stride]int
		r.lock.Lock()
		if from == 0 {
			for i, c := range r.outcomes {
				byOutcome[i] += c
			}
		}
		end := min(from+stride, len(sums), len(r.blocks))
		for i := from; i < end; i++ {
			if b := r.blocks[i]; b != nil {
				copied[n], index[n] = *b, i
				n++
			}
		}
		more := len(r.blocks) > from+stride
		r.lock.Unlock()
		for i := range n {
			sums[index[i]].add(&copied[i])
		}
		if !more {
			return
		}
	}
}
