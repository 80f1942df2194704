package shadow

import (
	"strings"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

const ms = time.Millisecond

var (
	retries = &retry.Policy{MaxAttempts: 3, InitialBackoff: 10 * ms, MaxBackoff: 10 * ms, BackoffMultiplier: 1, Retryable: grpc.SetOf(grpc.Unavailable)}
	hedges  = &hedge.Policy{MaxAttempts: 2, Delay: 50 * ms, NonFatal: grpc.SetOf(grpc.Unavailable)}
	yes     = true
)

// method is a policy that does nothing, and then what change adds to it.
func method(change ...func(m *serviceconfig.Method)) *serviceconfig.Method {
	m := &serviceconfig.Method{Name: "default", MaxRequestBytes: -1, MaxResponseBytes: -1, ReplayBytes: -1}
	for _, c := range change {
		c(m)
	}
	return m
}

type change = func(m *serviceconfig.Method)

func timeout(d time.Duration) change { return func(m *serviceconfig.Method) { m.Timeout = d } }
func perTry(d time.Duration) change  { return func(m *serviceconfig.Method) { m.PerTryTimeout = d } }
func idle(d time.Duration) change    { return func(m *serviceconfig.Method) { m.IdleTimeout = d } }
func streams(n int) change           { return func(m *serviceconfig.Method) { m.MaxStreams = n } }
func replay(n int) change            { return func(m *serviceconfig.Method) { m.ReplayBytes = n } }
func sizes(request, response int64) change {
	return func(m *serviceconfig.Method) { m.MaxRequestBytes, m.MaxResponseBytes = request, response }
}
func retried(m *serviceconfig.Method)    { m.Retry = retries }
func hedging(m *serviceconfig.Method)    { m.Hedge = hedges }
func idempotent(m *serviceconfig.Method) { m.Idempotent = &yes }
func notAtAll(m *serviceconfig.Method)   { no := false; m.Idempotent = &no }
func perSecond(m *serviceconfig.Method) {
	m.Rates = []serviceconfig.RateLimit{{Rate: limit.Rate{PerSecond: 1, Burst: 1}}}
}

func ok(took time.Duration) Attempt { return Attempt{Took: took, First: took, Endpoint: "a:1"} }
func unavailable(took time.Duration) Attempt {
	return Attempt{Evidence: retry.ByStatus, Status: grpc.Unavailable, Took: took, Endpoint: "a:1"}
}
func reset(took time.Duration) Attempt {
	return Attempt{Evidence: retry.Ambiguous, Status: grpc.Unavailable, Took: took, Endpoint: "a:1"}
}
func from(start time.Duration, a Attempt) Attempt { a.Start = start; return a }

// call is a call made of its attempts, ended by the last.
func call(attempts ...Attempt) *Call {
	c := &Call{Method: "pkg.S/M", Now: int64(time.Hour), Replayable: true, Attempts: attempts}
	if n := len(attempts); n > 0 {
		c.Took, c.Status = attempts[n-1].Start+attempts[n-1].Took, attempts[n-1].Status
	}
	return c
}

func refused(status grpc.Status, cause Cause) *Call {
	return &Call{Method: "pkg.S/M", Now: int64(time.Hour), Local: true, Status: status, Cause: cause, LocalReason: "REASON"}
}

func with(c *Call, f func(c *Call)) *Call { f(c); return c }

const nobody = "; outcome unknown"

func TestWhatWouldHaveBeenOtherwise(t *testing.T) {
	type list = []*serviceconfig.Method
	for _, c := range []struct {
		story  string
		p      list // live, shadow
		c      *Call
		what   string // "": nothing
		shadow string
		status grpc.Status // if known
	}{
		{"the same policy finds nothing", list{method(retried), method(retried)}, call(unavailable(5*ms), from(15*ms, ok(5*ms))), "", "", 0},
		{"nor does a policy that allows all", list{method(), method()}, call(ok(5 * ms)), "", "", 0},

		// Deadlines.
		{"a deadline that it would have met", list{method(), method(timeout(200 * ms))}, call(ok(350 * ms)),
			KindDeadline, "would have met its deadline of 200ms, the policy's (it took 350ms)", grpc.DeadlineExceeded},
		{"one that it kept", list{method(), method(timeout(400 * ms))}, call(ok(350 * ms)), "", "", 0},
		{"a longer one than it met", list{method(timeout(100 * ms)), method(timeout(time.Second))},
			with(call(Attempt{Evidence: retry.Ambiguous, Status: grpc.DeadlineExceeded, Took: 100 * ms}), func(c *Call) { c.Cause, c.Local = CauseDeadline, true }),
			KindDeadline, "would have had 1s, the policy's" + nobody, 0},
		{"none at all", list{method(timeout(100 * ms)), method()},
			with(call(Attempt{Evidence: retry.Ambiguous, Status: grpc.DeadlineExceeded, Took: 100 * ms}), func(c *Call) { c.Cause, c.Local = CauseDeadline, true }),
			KindDeadline, "would have had no deadline" + nobody, 0},
		{"the caller's own, whatever the policies", list{method(), method(timeout(time.Second))},
			with(call(Attempt{Evidence: retry.Ambiguous, Status: grpc.DeadlineExceeded, Took: 100 * ms}), func(c *Call) {
				c.Cause, c.Local, c.HasReceived, c.Received = CauseDeadline, true, true, 100*ms
			}), "", "", 0},
		{"a shorter one for a call that met its deadline anyway", list{method(timeout(100 * ms)), method(timeout(50 * ms))},
			with(call(Attempt{Evidence: retry.Ambiguous, Status: grpc.DeadlineExceeded, Took: 100 * ms}), func(c *Call) { c.Cause, c.Local = CauseDeadline, true }), "", "", 0},
		{"one that comes while waiting for the retry", list{method(retried), method(retried, timeout(12*ms))}, call(unavailable(5*ms), from(15*ms, ok(5*ms))),
			KindRetry, "would have ended with UNAVAILABLE after attempt 1: not retried: the deadline comes first", grpc.Unavailable},
		{"one that comes in the second attempt", list{method(retried), method(retried, timeout(17*ms))}, call(unavailable(5*ms), from(15*ms, ok(5*ms))),
			KindDeadline, "would have met its deadline of 17ms, the policy's (it took 20ms)", grpc.DeadlineExceeded},
		{"a call that was refused as hopeless", list{method(), method()}, with(refused(grpc.DeadlineExceeded, CauseHopeless), func(c *Call) { c.HasReceived, c.Received = true, 5*ms }),
			KindDeadline, "would have been let through with its 5ms" + nobody, 0},

		// Per-try timeouts.
		{"an attempt that would have been cut, and not repeated", list{method(), method(retried, perTry(100*ms))}, call(ok(350 * ms)),
			KindPerTry, "attempt 1 would have been cut after 100ms (it took 350ms to answer), and not retried: it may have been executed, and the method is not declared idempotent", grpc.Unavailable},
		{"or repeated", list{method(), method(retried, idempotent, perTry(100*ms))}, call(ok(350 * ms)),
			KindPerTry, "attempt 1 would have been cut after 100ms (it took 350ms to answer), and retried: it may have been executed, but the method is idempotent" + nobody, 0},
		{"not one that was answering", list{method(), method(retried, perTry(100*ms))}, call(Attempt{First: 50 * ms, Took: time.Hour}), "", "", 0},
		{"one that live cut", list{method(perTry(100 * ms)), method()}, call(Attempt{Evidence: retry.Ambiguous, Status: grpc.Unavailable, PerTry: true, Took: 100 * ms}),
			KindPerTry, "attempt 1 would have been given more than its 100ms" + nobody, 0},
		{"one that both cut", list{method(perTry(100 * ms)), method(perTry(50 * ms))}, call(Attempt{Evidence: retry.Ambiguous, Status: grpc.Unavailable, PerTry: true, Took: 100 * ms}), "", "", 0},
		{"one that it would have cut earlier, which leaves more of the deadline", list{method(retried, idempotent, perTry(100*ms)), method(retried, idempotent, perTry(50*ms), timeout(160*ms))},
			call(Attempt{Evidence: retry.Ambiguous, Status: grpc.Unavailable, PerTry: true, Took: 100 * ms}, from(110*ms, ok(40*ms)), from(160*ms, ok(40*ms))), "", "", 0},
		{"a second attempt, whatever the server said after the first", list{method(retried), method(retried, idempotent, perTry(100*ms))},
			call(Attempt{Evidence: retry.ByStatus, Status: grpc.Unavailable, HasPushback: true, Pushback: 15 * ms, Took: 5 * ms}, from(20*ms, ok(350*ms))),
			KindPerTry, "attempt 2 would have been cut after 100ms (it took 350ms to answer), and retried: it may have been executed, but the method is idempotent" + nobody, 0},

		// Retries.
		{"a failure that would have been retried", list{method(), method(retried)}, call(unavailable(5 * ms)),
			KindRetry, "attempt 1 failed with UNAVAILABLE: would have been retried: the policy lists the status" + nobody, 0},
		{"not one that nobody lists", list{method(), method(retried)}, call(Attempt{Evidence: retry.ByStatus, Status: grpc.NotFound}), "", "", 0},
		{"not one after part of the response", list{method(), method(retried)}, with(call(unavailable(5*ms)), func(c *Call) { c.Replayable = false }), "", "", 0},
		{"not one whose request was too long to keep", list{method(), method(retried, replay(1000))}, with(call(unavailable(5*ms)), func(c *Call) { c.RequestBytes = 1001 }), "", "", 0},
		{"not one that the server forbids", list{method(), method(retried)}, call(Attempt{Evidence: retry.ByStatus, Status: grpc.Unavailable, NoRetry: true}), "", "", 0},
		{"not one that the caller has tried before", list{method(), method(retried)}, with(call(unavailable(5*ms)), func(c *Call) { c.Previous = 4 }), "", "", 0},
		{"not one that may have been executed", list{method(), method(retried)}, call(reset(5 * ms)), "", "", 0},
		{"but one that the descriptors declare idempotent", list{method(), method(retried)}, with(call(reset(5*ms)), func(c *Call) { c.Idempotent = true }),
			KindRetry, "attempt 1 failed with UNAVAILABLE: would have been retried: it may have been executed, but the method is idempotent" + nobody, 0},
		{"unless the shadow overrides them", list{method(), method(retried, notAtAll)}, with(call(reset(5*ms)), func(c *Call) { c.Idempotent = true }), "", "", 0},
		{"a retry that would not have been made", list{method(retried), method()}, call(unavailable(5*ms), from(15*ms, ok(5*ms))),
			KindRetry, "would have ended with UNAVAILABLE after attempt 1: not retried: no retryPolicy holds for the method", grpc.Unavailable},
		{"a third attempt that would not have been", list{method(retried), method(func(m *serviceconfig.Method) { p := *retries; p.MaxAttempts = 2; m.Retry = &p })},
			call(unavailable(5*ms), from(15*ms, unavailable(5*ms)), from(30*ms, ok(5*ms))),
			KindRetry, "would have ended with UNAVAILABLE after attempt 2: not retried: all attempts were made", grpc.Unavailable},
		{"re-dispatches of what was never executed are nobody's policy", list{method(), method(retried)},
			call(Attempt{Evidence: retry.NeverSent}, Attempt{Evidence: retry.Refused}, ok(5*ms)), "", "", 0},
		{"a call that its caller gave up says nothing", list{method(), method(retried, timeout(time.Second))},
			with(call(reset(5*ms)), func(c *Call) { c.Cause, c.Idempotent = CauseCancel, true }), "", "", 0},

		// Hedging.
		{"a slow call that would have been hedged", list{method(), method(hedging, idempotent)}, call(ok(350 * ms)),
			KindHedge, "would have been sent to a second endpoint after 50ms (the first took 350ms to answer)" + nobody, 0},
		{"not before its deadline", list{method(), method(hedging, idempotent, timeout(40*ms))}, call(ok(350 * ms)),
			KindDeadline, "would have met its deadline of 40ms, the policy's (it took 350ms)", grpc.DeadlineExceeded},
		{"not if it may not be executed twice", list{method(), method(hedging)}, call(ok(350 * ms)), "", "", 0},
		{"not a stream that had begun to answer", list{method(), method(hedging, idempotent)}, call(Attempt{First: 5 * ms, Took: time.Hour}), "", "", 0},
		{"a failure that would have been followed at once", list{method(), method(hedging, idempotent)}, call(unavailable(5 * ms)),
			KindHedge, "attempt 1 failed with UNAVAILABLE: would have been followed by another copy" + nobody, 0},
		{"not a fatal one", list{method(), method(hedging, idempotent)}, call(Attempt{Evidence: retry.ByStatus, Status: grpc.NotFound, Took: ms}), "", "", 0},
		{"a retry where the shadow would have hedged", list{method(retried), method(hedging, idempotent)}, call(unavailable(5*ms), from(15*ms, ok(5*ms))), "", "", 0},
		{"a retry that hedging holds to be fatal", list{method(retried), method(idempotent, func(m *serviceconfig.Method) { m.Hedge = &hedge.Policy{MaxAttempts: 3, Delay: time.Second} })},
			call(unavailable(5*ms), from(15*ms, ok(5*ms))),
			KindHedge, "would have ended with UNAVAILABLE after attempt 1: not hedged: a fatal status came, or the server's pushback forbids it", grpc.Unavailable},
		{"a copy that won", list{method(hedging), method()}, call(Attempt{Took: 60 * ms, Lost: true, Endpoint: "a:1"}, Attempt{Start: 50 * ms, Took: 10 * ms, Hedge: true}),
			KindHedge, "would have been sent to a:1 alone" + nobody, 0},
		{"a copy that changed nothing", list{method(hedging), method()}, call(Attempt{Took: 60 * ms, First: 60 * ms}, Attempt{Start: 50 * ms, Took: 10 * ms, Hedge: true, Lost: true}), "", "", 0},
		{"copies under both", list{method(hedging), method(hedging, idempotent)}, call(Attempt{Took: 60 * ms, Lost: true}, Attempt{Start: 50 * ms, Took: 10 * ms, Hedge: true}), "", "", 0},

		// Sizes, limits, silence.
		{"a request that would have been too long", list{method(), method(sizes(4<<20, -1))}, with(call(ok(ms)), func(c *Call) { c.RequestLongest = 5 << 20 }),
			KindMessageSize, "a request message of 5 MiB would have been refused: over 4 MiB", grpc.ResourceExhausted},
		{"a response", list{method(), method(sizes(-1, 1000))}, with(call(ok(ms)), func(c *Call) { c.ResponseLongest = 1536 }),
			KindMessageSize, "a response message of 1.5 KiB would have been refused: over 1000 bytes", grpc.ResourceExhausted},
		{"exactly the limit is not over it", list{method(), method(sizes(1000, 1000))}, with(call(ok(ms)), func(c *Call) { c.RequestLongest, c.ResponseLongest = 1000, 1000 }), "", "", 0},
		{"a limit of nothing allows the empty message", list{method(), method(sizes(0, 0))}, call(ok(ms)), "", "", 0},
		{"a request that was refused", list{method(sizes(1000, -1)), method()}, with(refused(grpc.ResourceExhausted, CauseRequestSize), func(c *Call) { c.RequestLongest = 1001 }),
			KindMessageSize, "a request message of 1001 bytes would have been let through" + nobody, 0},
		{"a response that was refused", list{method(sizes(-1, 1000)), method()}, with(call(ok(ms)), func(c *Call) { c.ResponseLongest, c.Cause, c.Local = 1001, CauseResponseSize, true }),
			KindMessageSize, "a response message of 1001 bytes would have been let through" + nobody, 0},
		{"a call over the limit of calls at once", list{method(), method(streams(100))}, with(call(ok(ms)), func(c *Call) { c.InFlight = 100 }),
			KindConcurrency, "would have been refused: 100 calls of the method are allowed at once, and there were 100 beside it", grpc.Unavailable},
		{"one below it", list{method(), method(streams(100))}, with(call(ok(ms)), func(c *Call) { c.InFlight = 99 }), "", "", 0},
		{"one that was over live's", list{method(streams(10)), method(streams(100))}, with(refused(grpc.Unavailable, CauseConcurrency), func(c *Call) { c.InFlight = 10 }),
			KindConcurrency, "would have been let through: 100 calls at once" + nobody, 0},
		{"one over both", list{method(streams(10)), method(streams(5))}, with(refused(grpc.Unavailable, CauseConcurrency), func(c *Call) { c.InFlight = 10 }), "", "", 0},
		{"one over live's rate limit", list{method(perSecond), method()}, refused(grpc.ResourceExhausted, CauseRate),
			KindRate, "would have been within the rate limits" + nobody, 0},
		{"one that live's breaker refused", list{method(), method()}, refused(grpc.Unavailable, CauseBreaker),
			KindBreaker, "would have been let through: there is no breaker" + nobody, 0},
		{"a silence", list{method(), method(idle(time.Minute))}, with(call(ok(time.Hour)), func(c *Call) { c.Idle = 3 * time.Minute }),
			KindIdle, "would have been ended after 1m0s without a frame (it was silent for 3m0s)" + nobody, 0},
		{"a silence that live ended", list{method(idle(time.Minute)), method()}, with(call(ok(time.Hour)), func(c *Call) { c.Cause = CauseIdle }),
			KindIdle, "would have been let be after 1m0s without a frame" + nobody, 0},
		{"what no policy of a method decides", list{method(), method(retried, timeout(1))}, refused(grpc.Unavailable, CauseOther), "", "", 0},
	} {
		t.Run(c.story, func(t *testing.T) {
			found := New(c.p[0], c.p[1], Options{}).Judge(c.c)
			if c.what == "" {
				if len(found) != 0 {
					t.Fatalf("found %+v, want nothing", found)
				}
				return
			}
			if len(found) != 1 || found[0].What != c.what || found[0].Shadow != c.shadow {
				t.Fatalf("found %+v, want %s: %s", found, c.what, c.shadow)
			}
			known := !strings.HasSuffix(c.shadow, nobody)
			if found[0].Known != known || found[0].Status != c.status {
				t.Errorf("known %v, %v; want %v, %v", found[0].Known, found[0].Status, known, c.status)
			}
		})
	}
}

func TestTheLiveSideSaysWhatHappened(t *testing.T) {
	p := New(method(), method(timeout(1), retried), Options{})
	for want, c := range map[string]*Call{
		"ended with OK after 350ms":                  call(ok(350 * ms)),
		"ended with OK after 20ms, 2 attempts":       call(unavailable(5*ms), from(15*ms, ok(5*ms))),
		"refused with RESOURCE_EXHAUSTED (REASON)":   refused(grpc.ResourceExhausted, CauseRate),
		"ended with UNAVAILABLE (LOST) after 1.23ms": with(call(reset(1234567)), func(c *Call) { c.Local, c.LocalReason = true, "LOST" }),
	} {
		if found := p.Judge(c); len(found) == 0 || found[0].Live != want {
			t.Errorf("%+v, want %q", found, want)
		}
	}
}

func TestTheShadowsRateLimitIsItsOwn(t *testing.T) {
	p := New(method(), method(perSecond), Options{})
	c := call(ok(ms))
	if found := p.Judge(c); found != nil {
		t.Fatalf("the first: %+v", found)
	}
	found := p.Judge(c)
	if len(found) != 1 || !found[0].Known || found[0].Shadow != "would have been refused by the rate limit: 1 per second, 1 at once" {
		t.Fatalf("the second: %+v", found)
	}
	if found := p.Judge(refused(grpc.ResourceExhausted, CauseRate)); found != nil {
		t.Fatalf("one that both refuse: %+v", found)
	}
	c.Now += int64(time.Second)
	if found := p.Judge(c); found != nil {
		t.Fatalf("a second later: %+v", found)
	}
}

func TestRateLimitsGoByTheirKeys(t *testing.T) {
	p := New(method(), method(func(m *serviceconfig.Method) {
		m.Rates = []serviceconfig.RateLimit{{Rate: limit.Rate{PerSecond: 1, Burst: 1}, Metadata: "tenant", MaxKeys: 100}}
	}), Options{Seed: 1})
	for _, step := range []struct {
		key     string
		refused bool
	}{{"a", false}, {"b", false}, {"a", true}, {"", false}, {"", true}} {
		c := call(ok(ms))
		if c.RateKeys = []string{step.key}; step.key == "" {
			c.RateKeys = nil
		}
		if found := p.Judge(c); (found != nil) != step.refused {
			t.Errorf("%q: %+v", step.key, found)
		}
	}
}

func TestTheShadowsBreakerOpensByWhatHappened(t *testing.T) {
	p := New(method(), method(func(m *serviceconfig.Method) { m.Breaker = &breaker.Settings{Consecutive: 3, OpenFor: time.Second} }), Options{})
	for range 3 {
		if found := p.Judge(call(unavailable(ms))); found != nil {
			t.Fatalf("%+v", found)
		}
	}
	found := p.Judge(call(ok(ms)))
	if len(found) != 1 || found[0].What != KindBreaker || found[0].Known || !strings.HasPrefix(found[0].Shadow, "would not have gone to a:1: its breaker would have been open (") {
		t.Fatalf("%+v", found)
	}
	other := ok(ms)
	other.Endpoint = "b:1"
	if found := p.Judge(call(other)); found != nil {
		t.Fatalf("another endpoint: %+v", found)
	}
	if found := p.Judge(refused(grpc.Unavailable, CauseBreaker)); found != nil {
		t.Fatalf("a live breaker's refusal, when the shadow's is open too: %+v", found)
	}
	for range 10 { // probes close it
		c := call(ok(ms))
		c.Now += int64(2 * time.Second)
		p.Judge(c)
	}
	if found := p.Judge(refused(grpc.Unavailable, CauseBreaker)); len(found) != 1 {
		t.Fatalf("a live breaker's refusal, when none is open: %+v", found)
	}
}

func TestWhatSaysNothingOfTheEndpointOpensNoShadowBreaker(t *testing.T) {
	opens := func(m *serviceconfig.Method, c *Call) bool {
		m.Breaker = &breaker.Settings{Consecutive: 1, OpenFor: time.Hour}
		p := New(method(), m, Options{})
		p.Judge(c)
		return p.breakers.Open() > 0
	}
	lost := reset(ms)
	lost.Lost = true
	for story, c := range map[string]*Call{
		"another copy won":   call(lost),
		"refused":            call(Attempt{Evidence: retry.Refused, Status: grpc.Unavailable, Endpoint: "a:1"}),
		"the caller gave up": with(call(reset(ms)), func(c *Call) { c.Cause = CauseCancel }),
		"the caller's fault": call(Attempt{Evidence: retry.ByStatus, Status: grpc.NotFound, Endpoint: "a:1"}),
	} {
		if opens(method(), c) {
			t.Errorf("%s: it opens", story)
		}
	}
	if !opens(method(), call(reset(ms))) {
		t.Error("a lost connection does not open it")
	}
	if !opens(method(perTry(ms)), call(ok(5*ms))) {
		t.Error("an attempt that the shadow would have cut does not open it")
	}
}

func TestTheShadowsThrottleFollowsItsCalls(t *testing.T) {
	for name, m := range map[string]*serviceconfig.Method{"retries": method(retried), "hedges": method(hedging, idempotent)} {
		throttle := retry.NewThrottle(retry.ThrottleSettings{MaxTokens: 10, TokenRatio: 0.5})
		p := New(method(), m, Options{Throttle: throttle})
		p.Judge(call(unavailable(ms)))
		if got := throttle.Tokens(); got != 9 {
			t.Errorf("%s: %v tokens after a failure", name, got)
		}
		p.Judge(call(ok(ms)))
		if got := throttle.Tokens(); got != 9.5 {
			t.Errorf("%s: %v tokens after a success", name, got)
		}
	}
}

func TestEachCallPaysIntoTheShadowsBudgets(t *testing.T) {
	settings := retry.BudgetSettings{Ratio: 0.5, Burst: 100} // begins with 20
	o := Options{Retries: retry.NewBudget(settings), Hedges: retry.NewBudget(settings)}
	p := New(method(), method(), o)
	p.Judge(call(ok(ms)))
	p.Judge(refused(grpc.Unavailable, CauseOther)) // not one that never got as far
	if o.Retries.Tokens() != 20.5 || o.Hedges.Tokens() != 20.5 {
		t.Fatalf("%v and %v tokens", o.Retries.Tokens(), o.Hedges.Tokens())
	}
}

func TestHopelessCallsAreJudgedByWhatTheShadowSaw(t *testing.T) {
	p := New(method(), method(func(m *serviceconfig.Method) { m.RefuseHopeless = true }), Options{})
	late := with(call(ok(30*ms)), func(c *Call) { c.HasReceived, c.Received = true, 35*ms })
	for range 30 {
		if found := p.Judge(call(ok(40 * ms))); found != nil {
			t.Fatalf("%+v", found)
		}
	}
	for range 100 { // quick failures say nothing of how long such calls take
		p.Judge(call(unavailable(ms)))
	}
	late.Now += int64(time.Second)
	found := p.Judge(late)
	if len(found) != 1 || found[0].What != KindDeadline || found[0].Status != grpc.DeadlineExceeded ||
		!strings.HasPrefix(found[0].Shadow, "would have been refused on arrival: 35ms were left, and such calls take about ") {
		t.Fatalf("%+v", found)
	}
	late.Status, late.Local, late.Cause, late.Attempts = grpc.DeadlineExceeded, true, CauseHopeless, nil
	if found := p.Judge(late); found != nil {
		t.Fatalf("both refuse: %+v", found)
	}
}

func TestTheShadowsBudgetIsItsOwn(t *testing.T) {
	budget := retry.NewBudget(retry.BudgetSettings{Ratio: 0.1, Burst: 5}) // holds one
	p := New(method(), method(retried), Options{Retries: budget})
	if found := p.Judge(call(unavailable(ms))); len(found) != 1 {
		t.Fatalf("%+v", found)
	}
	if found := p.Judge(call(unavailable(ms))); found != nil {
		t.Fatalf("over the budget: %+v", found)
	}
}

func TestWhatCannotBeJudgedIsNamed(t *testing.T) {
	slower := *retries
	slower.MaxBackoff++
	p := New(method(retried), method(func(m *serviceconfig.Method) { m.Retry, m.WaitForReady, m.HoldResponse = &slower, true, 1 }), Options{})
	if got := strings.Join(p.Unjudged(), ", "); got != "waitForReady, holdResponse, retryPolicy (only the backoff)" {
		t.Error(got)
	}
	if got := New(method(retried), method(hedging), Options{}).Unjudged(); got != nil {
		t.Error(got)
	}
}

func TestACallThatDoesNotDifferCostsNoMemory(t *testing.T) {
	p := New(method(), method(retried, perTry(time.Second), timeout(time.Minute), sizes(1000, 1000), func(m *serviceconfig.Method) {
		m.Breaker = &breaker.Settings{Consecutive: 3}
	}), Options{Retries: retry.NewBudget(retry.BudgetSettings{})})
	c := call(ok(350 * ms))
	var r Report
	n := testing.AllocsPerRun(100, func() { r.Add(c, p.Judge(c)) })
	if n > 2 { // the words of what happened
		t.Fatalf("%v allocations", n)
	}
}
