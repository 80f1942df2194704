package policies

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// patient is a server that fails UnaryCall while it is sick.
type patient struct {
	*rogue.Server
	sick atomic.Bool
}

func newPatient(t *testing.T, name string, ledger *rogue.Ledger) *patient {
	t.Helper()
	p := &patient{}
	p.sick.Store(true)
	p.Server = rogue.Start(t, name, rogue.Options{Ledger: ledger, Script: func(s *rogue.Stream) rogue.Script {
		if p.sick.Load() && s.Get(":path") == "/"+unary {
			return rogue.Trailers(codes.Internal)
		}
		return rogue.OK()
	}})
	return p
}

func TestABreakerOpensRefusesProbesAndCloses(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "patient", nil)
	tr := start(t, policies{own: `"breaker": {"consecutive": 5, "openFor": "0.4s", "maxOpenFor": "0.8s", "probes": 2}`}, p.Addr)
	cc := harness.Dial(t, tr.Listen)
	for range 5 {
		_, err := call(t, cc, "", "")
		must(t, "while the breaker is closed the server's own status comes", err, codes.Internal)
	}
	_, err := call(t, cc, "", "")
	must(t, "an open breaker", err, codes.Unavailable)
	saysWhy(t, err, "breaker")
	if p.Calls() != 5 {
		t.Errorf("%d calls have reached the server, want 5", p.Calls())
	}
	if _, err := testpb.NewTestServiceClient(cc).EmptyCall(harness.Context(t, stepLimit), &testpb.Empty{}); err != nil {
		t.Errorf("another method of the same endpoint: %v", err)
	}

	// While the server stays sick, only probes reach it: after 0.4 s, and every 0.8 s from then on.
	before := p.Calls()
	result := pace(100, 2*time.Second, func(int) error { _, err := call(t, cc, "", ""); return err })
	if probes := p.Calls() - before; probes < 1 || probes > 10 {
		t.Errorf("%d calls have reached the sick server in 2 s, want a few probes (%v)", probes, result)
	}

	p.sick.Store(false)
	harness.Eventually(t, stepLimit, "the probes to close the breaker", func() bool { _, err := call(t, cc, "", ""); return err == nil })
	harness.Eventually(t, stepLimit, "all calls to go", func() bool {
		return crowd(4, 40, func(int) error { _, err := call(t, cc, "", ""); return err }).share() == 1
	})
}

func TestAnOpenBreakerIsAvoidedWhereThereIsAnotherEndpoint(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewLedger()
	bad, good := newPatient(t, "bad", ledger), newPatient(t, "good", ledger)
	good.sick.Store(false)
	tr := harness.Start(t, config(policies{own: `"breaker": {"errorRate": 0.5, "window": "10s", "minVolume": 10, "openFor": "60s"}`}.String(),
		[]string{bad.Addr, good.Addr}, strictly))
	cc := harness.Dial(t, tr.Listen)
	first := crowd(1, 40, func(int) error { _, err := call(t, cc, "", ""); return err })
	if first.by[codes.Internal] < 10 {
		t.Errorf("%v: it opened before there was the volume", first)
	}
	second := crowd(4, 100, func(int) error { _, err := call(t, cc, "", ""); return err })
	if second.share() != 1 {
		t.Errorf("with the breaker open: %v", second)
	}
	if n := bad.Calls(); n > 12 {
		t.Errorf("%d calls on the bad endpoint, want hardly more than 10", n)
	}
}

func TestTheBreakerOfAWholeEndpointClosesItForEveryMethod(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "patient", nil)
	tr := start(t, policies{cluster: `"breaker": {"consecutive": 5, "openFor": "60s"}`}, p.Addr)
	cc := harness.Dial(t, tr.Listen)
	crowd(1, 5, func(int) error { _, err := call(t, cc, "", ""); return err })
	_, err := testpb.NewTestServiceClient(cc).EmptyCall(harness.Context(t, stepLimit), &testpb.Empty{})
	must(t, "another method", err, codes.Unavailable)
	saysWhy(t, err, "breaker")
}

