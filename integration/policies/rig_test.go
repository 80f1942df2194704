// Package policies runs a built Trunkline between stock gRPC clients and servers that misbehave on purpose, and checks from the
// outside what issue 3 promises of its policies; it must not reach into the product's packages.
package policies

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most stories wait more than they work.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	harness.Main(m)
}

// stepLimit bounds what takes a moment.
const stepLimit = 15 * time.Second

// unary is the method that most stories call.
const unary = harness.Service + "/UnaryCall"

// policies are parts of a service config: what is left out is not said.
type policies struct {
	method  string // keys of gRPC's methodConfig for every method
	own     string // keys of trunkline.methodPolicy for every method
	cluster string // keys of trunkline.cluster
	more    string // further keys beside methodConfig
}

// String is the JSON document.
func (p policies) String() string {
	var parts, ours []string
	if p.method != "" {
		parts = append(parts, `"methodConfig": [{"name": [{}], `+p.method+`}]`)
	}
	if p.own != "" {
		ours = append(ours, `"methodPolicy": [{"name": [{}], `+p.own+`}]`)
	}
	if p.cluster != "" {
		ours = append(ours, `"cluster": {`+p.cluster+`}`)
	}
	if len(ours) > 0 {
		parts = append(parts, `"trunkline": {`+strings.Join(ours, ", ")+`}`)
	}
	if p.more != "" {
		parts = append(parts, p.more)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

const (
	// retries is a retryPolicy with short waits.
	retries = `"retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.01s", "maxBackoff": "0.05s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}`
	// freely lets every call be retried, for stories that are not about budgets.
	freely = `"retryBudget": {"ratio": 1, "burst": 1000}, "hedgeBudget": {"ratio": 1, "burst": 1000}`
)

// config is a config file with one cluster of the given endpoints; more YAML may follow.
func config(serviceConfig string, addrs []string, more ...string) string {
	var endpoints []string
	for _, a := range addrs {
		endpoints = append(endpoints, "{ address: "+a+" }")
	}
	text := fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - name: backends
        endpoints: [ %s ]
        grpcServices: [ %s ]
%s
`, strings.Join(endpoints, ", "), harness.Service, strings.Join(more, "\n"))
	if serviceConfig != "" && serviceConfig != "{}" {
		text += "serviceConfig: " + serviceConfig + "\n"
	}
	return text
}

// start runs a Trunkline with these policies before these endpoints.
func start(t testing.TB, p policies, addrs ...string) *harness.Trunkline {
	t.Helper()
	return harness.Start(t, config(p.String(), addrs))
}

// steer gives a call its id and its plan.
func steer(ctx context.Context, id, plan string) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, rogue.CallKey, id)
	if plan != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, rogue.PlanKey, plan)
	}
	return ctx
}

// call makes a unary call; every call has a deadline that only a broken story meets.
func call(t testing.TB, cc *grpc.ClientConn, id, plan string, opts ...grpc.CallOption) (*testpb.SimpleResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
	defer cancel()
	return testpb.NewTestServiceClient(cc).UnaryCall(steer(ctx, id, plan), &testpb.SimpleRequest{}, opts...)
}

// must fails the story unless the status is the wanted one.
func must(t testing.TB, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: status %v (%v), want %v", what, got, err, want)
	}
}

// saysWhy fails the story unless the status is Trunkline's own and names its cause by one of the words, in any case.
func saysWhy(t testing.TB, err error, words ...string) {
	t.Helper()
	if reasonOf(err) == "" {
		t.Errorf("no ErrorInfo with %v", err)
	}
	text := strings.ToLower(status.Convert(err).Message() + " " + reasonOf(err))
	if !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, strings.ToLower(w)) }) {
		t.Errorf("the message names none of %q: %v", words, err)
	}
}

// reasonOf is the reason of a status that Trunkline made; "" for others.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// retryAfter is what RetryInfo says; 0 without one.
func retryAfter(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// tally is how a load went.
type tally struct {
	mu    sync.Mutex
	calls int
	took  time.Duration
	by    map[codes.Code]int
	first map[codes.Code]error
}

func (l *tally) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by, l.first = map[codes.Code]int{}, map[codes.Code]error{}
	}
	c := status.Code(err)
	l.calls++
	l.by[c]++
	if err != nil && l.first[c] == nil {
		l.first[c] = err
	}
}

// share is the part of the calls that were answered with OK.
func (l *tally) share() float64 { return float64(l.by[codes.OK]) / float64(max(1, l.calls)) }

func (l *tally) String() string {
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(l.by)) {
		part := fmt.Sprintf("%v %d", c, l.by[c])
		if err := l.first[c]; err != nil {
			part += fmt.Sprintf(" (first: %.300s)", err)
		}
		parts = append(parts, part)
	}
	return fmt.Sprintf("%d calls in %v (%.0f/s): %s", l.calls, l.took.Round(10*time.Millisecond), float64(l.calls)/l.took.Seconds(), strings.Join(parts, "; "))
}

// pace makes calls at a rate, whether or not those before have ended: that is what clients do to a service that is down.
func pace(perSecond int, d time.Duration, one func(i int) error) *tally {
	l := &tally{}
	var all sync.WaitGroup
	began := time.Now()
	for i := range int(float64(perSecond) * d.Seconds()) {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))))
		all.Go(func() { l.add(one(i)) })
	}
	all.Wait()
	l.took = time.Since(began)
	return l
}

// crowd makes calls from so many callers, each after the one before.
func crowd(callers, calls int, one func(i int) error) *tally {
	l := &tally{}
	var all sync.WaitGroup
	next := make(chan int)
	began := time.Now()
	for range callers {
		all.Go(func() {
			for i := range next {
				l.add(one(i))
			}
		})
	}
	for i := range calls {
		next <- i
	}
	close(next)
	all.Wait()
	l.took = time.Since(began)
	return l
}

// servers are the names of those that got the attempts of a call, in their order.
func servers(attempts []rogue.Attempt) (names []string) {
	for _, a := range attempts {
		names = append(names, a.Server)
	}
	return names
}

// timeout reads an attempt's grpc-timeout; 0 if it had none.
func timeout(a rogue.Attempt) time.Duration {
	v := a.Get("grpc-timeout")
	if v == "" {
		return 0
	}
	units := map[byte]time.Duration{'n': 1, 'u': time.Microsecond, 'm': time.Millisecond, 'S': time.Second, 'M': time.Minute, 'H': time.Hour}
	var n int64
	if _, err := fmt.Sscan(v[:len(v)-1], &n); err != nil {
		return -1
	}
	return time.Duration(n) * units[v[len(v)-1]]
}

// pair starts two servers, "one" and "two", that share a ledger.
func pair(t testing.TB, o rogue.Options) (one, two *rogue.Server, ledger *rogue.Ledger) {
	t.Helper()
	if o.Ledger == nil {
		o.Ledger = rogue.NewLedger()
	}
	return rogue.Start(t, "one", o), rogue.Start(t, "two", o), o.Ledger
}
