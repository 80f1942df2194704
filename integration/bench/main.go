// Command bench owns the measurements: what a call costs in Trunkline and in its
// peers, side by side on one machine; it must not share code with the data plane
// that it measures, and it talks to loopback only.
//
//	go run ./integration/bench -quick
//	go run ./integration/bench -workloads W1,W6 -peers trunkline,haproxy -runs 3 -seconds 3 -out bench.md
//
// The load generator and the backend speak frames (link.go) and keep HPACK state
// of their own (hpack.go, encode.go), because a real gRPC client costs thirty
// times as much as the proxy under test and could never saturate it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	workloads, peers    string
	runs                int
	seconds, warmup     float64
	window, warm        time.Duration
	quick, check, hold  bool
	out, binary         string
	cpuprofile, loadpro string
	proxyCores          int
	idle, stalled       int
	fanin               bool
	nice                int
}

func parseOptions() *options {
	o := &options{}
	flag.StringVar(&o.workloads, "workloads", "", "names, by commas (default: all but 5k and W1g; \"none\")")
	flag.StringVar(&o.peers, "peers", "", "of trunkline, policies (it, with a full set of policies), haproxy, nghttpx, nginx, l4, direct (default: all but policies)")
	flag.IntVar(&o.runs, "runs", 3, "runs; the median counts")
	flag.Float64Var(&o.seconds, "seconds", 3, "measured window of a run")
	flag.Float64Var(&o.warmup, "warmup", 1, "seconds before the measured window")
	flag.BoolVar(&o.quick, "quick", false, "one run of half a second: to see that it works, and for development")
	flag.BoolVar(&o.check, "check", false, "exit with 1 if a limit of issue 2 is missed")
	flag.BoolVar(&o.hold, "hold", false, "start backends and peers, print their addresses, wait for Ctrl-C (for h2load or a profiler)")
	flag.StringVar(&o.out, "out", "", "also write the report to this file")
	flag.StringVar(&o.binary, "trunkline", "", "measure this binary instead of building the module's main package")
	flag.StringVar(&o.cpuprofile, "cpuprofile", "", "save a CPU profile of trunkline (last run of the last workload), if its admin address offers /debug/pprof")
	flag.StringVar(&o.loadpro, "loadprofile", "", "save a CPU profile of the load and the backends")
	flag.IntVar(&o.proxyCores, "proxy-cores", 0, "cores for the proxy (default: half)")
	flag.IntVar(&o.idle, "idle", 0, "memory: that many idle client connections (1000)")
	flag.IntVar(&o.stalled, "stalled", 0, "memory and latency: that many stalled streams of one client (200)")
	flag.BoolVar(&o.fanin, "fanin", false, "upstream connections of 1,000 clients in front of 10 backends")
	flag.IntVar(&o.nice, "nice", 0, "niceness of everything measured; -20 (as root) on a machine that others use too")
	flag.Parse()
	set := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if o.quick {
		if !set["runs"] {
			o.runs = 1
		}
		if !set["seconds"] {
			o.seconds = 0.5
		}
		if !set["warmup"] {
			o.warmup = 0.3
		}
	}
	if o.workloads == "" && (o.idle > 0 || o.stalled > 0 || o.fanin) {
		o.workloads = "none"
	}
	o.window = time.Duration(o.seconds * float64(time.Second))
	o.warm = time.Duration(o.warmup * float64(time.Second))
	return o
}

