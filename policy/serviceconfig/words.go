package serviceconfig

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/retry"
)

// Words is what holds for the methods, one thing each, for people who know neither the format nor the code. What is as it is
// without a policy is left out.
func (m *Method) Words() (words []string) {
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if m.Timeout > 0 {
		say("timeout %v", m.Timeout)
	}
	if m.PerTryTimeout > 0 {
		say("at most %v for each attempt", m.PerTryTimeout)
	}
	if m.IdleTimeout > 0 {
		say("ends after %v without a frame in either direction", m.IdleTimeout)
	}
	if m.RefuseHopeless {
		say("refused on arrival if less time is left than such calls took lately (median)")
	}
	if m.WaitForReady {
		say("waits for an endpoint where there is none (waitForReady)")
	}
	if p := m.Retry; p != nil {
		say("up to %d attempts on %v, waiting %v to %v between them, each %s times the last", p.MaxAttempts, p.Retryable, p.InitialBackoff,
			p.MaxBackoff, number(p.BackoffMultiplier))
	}
	if p := m.Hedge; p != nil {
		when := "all at once"
		if p.Delay > 0 {
			when = "another each " + p.Delay.String()
		}
		if p.Percentile > 0 {
			when = fmt.Sprintf("another when %s%% of such calls have been answered lately (%v until that is known)", number(p.Percentile), p.Delay)
		}
		fatal := "any failure ends the call"
		if p.NonFatal != 0 {
			fatal = "in spite of " + p.NonFatal.String()
		}
		say("hedged: up to %d attempts side by side, %s, %s", p.MaxAttempts, when, fatal)
	}
	switch {
	case m.Idempotent == nil:
	case *m.Idempotent:
		say("idempotent: repeated also where the server may have worked on it")
	default:
		say("not idempotent, whatever the descriptors say: never repeated where the server may have worked on it")
	}
	switch {
	case m.HoldResponse == 0:
		say("response headers are never held back for a retry")
	case m.HoldResponse != defaultHold:
		say("response headers are held back for up to %v for a retry", m.HoldResponse)
	}
	if m.ReplayBytes >= 0 {
		say("%d bytes of a request are kept for another attempt", m.ReplayBytes)
	}
	if m.MaxRequestBytes >= 0 {
		say("request messages of up to %d bytes", m.MaxRequestBytes)
	}
	if m.MaxResponseBytes >= 0 {
		say("response messages of up to %d bytes", m.MaxResponseBytes)
	}
	if m.MaxStreams > 0 {
		say("at most %s at once", plural(m.MaxStreams, "call"))
	}
	if m.Breaker != nil {
		say("each endpoint's breaker for a method opens %s", breakerWords(m.Breaker))
	}
	for _, r := range m.Rates {
		by := r.Per()
		if r.Shared != "" {
			by += ", all methods of " + r.Shared + " together"
		}
		say("%s calls per second%s, %d at a time (trunkline.methodPolicy[].rateLimits)", number(r.Rate.PerSecond), by, r.Rate.Burst)
	}
	return words
}

