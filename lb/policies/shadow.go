package policies

import (
	"strings"

	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	"github.com/trunkline/trunkline/policy/shadow"
)

// Shadow is a policy that is only looked at, beside the one that holds for a method.
type Shadow struct {
	policy *shadow.Policy
	report *shadow.Report // the cluster's
	rates  []serviceconfig.RateLimit
	store  *Store
}

// shadowing is what the shadow of a cluster shares between its methods.
type shadowing struct {
	config          *serviceconfig.Config
	retries, hedges *retry.Budget
	throttle        *retry.Throttle
	report          *shadow.Report
}

func newShadowing(cfg *serviceconfig.Config) *shadowing {
	s := &shadowing{config: cfg, report: new(shadow.Report), retries: retry.NewBudget(cfg.Cluster.RetryBudget), hedges: retry.NewBudget(cfg.Cluster.HedgeBudget)}
	if cfg.Throttle != nil {
		s.throttle = retry.NewThrottle(*cfg.Throttle)
	}
	return s
}

// job is a finished call on its way to its shadow.
type job struct {
	to   *Shadow
	call *shadow.Call
}

// maxJobs bounds the finished calls that wait to be judged; further ones are counted only.
const maxJobs = 4096

// Keys are the values by which the shadow's rate limits tell callers apart, its own strings. field reads a request header field
// (borrowed), address is the client's.
func (s *Shadow) Keys(field func(name string) string, address string, who *authn.Principal) []string {
	var keys []string
	for _, r := range s.rates {
		switch {
		case r.Metadata != "":
			keys = append(keys, strings.Clone(field(r.Metadata)))
		case r.ClientAddress:
			keys = append(keys, address)
		case r.Identity:
			keys = append(keys, who.Named())
		case r.Claim != "":
			keys = append(keys, who.Claim(r.Claim))
		default:
			keys = append(keys, "")
		}
	}
	return keys
}

// Offer has a finished call judged, in a goroutine of the store's. It never blocks: what there is no room for is counted.
func (s *Shadow) Offer(c *shadow.Call) {
	select {
	case s.store.jobs <- job{s, c}:
	default:
		s.store.unjudged.Add(1)
	}
}

// judge is the goroutine that compares.
func (s *Store) judge() {
	for {
		select {
		case <-s.stop:
			return
		case j := <-s.jobs:
			j.to.report.Add(j.call, j.to.policy.Judge(j.call))
		}
	}
}

// ShadowReport is what the cluster's shadow found so far, and where its policy stands; source is "" if there is no shadow.
func (c *Cluster) ShadowReport() (source string, summary shadow.Summary) {
	if c.shadowing == nil {
		return "", summary
	}
	return c.shadowing.config.Source, c.shadowing.report.Summary()
}

// Unjudged is how many finished calls were not compared because too many waited.
func (s *Store) Unjudged() uint64 { return s.unjudged.Load() }
