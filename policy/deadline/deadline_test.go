package deadline

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

func TestWhoseTimeHolds(t *testing.T) {
	for _, c := range []struct {
		story string
		f     Facts
		want  Decision
	}{
		{"nobody's", Facts{}, Decision{}},
		{"the caller's", Facts{Received: 5 * ms, HasReceived: true}, Decision{5 * ms, Caller, false}},
		{"the policy's where the caller gave none", Facts{Policy: 7 * ms}, Decision{7 * ms, Policy, false}},
		{"the policy caps", Facts{Received: 9 * ms, HasReceived: true, Policy: 7 * ms}, Decision{7 * ms, Policy, false}},
		{"and never prolongs", Facts{Received: 5 * ms, HasReceived: true, Policy: 7 * ms}, Decision{5 * ms, Caller, false}},
		{"the caller's if they are equal", Facts{Received: 7 * ms, HasReceived: true, Policy: 7 * ms}, Decision{7 * ms, Caller, false}},
		{"a time that was up on arrival is not no limit", Facts{HasReceived: true, Policy: 7 * ms}, Decision{1, Caller, false}},
		{"too late to begin", Facts{Received: 5 * ms, HasReceived: true, Hopeless: true, Median: 6 * ms, Samples: 20}, Decision{5 * ms, Caller, true}},
		{"unless nobody asked", Facts{Received: 5 * ms, HasReceived: true, Median: 6 * ms, Samples: 20}, Decision{5 * ms, Caller, false}},
		{"or too little is known", Facts{Received: 5 * ms, HasReceived: true, Hopeless: true, Median: 6 * ms, Samples: 19}, Decision{5 * ms, Caller, false}},
		{"or it may just do", Facts{Received: 6 * ms, HasReceived: true, Hopeless: true, Median: 6 * ms, Samples: 20}, Decision{6 * ms, Caller, false}},
		{"the policy's own timeout makes no call hopeless", Facts{Received: 9 * ms, HasReceived: true, Policy: ms, Hopeless: true, Median: 6 * ms, Samples: 20}, Decision{ms, Policy, false}},
		{"nor is one without deadline", Facts{Hopeless: true, Median: 6 * ms, Samples: 20}, Decision{}},
	} {
		if got := Decide(c.f); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.story, got, c.want)
		}
	}
}

func TestAnAttemptGetsTheShorterTime(t *testing.T) {
	for _, c := range []struct {
		perTry, left time.Duration
		hasDeadline  bool
		want         time.Duration
		bounded      bool
	}{
		{0, 0, false, 0, false},
		{0, 9 * ms, false, 0, false}, // left says nothing without a deadline
		{5 * ms, 0, false, 5 * ms, true},
		{0, 9 * ms, true, 9 * ms, true},
		{5 * ms, 9 * ms, true, 5 * ms, true},
		{5 * ms, 3 * ms, true, 3 * ms, true},
		{5 * ms, -3 * ms, true, 0, true},
		{-5 * ms, 3 * ms, true, 3 * ms, true},
	} {
		if d, bounded := ForAttempt(c.perTry, c.left, c.hasDeadline); d != c.want || bounded != c.bounded {
			t.Errorf("per try %v, left %v (%v): %v, %v, want %v, %v", c.perTry, c.left, c.hasDeadline, d, bounded, c.want, c.bounded)
		}
	}
}

// Nobody is given more time than the caller left, nor than the policy allows.
func TestLawNoDeadlineIsProlonged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.Map(rapid.Int64Range(-10, 1<<40), func(n int64) time.Duration { return time.Duration(n) })
		f := Facts{Received: d.Draw(t, "received"), HasReceived: rapid.Bool().Draw(t, "has"), Policy: d.Draw(t, "policy"),
			Hopeless: rapid.Bool().Draw(t, "hopeless"), Median: d.Draw(t, "median"), Samples: rapid.IntRange(0, 40).Draw(t, "samples")}
		got := Decide(f)
		bounded := f.HasReceived || f.Policy > 0
		if bounded != (got.Limit > 0) || bounded != (got.Source != None) {
			t.Fatalf("%+v", got)
		}
		if f.HasReceived && got.Limit > max(f.Received, 1) || f.Policy > 0 && got.Limit > f.Policy {
			t.Fatalf("prolonged: %+v", got)
		}
		left := got.Limit - d.Draw(t, "spent")
		given, _ := ForAttempt(d.Draw(t, "per try"), left, bounded)
		if bounded && (given > max(left, 0) || given < 0) {
			t.Fatalf("an attempt is given %v of %v", given, left)
		}
	})
}

func TestDecidingDoesNotAllocate(t *testing.T) {
	f := Facts{Received: 5 * ms, HasReceived: true, Policy: 7 * ms, Hopeless: true, Median: 6 * ms, Samples: 20}
	if n := testing.AllocsPerRun(100, func() { ForAttempt(ms, Decide(f).Limit, true) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
