package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// row is one peer on one workload: a result for each run.
type row struct {
	peer string
	runs []result
}

// table is one workload; rows[i].runs[n] of all rows were measured side by side.
type table struct {
	workload *workload
	rows     []row
}

// median returns the run in the middle by CPU per call (by rate when there is no
// CPU), and false if no run was good.
func (r *row) median() (result, bool) {
	var good []result
	for _, x := range r.runs {
		if x.good() {
			good = append(good, x)
		}
	}
	if len(good) == 0 {
		return result{}, false
	}
	slices.SortFunc(good, func(a, b result) int {
		switch d := a.cpu - b.cpu + (a.rate-b.rate)*1e-9; {
		case d < 0:
			return -1
		case d > 0:
			return 1
		}
		return 0
	})
	return good[(len(good)-1)/2], true
}

func (t *table) row(peer string) *row {
	for i := range t.rows {
		if t.rows[i].peer == peer {
			return &t.rows[i]
		}
	}
	return nil
}

// ratio is the median over the runs of a's CPU per call to b's in the same run;
// NaN if they never succeeded together.
func (t *table) ratio(a, b string) float64 {
	ra, rb := t.row(a), t.row(b)
	if ra == nil || rb == nil {
		return math.NaN()
	}
	var all []float64
	for i := range min(len(ra.runs), len(rb.runs)) {
		if x, y := ra.runs[i], rb.runs[i]; x.good() && y.good() && y.cpu > 0 && x.cpu > 0 {
			all = append(all, x.cpu/y.cpu)
		}
	}
	if len(all) == 0 {
		return math.NaN()
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// failedRuns describes what went wrong, "" if nothing did.
func (r *row) failedRuns() string {
	var said []string
	for i, x := range r.runs {
		switch {
		case x.err != nil:
			said = append(said, fmt.Sprintf("run %d: %v", i+1, x.err))
		case x.failed > 0:
			said = append(said, fmt.Sprintf("run %d: %d calls FAILED (%s)", i+1, x.failed, strings.Join(x.problems, "; ")))
		case x.calls == 0:
			said = append(said, fmt.Sprintf("run %d: no call came back", i+1))
		}
	}
	return strings.Join(said, "; ")
}

func number(v float64, format string) string {
	if math.IsNaN(v) || v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func latency(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%d us", d.Microseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1e3)
}

func (t *table) write(w io.Writer) {
	w1, unit := t.workload, "us/RPC"
	if w1.bulk {
		unit = "us/MiB"
	} else if w1.spec.shakes != none {
		unit = "us/handshake"
	}
	fmt.Fprintf(w, "### %s: %s\n\n", w1.name, w1.title)
	fmt.Fprintf(w, "| | CPU %s | user | system | of HAProxy | of nghttpx | calls/s | p50 | p99 | peak MiB | proxy busy | load busy |\n", unit)
	fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	for i := range t.rows {
		r := &t.rows[i]
		if len(r.runs) == 0 { // it has no part in this
			continue
		}
		m, ok := r.median()
		if !ok {
			fmt.Fprintf(w, "| %s | FAILED |%s\n", r.peer, strings.Repeat(" |", 10))
			continue
		}
		mark := ""
		if r.failedRuns() != "" {
			mark = " (some runs FAILED)"
		}
		peak := "-"
		if m.peak > 0 {
			peak = fmt.Sprintf("%.0f", float64(m.peak)/(1<<20))
		}
		fmt.Fprintf(w, "| %s%s | %s | %s | %s | %s | %s | %.0f | %s | %s | %s | %s | %.0f %% |\n", r.peer, mark,
			number(m.cpu, "%.2f"), number(m.user, "%.2f"), number(m.sys, "%.2f"),
			number(t.ratio(r.peer, "haproxy"), "%.2f"), number(t.ratio(r.peer, "nghttpx"), "%.2f"),
			m.rate, latency(m.p50), latency(m.p99), peak, number(m.proxyBusy*100, "%.0f %%"), m.loadBusy*100)
	}
	fmt.Fprintln(w)
	for i := range t.rows {
		if s := t.rows[i].failedRuns(); s != "" {
			fmt.Fprintf(w, "- %s: %s\n", t.rows[i].peer, s)
		}
	}
}

// verdict compares Trunkline with the limit of issue 2; "" if there is nothing to
// compare.
func (t *table) verdict() (text string, pass bool) {
	x := t.ratio(trunklineName, "haproxy")
	if t.workload.limit == 0 || math.IsNaN(x) {
		return "", true
	}
	if x <= t.workload.limit {
		return fmt.Sprintf("PASS (at most %.2f)", t.workload.limit), true
	}
	return fmt.Sprintf("FAIL (at most %.2f)", t.workload.limit), false
}

// maxPoliced is how much more CPU per RPC a full set of policies may cost (issue 3).
const maxPoliced = 1.15

// writePoliced prints what the policies cost, if they were measured.
func writePoliced(w io.Writer, tables []*table) (pass bool) {
	pass = true
	title := "## A full set of policies on every method, against none in the same run\n\n| workload | with / without | of HAProxy | issue 3 |\n|---|---:|---:|---|\n"
	for _, t := range tables {
		police, plain := t.cpu(policedName), t.cpu(trunklineName)
		if math.IsNaN(police) || math.IsNaN(plain) {
			continue
		}
		verdict := fmt.Sprintf("PASS (at most %.2f)", maxPoliced)
		if police/plain > maxPoliced {
			verdict = fmt.Sprintf("FAIL (at most %.2f)", maxPoliced)
			pass = false
		}
		fmt.Fprintf(w, "%s| %s | %.2f | %s | %s |\n", title, t.workload.name, police/plain, number(t.ratio(policedName, "haproxy"), "%.2f"), verdict)
		title = ""
	}
	if title == "" {
		fmt.Fprintln(w)
	}
	return pass
}

// cpu is a peer's median CPU per RPC; NaN if it was not measured.
func (t *table) cpu(peer string) float64 {
	for i := range t.rows {
		if t.rows[i].peer == peer {
			if m, ok := t.rows[i].median(); ok {
				return m.cpu
			}
		}
	}
	return math.NaN()
}

// writeSummary prints one line a workload: CPU of every peer, Trunkline's ratios.
func writeSummary(w io.Writer, tables []*table) (pass bool) {
	pass = true
	if len(tables) == 0 {
		return
	}
	fmt.Fprint(w, "## CPU microseconds per RPC (user + system; W4, W5d, W5u: per MiB; W5f, W5r: per handshake)\n\n| workload |")
	for _, r := range tables[0].rows {
		if r.peer != directName {
			fmt.Fprintf(w, " %s |", r.peer)
		}
	}
	fmt.Fprint(w, " trunkline of HAProxy | of nghttpx | limit |\n|---|")
	for _, r := range tables[0].rows {
		if r.peer != directName {
			fmt.Fprint(w, "---:|")
		}
	}
	fmt.Fprint(w, "---:|---:|---|\n")
	for _, t := range tables {
		fmt.Fprintf(w, "| %s: %s |", t.workload.name, t.workload.title)
		for i := range t.rows {
			if r := &t.rows[i]; r.peer != directName {
				m, ok := r.median()
				switch {
				case ok:
					fmt.Fprintf(w, " %.2f |", m.cpu)
				case len(r.runs) == 0:
					fmt.Fprint(w, " - |")
				default:
					fmt.Fprint(w, " failed |")
				}
			}
		}
		text, ok := t.verdict()
		pass = pass && ok
		fmt.Fprintf(w, " %s | %s | %s |\n", number(t.ratio(trunklineName, "haproxy"), "%.2f"),
			number(t.ratio(trunklineName, "nghttpx"), "%.2f"), text)
	}
	fmt.Fprintln(w)
	return pass
}

// writeHeader says where and how, and what the figures do not say.
func writeHeader(w io.Writer, l *lab, selected []*peer, missing []string, o *options) {
	var u unix.Utsname
	_ = unix.Uname(&u)
	cpu := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "model name"); ok {
				cpu = strings.TrimSpace(strings.TrimLeft(rest, "\t :"))
				break
			}
		}
	}
	fmt.Fprintf(w, "# Trunkline beside its peers, %s\n\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	fmt.Fprintf(w, "- Linux %s, %s, %s.\n", unix.ByteSliceToString(u.Release[:]), cpu, runtime.Version())
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ := strings.Cut(string(b), " ")
		fmt.Fprintf(w, "- Load average when it began: %s (above 0.5: others were using the machine, and the figures are worth less); niceness %d.\n", load, o.nice)
	}
	fmt.Fprintf(w, "- The proxy is alone on %d core(s) (%v) with as many threads; load, backends and trace sink are on %d (%v). Loopback; TLS in W5 only.\n",
		len(l.proxyCores), l.proxyCores, len(l.loadCores), l.loadCores)
	if len(l.proxyCores) == len(l.loadCores) && l.proxyCores[0] == l.loadCores[0] {
		fmt.Fprintln(w, "- **There is one core only: proxy and load share it, and the figures say little.**")
	}
	for _, p := range selected {
		if v := p.versionText(l); v != "" {
			fmt.Fprintf(w, "- %s: %s\n", p.name, v)
		}
	}
	for _, m := range missing {
		fmt.Fprintf(w, "- MISSING: %s\n", m)
	}
	fmt.Fprintf(w, "- %d run(s) of %v after %v of warm-up, peers in turn within each run; the run with the median CPU is shown, ratios are medians of the ratios within a run.\n",
		o.runs, o.window, o.warm)
	fmt.Fprint(w, `- A call is a unary echo of 64 bytes with a trailer grpc-status: 0; every reply is checked. W1 to W3 have h2load's header habits
  (:path never indexed), so have W5 and W5b, W6 and W7 grpc-go's (everything indexed). W3 is an open loop with Poisson arrivals; its latency counts from when a call was due.
- W5 to W5r: TLS 1.3 with TLS_AES_128_GCM_SHA256 and X25519 in front, one ECDSA P-256 certificate for all, h2c behind. A handshake is a connection, its
  handshake, and SETTINGS both ways; a client's costs more than a server's, so handshakes/s and core are a million divided by the CPU of one.
- CPU is the exact process CPU clock of the proxy and its workers; the split into user and system is sampled by the kernel.
- Read with care: ratios within one run hold, absolute figures drift with the machine. Trunkline was tuned on these workloads and the
  peers were not, beyond larger windows and buffers in W4. HAProxy 2.6 is old, but a newer one (3.5-dev) was seen to cost more here. HAProxy, nginx and nghttpx
  do less per call: no deadline, no metrics per method, no tracing. "Load busy" near 100 % means that the load, not the proxy, bounded calls/s.

`)
}
