package limit

import (
	"sync"
	"sync/atomic"
	"testing"
)

// A limit of two admits two, refuses the third, and admits it when a place came back.
func TestConcurrencyStory(t *testing.T) {
	c := NewConcurrency(2)
	if first, second := c.Acquire(), c.Acquire(); !first || !second || c.Acquire() {
		t.Fatal("want two admitted and the third refused")
	}
	c.Release()
	if !c.Acquire() || c.InUse() != 2 {
		t.Fatalf("a place that came back is not given out: %d in use", c.InUse())
	}
	c.SetLimit(1)
	c.Release()
	if c.Acquire() {
		t.Fatal("admitted one at a limit of 1 while one was there")
	}
	c.SetLimit(0)
	for range 100 {
		if !c.Acquire() {
			t.Fatal("refused without a limit")
		}
	}
	if c.InUse() != 101 {
		t.Fatalf("without a limit it counts %d, want 101", c.InUse())
	}
}

// Shards at once never get more places than there are, and none is lost.
func TestConcurrencyShared(t *testing.T) {
	const limit = 5
	c := NewConcurrency(limit)
	var inside, most, admitted atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 5000 {
				if !c.Acquire() {
					continue
				}
				admitted.Add(1)
				n := inside.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				inside.Add(-1)
				c.Release()
			}
		})
	}
	wg.Wait()
	if most.Load() > limit || c.InUse() != 0 || admitted.Load() == 0 {
		t.Fatalf("at most %d at once (limit %d), %d left in use, %d admitted", most.Load(), limit, c.InUse(), admitted.Load())
	}
}

func BenchmarkConcurrency(b *testing.B) {
	c := NewConcurrency(1000)
	b.ReportAllocs()
	for b.Loop() {
		c.Acquire()
		c.Release()
	}
}
