package policies

import (
	"cmp"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// This file is for those who look: the admin API and the metrics. Nothing here is on the way of a call.

// Cluster is what holds for a cluster now; nil if nothing was ever put in force for one of that name.
func (s *Store) Cluster(name string) *Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clusters[name]
}

// ShadowConfig is the settings that are only looked at; nil: none.
func (c *Cluster) ShadowConfig() *serviceconfig.Config { return c.shadow() }

// tables are the breakers of the settings in force, the endpoints' roll-up first. Tables of settings that were replaced are not
// among them: nobody asks those breakers any more, so what they say will never change.
func (c *Cluster) tables() (all []*breaker.Table) {
	if c.Fallen != nil {
		all = append(all, c.Fallen)
	}
	seen := map[breaker.Settings]bool{}
	methods := c.config.Methods() // sorted: not with the lock held, for which shards wait
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	for _, m := range methods {
		if m.Breaker == nil || seen[*m.Breaker] {
			continue
		}
		seen[*m.Breaker] = true
		if t := c.state.breakers[*m.Breaker]; t != nil {
			all = append(all, t)
		}
	}
	return all
}

// EachBreaker calls f for every breaker of the settings in force; method is "" for an endpoint's roll-up. Within one settings'
// they are ordered by endpoint and method.
func (c *Cluster) EachBreaker(f func(endpoint, method string, b *breaker.Breaker)) {
	for _, t := range c.tables() {
		t.Each(f)
	}
}

// Opened turns how often the breakers that are there now have opened into a count that only grows: breakers are forgotten,
// with what they counted.
func (c *Cluster) Opened(now uint64) uint64 {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	if now < c.state.openedNow {
		c.state.openedGone += c.state.openedNow - now
	}
	c.state.openedNow = now
	return c.state.openedGone + now
}

// MethodLimit is how a method stands to its limit of calls at once.
type MethodLimit struct {
	Method       string // "pkg.Service/Method"; "" for all that nobody vouches for and that have no state of their own
	InUse, Limit int64
}

// MethodLimits are those of methods that were called and that the settings in force limit, the fullest first, at most so many.
func (c *Cluster) MethodLimits(most int) (all []MethodLimit) {
	counters := map[string]*limit.Concurrency{}
	c.state.mu.Lock()
	for name, ms := range c.state.methods {
		if ms.streams != nil {
			counters[name] = ms.streams
		}
	}
	c.state.mu.Unlock()
	for name, s := range counters {
		service, method, _ := strings.Cut(name, "/")
		// Where the settings changed and no call came since, the counter has the old limit.
		if n := c.config.For(service, method).MaxStreams; n > 0 {
			all = append(all, MethodLimit{Method: name, InUse: s.InUse(), Limit: int64(n)})
		}
	}
	slices.SortFunc(all, func(a, b MethodLimit) int {
		return cmp.Or(cmp.Compare(b.InUse, a.InUse), cmp.Compare(a.Limit, b.Limit), cmp.Compare(a.Method, b.Method))
	})
	return all[:min(most, len(all))]
}

// BudgetView is what is left of a budget.
type BudgetView struct {
	Name               string // "retry", "hedge", "throttle"
	Tokens, Max, Ratio float64
}

// Budgets are those of the cluster.
func (c *Cluster) Budgets() []BudgetView {
	view := func(name string, tokens float64, s retry.BudgetSettings) BudgetView {
		return BudgetView{name, tokens, float64(s.Burst), s.Ratio}
	}
	all := []BudgetView{view("retry", c.Budget.Tokens(), c.RetryBudget), view("hedge", c.Hedges.Tokens(), c.HedgeBudget)}
	if t := c.config.Throttle; t != nil {
		all = append(all, BudgetView{"throttle", c.Throttle.Tokens(), float64(t.MaxTokens), t.TokenRatio})
	}
	return all
}