// ClusterWords is what holds for a cluster as a whole, as [Method.Words] says it.
func (c *Config) ClusterWords() (words []string) {
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	l := &c.Cluster
	if c.LoadBalancing != "" {
		say("balanced by %s", c.LoadBalancing)
	}
	if t := c.Throttle; t != nil {
		say("neither retries nor hedges while half of %d tokens are gone: a failure takes one, a success gives %s (retryThrottling)", t.MaxTokens, number(t.TokenRatio))
	}
	for _, b := range [...]struct {
		what string
		retry.BudgetSettings
	}{{"retries", l.RetryBudget}, {"hedges", l.HedgeBudget}} {
		if b.BudgetSettings != (retry.BudgetSettings{Ratio: retry.DefaultRatio, Burst: retry.DefaultBurst}) {
			say("%s of up to %s of the calls, and up to %d saved up", b.what, percent(b.Ratio), b.Burst)
		}
	}
	if n := l.Concurrency.MaxStreams; n > 0 {
		say("at most %s at once", plural(n, "call"))
	}
	if n := l.Concurrency.MaxStreamsPerEndpoint; n > 0 {
		say("at most %s at once on each endpoint", plural(n, "call"))
	}
	if n := l.Concurrency.MaxPending; n > 0 {
		say("up to %s may wait for a place, each for up to %v", plural(n, "call"), l.Concurrency.PendingTimeout)
	}
	if a := l.Adaptive; a != nil {
		say("a limit of calls at once that follows the latency, between %d and %d", a.Min, a.Max)
	}
	if l.Breaker != nil {
		say("each endpoint's breaker over all methods opens %s", breakerWords(l.Breaker))
	}
	if l.Outlier != nil {
		say("%s", outlierWords(l.Outlier))
	}
	if h := l.HealthCheck; h != nil {
		of := "each endpoint"
		if h.Service != "" {
			of = "service " + h.Service + " of each endpoint"
		}
		say("the health of %s is asked for, each %v where it does not tell by itself; out after %s in a row, back after %d",
			of, h.Interval, plural(h.UnhealthyThreshold, "failure"), h.HealthyThreshold)
	}
	switch l.PanicShare {
	case defaultPanic:
	case 0:
		say("unhealthy and ejected endpoints are never used, however few are left")
	default:
		say("all endpoints are used again when fewer than %s are healthy", percent(l.PanicShare))
	}
	if l.SlowStart > 0 {
		say("endpoints that come or return get their full share after %v", l.SlowStart)
	}
	if g := l.GlobalLimits; g != nil {
		pass := "are refused"
		if g.FailOpen {
			pass = "pass"
		}
		say("the rate limit service %s is asked about each call (domain %s); calls %s if it does not answer within %v", g.Address, g.Domain, pass, g.Timeout)
	}
	return words
}

// Sentence says what a call of the cluster meets, with the key to change.
func (g *GlobalLimits) Sentence() string {
	when := ""
	if !slices.ContainsFunc(g.Descriptors, always) {
		when = ", if the call has all that one of its descriptors is made of"
	}
	pass := "is refused"
	if g.FailOpen {
		pass = "passes"
	}
	return fmt.Sprintf("The rate limit service %s would be asked%s, and may refuse it; without an answer within %v it %s (trunkline.cluster.rateLimitService).",
		g.Address, when, g.Timeout, pass)
}

// always says whether every call has what a descriptor is made of.
func always(entries []DescriptorEntry) bool {
	return len(entries) > 0 && !slices.ContainsFunc(entries, func(e DescriptorEntry) bool { return e.Metadata != "" || e.Identity || e.Claim != "" })
}

const defaultPanic = 0.5

func breakerWords(b *breaker.Settings) string {
	var when []string
	if b.Consecutive > 0 {
		when = append(when, "after "+plural(b.Consecutive, "fault")+" in a row")
	}
	if b.ErrorRate > 0 {
		when = append(when, fmt.Sprintf("when %s of %d or more calls within %v failed", percent(b.ErrorRate), b.MinVolume, b.Window))
	}
	return fmt.Sprintf("%s, for %v (up to %v if it goes on); then %s must succeed%s", strings.Join(when, " or "), b.OpenFor, b.MaxOpenFor,
		plural(b.Probes, "probe"), faultWords(b.Faults))
}

func outlierWords(s *outlier.Settings) string {
	var who []string
	if s.Consecutive > 0 {
		who = append(who, "that had "+plural(s.Consecutive, "fault")+" in a row")
	}
	if r := s.SuccessRate; r != nil {
		who = append(who, fmt.Sprintf("that succeed less often than the others (%s standard deviations)", number(r.StdevFactor)))
	}
	if r := s.Failures; r != nil {
		who = append(who, fmt.Sprintf("that fail %s or more of their calls", percent(r.Threshold)))
	}
	if r := s.Latency; r != nil {
		who = append(who, fmt.Sprintf("that are %s times slower than the median", number(r.Factor)))
	}
	return fmt.Sprintf("endpoints are ejected %s: for %v, longer each time up to %v, and at most %s of them at once%s", strings.Join(who, ", or "),
		s.BaseEjection, s.MaxEjection, percent(s.MaxEjectedShare), faultWords(s.Faults))
}

func faultWords(set grpc.StatusSet) string {
	if set == grpc.ServerFaults {
		return ""
	}
	return "; faults are " + set.String()
}

func percent(share float64) string {
	return strconv.FormatFloat(100*share, 'g', 4, 64) + "%"
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
