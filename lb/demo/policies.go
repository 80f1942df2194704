package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"

	"github.com/trunkline/trunkline/lb/decision"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// The methods that have policies of their own.
const (
	listTeas = "ListTeas"
	tasteTea = "TasteTea"
)

// policies is the service config of the demo: gRPC's own format, and beside it what that has no word for.
const policies = `{
  "methodConfig": [
    {
      "name": [{"service": "trunkline.demo.v1.Shop"}],
      "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.005s", "maxBackoff": "0.1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}
    },
    {
      "name": [{"service": "trunkline.demo.v1.Shop", "method": "ListTeas"}],
      "hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "0.02s", "nonFatalStatusCodes": ["UNAVAILABLE"]}
    }
  ],
  "trunkline": {
    "methodPolicy": [
      {"name": [{"service": "trunkline.demo.v1.Shop", "method": "TasteTea"}], "rateLimits": [{"requestsPerSecond": 0.1, "burst": 5}]}
    ],
    "cluster": {"hedgeBudget": {"ratio": 0.5, "burst": 50}, "outlierDetection": {"consecutive": 2, "interval": "500ms", "baseEjectionTime": "2s"}}
  }
}`

// door closes and opens the shops that close.
func (d *demo) door(closed bool) {
	for _, b := range d.backends {
		if b.closes {
			b.shop.closed.Store(closed)
		}
	}
}

// effects is what the policies did by now, as Trunkline's own page of metrics counts it.
type effects struct {
	calls, attempts, retries, placed, hedges, limited int
	ejections                                         map[string]int // by endpoint
}

// page is the metrics' lines: name{labels} and value.
type page map[string]float64

// sum adds up the samples of a metric that have all these labels, each as `name="value"`.
func (p page) sum(name string, labels ...string) (n int) {
	for sample, v := range p {
		metric, rest, _ := strings.Cut(sample, "{")
		if metric == name && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			n += int(v)
		}
	}
	return n
}

// readPage reads Prometheus' text as far as is needed here.
func readPage(r io.Reader) (page, error) {
	p := page{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if at := strings.LastIndexByte(line, ' '); at > 0 && strings.HasPrefix(line, "trunkline_") {
			if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
				p[line[:at]] = v
			}
		}
	}
	return p, lines.Err()
}

// admin is the URL of the balancer's admin address; "" if it has none.
func (d *demo) admin() string {
	if a := d.balancer.AdminAddr(); a != nil {
		return "http://" + loopback(a)
	}
	return ""
}

func (d *demo) scrape(ctx context.Context) (page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.admin()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	r, err := d.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", req.URL, r.Status)
	}
	return readPage(r.Body)
}

// effects waits until the page has all the calls that the client has made, and reads it.
func (d *demo) effects(ctx context.Context) (*effects, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	made, _ := d.tally.totals()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		p, err := d.scrape(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading what the policies did: %w", err)
		}
		mine, cluster := `method="`+demov1.Shop_ServiceDesc.ServiceName+`/`, `cluster="`+shopCluster+`"`
		e := &effects{
			calls: p.sum("trunkline_calls_total", mine), attempts: p.sum("trunkline_attempts_total", mine),
			retries: p.sum("trunkline_retries_total", cluster, `reason="status"`),
			placed:  p.sum("trunkline_retries_total", cluster, `reason="refused"`) + p.sum("trunkline_retries_total", cluster, `reason="never_sent"`),
			hedges:  p.sum("trunkline_hedges_total", cluster), limited: p.sum("trunkline_limited_total", cluster, `kind="rate_limit"`),
			ejections: map[string]int{},
		}
		for _, b := range d.backends {
			e.ejections[b.address] = p.sum("trunkline_endpoint_ejections_total", cluster, `endpoint="`+b.address+`"`)
		}
		if e.calls >= made {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return e, nil // the verdict tells
		case <-look.C:
		}
	}
}

