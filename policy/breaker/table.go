package breaker

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Table is the breakers of one cluster by endpoint and method, at most so many. It may be used by any goroutine. Get and Each
// take a lock, so the way of a call keeps the pointer that Get returned; Open is one atomic load.
type Table struct {
	settings *Settings    // set once in NewTable
	max      int          // set once in NewTable
	open     atomic.Int64 // atomic; may be below 0 for a moment

	mu      sync.Mutex
	byKey   map[key]*entry // guarded by mu
	entries []*entry       // guarded by mu; the same ones, in no order
	hand    int            // guarded by mu; where the next search for one to evict begins
}

type key struct{ endpoint, method string }

type entry struct {
	key
	b     *Breaker
	got   int64 // when Get returned it last; guarded by mu
	index int   // in entries; guarded by mu
}

// NewTable returns an empty table of at most maxBreakers (at least 1) breakers with settings s.
func NewTable(s *Settings, maxBreakers int) *Table {
	return &Table{settings: s, max: max(1, maxBreakers), byKey: map[key]*entry{}}
}

// Get returns the breaker of method (empty for the endpoint's roll-up, if the caller wishes) at endpoint, and makes it if
// there is none. If the table is full, one that was idle for long makes room, closed ones first; whoever holds it may go on
// using it, but the table does not know it any more.
func (t *Table) Get(endpoint, method string, now int64) *Breaker {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := key{endpoint, method}
	e := t.byKey[k]
	if e == nil {
		e = &entry{key: k, b: New(t.settings)}
		e.b.table = t
		t.byKey[k] = e
		if len(t.entries) < t.max {
			e.index = len(t.entries)
			t.entries = append(t.entries, e)
		} else {
			e.index = t.evict()
			t.entries[e.index] = e
		}
	}
	e.got = now
	return e.b
}

// looked is among how many entries the one to evict is chosen: clients can name methods as they like, so a miss must not
// cost a look at all of them.
const looked = 16

// evict forgets an entry and returns its index: of the next few the one that has been idle longest, if one is closed;
// otherwise the first closed one after them; otherwise the one of the few.
func (t *Table) evict() int {
	n := len(t.entries)
	var worst *entry
	for i := range n {
		e := t.entries[(t.hand+i)%n]
		if i >= looked && (worst.b.Closed() || !e.b.Closed()) {
			if worst.b.Closed() {
				break
			}
			continue
		}
		if worst == nil || e.before(worst) {
			worst = e
		}
	}
	t.hand = (t.hand + looked) % n
	delete(t.byKey, worst.key)
	worst.b.left.Store(true)
	worst.b.tell()
	return worst.index
}

func (e *entry) before(o *entry) bool {
	if c, oc := e.b.Closed(), o.b.Closed(); c != oc {
		return c
	}
	return e.lastUsed() < o.lastUsed()
}

func (e *entry) lastUsed() int64 { return max(e.got, e.b.window.used.Load()) }

// Each calls f for each breaker, ordered by endpoint and method. It takes a copy of the list first: f may use the table.
func (t *Table) Each(f func(endpoint, method string, b *Breaker)) {
	t.mu.Lock()
	all := slices.Clone(t.entries)
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.endpoint, b.endpoint), cmp.Compare(a.method, b.method))
	})
	for _, e := range all {
		f(e.endpoint, e.method, e.b)
	}
}

// Open returns how many breakers of the table are not closed: one atomic load. While it is 0, nobody need be asked.
func (t *Table) Open() int { return int(max(0, t.open.Load())) }

// tell makes the table's count agree with the breaker's state. Whoever changed phase or left calls it after that, and it
// looks again after each correction, so the last to correct has seen the last change.
func (b *Breaker) tell() {
	if b.table == nil {
		return
	}
	for {
		counts := b.phase.Load() != nil && !b.left.Load()
		if b.told.Load() == counts {
			return
		}
		if b.told.CompareAndSwap(!counts, counts) {
			if counts {
				b.table.open.Add(1)
			} else {
				b.table.open.Add(-1)
			}
		}
	}
}
