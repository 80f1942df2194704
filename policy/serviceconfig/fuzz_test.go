package serviceconfig

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/trunkline/trunkline/policy/serviceconfig/document"
)

func seed(f *testing.F) {
	f.Helper()
	f.Add([]byte(packageExample(f)))
	for _, pattern := range []string{"testdata/wrong/*", "testdata/warned/*"} {
		for _, file := range files(f, pattern) {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Add([]byte(method(`"retryPolicy": {` + goodRetry + `}`)))
	f.Add([]byte(method(hedging)))
	f.Add([]byte("a: &a [*a]\ntrunkline: *a\n"))
	f.Add([]byte(`{"loadBalancingConfig": [{"round_robin": {}}], "retryThrottling": {"maxTokens": 1e1, "tokenRatio": .5}}`))
}

// Whatever the text is, Parse returns a config whose fields are within their bounds, or problems with a place.
func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, problems := Parse("fuzz", text, 7)
		bad := slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
		if (c == nil) != bad || len(problems) > maxProblems+1 {
			t.Fatalf("config %v with %d problems: %v", c, len(problems), problems)
		}
		for _, p := range problems {
			if p.Line < 7 || p.Column < 1 || p.Message == "" {
				t.Errorf("no place or message in %q", p)
			}
		}
		if c == nil {
			return
		}
		for _, m := range c.Methods() {
			if r := m.Retry; r != nil && (r.MaxAttempts < 2 || r.MaxAttempts > 5 || r.InitialBackoff <= 0 || r.MaxBackoff <= 0 ||
				!(r.BackoffMultiplier > 0) || r.Retryable == 0) {
				t.Errorf("retry policy %+v", r)
			}
			if h := m.Hedge; h != nil && (h.MaxAttempts < 2 || h.MaxAttempts > 5 || h.Delay < 0 || m.Retry != nil) {
				t.Errorf("hedging policy %+v", h)
			}
			if m.Timeout < 0 || m.Timeout > maxDuration || m.MaxRequestBytes < -1 || m.ReplayBytes < -1 || m.HoldResponse < 0 {
				t.Errorf("method %+v", m)
			}
			if b := m.Breaker; b != nil && (b.Consecutive == 0 && b.ErrorRate == 0 || b.OpenFor > b.MaxOpenFor || b.Faults == 0) {
				t.Errorf("breaker %+v", b)
			}
			for _, l := range m.Rates {
				if !(l.Rate.PerSecond > 0) || l.Rate.Burst < 1 || l.MaxKeys < 1 || l.Metadata != "" && l.ClientAddress {
					t.Errorf("rate limit %+v", l)
				}
			}
		}
		if a := c.Cluster.Adaptive; a != nil && !(1 <= a.Min && a.Min <= a.Initial && a.Initial <= a.Max) {
			t.Errorf("adaptive limit %+v", a)
		}
		if c.Cluster.RetryBudget.Burst < 1 || !(c.Cluster.RetryBudget.Ratio > 0) {
			t.Errorf("budget %+v", c.Cluster.RetryBudget)
		}
	})
}

// What a grpc-go client refuses, Parse refuses, whatever the text: but for the settings of balancers, which are the client's.
func FuzzNothingIsTakenThatAGRPCClientRefuses(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if !document.LooksLikeJSON(text) {
			return // YAML
		}
		c, _ := Parse("fuzz", text, 1)
		if c == nil {
			return
		}
		if err := verdict(t, string(text)); err != nil && !strings.Contains(err.Error(), "loadBalancing") && !strings.Contains(string(text), "alancing") {
			t.Errorf("grpc-go says %v", err)
		}
	})
}
