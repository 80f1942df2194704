package main

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		if w.spec.tls {
			continue // the backend has none: see the next test
		}
		t.Run(w.name, func(t *testing.T) {
			calls, l := runDirect(t, w.spec, 250*time.Millisecond)
			if calls < 8 {
				t.Fatalf("only %d calls", calls)
			}
			if got := l.hist.count(); got != calls {
				t.Fatalf("%d calls, %d latencies", calls, got)
			}
		})
	}
}

// TestEveryWorkloadBehindTLSRunsThroughATerminator: the load's TLS and crypto/tls's server understand each other, also where
// records and reads do not end where frames do, and no call or handshake fails.
func TestEveryWorkloadBehindTLSRunsThroughATerminator(t *testing.T) {
	b, err := startBackend()
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	addr := startTerminator(t, b.addr)
	for _, w := range workloads {
		if !w.spec.tls {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			calls, l := runAgainst(t, addr, w.spec, 250*time.Millisecond)
			if calls < 8 {
				t.Fatalf("only %d calls", calls)
			}
			if got := l.hist.count(); got != calls {
				t.Fatalf("%d calls, %d latencies", calls, got)
			}
		})
	}
}

// startTerminator takes TLS away and passes bytes on.
func startTerminator(t *testing.T, backend string) (addr string) {
	t.Helper()
	dir := t.TempDir()
	if err := writeCertificate(dir); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "both.pem"), filepath.Join(dir, "both.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			down, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer down.Close()
				up, err := net.Dial("tcp", backend)
				if err != nil {
					t.Error(err)
					return
				}
				defer up.Close()
				wg.Go(func() {
					io.Copy(up, down)
					up.Close()
				})
				io.Copy(down, up)
			})
		}
	})
	return ln.Addr().String()
}

// TestTrunklineCarriesTheWorkloads: the binary of this module starts with the
// generated configuration and no call through it fails.
func TestTrunklineCarriesTheWorkloads(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the main package")
	}
	l, err := newLab(&options{})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(l.dir)
	if err := l.build(""); err != nil {
		t.Fatal(err)
	}
	sink, err := startBackend()
	if err != nil {
		t.Fatal(err)
	}
	defer sink.stop()
	l.sink = sink.addr
	backends, stop, err := startBackends(2)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	in, err := peers[0].start(t.Context(), l, setup{tls: true}, backends)
	if err != nil {
		t.Fatal(err)
	}
	defer in.stop()
	for _, name := range []string{"W1", "W2", "W3", "W4d", "W4u", "W5", "W5b", "W5d", "W5u", "W5f", "W5r", "W5q", "W6", "W7"} {
		t.Run(name, func(t *testing.T) {
			w, addr := workloadNamed(name), in.plain
			if w.spec.tls {
				addr = in.addr
			}
			if calls, _ := runAgainst(t, addr, w.spec, 300*time.Millisecond); calls < 10 {
				t.Fatalf("only %d calls", calls)
			}
		})
	}
	for i, b := range backends {
		if b.calls.Load() == 0 {
			t.Errorf("backend %d got no call", i)
		}
	}
}

// TestBackendRefusesTheThousandAndFirstStream with REFUSED_STREAM, and the load
// counts that as a failure instead of losing the call.
func TestBackendRefusesTheThousandAndFirstStream(t *testing.T) {
	b, err := startBackend()
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	l, err := connect(b.addr, spec{conns: 1, streams: maxStreams + 1, method: methodEndless, style: styleGRPC})
	defer l.close()
	if err != nil {
		t.Fatal(err)
	}
	c := l.conns[0]
	c.mu.Lock()
	if c.limit != maxStreams {
		t.Errorf("the backend advertised %d streams", c.limit)
	}
	c.limit = maxStreams + 1
	c.noGrant = true
	c.mu.Unlock()
	l.stopped.Store(true)
	if err := l.begin(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); l.failed.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was refused")
		}
	}
	if got := l.firstProblems(); l.failed.Load() != 1 || len(got) != 1 || got[0] != "stream 2001: RST_STREAM 7" {
		t.Fatalf("%d failures: %q", l.failed.Load(), got)
	}
}

// TestLoadNoticesAServerThatDies: its calls are failures, and finish does not hang.
func TestLoadNoticesAServerThatDies(t *testing.T) {
	b, err := startBackend()
	if err != nil {
		t.Fatal(err)
	}
	l, err := connect(b.addr, workloadNamed("W1").spec)
	defer l.close()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.begin(); err != nil {
		t.Fatal(err)
	}
	b.stop()
	l.finish(5 * time.Second)
	if l.failed.Load() == 0 {
		t.Fatal("no failure was counted")
	}
	if n := l.active.Load(); n != 0 {
		t.Fatalf("%d calls are still counted as active", n)
	}
}

func BenchmarkDirect(b *testing.B) {
	for _, name := range []string{"W1", "W2", "W6", "W7", "W4d", "W4u"} {
		w := workloadNamed(name)
		b.Run(name, func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			for b.Loop() {
				calls, _ := runDirect(b, w.spec, time.Second)
				b.ReportMetric(float64(calls), "calls/s")
				b.ReportMetric(float64(time.Second.Nanoseconds())/float64(calls), "ns/call")
			}
		})
	}
}
