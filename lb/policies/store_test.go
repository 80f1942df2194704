package policies

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	"github.com/trunkline/trunkline/policy/shadow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t *testing.T, document string) *serviceconfig.Config {
	t.Helper()
	cfg, problems := serviceconfig.Parse("story", []byte(document), 1)
	if cfg == nil {
		t.Fatal(problems)
	}
	return cfg
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s := NewStore(slog.New(slog.DiscardHandler), 1)
	t.Cleanup(s.Close)
	return s
}

const own = `{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.5},
	"trunkline": {"methodPolicy": [{"name": [{}], "maxStreams": 2, "breaker": {"consecutive": 3}, "rateLimits": [{"requestsPerSecond": 1, "burst": %d}]}],
	"cluster": {"concurrency": {"maxStreams": %d}, "retryBudget": {"ratio": 0.5, "burst": %d}}}}`

// What a reload does not change keeps what it knows: a spent budget stays spent, an open breaker open, and what runs counted.
func TestAReloadKeepsTheStateOfWhatItDoesNotChange(t *testing.T) {
	s := newStore(t)
	known := Facts{Known: true}
	c := s.Set("c", parse(t, fmt.Sprintf(own, 1, 5, 20)), nil)
	r := c.Rules("a.S", "M", known)
	for c.Budget.Withdraw() {
	}
	c.Throttle.Failed()
	if !c.Streams.Acquire() || !r.Streams.Acquire() {
		t.Fatal("there is no place")
	}
	r.Rates[0].Bucket.Take(0)
	b := r.Breakers.Get("one:1", r.Full, 0)
	for range 3 {
		b.Done(0, breaker.Fault, false)
	}

	same := s.Set("c", parse(t, fmt.Sprintf(own, 1, 7, 20)), nil) // only the cluster's limit is another
	r2 := same.Rules("a.S", "M", known)
	if same.Budget != c.Budget || same.Throttle != c.Throttle || r2.Streams != r.Streams || r2.Rates[0] != r.Rates[0] || r2.Breakers != r.Breakers || same.Group != c.Group {
		t.Error("state was lost though its settings are the same")
	}
	if same.Streams.InUse() != 1 || same.Streams.Limit() != 7 {
		t.Errorf("%d of %d places are taken, want 1 of 7", same.Streams.InUse(), same.Streams.Limit())
	}
	if r2.Breakers.Open() != 1 {
		t.Error("the breaker closed by itself")
	}
	if again := s.Set("c", same.Config(), nil); again != same {
		t.Error("the same settings made another cluster")
	}

	other := s.Set("c", parse(t, fmt.Sprintf(own, 9, 7, 30)), nil)
	if r3 := other.Rules("a.S", "M", known); other.Budget == c.Budget || r3.Rates[0] == r.Rates[0] || r3.Streams != r.Streams {
		t.Error("new settings go with old state, or old settings with new")
	}
}

// All shards and generations share one state of a method; other methods have their own.
func TestAMethodHasOneStateWhoeverAsks(t *testing.T) {
	c := newStore(t).Set("c", parse(t, fmt.Sprintf(own, 1, 5, 20)), nil)
	a, b := c.Rules("a.S", "M", Facts{Known: true}), c.Rules("a.S", "M", Facts{Known: true})
	other := c.Rules("a.S", "N", Facts{Known: true})
	if a.Streams != b.Streams || a.Rates[0] != b.Rates[0] || a.Streams == other.Streams || a.Rates[0] == other.Rates[0] {
		t.Error("state is shared by the wrong ones")
	}
}

