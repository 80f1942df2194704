package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// result is one measured window.
type result struct {
	err            error   // the run could not be made
	cpu, user, sys float64 // microseconds per call, of the proxy; 0 for the direct run
	rate           float64 // calls per second
	p50, p99       time.Duration
	peak           int64   // bytes
	proxyBusy      float64 // share of the proxy's cores
	loadBusy       float64 // share of the cores of the load and the backends
	calls, failed  uint64
	problems       []string
}

func (r *result) good() bool { return r.err == nil && r.failed == 0 && r.calls > 0 }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// measure loads a peer with a workload: warm-up, the measured window, the end of
// every call.
func measure(ctx context.Context, lab *lab, in *instance, w *workload, warm, window time.Duration, profile string) (r result) {
	l, err := connect(in.addr, w.spec)
	defer l.close()
	if err != nil {
		return result{err: err}
	}
	if err := l.begin(); err != nil {
		return result{err: err}
	}
	if err := sleep(ctx, warm); err != nil {
		return result{err: err}
	}
	resetPeak(in.pids)
	l.hist.reset()
	l.record.Store(true)
	if profile != "" && in.peer.name == trunklineName {
		go saveProfile(in.admin, profile, window)
	}
	self := []int{os.Getpid()}
	start := time.Now()
	done := l.done.Load()
	proxy0, err1 := readUsage(in.pids)
	self0, err2 := readUsage(self)
	if err := sleep(ctx, window); err != nil {
		return result{err: err}
	}
	r.calls = l.done.Load() - done
	proxy1, err3 := readUsage(in.pids)
	self1, err4 := readUsage(self)
	elapsed := time.Since(start)
	l.record.Store(false)
	r.peak = memory(in.pids, "VmHWM")
	l.finish(5 * time.Second)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			r.err = err
		}
	}
	used := proxy1.since(proxy0)
	if r.calls > 0 {
		r.cpu = float64(used.total) / 1e3 / float64(r.calls)
	}
	if ticks := used.user + used.system; ticks > 0 {
		r.user = r.cpu * float64(used.user) / float64(ticks)
		r.sys = r.cpu - r.user
	}
	r.rate = float64(r.calls) / elapsed.Seconds()
	r.p50, r.p99 = l.hist.quantile(0.50), l.hist.quantile(0.99)
	r.proxyBusy = float64(used.total) / float64(elapsed) / float64(len(lab.proxyCores))
	r.loadBusy = float64(self1.since(self0).total) / float64(elapsed) / float64(len(lab.loadCores))
	r.failed, r.problems = l.failed.Load(), l.firstProblems()
	return r
}

// saveProfile asks the admin address for a CPU profile of the measured window.
// It costs the proxy something: a profiled run is not for the table.
func saveProfile(admin, path string, d time.Duration) {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, max(1, int(d.Seconds())))
	resp, err := http.Get(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		fmt.Fprintf(os.Stderr, "profile: %s says %s\n", url, resp.Status)
		return
	}
	f, err := os.Create(path)
	if err == nil {
		_, err = io.Copy(f, resp.Body)
		f.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
	}
}
