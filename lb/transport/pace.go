package transport

import "time"

// What a chunk costs depends on what is in it: small frames cost a hundred times what bulk data do, and meanwhile all other connections of
// the shard wait. So a connection begins with the smallest chunks; those that fill up get larger, those that take long smaller.
const (
	leastChunk = 8 << 10
	chunkTime  = int64(time.Millisecond)

	// turns is how many chunks one connection may bring before others get the processor, and turnTime after how long of that they do
	// in any case.
	turns    = 4
	turnTime = int64(500 * time.Microsecond)

	// pause is how long a wasteful connection waits after its turn. Yielding would not do: as long as some goroutine is ready to run, Go's
	// scheduler asks only every 10 ms which other sockets have something to read.
	pause = 4 * time.Millisecond

	// maxDrain is how much is read, and thrown away, of a peer that was told why its connection ends: what may have been on its way. Then
	// it is left to the kernel's buffers, which make a peer that goes on sending wait, and the connection ends after hurry.
	maxDrain = 1 << 20
	hurry    = 250 * time.Millisecond
)

// judge sets the size of the next chunk after one for which there was room, of which n bytes came; they have just been parsed. Where n is
// small there is nothing to gain, not even by asking for the time.
func (c *Conn) judge(n, room int) {
	if n < leastChunk {
		return
	}
	switch took := c.Shard.Clock() - c.Shard.Now(); {
	case took > chunkTime:
		c.chunk = max(n/2, leastChunk)
	case n == room && took < chunkTime/2:
		c.chunk = min(2*c.chunk, c.Chunk)
	}
}

// ends judges a chunk as judge does, the turn's i-th, and says whether the turn ends with it: it was late, or the last that may be.
func (c *Conn) ends(i, n, room int, late bool) bool {
	c.judge(n, room)
	late = late || i == turns-1
	c.wasteful = late && c.Sess.Wasteful()
	return late
}

// room is how many bytes may be read at once.
func (c *Conn) room() int { return min(c.chunk, c.Chunk) }

// tooLong begins a batch, and says whether it is to be the last of the connection's turn, which began then.
func (c *Conn) tooLong(began *int64) bool {
	c.Shard.Tick()
	if *began == 0 {
		*began = c.Shard.Now()
	}
	return c.Shard.Now()-*began > turnTime
}