// A shared rate limit is one for all methods of its entry, and a reload that leaves it as it is does not fill it.
func TestMethodsShareARateLimitWhereTheEntrySaysSo(t *testing.T) {
	s := newStore(t)
	document := func(more string) *serviceconfig.Config {
		return parse(t, `{"trunkline": {"methodPolicy": [{"name": [{"service": "a.S"}, {"service": "a.T", "method": "M"}], "rateLimits": [
			{"requestsPerSecond": 1, "shared": true}, {"requestsPerSecond": 1}, {"requestsPerSecond": 1, "shared": true, "metadata": "who"}]}]`+more+`}}`)
	}
	c := s.Set("c", document(""), nil)
	m, n := c.Rules("a.S", "M", Facts{Known: true}), c.Rules("a.T", "M", Facts{Known: true})
	if m.Rates[0] != n.Rates[0] || m.Rates[1] == n.Rates[1] || m.Rates[2] != n.Rates[2] || m.Rates[0].Shared != "a.S, a.T/M" {
		t.Errorf("%+v and %+v", m.Rates[0], n.Rates[0])
	}
	if again := s.Set("c", document(`, "cluster": {"panicShare": 0}`), nil).Rules("a.S", "Other", Facts{Known: true}); again.Rates[0] != m.Rates[0] {
		t.Error("a reload made another bucket of it")
	}
}

// A client that invents method names cannot make Trunkline remember them all, and takes nothing from methods that exist.
func TestInventedMethodsShareOneStateBeyondABound(t *testing.T) {
	c := newStore(t).Set("c", parse(t, fmt.Sprintf(own, 1, 5, 20)), nil)
	seen := map[any]bool{}
	for i := range 5 * maxStrangers {
		seen[c.Rules("a.S", fmt.Sprint("M", i), Facts{}).Streams] = true
	}
	if len(seen) > maxStrangers+1 {
		t.Errorf("%d states for invented methods", len(seen))
	}
	if real := c.Rules("a.S", "Real", Facts{Known: true}); seen[real.Streams] {
		t.Error("a method that exists shares its state with invented ones")
	}
}

// Who says whether a method may be executed twice: the policy, either way; else the descriptors; else nobody does, and then it may not.
func TestThePolicyOverridesTheDescriptorsBothWays(t *testing.T) {
	s := newStore(t)
	for _, tt := range []struct {
		own   string
		facts Facts
		want  bool
		why   string
	}{
		{``, Facts{}, false, "nobody declares it"},
		{``, Facts{Described: true}, false, "do not declare it"},
		{``, Facts{Described: true, Idempotent: true}, true, "idempotency_level"},
		{`, "idempotent": true`, Facts{Described: true}, true, "declared by the policy"},
		{`, "idempotent": false`, Facts{Described: true, Idempotent: true}, false, "denied by the policy"},
	} {
		r := s.Set("c", parse(t, `{"trunkline": {"methodPolicy": [{"name": [{}]`+tt.own+`}]}}`), nil).Rules("a.S", "M", tt.facts)
		if r.Idempotent != tt.want || !strings.Contains(r.IdempotentWhy, tt.why) {
			t.Errorf("%q and %+v: %t because %s", tt.own, tt.facts, r.Idempotent, r.IdempotentWhy)
		}
	}
}

// Without policies nothing is guarded, judged or measured: a call pays for none of it.
func TestNothingIsAskedWhereNothingIsConfigured(t *testing.T) {
	r := newStore(t).Set("c", serviceconfig.Default(), nil).Rules("a.S", "M", Facts{})
	if r.Guarded || r.Judged || r.Latency != nil || r.Shadow != nil || r.Retry != nil {
		t.Errorf("%+v", r)
	}
}

// A shadow is told of finished calls beside the way of calls, and reports what would have been otherwise.
func TestAShadowReportsWhatWouldHaveBeenOtherwise(t *testing.T) {
	s := newStore(t)
	c := s.Set("c", serviceconfig.Default(), parse(t, `{"methodConfig": [{"name": [{}], "timeout": "0.1s"}]}`))
	r := c.Rules("a.S", "M", Facts{Known: true})
	for i := range 3 {
		r.Shadow.Offer(&shadow.Call{Method: r.Full, Took: time.Duration(i) * 90 * time.Millisecond, Status: grpc.OK,
			Attempts: []shadow.Attempt{{Took: time.Duration(i) * 90 * time.Millisecond, Status: grpc.OK, Endpoint: "one:1"}}})
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		source, sum := c.ShadowReport()
		if sum.Calls == 3 {
			if source != "story" || sum.Differing != 1 || sum.Latest[0].Differences[0].What != shadow.KindDeadline {
				t.Errorf("%s: %+v", source, sum)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", sum)
		}
	}
}
