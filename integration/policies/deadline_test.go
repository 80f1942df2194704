package policies

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

func TestAnAttemptThatTakesTooLongIsCutAndAnotherOneAnswers(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	// Response headers are held longer than an attempt may take: what has only sent headers can still be given up.
	tr := start(t, policies{method: retries, own: `"perTryTimeout": "600ms", "holdResponse": "5s", "idempotent": true`, cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	for _, plan := range []string{"silent|ok", "headers-silent|ok"} {
		_, err := call(t, cc, plan, plan)
		must(t, plan, err, codes.OK)
		attempts := ledger.Attempts(plan)
		if len(attempts) != 2 || attempts[0].Server == attempts[1].Server {
			t.Fatalf("%s: attempts on %v", plan, servers(attempts))
		}
		for i, a := range attempts {
			if d := timeout(a); d <= 0 || d > 600*time.Millisecond {
				t.Errorf("%s: attempt %d was given %v, want at most the per-try timeout", plan, i+1, d)
			}
		}
		if gap := attempts[1].At.Sub(attempts[0].At); gap < 300*time.Millisecond || gap > 4*time.Second {
			t.Errorf("%s: the second attempt came after %v", plan, gap)
		}
		harness.Eventually(t, stepLimit, "the first attempt to be cancelled", func() bool { return ledger.Cancelled(plan) == 1 })
	}
}

func TestAPerTryTimeoutIsNotTheDeadlineAndNeverRepeatsWhatMayHaveBeenDone(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries, own: `"perTryTimeout": "150ms"`, cluster: freely}, one.Addr, two.Addr)
	_, err := call(t, harness.Dial(t, tr.Listen), "a", "silent|ok")
	must(t, "a method that is not idempotent", err, codes.Unavailable)
	saysWhy(t, err, "per-try", "try timeout", "attempt", "pertrytimeout")
	if n := ledger.Executions("a"); n != 1 {
		t.Errorf("%d executions", n)
	}
}

func TestEachAttemptCarriesTheLesserOfPerTryAndWhatIsLeft(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	method := func(name, timeout string) string {
		return fmt.Sprintf(`{"name": [{"service": %q, "method": %q}]%s}`, harness.Service, name, timeout)
	}
	tr := start(t, policies{more: `"methodConfig": [` + method("UnaryCall", `, "timeout": "3s"`) + `], "trunkline": {"methodPolicy": [` +
		method("UnaryCall", `, "perTryTimeout": "2s"`) + `]}`}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	tests := []struct {
		id     string
		caller time.Duration // 0: none
		empty  bool          // EmptyCall, which has no policy
		most   time.Duration
	}{
		{"the caller has more", 10 * time.Second, false, 2 * time.Second},
		{"the caller has less", time.Second, false, time.Second},
		{"the caller says nothing", 0, false, 2 * time.Second},
		{"no policy, no timeout", 0, true, 0},
		{"no policy, the caller's timeout", 4 * time.Second, true, 4 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.id, func(t *testing.T) {
			ctx, stop := context.WithCancel(steer(context.Background(), tt.id, "ok"))
			defer time.AfterFunc(stepLimit, stop).Stop() // not a deadline: the client would send it
			defer stop()
			if tt.caller > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.caller)
				defer cancel()
			}
			var err error
			if tt.empty {
				_, err = client.EmptyCall(ctx, &testpb.Empty{})
			} else {
				_, err = client.UnaryCall(ctx, &testpb.SimpleRequest{})
			}
			must(t, "the call", err, codes.OK)
			for _, a := range ledger.Attempts(tt.id) {
				got := timeout(a)
				if got > tt.most || got < tt.most-min(tt.most, 900*time.Millisecond) || (tt.most == 0) != (got == 0) {
					t.Errorf("the attempt was given %q, want at most %v and not much less", a.Get("grpc-timeout"), tt.most)
				}
			}
		})
	}
}

// The client here has no deadline of its own: what it gets comes from Trunkline.
func TestThePolicysTimeoutEndsACallWithDeadlineExceeded(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries + `, "timeout": "0.3s"`, cluster: freely}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	for _, plan := range []string{"silent", "headers-silent", "slow:5s"} {
		ctx, cancel := context.WithCancel(steer(context.Background(), plan, plan))
		late := time.AfterFunc(stepLimit, cancel) // not a deadline: the client would send it
		began := time.Now()
		_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
		took := time.Since(began)
		late.Stop()
		cancel()
		must(t, plan, err, codes.DeadlineExceeded)
		saysWhy(t, err, "deadline", "timeout")
		if took < 290*time.Millisecond || took > 3*time.Second {
			t.Errorf("%s: it took %v", plan, took)
		}
		harness.Eventually(t, stepLimit, "the attempt to be cancelled", func() bool { return ledger.Cancelled(plan) == 1 })
	}
}

func TestFailuresBeforeTheDeadlineAreNotToldAsTheDeadline(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: `"timeout": "1s", "retryPolicy": {"maxAttempts": 5, "initialBackoff": "20s", "maxBackoff": "20s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}`,
		cluster: freely}, one.Addr, two.Addr)
	began := time.Now()
	_, err := call(t, harness.Dial(t, tr.Listen), "a", "only:14")
	must(t, "a wait that would not end in time", err, codes.Unavailable)
	if took := time.Since(began); took > 900*time.Millisecond || len(ledger.Attempts("a")) != 1 {
		t.Errorf("after %v and %d attempts: it waited for nothing", took, len(ledger.Attempts("a")))
	}
}

