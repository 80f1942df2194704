package main

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"
)

// bench runs what the flags ask for.
type bench struct {
	lab     *lab
	options *options
	peers   []*peer
}

// startBackends starts n backends; stop ends them.
func startBackends(n int) (list []*backend, stop func(), err error) {
	stop = func() {
		for _, b := range list {
			b.stop()
		}
	}
	for range n {
		b, err := startBackend()
		if err != nil {
			stop()
			return nil, nil, err
		}
		list = append(list, b)
	}
	return list, stop, nil
}

// workload measures one workload: every peer is started afresh, then the runs
// take turns.
func (b *bench) workload(ctx context.Context, w *workload) (*table, error) {
	backends, stop, err := startBackends(2)
	if err != nil {
		return nil, err
	}
	defer stop()
	t := &table{workload: w}
	running := make([]*instance, len(b.peers))
	failed := make([]error, len(b.peers))
	for i, p := range b.peers {
		t.rows = append(t.rows, row{peer: p.name})
		if w.spec.tls && !p.speaksTLS() {
			continue
		}
		in, err := p.start(ctx, b.lab, w.setup(), backends)
		if err != nil {
			failed[i] = err
			continue
		}
		defer in.stop()
		running[i] = in
	}
	for n := range b.options.runs {
		for i, p := range b.peers {
			if running[i] == nil && failed[i] == nil {
				continue
			}
			r := result{err: failed[i]}
			if running[i] != nil {
				profile := ""
				if n == b.options.runs-1 {
					profile = b.options.cpuprofile
				}
				r = measure(ctx, b.lab, running[i], w, b.options.warm, b.options.window, profile)
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			t.rows[i].runs = append(t.rows[i].runs, r)
			fmt.Fprintf(os.Stderr, "%-4s run %d %-10s %s\n", w.name, n+1, p.name, r)
		}
	}
	return t, nil
}

func (r result) String() string {
	if r.err != nil {
		return "failed: " + r.err.Error()
	}
	s := fmt.Sprintf("%9.2f us CPU %9.0f calls/s p50 %9s p99 %9s busy %3.0f %% load %3.0f %%",
		r.cpu, r.rate, latency(r.p50), latency(r.p99), r.proxyBusy*100, r.loadBusy*100)
	if r.failed > 0 {
		s += fmt.Sprintf(" %d FAILED: %q", r.failed, r.problems)
	}
	return s
}

// hold keeps backends and peers up for other tools.
func hold(ctx context.Context, l *lab, selected []*peer) error {
	backends, stop, err := startBackends(2)
	if err != nil {
		return err
	}
	defer stop()
	for _, p := range selected {
		in, err := p.start(ctx, l, setup{}, backends)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", p.name, err)
			continue
		}
		defer in.stop()
		fmt.Printf("%s %s pids %v admin %s\n", p.name, in.addr, in.pids, in.admin)
	}
	<-ctx.Done()
	return nil
}

// profileLoad profiles this process until stop is called.
func profileLoad(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, nil
}
