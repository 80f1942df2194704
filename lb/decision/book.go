package decision

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// Book keeps the records of one shard's calls, each in one of three rings: those that went well; those that the server
// answered with a status that is the caller's fault; and those that failed otherwise, were slow, or needed more than one attempt. So what is
// interesting is not pushed out by what is frequent. The memory is that of its slots, under 2 KB each (see TestARecordIsBounded).
type Book struct {
	lock sync.Locker   // the shard's; set once
	slow time.Duration // set once; 0: no call is slow

	// The rest is guarded by lock.

	seq    uint64
	rings  [numRings]ring
	owned  map[string]string
	recent string // the last one that Own returned
}

// The rings of a Book.
const (
	ringWell = iota
	ringAnswered
	ringFailed
	numRings
)

// ring is slots in use from the oldest on.
type ring struct {
	slots []*Decision
	next  int // the oldest: the one to be used anew
}

// NewBook makes the book of the shard whose lock is lock. It keeps the last keep (at least 1) records of calls that went
// well, and keepFailed of the others, a quarter of which for answers that are the caller's fault. A call of one message each way at most that took
// slow or longer is kept as if it had failed; 0: none is slow.
func NewBook(keep, keepFailed int, slow time.Duration, lock sync.Locker) *Book {
	b := &Book{lock: lock, slow: slow, owned: map[string]string{}}
	answered := max(0, keepFailed) / 4
	// One slot more than are kept is the one that is filled in.
	for i, n := range [numRings]int{max(1, keep) + 1, answered, max(0, keepFailed) - answered} {
		memory := make([]Decision, n)
		for j := range memory {
			b.rings[i].slots = append(b.rings[i].slots, &memory[j])
		}
	}
	return b
}

// Next returns the slot for a finished call, its facts cleared. Inside the shard; valid until Done.
func (b *Book) Next() *Decision {
	r := &b.rings[ringWell]
	d := r.slots[r.next]
	d.Facts = Facts{}
	return d
}

// Done files d, which Next returned last. Inside the shard, in the same hold of its lock.
func (b *Book) Done(d *Decision) {
	b.seq++
	d.Seq = b.seq
	well := &b.rings[ringWell]
	if at := b.ringOf(d); at != ringWell {
		// No copy: the slots change places, and the oldest of that ring is the next to be filled in.
		if r := &b.rings[at]; len(r.slots) > 0 {
			old := r.slots[r.next]
			old.Seq = 0
			r.slots[r.next], well.slots[well.next] = d, old
			r.turn()
			return
		}
	}
	well.turn()
	well.slots[well.next].Seq = 0
}

func (r *ring) turn() {
	if r.next++; r.next == len(r.slots) {
		r.next = 0
	}
}

// callersFaults are the statuses by which a server tells the caller something about the call.
const callersFaults = grpc.StatusSet(1<<grpc.Canceled | 1<<grpc.InvalidArgument | 1<<grpc.NotFound | 1<<grpc.AlreadyExists |
	1<<grpc.PermissionDenied | 1<<grpc.FailedPrecondition | 1<<grpc.Aborted | 1<<grpc.OutOfRange | 1<<grpc.Unauthenticated)

func (b *Book) ringOf(d *Decision) int {
	switch {
	case d.tried > 1 || b.isSlow(d):
		return ringFailed
	case d.Status == grpc.OK:
		return ringWell
	case !d.Local && callersFaults.Has(d.Status):
		return ringAnswered
	}
	return ringFailed
}

// isSlow: a stream is not slow because it lives long.
func (b *Book) isSlow(d *Decision) bool {
	return b.slow > 0 && d.Took >= b.slow && d.MessagesIn <= 1 && d.MessagesOut <= 1
}

// The bounds of Own's memory.
const (
	maxOwned = 256 // strings
	maxOwn   = 256 // bytes of one; what is longer is cut
)

// Own returns a string equal to s, cut to 256 bytes, that lives as long as it is needed; s may be borrowed. It allocates
// only for a string that it has not seen lately. Inside the shard.
func (b *Book) Own(s string) string {
	if s == b.recent {
		return b.recent
	}
	if len(s) > maxOwn {
		s = s[:maxOwn]
	}
	c, ok := b.owned[s]
	if !ok {
		if len(b.owned) >= maxOwned {
			clear(b.owned)
		}
		c = strings.Clone(s)
		b.owned[c] = c
	}
	b.recent = c
	return c
}

