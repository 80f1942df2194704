package shadow

import (
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	"pgregory.net/rapid"
)

// live plays a call against servers that do, attempt by attempt, what the script says, as the engine would under the policy.
func live(m *serviceconfig.Method, script []Attempt, previous int, idempotent bool, request uint32) *Call {
	c := &Call{Method: "pkg.S/M", Now: int64(time.Hour), Previous: previous, Idempotent: idempotent, RequestLongest: request, Replayable: true}
	if exceeds(request, m.MaxRequestBytes) {
		c.Status, c.Local, c.Cause = grpc.ResourceExhausted, true, CauseRequestSize
		return c
	}
	if m.Idempotent != nil {
		idempotent = *m.Idempotent
	}
	f := retry.Failure{Previous: previous, Idempotent: idempotent, Replayable: true, Random: middling}
	at := time.Duration(0)
	for _, a := range script {
		a.Start = at
		if m.PerTryTimeout > 0 && a.answered() > m.PerTryTimeout {
			a = Attempt{Evidence: retry.Ambiguous, Status: grpc.Unavailable, PerTry: true, Start: at, Took: m.PerTryTimeout}
		}
		if m.Timeout > 0 && at+a.Took > m.Timeout {
			a = Attempt{Evidence: retry.Ambiguous, Status: grpc.DeadlineExceeded, Start: at, Took: m.Timeout - at}
			c.Local, c.Cause = true, CauseDeadline
		}
		at += a.Took
		c.Attempts, c.Status, c.Took = append(c.Attempts, a), a.Status, at
		if c.Cause == CauseDeadline || a.Evidence == retry.EvidenceNone {
			return c
		}
		f.Evidence, f.Status, f.PerTry = a.Evidence, a.Status, a.PerTry
		f.Pushback, f.HasPushback, f.NoRetry = a.Pushback, a.HasPushback, a.NoRetry
		f.HasDeadline, f.Left = m.Timeout > 0, m.Timeout-at
		transparent := a.Evidence == retry.NeverSent || a.Evidence == retry.Refused
		if !transparent {
			f.Attempts++
		}
		d := retry.Decide(m.Retry, &f, nil, nil)
		if !d.Retry {
			return c
		}
		if transparent {
			f.Transparent++
		} else if d.Why == retry.RetryPushback {
			f.PushedAt = f.Attempts
		}
		at += d.After
	}
	return c
}

func drawMethod(t *rapid.T, label string) *serviceconfig.Method {
	m := method()
	if rapid.Bool().Draw(t, label+" retries") {
		m.Retry = &retry.Policy{MaxAttempts: rapid.IntRange(2, 5).Draw(t, label+" attempts"),
			// The same for both: what the shadow does not go into.
			InitialBackoff: 300, MaxBackoff: 800, BackoffMultiplier: 2,
			Retryable: grpc.StatusSet(rapid.Uint32Range(0, 1<<grpc.NumStatuses-1).Draw(t, label+" statuses")) | grpc.SetOf(grpc.Unavailable)}
	}
	if rapid.Bool().Draw(t, label+" declares") {
		idempotent := rapid.Bool().Draw(t, label+" idempotent")
		m.Idempotent = &idempotent
	}
	// No sum of these is ever equal: which of two things that happen at once is first is nobody's claim.
	if n := rapid.IntRange(-50, 100).Draw(t, label+" timeout"); n > 0 {
		m.Timeout = time.Duration(n*100 + 50)
	}
	if n := rapid.IntRange(-20, 30).Draw(t, label+" per try"); n > 0 {
		m.PerTryTimeout = time.Duration(n*100 + 1)
	}
	m.MaxRequestBytes = int64(rapid.SampledFrom([]int{-1, -1, -1, 5}).Draw(t, label+" request"))
	return m
}

func drawScript(t *rapid.T) []Attempt {
	script := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Attempt {
		a := Attempt{Took: time.Duration(rapid.IntRange(1, 40).Draw(t, "took") * 100)}
		switch a.Evidence = retry.Evidence(rapid.SampledFrom([]int{0, 1, 2, 3, 3, 3, 3, 4, 4}).Draw(t, "evidence")); a.Evidence {
		case retry.EvidenceNone:
			a.First = a.Took
		case retry.ByStatus:
			a.Status = grpc.Status(rapid.SampledFrom([]int{14, 14, 10, 5}).Draw(t, "status"))
			switch rapid.IntRange(0, 9).Draw(t, "pushback") {
			case 0:
				a.NoRetry = true
			case 1:
				a.HasPushback, a.Pushback = true, 500
			}
		default:
			a.Status = grpc.Unavailable
		}
		return a
	}), 1, 12).Draw(t, "script")
	return append(script, Attempt{Took: 1, First: 1})
}

// The oracle: against the same servers, what the shadow claims to know is what happens when it is live; and where it finds
// nothing, the call ends the same.
func TestLawWhatIsClaimedWouldHaveHappened(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, script := drawMethod(t, "live"), drawMethod(t, "shadow"), drawScript(t)
		previous, idempotent := rapid.IntRange(0, 2).Draw(t, "previous"), rapid.Bool().Draw(t, "idempotent")
		request := uint32(rapid.IntRange(0, 10).Draw(t, "request"))
		happened, otherwise := live(a, script, previous, idempotent, request), live(b, script, previous, idempotent, request)

		found := New(a, b, Options{}).Judge(happened)
		switch {
		case len(found) == 0:
			if happened.Status != otherwise.Status {
				t.Fatalf("found nothing, but %s\nwould have been %s\n%+v\n%+v", lived(happened), lived(otherwise), happened.Attempts, otherwise.Attempts)
			}
		case found[0].Known && found[0].Status != otherwise.Status:
			t.Fatalf("claims %+v, but it %s\n%+v\n%+v", found[0], lived(otherwise), happened.Attempts, otherwise.Attempts)
		}
		if found := New(a, a, Options{}).Judge(happened); len(found) > 0 {
			t.Fatalf("beside itself: %+v", found)
		}
	})
}
