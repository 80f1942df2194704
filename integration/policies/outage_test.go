package policies

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// failing is a server's script that fails every call, in each of the ways that a policy sees.
func failing(s *rogue.Stream) rogue.Script {
	if s.Number%2 == 0 {
		return rogue.Trailers(codes.Unavailable)
	}
	return rogue.Only(codes.Unavailable, "out of order")
}

// protected is what keeps calls alive: retries, and the ejection of who fails.
const protected = `"outlierDetection": {"consecutive": 5, "interval": "0.5s", "baseEjectionTime": "30s"}`

// outage makes load for a while on three endpoints of which so many fail every call.
func outage(t *testing.T, p policies, broken int, d time.Duration) (*tally, *rogue.Ledger) {
	t.Helper()
	rate := 500
	if harness.Race {
		rate = 100
	}
	ledger := rogue.NewBriefLedger()
	var addrs []string
	for i := range 3 {
		o := rogue.Options{Ledger: ledger}
		if i < broken {
			o.Script = failing
		}
		addrs = append(addrs, rogue.Start(t, fmt.Sprint("endpoint", i), o).Addr)
	}
	tr := start(t, p, addrs...)
	conns := []*grpc.ClientConn{harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen)}
	result := pace(rate, d, func(i int) error {
		_, err := call(t, conns[i%len(conns)], fmt.Sprint(i), "")
		return err
	})
	return result, ledger
}

func TestOneOfThreeEndpointsFailsEveryCallAndHardlyAnyCallFails(t *testing.T) {
	t.Parallel()
	d := 10 * time.Second
	result, ledger := outage(t, policies{method: retries, cluster: protected}, 1, d)
	t.Logf("with retries and ejection: %.3f %% OK, %.3f attempts per call; %v", 100*result.share(), float64(ledger.Streams())/float64(result.calls), result)
	if result.share() < 0.999 {
		t.Errorf("%.3f %% OK, want at least 99.9 %%", 100*result.share())
	}
}

func TestOneOfThreeEndpointsFailsEveryCallAndWithoutPoliciesAThirdOfTheCallsFails(t *testing.T) {
	t.Parallel()
	result, ledger := outage(t, policies{}, 1, 3*time.Second)
	t.Logf("without policies: %.1f %% OK, %.3f attempts per call; %v", 100*result.share(), float64(ledger.Streams())/float64(result.calls), result)
	// The failing endpoint answers at once, so it is never the more loaded one: its share may be above a third.
	if result.share() < 0.55 || result.share() > 0.75 {
		t.Errorf("%.1f %% OK, want about 67 %%", 100*result.share())
	}
}

func TestAllEndpointsFailAndTheLoadUpstreamStaysBelowAFifthMore(t *testing.T) {
	t.Parallel()
	for story, p := range map[string]policies{
		"retries":                       {method: retries},
		"retries, idempotent, ejection": {method: retryAll, own: idempotent, cluster: protected},
		"retries with throttling":       {method: retries, more: `"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}`},
		"hedging":                       {method: hedging(4, "0.02s"), own: idempotent},
	} {
		t.Run(story, func(t *testing.T) {
			t.Parallel()
			result, ledger := outage(t, p, 3, 3*time.Second)
			ratio := float64(ledger.Streams()) / float64(result.calls)
			t.Logf("%.3f attempts per call; %v", ratio, result)
			if ratio > 1.2 {
				t.Errorf("%.3f attempts per call, want at most 1.2", ratio)
			}
			if result.by[codes.Unavailable] != result.calls {
				t.Errorf("%v: want UNAVAILABLE for all", result)
			}
			if ratio < 0.1 {
				t.Errorf("%.3f attempts per call: nothing was tried", ratio)
			}
		})
	}
}

func TestGoAwayUnderLoadFailsNoCallAndRepeatsNone(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewBriefLedger()
	var gone atomic.Int64
	restless := func(s *rogue.Stream) rogue.Script {
		switch {
		case s.Number%40 == 0:
			gone.Add(1)
			return rogue.GoAwayRefuse() // below streams that are open
		case s.Number%40 == 20:
			gone.Add(1)
			return rogue.GoAwayGraceful()
		}
		return rogue.Slow(time.Millisecond, time.Millisecond, 0)
	}
	one := rogue.Start(t, "one", rogue.Options{Ledger: ledger, Script: restless})
	two := rogue.Start(t, "two", rogue.Options{Ledger: ledger, Script: restless})
	tr := start(t, policies{}, one.Addr, two.Addr)
	conns := []*grpc.ClientConn{harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen)}
	calls := 3000
	if harness.Race {
		calls = 1000
	}
	result := crowd(16, calls, func(i int) error {
		_, err := call(t, conns[i%2], fmt.Sprint(i), "")
		return err
	})
	t.Logf("%v; %d times GOAWAY, %d connections", result, gone.Load(), one.Conns()+two.Conns())
	if result.share() != 1 {
		t.Error(result)
	}
	if twice := ledger.MoreThanOnce(); len(twice) > 0 {
		t.Errorf("%d calls were executed more than once", len(twice))
	}
	if gone.Load() < int64(calls)/40 {
		t.Errorf("only %d times GOAWAY", gone.Load())
	}
}