func main() {
	o := parseOptions()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func (o *options) chosenWorkloads() ([]*workload, error) {
	var list []*workload
	if o.workloads == "none" {
		return nil, nil
	}
	if o.workloads == "" {
		for i := range workloads {
			if !workloads[i].optional {
				list = append(list, &workloads[i])
			}
		}
		return list, nil
	}
	for name := range strings.SplitSeq(o.workloads, ",") {
		w := workloadNamed(name)
		if w == nil {
			return nil, fmt.Errorf("there is no workload %q", name)
		}
		list = append(list, w)
	}
	return list, nil
}

// chosenPeers returns the peers that can run and says of the others what is missing.
func (o *options) chosenPeers(l *lab) (list []*peer, missing []string, err error) {
	want := map[string]bool{}
	for name := range strings.SplitSeq(o.peers, ",") {
		if name != "" {
			want[name] = true
		}
	}
	for i := range peers {
		p := &peers[i]
		if o.peers != "" && !want[p.name] || o.peers == "" && p.name == policedName {
			continue
		}
		delete(want, p.name)
		if p.ours() && l.trunkline == "" {
			if err := l.build(o.binary); err != nil {
				missing = append(missing, "trunkline: "+err.Error())
				continue
			}
		}
		if p.config != "" {
			if _, err := p.find(l); err != nil {
				missing = append(missing, p.name+": "+err.Error())
				continue
			}
		}
		list = append(list, p)
	}
	for name := range want {
		return nil, nil, fmt.Errorf("there is no peer %q", name)
	}
	return list, missing, nil
}

// newLab shares out the cores and makes the folder for everything temporary.
func newLab(o *options) (*lab, error) {
	all, err := cores()
	if err != nil {
		return nil, err
	}
	n := o.proxyCores
	if n == 0 {
		n = max(1, len(all)/2)
	}
	l := &lab{proxyCores: all, loadCores: all}
	if len(all) > 1 {
		if n >= len(all) {
			return nil, fmt.Errorf("%d cores for the proxy leave none of %d for the load", n, len(all))
		}
		l.loadCores, l.proxyCores = all[:len(all)-n], all[len(all)-n:]
	}
	if l.dir, err = os.MkdirTemp("", "trunkline-bench-"); err != nil {
		return nil, err
	}
	if err := writeCertificate(l.dir); err != nil {
		return nil, err
	}
	return l, os.Chmod(l.dir, 0o755)
}

// build makes the binary under test from the module around the working directory.
func (l *lab) build(binary string) error {
	if binary != "" {
		path, err := filepath.Abs(binary)
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			return err
		}
		l.trunkline = path
		return nil
	}
	out, err := exec.Command("go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || mod == "" || mod == os.DevNull {
		return errors.New("not inside the module, and no -trunkline given")
	}
	root := filepath.Dir(mod)
	if _, err := os.Stat(filepath.Join(root, "main.go")); err != nil {
		return fmt.Errorf("no main package in %s yet", root)
	}
	path := filepath.Join(l.dir, trunklineName)
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, text)
	}
	l.trunkline = path
	return nil
}

func run(ctx context.Context, o *options) error {
	chosen, err := o.chosenWorkloads()
	if err != nil {
		return err
	}
	l, err := newLab(o)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(l.dir) }() // a temporary folder
	selected, missing, err := o.chosenPeers(l) // builds, on all cores
	if err != nil {
		return err
	}
	for _, m := range missing {
		fmt.Fprintln(os.Stderr, "missing:", m)
	}
	unlock, err := oneAtATime(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := pinSelf(l.loadCores); err != nil {
		return fmt.Errorf("cannot bind to cores %v: %w", l.loadCores, err)
	}
	if o.nice != 0 {
		restore, err := niceSelf(o.nice)
		defer restore()
		if err != nil {
			return fmt.Errorf("niceness %d: %w", o.nice, err)
		}
	}
	runtime.GOMAXPROCS(len(l.loadCores))
	debug.SetGCPercent(400) // nothing is allocated per call; connections are

	sink, err := startBackend()
	if err != nil {
		return err
	}
	defer sink.stop()
	l.sink = sink.addr

	out := io.Writer(os.Stdout)
	if o.out != "" {
		f, err := os.Create(o.out)
		if err != nil {
			return err
		}
		defer f.Close()
		out = io.MultiWriter(out, f)
	}
	if o.hold {
		return hold(ctx, l, selected)
	}
	if stop, err := profileLoad(o.loadpro); err != nil {
		return err
	} else {
		defer stop()
	}
	b := &bench{lab: l, options: o, peers: selected}
	each := o.warm + o.window + 200*time.Millisecond
	fmt.Fprintf(os.Stderr, "%d workload(s), %d peer(s), %d run(s): about %v\n", len(chosen), len(selected), o.runs,
		(time.Duration(len(chosen)*len(selected)*o.runs) * each).Round(time.Second))
	writeHeader(out, l, selected, missing, o)
	var tables []*table
	for _, w := range chosen {
		t, err := b.workload(ctx, w)
		if err != nil {
			return err
		}
		tables = append(tables, t)
	}
	fast := writeSummary(out, tables)
	fast = writePoliced(out, tables) && fast
	for _, t := range tables {
		t.write(out)
	}
	small, err := b.shapes(ctx, out)
	if err != nil {
		return err
	}
	if l.trunkline != "" {
		fmt.Fprintf(out, "The trace sink got %d export(s) from Trunkline: %s.\n", sink.calls.Load(),
			map[bool]string{true: "tracing was on", false: "TRACING DID NOT WORK, the figures are too good"}[sink.calls.Load() > 0])
	}
	if o.check && !(fast && small) {
		return errors.New("a limit was missed")
	}
	return nil
}
