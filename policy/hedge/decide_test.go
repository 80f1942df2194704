package hedge

import (
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/latency"
	"github.com/trunkline/trunkline/policy/retry"
)

var usual = &Policy{MaxAttempts: 3, Delay: 50 * time.Millisecond, NonFatal: grpc.SetOf(grpc.Unavailable)}

func TestWhenOneMoreIsSent(t *testing.T) {
	slow := Facts{Sent: 1, Live: 1, Idempotent: true, Replayable: true}
	with := func(change func(f *Facts)) Facts { f := slow; change(&f); return f }
	throttled := retry.NewThrottle(retry.ThrottleSettings{MaxTokens: 1, TokenRatio: 0.1})
	throttled.Failed()
	spent := retry.NewBudget(retry.BudgetSettings{Ratio: 0.1, Burst: 1})
	for _, c := range []struct {
		story string
		p     *Policy
		f     Facts
		want  Decision
	}{
		{"no answer in time", usual, slow, Decision{true, SendSlow}},
		{"the only one failed", usual, with(func(f *Facts) { f.Live = 0 }), Decision{true, SendFailed}},
		{"no policy", nil, slow, Decision{Why: NoPolicy}},
		{"never what may not be executed twice", usual, with(func(f *Facts) { f.Idempotent = false }), Decision{Why: NoIdempotency}},
		{"not after a fatal status or when the server forbids", usual, with(func(f *Facts) { f.NoMore = true }), Decision{Why: NoMore}},
		{"not more than the policy's attempts", usual, with(func(f *Facts) { f.Sent = 3 }), Decision{Why: NoAttempts}},
		{"nor than five", &Policy{MaxAttempts: 50}, with(func(f *Facts) { f.Sent = 5 }), Decision{Why: NoAttempts}},
		{"the caller's attempts are taken off", usual, with(func(f *Facts) { f.Previous = 2 }), Decision{Why: NoAttempts}},
		{"not without the request", usual, with(func(f *Facts) { f.Replayable = false }), Decision{Why: NoReplay}},
		{"not past the deadline", usual, with(func(f *Facts) { f.HasDeadline = true }), Decision{Why: NoTime}},
		{"not when throttled", usual, with(func(f *Facts) { f.Throttle = throttled }), Decision{Why: NoThrottle}},
		{"not over the budget", usual, with(func(f *Facts) { f.Budget = spent }), Decision{Why: NoBudget}},
	} {
		if got := Decide(c.p, &c.f); got != c.want {
			t.Errorf("%s: %v (%v), want %v (%v)", c.story, got.Send, got.Why, c.want.Send, c.want.Why)
		}
	}
}

func TestTheDelayIsAPercentileOnceItIsKnown(t *testing.T) {
	const now = int64(time.Hour)
	p := &Policy{Delay: time.Second, Percentile: 95}
	w := latency.New()
	if got := Delay(p, nil, now); got != time.Second {
		t.Errorf("without a window %v", got)
	}
	record := func(n int, d time.Duration) {
		for range n {
			w.Record(now, d)
		}
	}
	record(36, 10*time.Millisecond)
	record(3, 300*time.Millisecond)
	if got := Delay(p, w, now); got != time.Second {
		t.Errorf("with 39 samples, of which hardly 2 are beyond the percentile: %v", got)
	}
	record(1, 300*time.Millisecond)
	later := now + int64(time.Second)
	if got := Delay(p, w, later); got < 270*time.Millisecond || got > 330*time.Millisecond {
		t.Errorf("with 40 samples %v, want about 300ms", got)
	}
	if got := Delay(usual, w, later); got != usual.Delay {
		t.Errorf("without a percentile %v", got)
	}
	if got := Delay(p, w, later+int64(time.Minute)); got != time.Second {
		t.Errorf("when the samples are old %v", got)
	}
}

func TestOnlyListedFailuresAreNotFatal(t *testing.T) {
	for status, want := range map[grpc.Status]bool{grpc.OK: false, grpc.Unavailable: false, grpc.Internal: true, 99: true} {
		if got := Fatal(usual, status); got != want {
			t.Errorf("%v: fatal %v", status, got)
		}
	}
	if !Fatal(nil, grpc.Unavailable) {
		t.Error("without a policy a failure is not fatal")
	}
}

func TestEveryReasonHasItsWords(t *testing.T) {
	seen := map[string]bool{}
	for w := WhyNone + 1; int(w) < len(whys); w++ {
		if w.String() == "" || w.Code() == "" || seen[w.String()] || seen[w.Code()] {
			t.Errorf("%d: %q, %q", w, w.String(), w.Code())
		}
		seen[w.String()], seen[w.Code()] = true, true
	}
	if NoEndpoint != Why(len(whys)-1) || Why(200).String() != "unknown" || Why(200).Code() != "unknown" {
		t.Error("a reason without words")
	}
}