// tell says in plain words what the policies did.
func (d *demo) tell(e *effects) {
	p := func(what, format string, a ...any) {
		fmt.Fprintf(d.Out, "  %-11s %s\n", what, fmt.Sprintf(format, a...))
	}
	var gave []string
	for _, b := range d.backends {
		if n := b.shop.refused.Load(); n > 0 {
			gave = append(gave, fmt.Sprintf("%s %d", b.name, n))
		}
	}
	var refused uint64
	for _, b := range d.backends {
		refused += b.refusedStreams()
	}
	fmt.Fprintln(d.Out, "\nWhat the policies did, by Trunkline's own counters:")
	p("retries", "%d calls ended UNAVAILABLE at a shop (%s) and were tried elsewhere.", e.retries, strings.Join(gave, ", "))
	p("re-dispatch", "%d streams were refused unprocessed by shop-b; %d attempts took their places elsewhere.", refused, e.placed)
	p("hedges", "%d further attempts of ListTeas, when one took over 20 ms: every 3rd at shop-b takes %v, the p99 was %v.", e.hedges, dawdling, d.tally.slowest(listTeas))
	for _, b := range d.backends {
		if n := e.ejections[b.address]; b.closes {
			p("ejections", "%s was taken out %s, after 2 failures in a row; of its calls %d failed and %d were answered.", b.name, times(n), b.shop.turned.Load(), d.tally.answers(b.name))
		}
	}
	p("rate limit", "%d calls of TasteTea were turned away with RESOURCE_EXHAUSTED; no shop saw them.", e.limited)
	p("in all", "%d calls, %d attempts; failures that the client saw: %d.", e.calls, e.attempts, d.tally.failures())
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// check lists what the policies must have done and did not. It holds where no call but the client's own was made.
func (d *demo) check(e *effects) (bad []string) {
	must := func(holds bool, format string, a ...any) {
		if !holds {
			bad = append(bad, fmt.Sprintf(format, a...))
		}
	}
	made, _ := d.tally.totals()
	var unavailable, tasted int
	for _, b := range d.backends {
		unavailable += int(b.shop.refused.Load())
		tasted += int(b.shop.tasted.Load())
		if b.closes {
			must(e.ejections[b.address] > 0, "%s failed every call for a while, and was not ejected", b.name)
			must(d.returned(), "%s was open again, and got no call within the time that the demo takes", b.name)
		}
	}
	limited := d.tally.ended(tasteTea, codes.ResourceExhausted)
	must(e.calls == made, "Trunkline counts %d calls, the client made %d", e.calls, made)
	must(e.retries == unavailable, "the shops ended %d calls with UNAVAILABLE, Trunkline retried %d", unavailable, e.retries)
	must(e.hedges > 0, "no ListTeas was hedged, although some are slow")
	must(e.limited == limited, "Trunkline turned %d calls away, the client saw %d", e.limited, limited)
	must(limited > 0, "all calls of TasteTea got through; the limit is 5 and then one in ten seconds")
	must(tasted == d.tally.ended(tasteTea, codes.OK), "the shops saw %d calls of TasteTea, %d were let through", tasted, d.tally.ended(tasteTea, codes.OK))
	return bad
}

// returned says whether the shops that close have answered a call since they opened.
func (d *demo) returned() bool {
	for _, b := range d.backends {
		if b.closes && d.tally.answers(b.name) <= d.before[b.name] {
			return false
		}
	}
	return true
}

// open opens the shops that close, and notes what they had answered by then.
func (d *demo) open() {
	d.before = map[string]int{}
	for _, b := range d.backends {
		d.before[b.name] = d.tally.answers(b.name)
	}
	d.door(false)
}

// retried asks Trunkline for the latest call that was retried and ended well, as `explain` does; nil if there is none.
func (d *demo) retried(ctx context.Context) *adminv1.Decision {
	if d.admin() == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r, err := adminv1connect.NewAdminServiceClient(d.http, d.admin()).ExplainCall(ctx,
		connect.NewRequest(&adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_Last{Last: 500}}))
	if err != nil {
		return nil
	}
	for _, c := range r.Msg.GetDecisions() {
		again := slices.ContainsFunc(c.GetAttempts(), func(a *adminv1.CallAttempt) bool { return a.GetKind() == "retry" })
		if again && c.GetTraceId() != "" && c.GetStatus() == 0 {
			return c
		}
	}
	return nil
}

// explain prints what Trunkline says of one call, and how to ask while it runs.
func (d *demo) explain(c *adminv1.Decision) {
	if c == nil {
		return
	}
	if d.Once {
		fmt.Fprintf(d.Out, "\nOne of them, in Trunkline's words. While a demo without --once runs, ask for yourself: %s explain --last-errors\n\n", d.Command)
	} else {
		fmt.Fprintf(d.Out, "\nOne of them, as `%s` told it:\n\n", d.ask("--trace "+c.GetTraceId()))
	}
	var lines []decision.Line
	for _, l := range c.GetTold() {
		if l.GetSection() != adminv1.Section_SECTION_WHERE && l.GetSection() != adminv1.Section_SECTION_DEADLINE {
			lines = append(lines, decision.Line{Section: decision.Section(l.GetSection()), At: l.GetAt().AsDuration(), Detail: l.GetDetail(), Text: l.GetText()})
		}
	}
	decision.Print(d.Out, lines)
}

// ask is a command line that asks this Trunkline.
func (d *demo) ask(what string) string {
	return d.Command + " explain " + what + " --admin " + strings.TrimPrefix(d.admin(), "http://")
}
