package session

// Budget bounds what one client may make us hold, in bytes: what waits on its streams (those that we opened for it, too), half
// header blocks, partial frames, and output beyond Config.OutputMark that it does not take. Guarded by the shard.
type Budget struct {
	Max     int64  // set once
	Held    int64  // what is held
	Granted int64  // by how much streams' windows have grown beyond the initial one
	Total   *Total // of all clients of the shard; nil: only Max bounds. Set once, before anything is held
}

// Total bounds what all clients of one shard may make us hold together. Where more would be held than Max, a client that holds
// more than its share (Max divided by those who hold anything, but no less than 64 KiB) gets no more, and Expired of its
// connection resets its streams, the largest first, until it is back at its share. A client within its share is never
// refused: those who hold little do not pay for those who hold much. What is held is thus at most twice Max for a second or
// so, and Max (or 64 KiB for each client, if that is more) for longer. Guarded by the shard.
type Total struct {
	Max     int64 // bytes; 0: no limit; it may be changed at any time
	Held    int64 // bytes
	Holders int   // clients that hold anything
}

// minShare is what any client may hold, however many there are.
const minShare = 64 << 10

// full says whether n more bytes are more than all may hold.
func (t *Total) full(n int64) bool { return t != nil && t.Max > 0 && t.Held+n > t.Max }

// share is what b's client may hold while the total is full.
func (b *Budget) share() int64 {
	n := b.Total.Holders
	if b.Held == 0 {
		n++
	}
	return max(b.Total.Max/int64(max(n, 1)), minShare)
}

// Hold takes n more bytes into the books, if they may be held.
func (b *Budget) Hold(n int64) bool {
	if b.Held+n > b.Max || b.Total.full(n) && b.Held+n > b.share() {
		return false
	}
	b.add(n)
	return true
}

// add takes n more bytes, or fewer, into the books.
func (b *Budget) add(n int64) {
	if n == 0 {
		return
	}
	if t := b.Total; t != nil {
		if b.Held == 0 {
			t.Holders++
		}
		if t.Held += n; b.Held+n == 0 {
			t.Holders--
		}
	}
	b.Held += n
}

// Release gives back n bytes that were held.
func (b *Budget) Release(n int64) { b.add(-n) }

// grant says whether a stream's window may grow by n bytes: a quarter of the budget is for that, and nothing once half of the
// shard's total is in use.
func (b *Budget) grant(n int64) bool {
	if b.Granted+n > b.Max/4 || b.Total != nil && b.Total.Max > 0 && b.Total.Held > b.Total.Max/2 {
		return false
	}
	b.Granted += n
	return true
}

// SetBudget attaches the budget of the client that the stream belongs to; before any data is sent on it.
func (s *Stream) SetBudget(b *Budget) { s.budget = b }

// SetBudget attaches the budget of the client whose connection this is (Server): half header blocks, partial frames and output
// that is not taken count in it from now on. Its streams' budgets are set one by one, with Stream.SetBudget. Call it before anything is received.
func (c *Conn) SetBudget(b *Budget) {
	c.unhold()
	c.budget = b
	c.outMost = min(maxOutput, c.cfg.OutputMark)
}

// hold takes n more bytes that the connection itself makes us hold into the books; false: they may not be held.
func (c *Conn) hold(n int64) bool {
	if c.budget == nil {
		return true
	}
	if !c.budget.Hold(n) {
		return false
	}
	c.held += n
	return true
}

// letGo gives n such bytes back.
func (c *Conn) letGo(n int64) {
	if c.budget != nil {
		n = min(n, c.held) // what was held before SetBudget is not in the books
		c.held -= n
		c.budget.Release(n)
	}
}

// unhold gives back all such bytes.
func (c *Conn) unhold() {
	c.letGo(c.held)
	c.partial, c.outHeld = 0, 0
}
