package policies

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// hedging sends another copy after the delay.
func hedging(attempts int, delay string) string {
	return fmt.Sprintf(`"hedgingPolicy": {"maxAttempts": %d, "hedgingDelay": %q, "nonFatalStatusCodes": ["UNAVAILABLE"]}`, attempts, delay)
}

const idempotent = `"idempotent": true`

// slowly is a server's script that takes its time.
func slowly(d time.Duration) func(*rogue.Stream) rogue.Script {
	return func(*rogue.Stream) rogue.Script { return rogue.Slow(d, 0, 0) }
}

// strictly spreads calls over endpoints in turn.
const strictly = "clusters: [ { name: backends, loadBalancing: round_robin } ]"

func TestASlowEndpointIsHedgedByAnotherAndTheLoserIsCancelled(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewLedger()
	slow := rogue.Start(t, "slow", rogue.Options{Ledger: ledger, Script: slowly(10 * time.Second)})
	quick := rogue.Start(t, "quick", rogue.Options{Ledger: ledger})
	tr := harness.Start(t, config(policies{method: hedging(3, "0.1s"), own: idempotent, cluster: freely}.String(), []string{slow.Addr, quick.Addr}, strictly))
	cc := harness.Dial(t, tr.Listen)
	const calls = 10
	for i := range calls {
		began := time.Now()
		resp, err := call(t, cc, fmt.Sprint(i), "")
		if took := time.Since(began); err != nil || resp.GetServerId() != "quick" || took > 3*time.Second {
			t.Errorf("call %d: %v by %q after %v", i, err, resp.GetServerId(), took)
		}
		names := servers(ledger.Attempts(fmt.Sprint(i)))
		if slices.Sort(names); len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("call %d: two copies on one endpoint: %v", i, names)
		}
	}
	if slow.Calls() == 0 {
		t.Error("no call met the slow endpoint: this proves nothing")
	}
	harness.Eventually(t, stepLimit, "the losers to be cancelled", func() bool { return ledger.Cancels() == slow.Calls() && slow.OpenCalls() == 0 })
}

func TestThereAreNeverTwoCopiesOnOneEndpoint(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{Script: slowly(600 * time.Millisecond)})
	tr := start(t, policies{method: hedging(5, "0.05s"), own: idempotent, cluster: freely}, one.Addr, two.Addr)
	if _, err := call(t, harness.Dial(t, tr.Listen), "a", ""); err != nil {
		t.Error(err)
	}
	names := servers(ledger.Attempts("a"))
	if slices.Sort(names); !slices.Equal(names, []string{"one", "two"}) {
		t.Errorf("copies on %v", names)
	}
	lonely := start(t, policies{method: hedging(5, "0.05s"), own: idempotent, cluster: freely}, one.Addr)
	if _, err := call(t, harness.Dial(t, lonely.Listen), "b", ""); err != nil {
		t.Error(err)
	}
	if names := servers(ledger.Attempts("b")); len(names) != 1 {
		t.Errorf("copies on %v of one endpoint", names)
	}
}

func TestAMethodThatIsNotIdempotentIsNotHedged(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: hedging(3, "0.02s"), cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	for i := range 5 {
		id := fmt.Sprint(i)
		if _, err := call(t, cc, id, "slow:200ms"); err != nil || len(ledger.Attempts(id)) != 1 {
			t.Errorf("call %d: %v, attempts on %v", i, err, servers(ledger.Attempts(id)))
		}
	}
}

func TestAHedgedCallEndsWithTheFirstAnswerThatIsNotAFailure(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	delayed := start(t, policies{method: hedging(2, "0.05s"), own: idempotent, cluster: freely}, one.Addr, two.Addr)
	patient := start(t, policies{method: hedging(2, "8s"), own: idempotent, cluster: freely}, one.Addr, two.Addr)
	tests := []struct {
		story, plan string
		tr          *harness.Trunkline
		code        codes.Code
		attempts    int
	}{
		{"a fatal status ends the call, the other copy is cancelled", "slow:9s|only:7", delayed, codes.PermissionDenied, 2},
		{"a failure that is not fatal sends the next copy at once", "only:14|ok", patient, codes.OK, 2},
		{"one that is not fatal waits for the other copy", "slow:1s|only:14", delayed, codes.OK, 2},
		{"a status in trailers counts as well", "slow:9s|trailers:7", delayed, codes.PermissionDenied, 2},
		{"all copies fail", "only:14", delayed, codes.Unavailable, 2},
		{"a negative pushback forbids more copies", "pushback:14,-1|ok", patient, codes.Unavailable, 1},
		{"a pushback delays the next copy", "pushback:14,300|ok", patient, codes.OK, 2},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			began := time.Now()
			_, err := call(t, harness.Dial(t, tt.tr.Listen), tt.story, tt.plan)
			must(t, tt.plan, err, tt.code)
			took := time.Since(began)
			if took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if n := len(ledger.Attempts(tt.story)); n != tt.attempts {
				t.Errorf("%d attempts, want %d", n, tt.attempts)
			}
			if tt.plan == "pushback:14,300|ok" && took < 300*time.Millisecond {
				t.Errorf("the pushback was not waited for: %v", took)
			}
		})
	}
	harness.Eventually(t, stepLimit, "no copy to be left", func() bool { return one.OpenCalls()+two.OpenCalls() == 0 })
}

func TestTheHedgeDelayCanFollowTheMethodsOwnLatency(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{Script: slowly(20 * time.Millisecond)})
	// Until there are samples the delay is so long that nothing is hedged.
	tr := start(t, policies{method: hedging(2, "8s"), own: idempotent + `, "hedging": {"delayPercentile": 90}`, cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	if warm := crowd(8, 300, func(i int) error { _, err := call(t, cc, "warm", ""); return err }); warm.share() != 1 {
		t.Fatal(warm)
	}
	began := time.Now()
	_, err := call(t, cc, "a", "slow:8s|ok")
	if took := time.Since(began); err != nil || took > 4*time.Second {
		t.Errorf("%v after %v; the 90th percentile is about 20 ms", err, took)
	}
	if n := len(ledger.Attempts("a")); n != 2 {
		t.Errorf("%d attempts", n)
	}
}
