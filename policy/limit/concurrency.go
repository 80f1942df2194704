package limit

import "sync/atomic"

// Concurrency bounds how many run at once. It is shared by shards; a refusal writes nothing, so that a cluster that is full
// is not slowed down by those who are turned away.
type Concurrency struct {
	inUse atomic.Int64 // atomic
	limit atomic.Int64 // 0 or less: none. atomic
}

// NewConcurrency makes a limit of max at once; 0 or less: none, it only counts.
func NewConcurrency(max int64) *Concurrency {
	c := &Concurrency{}
	c.limit.Store(max)
	return c
}

// Acquire takes a place if there is one. Who got one gives it back with Release, once.
func (c *Concurrency) Acquire() bool {
	limit := c.limit.Load()
	if limit <= 0 {
		c.inUse.Add(1)
		return true
	}
	for {
		n := c.inUse.Load()
		if n >= limit {
			return false
		}
		if c.inUse.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a place back.
func (c *Concurrency) Release() { c.inUse.Add(-1) }

// InUse is how many places are taken. After the limit was lowered it may be above the limit.
func (c *Concurrency) InUse() int64 { return c.inUse.Load() }

// Limit is the limit; 0 or less: none.
func (c *Concurrency) Limit() int64 { return c.limit.Load() }

// SetLimit changes the limit. Who has a place keeps it.
func (c *Concurrency) SetLimit(max int64) { c.limit.Store(max) }
