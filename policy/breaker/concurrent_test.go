package breaker

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const workers = 8

func together(f func(worker int)) {
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func TestNoResultIsLostWhenManyCountAtOnce(t *testing.T) {
	b := New(&Settings{ErrorRate: 1})
	const each = 10_000
	together(func(worker int) {
		for i := range each {
			r := OK
			if i%4 == 0 {
				r = Fault
			}
			b.Done(int64(i%10)*second, r, false)
		}
	})
	if v := b.View(9 * second); v.Volume != workers*each || v.Rate != 0.25 {
		t.Fatalf("%+v", v)
	}
}

func TestNoMoreProbesThanPlacesWhenManyAskAtOnce(t *testing.T) {
	for range 1000 {
		b := New(&Settings{Consecutive: 1, Probes: 3})
		call(b, 0, Fault)
		var admitted atomic.Int64
		together(func(int) {
			if ok, probe := b.Admit(5 * second); ok != probe {
				t.Error("not a probe")
			} else if ok {
				admitted.Add(1)
			}
		})
		if admitted.Load() != 3 {
			t.Fatalf("%d probes", admitted.Load())
		}
		now := 11 * second // timed out: as many again
		together(func(int) {
			if ok, _ := b.Admit(now); ok {
				admitted.Add(1)
			}
		})
		// Who asks in the very moment in which the places are given anew may be refused: never are there more, and in the end all are had.
		if n := admitted.Load(); n < 4 || n > 6 {
			t.Fatalf("%d probes", n)
		}
		for range workers {
			if ok, _ := b.Admit(now); ok {
				admitted.Add(1)
			}
		}
		if n := admitted.Load(); n != 6 {
			t.Fatalf("%d probes", n)
		}
		b.Done(now, Neutral, true) // one place, given long after the others
		now = 30 * second
		together(func(int) {
			if ok, _ := b.Admit(now); ok {
				admitted.Add(1)
			}
		})
		if n := admitted.Load(); n != 7 {
			t.Fatalf("%d probes", n)
		}
	}
}

func TestOneFaultOpensItOnceAndOneFailedProbeToo(t *testing.T) {
	for range 200 {
		b := New(&Settings{Consecutive: 1, Probes: workers})
		together(func(int) { b.Done(0, Fault, false) })
		if v := b.View(0); v.Opened != 1 {
			t.Fatalf("%+v", v)
		}
		together(func(int) {
			_, probe := b.Admit(5 * second)
			b.Done(5*second, Fault, probe)
		})
		if v := b.View(0); v.Opened != 2 || v.OpenUntil != 15*second {
			t.Fatalf("%+v", v)
		}
	}
}

// Shards open, probe, close, evict and look at once; in the end the table's count is right and everything closes again.
func TestTheTablesCountSurvivesAStorm(t *testing.T) {
	table := NewTable(&Settings{Consecutive: 1, OpenFor: time.Millisecond, MaxOpenFor: time.Millisecond, Probes: 1}, 4)
	var clock atomic.Int64
	together(func(worker int) {
		var b *Breaker
		for i := range 5000 {
			now := clock.Add(int64(100 * time.Microsecond))
			if b == nil || i%7 == 0 {
				b = table.Get("e", fmt.Sprint((worker+i/50)%6), now)
			}
			r := OK
			if (i+worker)%3 == 0 {
				r = Fault
			}
			if b.Admits(now) {
				call(b, now, r)
			}
			if i%100 == 0 {
				table.Each(func(_, _ string, b *Breaker) { b.View(now) })
				table.Open()
			}
		}
	})
	open := 0
	table.Each(func(_, _ string, b *Breaker) {
		if !b.Closed() {
			open++
		}
	})
	if table.Open() != open || table.open.Load() != int64(open) {
		t.Fatalf("Open says %d of %d", table.open.Load(), open)
	}
	now := clock.Load() + int64(time.Hour)
	table.Each(func(_, _ string, b *Breaker) { calls(b, now, 2, OK) })
	if table.open.Load() != 0 {
		t.Fatalf("Open says %d of none", table.open.Load())
	}
}

func TestACallAllocatesNothing(t *testing.T) {
	b := New(&Settings{Consecutive: 5, ErrorRate: 0.5})
	open := New(&Settings{Consecutive: 1})
	call(open, 0, Fault)
	table := NewTable(&Settings{Consecutive: 5}, 10)
	table.Get("e", "m", 0)
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(10 * time.Millisecond)
		if !b.Closed() {
			panic("opened")
		}
		b.Admits(now)
		_, probe := b.Admit(now)
		b.Done(now, OK, probe)
		b.Done(now, Fault, false)
		b.Done(now, OK, false)
		open.Admits(0)
		open.Admit(0)
		table.Open()
		table.Get("e", "m", now)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkClosed(b *testing.B) {
	br := New(&Settings{Consecutive: 5})
	for b.Loop() {
		if !br.Closed() {
			b.Fatal()
		}
	}
}

func BenchmarkOK(b *testing.B) {
	br := New(&Settings{Consecutive: 5, ErrorRate: 0.5})
	now := int64(0)
	for b.Loop() {
		now += 10_000
		br.Done(now, OK, false)
	}
}

func BenchmarkOKFromAllCores(b *testing.B) {
	br := New(&Settings{Consecutive: 5, ErrorRate: 0.5})
	b.RunParallel(func(pb *testing.PB) {
		now := int64(0)
		for pb.Next() {
			now += 10_000
			br.Done(now, OK, false)
		}
	})
}

func BenchmarkFault(b *testing.B) {
	br := New(&Settings{ErrorRate: 0.5})
	br.s.ErrorRate = 2 // never opens
	now := int64(0)
	for b.Loop() {
		now += 10_000
		br.Done(now, Fault, false)
	}
}

func BenchmarkRefused(b *testing.B) {
	br := New(&Settings{Consecutive: 1})
	call(br, 0, Fault)
	for b.Loop() {
		if ok, _ := br.Admit(1); ok {
			b.Fatal()
		}
	}
}

func BenchmarkTableGet(b *testing.B) {
	table := NewTable(&Settings{Consecutive: 1}, 100)
	for b.Loop() {
		table.Get("10.0.0.1:8080", "/package.Service/Method", 0)
	}
}

func BenchmarkTableGetEvicts(b *testing.B) {
	table := NewTable(&Settings{Consecutive: 1}, 10_000)
	names := make([]string, 20_000)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	i := 0
	for b.Loop() {
		table.Get("10.0.0.1:8080", names[i%len(names)], int64(i))
		i++
	}
}

func TestOpeningAndClosingAtOnceLeavesTheTablesCountRight(t *testing.T) {
	for range 300 {
		table := NewTable(&Settings{Consecutive: 1, OpenFor: 1, MaxOpenFor: 1, Probes: 1}, 1)
		b := table.Get("", "", 0)
		var clock atomic.Int64
		together(func(worker int) {
			for i := range 200 {
				call(b, clock.Add(2), OK+Result((worker+i)%2))
			}
		})
		want := int64(0)
		if !b.Closed() {
			want = 1
		}
		if got := table.open.Load(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}