// Query says which records are wanted. Zero fields mean "any".
type Query struct {
	TraceID [16]byte
	Errors  bool   // failed or slow only
	Method  string // "pkg.Service/Method", or "pkg.Service" for all of its methods
	Limit   int    // at most so many, the latest
}

func (q *Query) wants(b *Book, d *Decision) bool {
	if d.Seq == 0 || q.Errors && d.Status == grpc.OK && !b.isSlow(d) || q.TraceID != [16]byte{} && (!d.HasTrace || d.TraceID != q.TraceID) {
		return false
	}
	if q.Method == "" || d.Method == q.Method {
		return true
	}
	rest, ok := strings.CutPrefix(d.Method, q.Method)
	return ok && rest[0] == '/' && !strings.Contains(q.Method, "/")
}

// A reader looks at most at so many slots, and copies so many, in one hold of the shard's lock: some microseconds.
const (
	lookAt  = 32
	copyOut = 4
)

// Ask returns copies of the records that q wants, the latest first. It takes the lock, again and again for short.
func (b *Book) Ask(q Query) []Decision {
	var all []Decision
	for i := range b.rings {
		if i == ringWell && q.Errors {
			// Failures are in here only where there is no other room for them.
			if len(b.rings[ringFailed].slots) > 0 && len(b.rings[ringAnswered].slots) > 0 {
				continue
			}
		}
		all = append(all, b.read(&b.rings[i], &q)...)
	}
	slices.SortFunc(all, func(x, y Decision) int { return int(int64(y.Seq - x.Seq)) })
	return all[:min(len(all), q.Limit)]
}

// read goes from the latest slot of r back to the oldest.
func (b *Book) read(r *ring, q *Query) (found []Decision) {
	n := len(r.slots) // never changes
	copies := make([]Decision, copyOut)
	var newest uint64
	at := 0
	for left := n; left > 0 && len(found) < q.Limit; {
		k := 0
		b.lock.Lock()
		if left == n {
			newest, at = b.seq, r.next
		}
		for looked := 0; left > 0 && looked < lookAt && k < len(copies); looked++ {
			if at--; at < 0 {
				at = n - 1
			}
			left--
			d := r.slots[at]
			if d.Seq > newest { // what is older has been overwritten since we began
				left = 0
				break
			}
			if q.wants(b, d) {
				copies[k] = *d
				k++
			}
		}
		b.lock.Unlock()
		found = append(found, copies[:min(k, q.Limit-len(found))]...)
	}
	return found
}

// Find returns the records of a trace, the latest first.
func (b *Book) Find(traceID [16]byte) []Decision {
	return b.Ask(Query{TraceID: traceID, Limit: maxFound})
}

// LastErrors returns the last n failed and slow calls, the latest first.
func (b *Book) LastErrors(n int) []Decision { return b.Ask(Query{Errors: true, Limit: n}) }

// Last returns the last n calls, the latest first.
func (b *Book) Last(n int) []Decision { return b.Ask(Query{Limit: n}) }

// maxFound bounds the records of one trace: a client may send one id with every call.
const maxFound = 100

// Books are those of all shards.
type Books []*Book

// Ask is [Book.Ask] over all of them.
func (bs Books) Ask(q Query) []Decision {
	var all []Decision
	for _, b := range bs {
		all = append(all, b.Ask(q)...)
	}
	slices.SortStableFunc(all, func(x, y Decision) int { return int(max(-1, min(1, y.Arrived+int64(y.Took)-x.Arrived-int64(x.Took)))) })
	return all[:min(len(all), q.Limit)]
}

// Kept is how many records there are at most: of calls that went well, and of others.
func (bs Books) Kept() (well, failed int) {
	for _, b := range bs {
		well += len(b.rings[ringWell].slots) - 1
		failed += len(b.rings[ringAnswered].slots) + len(b.rings[ringFailed].slots)
	}
	return well, failed
}