func TestTheCallersFaultsTripNothing(t *testing.T) {
	t.Parallel()
	faults := []codes.Code{codes.NotFound, codes.InvalidArgument, codes.AlreadyExists, codes.PermissionDenied, codes.FailedPrecondition,
		codes.Aborted, codes.OutOfRange, codes.Unauthenticated, codes.Canceled}
	server := rogue.Start(t, "strict", rogue.Options{Script: func(s *rogue.Stream) rogue.Script {
		return rogue.Only(faults[int(s.Number)%len(faults)], "your fault")
	}})
	tr := start(t, policies{own: `"breaker": {"consecutive": 3, "openFor": "60s"}`,
		cluster: `"breaker": {"errorRate": 0.1, "minVolume": 10}, "outlierDetection": {"consecutive": 3}`}, server.Addr)
	cc := harness.Dial(t, tr.Listen)
	const calls = 90
	result := crowd(1, calls, func(int) error { _, err := call(t, cc, "", ""); return err })
	if server.Calls() != calls || result.by[codes.Unavailable] > 0 {
		t.Errorf("%d of %d calls have reached the server: %v", server.Calls(), calls, result)
	}
	// Nor do clients that give up.
	for i := range 10 {
		ctx, cancel := context.WithCancel(steer(context.Background(), fmt.Sprint("quit", i), "silent"))
		ended := make(chan error)
		go func() {
			_, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{})
			ended <- err
		}()
		harness.Eventually(t, stepLimit, "the call to arrive", func() bool { return server.Calls() == int64(calls+i+1) })
		cancel()
		<-ended
	}
	if _, err := call(t, cc, "", "ok"); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestAnOutlierIsEjectedAndComesBack(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewLedger()
	bad := newPatient(t, "bad", ledger)
	good, fine := rogue.Start(t, "good", rogue.Options{Ledger: ledger}), rogue.Start(t, "fine", rogue.Options{Ledger: ledger})
	tr := harness.Start(t, config(policies{cluster: `"outlierDetection": {"consecutive": 5, "interval": "0.1s", "baseEjectionTime": "1s"}`}.String(),
		[]string{bad.Addr, good.Addr, fine.Addr}, strictly))
	conns := []*grpc.ClientConn{harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen)}
	one := func(i int) error { _, err := call(t, conns[i%2], "", ""); return err }
	first := crowd(1, 60, one)
	if bad.Calls() > 8 || first.by[codes.Internal] < 5 {
		t.Errorf("%d calls on the bad endpoint: %v", bad.Calls(), first)
	}
	bad.sick.Store(false)
	before := bad.Calls()
	harness.Eventually(t, stepLimit, "the ejected endpoint to come back", func() bool {
		if err := one(0); err != nil {
			t.Fatal(err)
		}
		return bad.Calls() > before+3
	})
}

// When nobody is healthy, refusing everything helps no one.
func TestWithMostEndpointsEjectedAllAreUsedAgain(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewLedger()
	var addrs []string
	var all []*patient
	for i := range 4 {
		p := newPatient(t, fmt.Sprint("p", i), ledger)
		all, addrs = append(all, p), append(addrs, p.Addr)
	}
	tr := harness.Start(t, config(policies{cluster: `"panicShare": 0.5, "outlierDetection": {"consecutive": 3, "interval": "0.1s", "baseEjectionTime": "60s", "maxEjectedShare": 1}`}.String(), addrs, strictly))
	cc := harness.Dial(t, tr.Listen)
	result := crowd(2, 200, func(int) error { _, err := call(t, cc, "", ""); return err })
	if result.by[codes.Internal] != 200 {
		t.Errorf("%v: the servers' own status must come, not Trunkline's", result)
	}
	for _, p := range all {
		p.sick.Store(false)
	}
	if result := crowd(2, 50, func(int) error { _, err := call(t, cc, "", ""); return err }); result.share() != 1 {
		t.Errorf("healed: %v", result)
	}
}

func TestAnEndpointThatDoesWorseThanItsEqualsIsEjected(t *testing.T) {
	t.Parallel()
	tests := []struct {
		story, detection string
		bad              func(*rogue.Stream) rogue.Script
	}{
		{"half of its calls fail", `"consecutive": 0, "interval": "0.5s", "failureShare": {"threshold": 0.3, "minHosts": 3, "minVolume": 20}`,
			func(s *rogue.Stream) rogue.Script {
				if s.Number%2 == 0 {
					return rogue.Trailers(codes.Internal)
				}
				return rogue.OK()
			}},
		{"it is slower by far", `"consecutive": 0, "interval": "0.5s", "latency": {"factor": 3, "min": "20ms", "minHosts": 3, "minVolume": 10}`, slowly(60 * time.Millisecond)},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			t.Parallel()
			ledger := rogue.NewBriefLedger()
			bad := rogue.Start(t, "bad", rogue.Options{Ledger: ledger, Script: tt.bad})
			addrs := []string{bad.Addr}
			for i := range 3 {
				addrs = append(addrs, rogue.Start(t, fmt.Sprint("good", i), rogue.Options{Ledger: ledger}).Addr)
			}
			tr := harness.Start(t, config(policies{cluster: `"outlierDetection": {` + tt.detection + `}`}.String(), addrs, strictly))
			cc := harness.Dial(t, tr.Listen)
			harness.Eventually(t, stepLimit, "the bad endpoint to be out, and the admin API to say why", func() bool {
				crowd(4, 200, func(int) error { _, err := call(t, cc, "", ""); return err })
				return slices.ContainsFunc(stateOf(t, tr, "backends").GetEndpoints(), func(e *adminv1.EndpointHealth) bool {
					return e.GetAddress() == bad.Addr && e.GetWhy() != ""
				})
			})
			before := bad.Calls()
			crowd(4, 200, func(int) error { _, err := call(t, cc, "", ""); return err })
			if n := bad.Calls() - before; n > 0 {
				t.Errorf("%d calls went to the ejected endpoint", n)
			}
		})
	}
}
