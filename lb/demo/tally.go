package demo

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	codepb "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// maxDurations bounds what a long demo remembers per method: the newest so many durations.
const maxDurations = 2000

// tally counts the client's calls. It is safe for many goroutines.
type tally struct {
	mu      sync.Mutex
	methods map[string]*row // guarded by mu
	wrong   []string        // calls that ended as they must not, the first few; guarded by mu
	wrongs  int             // guarded by mu
}

// row is one method's.
type row struct {
	calls     int
	ended     map[codes.Code]int
	durations []time.Duration // a ring once it is full
	shares    map[string]int  // answers by backend
}

func newTally() *tally { return &tally{methods: map[string]*row{}} }

// add counts one call. A call is as it must be if it ends as its kind expects, or as RESOURCE_EXHAUSTED on TasteTea, which
// has a limit (the verdict holds these against Trunkline's own count).
func (t *tally) add(k call, server string, took time.Duration, err error) {
	code := status.Code(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.methods[k.method]
	if r == nil {
		r = &row{ended: map[codes.Code]int{}, shares: map[string]int{}}
		t.methods[k.method] = r
	}
	if len(r.durations) < maxDurations {
		r.durations = append(r.durations, took)
	} else {
		r.durations[r.calls%maxDurations] = took
	}
	r.calls++
	r.ended[code]++
	if server != "" {
		r.shares[server]++
	}
	if code != k.expect && !(code == codes.ResourceExhausted && k.method == tasteTea) {
		if t.wrongs++; len(t.wrong) < 5 {
			t.wrong = append(t.wrong, fmt.Sprintf("%s ended %v, not %v: %v", k.method, code, k.expect, status.Convert(err).Message()))
		}
	}
}

// totals are all methods' calls, and how they ended.
func (t *tally) totals() (calls int, ended map[codes.Code]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ended = map[codes.Code]int{}
	for _, r := range t.methods {
		calls += r.calls
		for c, n := range r.ended {
			ended[c] += n
		}
	}
	return calls, ended
}

// table prints a line per method.
func (t *tally) table(w io.Writer, backends []*backend) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(w, "%-34s %6s %6s %8s %8s", "method", "calls", "OK", "p50", "p99")
	for _, b := range backends {
		fmt.Fprintf(w, " %7s", b.name)
	}
	fmt.Fprintln(w, "  other endings")
	for _, method := range slices.Sorted(maps.Keys(t.methods)) {
		r := t.methods[method]
		fmt.Fprintf(w, "%-34s %6d %6d %8s %8s", demov1.Shop_ServiceDesc.ServiceName+"/"+method, r.calls, r.ended[codes.OK], round3(quantile(r.durations, .5)), round3(quantile(r.durations, .99)))
		answers := 0
		for _, n := range r.shares {
			answers += n
		}
		for _, b := range backends {
			fmt.Fprintf(w, " %6.0f%%", 100*float64(r.shares[b.name])/float64(max(answers, 1)))
		}
		fmt.Fprintln(w, "  "+cmp.Or(endings(r.ended), "-"))
	}
}

// endings lists every status but OK: "3 NOT_FOUND, 1 UNAVAILABLE".
func endings(ended map[codes.Code]int) string {
	var out []string
	for _, c := range slices.Sorted(maps.Keys(ended)) {
		if c != codes.OK {
			out = append(out, fmt.Sprintf("%d %v", ended[c], codepb.Code(c)))
		}
	}
	return strings.Join(out, ", ")
}

func quantile(durations []time.Duration, q float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[int(q*float64(len(sorted)-1)+.5)]
}

// round3 keeps about three digits of a duration.
func round3(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// verdict lists what is not as it must be; none means that all is. exact adds the laws that hold only when no call but the
// client's own was made: --once.
func (t *tally) verdict(backends []*backend, resends uint64, exact bool) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	bad := slices.Clone(t.wrong)
	if more := t.wrongs - len(t.wrong); more > 0 {
		bad = append(bad, fmt.Sprintf("and %d more calls ended as they must not", more))
	}
	if resends > 0 {
		bad = append(bad, fmt.Sprintf("%d refusals of streams got through to the client; Trunkline must place such calls elsewhere", resends))
	}
	if !exact {
		return bad
	}
	tea := t.methods["GetTea"]
	if tea == nil {
		return append(bad, "no GetTea was called")
	}
	for _, b := range backends {
		if tea.shares[b.name] == 0 {
			bad = append(bad, b.name+" answered no GetTea; each of the backends must")
		}
		if b.extraMethod {
			continue
		}
		if s := t.methods[suggestTea]; s != nil && s.shares[b.name] > 0 {
			bad = append(bad, b.name+" answered "+suggestTea+", which it does not have")
		}
	}
	return bad
}

// ended is how many calls of a method ended so.
func (t *tally) ended(method string, code codes.Code) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.methods[method]; r != nil {
		return r.ended[code]
	}
	return 0
}

// slowest is the p99 of a method's calls.
func (t *tally) slowest(method string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.methods[method]; r != nil {
		return round3(quantile(r.durations, .99))
	}
	return 0
}

// answers is how many calls, of all methods, that backend answered.
func (t *tally) answers(server string) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.methods {
		n += r.shares[server]
	}
	return n
}

// failures are the calls that ended as they must not.
func (t *tally) failures() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wrongs
}
