package outlier

import (
	"sync"
	"testing"
	"time"
	"unsafe"
)

func TestNoCallIsLostBetweenManyWhoRecordAndOneWhoSweeps(t *testing.T) {
	s := &Settings{Consecutive: 5, Latency: &Latency{}}
	h := NewHost()
	const workers, each = 8, 20_000
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				h.Record(s, i%4 == 0, time.Millisecond)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	all, faults, measured := 0, 0, 0
	add := func() {
		a, f, _, m := h.take()
		all, faults, measured = all+a, faults+f, measured+m
	}
	for range 1000 {
		add()
	}
	<-done
	add()
	if all != workers*each || faults != all/4 || measured != all-faults {
		t.Fatalf("%d calls, %d faults, %d measured", all, faults, measured)
	}
}

func TestRecordingAllocatesNothingAndHostsShareNoCacheLine(t *testing.T) {
	s := &Settings{Consecutive: 5, Latency: &Latency{}}
	h := NewHost()
	if n := testing.AllocsPerRun(1000, func() {
		h.Record(s, false, time.Millisecond)
		h.Record(s, true, time.Millisecond)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
	if n := unsafe.Sizeof(*h); n != 64 {
		t.Fatalf("%d bytes", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	s := &Settings{Consecutive: 5}
	h := NewHost()
	for b.Loop() {
		h.Record(s, false, time.Millisecond)
	}
}

func BenchmarkRecordWithLatency(b *testing.B) {
	s := &Settings{Consecutive: 5, Latency: &Latency{}}
	h := NewHost()
	for b.Loop() {
		h.Record(s, false, time.Millisecond)
	}
}

func BenchmarkRecordFromAllCores(b *testing.B) {
	s := &Settings{Consecutive: 5}
	h := NewHost()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h.Record(s, false, time.Millisecond)
		}
	})
}

func BenchmarkSweepOf100(b *testing.B) {
	s := &Settings{Consecutive: 5, SuccessRate: &SuccessRate{}, Failures: &FailureShare{}, Latency: &Latency{}}
	d := NewDetector(s)
	var hosts []Subject
	for i := range 100 {
		hosts = append(hosts, Subject{string(rune('a' + i)), NewHost()})
	}
	now := int64(0)
	for b.Loop() {
		for _, h := range hosts {
			h.Host.results.Store(1000<<32 | 1000<<1)
		}
		now += second
		d.Sweep(now, hosts)
	}
}
