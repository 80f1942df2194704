package main

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// runDirect loads a backend with s for a while and fails on any failed call.
func runDirect(t testing.TB, s spec, d time.Duration) (calls uint64, l *load) {
	t.Helper()
	b, err := startBackend()
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	return runAgainst(t, b.addr, s, d)
}

func runAgainst(t testing.TB, addr string, s spec, d time.Duration) (uint64, *load) {
	t.Helper()
	l, err := connect(addr, s)
	defer l.close()
	if err != nil {
		t.Fatal(err)
	}
	l.record.Store(true)
	if err := l.begin(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	l.finish(5 * time.Second)
	if n := l.failed.Load(); n > 0 {
		t.Fatalf("%d calls failed: %v", n, l.firstProblems())
	}
	return l.done.Load(), l
}

// TestEveryWorkloadRunsDirect: the load and the backend understand each other on
// every workload, and no call fails.
func TestEveryWorkloadRunsDirect(t *testing.T) {
	for _, w := range workloads {
		if w.spec.conns > 1000 && testing.Short() {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			calls, l := runDirect(t, w.spec, 250*time.Millisecond)
			if calls < 50 {
				t.Fatalf("only %d calls", calls)
			}
			if got := l.hist.count(); got != calls {
				t.Fatalf("%d calls, %d latencies", calls, got)
			}
		})
	}
}

func BenchmarkDirect(b *testing.B) {
	for _, name := range []string{"W1", "W2", "W6", "W7", "W4d", "W4u"} {
		w := workloadNamed(name)
		b.Run(name, func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			for b.Loop() {
				calls, l := runDirect(b, w.spec, time.Second)
				b.ReportMetric(float64(calls), "calls/s")
				b.ReportMetric(float64(time.Second.Nanoseconds())/float64(calls), "ns/call")
				_ = fmt.Sprint(l.hist.quantile(0.5))
			}
		})
	}
}