func TestAnIdleStreamIsEndedAndABusyOneLives(t *testing.T) {
	t.Parallel()
	busy := func(s *rogue.Stream) rogue.Script {
		return func(s *rogue.Stream) {
			s.Headers()
			for range 12 {
				if !s.Wait(100*time.Millisecond) || !s.Data(s.Message(0)) {
					return
				}
			}
			s.Trailers(codes.OK, "")
		}
	}
	one, two, ledger := pair(t, rogue.Options{Script: busy})
	tr := start(t, policies{own: `"idleTimeout": "500ms"`}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	client := testpb.NewTestServiceClient(cc)

	stream, err := client.StreamingOutputCall(steer(harness.Context(t, stepLimit), "busy", ""), &testpb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			n++
		}
	}
	if n != 12 || err.Error() != "EOF" {
		t.Errorf("the busy stream ended after %d messages with %v", n, err)
	}

	// A stream on which only the client speaks is not idle either.
	up, err := client.StreamingInputCall(steer(harness.Context(t, stepLimit), "up", "ok"))
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if err := up.Send(&testpb.StreamingInputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // the pace of a slow client
	}
	_, err = up.CloseAndRecv()
	must(t, "the client's stream", err, codes.OK)

	began := time.Now()
	_, err = call(t, cc, "idle", "headers-silent")
	if code := status.Code(err); code == codes.OK || code == codes.DeadlineExceeded {
		t.Errorf("the idle stream: %v: no deadline has passed", err)
	}
	saysWhy(t, err, "idle")
	if took := time.Since(began); took < 450*time.Millisecond || took > 4*time.Second {
		t.Errorf("the idle stream ended after %v", took)
	}
	harness.Eventually(t, stepLimit, "the idle stream to end at the server", func() bool { return ledger.Cancelled("idle") == 1 })
}

func TestACancellationGoesUpAtOnceAlsoDuringAWaitForARetry(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: `"retryPolicy": {"maxAttempts": 3, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}`,
		cluster: freely}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	for _, plan := range []string{"silent", "headers-silent", "only:14|silent"} {
		ctx, cancel := context.WithCancel(steer(context.Background(), plan, plan))
		ended := make(chan error)
		go func() {
			_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
			ended <- err
		}()
		harness.Eventually(t, stepLimit, "the first attempt", func() bool { return len(ledger.Attempts(plan)) == 1 && ledger.Executions(plan) == 1 })
		began := time.Now()
		cancel()
		must(t, plan, <-ended, codes.Canceled)
		if plan == "only:14|silent" {
			continue
		}
		harness.Eventually(t, stepLimit, "the cancellation", func() bool { return ledger.Cancelled(plan) == 1 })
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: the cancellation took %v", plan, took)
		}
	}
	harness.Eventually(t, stepLimit, "no live call", func() bool { return one.OpenCalls()+two.OpenCalls() == 0 })
	time.Sleep(1500 * time.Millisecond) // longer than the wait for a retry, which must not come
	if n := len(ledger.Attempts("only:14|silent")); n != 1 {
		t.Errorf("a cancelled call was retried: %d attempts", n)
	}
}

func TestACallWithoutAChanceIsRefusedOnArrivalWhereThePolicySaysSo(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{Script: func(*rogue.Stream) rogue.Script { return rogue.Slow(150*time.Millisecond, 0, 0) }})
	tr := start(t, policies{own: `"refuseHopeless": true`}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	if warm := crowd(20, 200, func(i int) error { _, err := call(t, cc, fmt.Sprint(i), ""); return err }); warm.share() != 1 {
		t.Fatal(warm)
	}
	// A client that watches no deadline itself: the status is Trunkline's.
	c := harness.DialFrames(t, tr.Listen)
	began := time.Now()
	c.Open(t, 1, "UnaryCall", "grpc-timeout", "50m", rogue.CallKey, "hopeless")
	c.Send(t, 1, &testpb.SimpleRequest{}, true)
	fields, ending := c.Await(t, 1, stepLimit)
	if took := time.Since(began); fields["grpc-status"] != "4" || took > 45*time.Millisecond || len(ledger.Attempts("hopeless")) != 0 {
		t.Errorf("after %v: %v %s, %d attempts; want DEADLINE_EXCEEDED at once, and none", took, fields, ending, len(ledger.Attempts("hopeless")))
	}
	if _, err := call(t, cc, "hopeful", ""); err != nil {
		t.Errorf("a call with time: %v", err)
	}
}

func TestAServerThatOpensNoWindowCostsOneTryNotTheCall(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewLedger()
	closed := rogue.Start(t, "closed", rogue.Options{Ledger: ledger, NoCredit: true})
	open := rogue.Start(t, "open", rogue.Options{Ledger: ledger})
	tr := harness.Start(t, config(policies{method: retries, own: `"perTryTimeout": "400ms", "idempotent": true, "replayBytes": 1000000`, cluster: freely}.String(),
		[]string{closed.Addr, open.Addr}, "clusters: [ { name: backends, loadBalancing: round_robin } ]"))
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	big := &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 200_000)}}
	for i := range 4 {
		resp, err := client.UnaryCall(steer(harness.Context(t, stepLimit), fmt.Sprint(i), ""), big)
		if err != nil || resp.GetServerId() != "open" {
			t.Errorf("call %d: %v by %q", i, err, resp.GetServerId())
		}
	}
	if closed.Calls() == 0 {
		t.Error("no call has met the closed window: this proves nothing")
	}
}
