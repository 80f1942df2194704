package transport

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trunkline/trunkline/lb/shard"
)

// Bulk data come in large reads, and what costs much for its size in small ones, so that others wait for it a fraction of a millisecond.
func TestChunksGrowWhileTheyAreCheapAndShrinkWhenTheyAreDear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shard.New(0, time.Now(), 1)
		c := &Conn{Shard: s, Chunk: shard.ReadChunk, chunk: leastChunk}
		came := func(n int, took time.Duration) int {
			s.Lock()
			defer s.Unlock()
			s.Tick()
			time.Sleep(took)
			c.judge(n, c.room())
			return c.room()
		}
		for _, step := range []struct {
			n    int
			took time.Duration
			want int
		}{
			{leastChunk, 400 * time.Microsecond, 2 * leastChunk},
			{2*leastChunk - 1, 400 * time.Microsecond, 2 * leastChunk}, // there was no more
			{2 * leastChunk, 800 * time.Microsecond, 2 * leastChunk},
			{2 * leastChunk, 400 * time.Microsecond, 4 * leastChunk},
			{4 * leastChunk, 5 * time.Millisecond, 2 * leastChunk},
			{leastChunk - 1, 5 * time.Millisecond, 2 * leastChunk}, // it was not for its size
			{leastChunk, 5 * time.Millisecond, leastChunk},
			{leastChunk, 5 * time.Millisecond, leastChunk},
		} {
			if got := came(step.n, step.took); got != step.want {
				t.Fatalf("%d bytes in %v: the next chunk is %d, want %d", step.n, step.took, got, step.want)
			}
		}
		for range 10 {
			came(c.room(), 0)
		}
		if got := c.room(); got != shard.ReadChunk {
			t.Errorf("cheap chunks grew to %d, want %d", got, shard.ReadChunk)
		}
		c.Chunk = leastChunk
		if got := came(leastChunk, 0); got != leastChunk {
			t.Errorf("grew to %d above the connection's own bound", got)
		}
	})
}

// Go's scheduler looks for news on sockets only when it has nothing else to do.
func TestAWastefulPeerIsNotReadForAMomentAfterItsTurn(t *testing.T) {
	ours, theirs := sockets(t)
	defer theirs.Close()
	defer ours.Close()
	r, c, over := newRaw(ours), &Conn{}, errors.New("over")
	for _, wasteful := range []bool{true, false} {
		var first time.Time
		err := r.each(c, func() (bool, error) {
			if !first.IsZero() {
				return true, over
			}
			first, c.wasteful = time.Now(), wasteful
			return true, nil
		})
		if !errors.Is(err, over) {
			t.Fatal(err)
		}
		if d := time.Since(first); wasteful && d < pause {
			t.Errorf("it was read again after %v", d)
		}
	}
}

// What it sends meanwhile stays in the kernel, and costs us nothing.
func TestAPeerThatGoesOnAfterOurGoodbyeIsSoonNotReadAnyMore(t *testing.T) {
	ours, theirs := sockets(t)
	goesOn(t, ours, theirs, maxDrain+shard.ReadChunk)
	theirs.Close()
}

// Bytes of a frame that began before the goodbye stand before each chunk.
func TestWhatIsThrownAwayIsCountedOnce(t *testing.T) {
	c := &Conn{lame: true, rest: make([]byte, 16000)}
	for range 3 {
		c.feed(make([]byte, len(c.rest)+leastChunk))
	}
	if c.drained != 3*leastChunk {
		t.Errorf("of %d bytes that came %d are counted", 3*leastChunk, c.drained)
	}
}

func TestAPeerThatGoesOnAfterOurGoodbyeIsSoonNotReadAnyMoreOverTLS(t *testing.T) {
	ours, theirs, raw := secured(t, 0x0304)
	goesOn(t, ours, theirs, maxDrain+2*shard.ReadChunk)
	raw.Close()
}

// goesOn has theirs send until it cannot, after ours has said goodbye; little is read of that, and at most so many bytes.
func goesOn(t *testing.T, ours net.Conn, theirs io.ReadWriter, most int) {
	t.Helper()
	v, wait := serve(t, ours, nil)
	hello(theirs, 1, 100)
	replies(t, theirs, 1)
	v.in(v.c.Finish)
	if _, err := io.Copy(io.Discard, theirs); err != nil {
		t.Errorf("our side was not closed in order: %v", err)
	}
	sent, began := 0, time.Now()
	for p := make([]byte, 1<<20); ; {
		n, err := theirs.Write(p)
		if sent += n; err != nil {
			break
		}
	}
	wait()
	if d := time.Since(began); d < hurry {
		t.Errorf("the connection was closed after %v: what we said may not have been read", d)
	}
	v.in(func() {
		if v.c.drained <= maxDrain || v.c.drained > most {
			t.Errorf("of %d bytes that were sent %d were read, want little more than %d", sent, v.c.drained, maxDrain)
		}
	})
}
