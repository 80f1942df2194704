package policies

import (
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/lb/ratelimit"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/latency"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	"github.com/trunkline/trunkline/policy/shadow"
)

// maxStrangers bounds the methods of one cluster that have state of their own though nobody vouches for them: a client can
// invent names on a service's route. Further ones share one state.
const maxStrangers = 256

// maxBreakers bounds the breakers of one cluster.
const maxBreakers = 20000

// Store holds the policies' state of all clusters.
type Store struct {
	log  *slog.Logger // set once
	seed uint64       // set once

	mu       sync.Mutex
	clusters map[string]*Cluster // guarded by mu; the newest of each name
	stop     chan struct{}       // closed by Close
	wg       sync.WaitGroup
	// adjusting begins with the first adaptive limit, judging with the first shadow.
	adjusting, judging sync.Once
	jobs               chan job
	unjudged           atomic.Uint64
}

// NewStore returns an empty store. The seed makes the places of rate limits' keys unpredictable. Close it.
func NewStore(log *slog.Logger, seed uint64) *Store {
	return &Store{log: log, seed: seed, clusters: map[string]*Cluster{}, stop: make(chan struct{}), jobs: make(chan job, maxJobs)}
}

// Close ends what the store runs; nothing of it may be used afterwards.
func (s *Store) Close() {
	close(s.stop)
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clusters {
		if c.Global != nil {
			c.Global.Close()
		}
	}
}

// state is what outlives changes of settings, by method.
type state struct {
	mu        sync.Mutex
	methods   map[string]*methodState             // guarded by mu
	strangers int                                 // guarded by mu
	breakers  map[breaker.Settings]*breaker.Table // guarded by mu; the methods' breakers, by their settings
	shared    map[serviceconfig.RateLimit]*Rate   // guarded by mu; the rate limits that methods share

	pending atomic.Int64

	openedNow, openedGone uint64 // guarded by mu; see Opened
}

// maxTables bounds the settings of breakers, and of shared rate limits, of one cluster that are remembered: reloads make new ones.
const maxTables = 64

type methodState struct {
	streams   *limit.Concurrency
	latency   *latency.Window
	rates     []*Rate
	shadow    *shadow.Policy
	beside    *serviceconfig.Method // whose settings shadow is made by
	shadowing *shadowing
	of        *serviceconfig.Method // whose settings streams and rates are made by
}

// Set puts settings in force for a cluster and returns it; the same ones change nothing. shadow (nil: none) is only looked at.
func (s *Store) Set(name string, cfg, shadow *serviceconfig.Config) *Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.clusters[name]
	if old != nil && old.config == cfg && old.shadow() == shadow {
		return old
	}
	c := &Cluster{Name: name, Source: cfg.Source, Cluster: cfg.Cluster, config: cfg, store: s}
	if old == nil {
		old = &Cluster{state: &state{methods: map[string]*methodState{}, breakers: map[breaker.Settings]*breaker.Table{}, shared: map[serviceconfig.RateLimit]*Rate{}}, config: &serviceconfig.Config{}, Group: new(balance.Group)}
	}
	c.state, c.Group = old.state, old.Group
	if shadow != nil {
		c.shadowing = keep(old.shadowing, old.shadow() == shadow, func() *shadowing { return newShadowing(shadow) })
		s.judging.Do(func() { s.wg.Go(s.judge) })
	}
	c.Budget = keep(old.Budget, old.RetryBudget == c.RetryBudget, func() *retry.Budget { return retry.NewBudget(c.RetryBudget) })
	c.Hedges = keep(old.Hedges, old.HedgeBudget == c.HedgeBudget, func() *retry.Budget { return retry.NewBudget(c.HedgeBudget) })
	if t := cfg.Throttle; t != nil {
		c.Throttle = keep(old.Throttle, reflect.DeepEqual(old.config.Throttle, t), func() *retry.Throttle { return retry.NewThrottle(*t) })
	}
	if c.Concurrency.MaxStreams > 0 || c.Adaptive != nil {
		// What runs at the moment must stay counted: the same counter with another limit.
		c.Streams = keep(old.Streams, true, func() *limit.Concurrency { return limit.NewConcurrency(0) })
		if c.Adaptive == nil || old.Adaptive == nil || !reflect.DeepEqual(old.Adaptive, c.Adaptive) {
			c.Streams.SetLimit(int64(c.Concurrency.MaxStreams))
		}
	}
	if a := c.Adaptive; a != nil {
		c.Gradient = keep(old.Gradient, reflect.DeepEqual(old.Adaptive, a), func() *limit.Gradient {
			c.Streams.SetLimit(int64(a.Initial))
			s.adjusting.Do(func() { s.wg.Go(s.adjust) })
			return limit.NewGradient(*a)
		})
	}
	if b := c.Breaker; b != nil {
		c.Fallen = keep(old.Fallen, reflect.DeepEqual(old.Breaker, b), func() *breaker.Table { return breaker.NewTable(b, maxBreakers) })
	}
	c.global(old)
	s.clusters[name] = c
	return c
}

// Retire forgets the clusters that keep does not name. Calls that are under way go on with what they have.
func (s *Store) Retire(keep func(cluster string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.clusters {
		if keep(name) {
			continue
		}
		delete(s.clusters, name)
		if c.Global != nil {
			go c.Global.Close()
		}
	}
}

// keep returns old if there is one and it still fits.
func keep[T any](old *T, fits bool, fresh func() *T) *T {
	if old != nil && fits {
		return old
	}
	return fresh()
}

// global makes, keeps or closes the client of the rate limit service.
func (c *Cluster) global(old *Cluster) {
	g := c.GlobalLimits
	if g != nil && reflect.DeepEqual(g, old.GlobalLimits) && old.Global != nil {
		c.Global = old.Global
		return
	}
	if old.Global != nil {
		go old.Global.Close()
	}
	if g == nil {
		return
	}
	client, err := ratelimit.New(g.Address, g.Domain, g.Timeout, g.FailOpen, c.store.log)
	if err != nil {
		c.store.log.Error("no client for the rate limit service", "cluster", c.Name, "address", g.Address, "error", err)
		return
	}
	c.Global = client
}

func (c *Cluster) shadow() *serviceconfig.Config {
	if c.shadowing == nil {
		return nil
	}
	return c.shadowing.config
}

// Config is the settings that are in force.
func (c *Cluster) Config() *serviceconfig.Config { return c.config }

// Rules returns what holds for a method. It takes a lock: once per method, shard and generation.
func (c *Cluster) Rules(service, method string, f Facts) *Rules {
	m := c.config.For(service, method)
	r := &Rules{Method: m, Cluster: c, Full: clip(service + "/" + method), Idempotent: f.Idempotent, Declared: f.Idempotent, Unary: f.Unary}
	switch {
	case m.Idempotent != nil && *m.Idempotent:
		r.Idempotent, r.IdempotentWhy = true, "declared by the policy "+m.Name+" of "+c.Source
	case m.Idempotent != nil:
		r.Idempotent, r.IdempotentWhy = false, "denied by the policy "+m.Name+" of "+c.Source
	case f.Idempotent:
		r.IdempotentWhy = "declared by idempotency_level in the endpoints' descriptors"
	case f.Described:
		r.IdempotentWhy = "the endpoints' descriptors do not declare it (idempotency_level), nor does a policy (trunkline.methodPolicy[].idempotent)"
	default:
		r.IdempotentWhy = "nobody declares it: the endpoints gave no descriptor, and no policy says so (trunkline.methodPolicy[].idempotent)"
	}
	var beside *serviceconfig.Method
	if c.shadowing != nil {
		beside = c.shadowing.config.For(service, method)
	}
	c.attach(r, f, beside)
	r.Guarded = r.Streams != nil || len(r.Rates) > 0 || c.Streams != nil || c.Global != nil
	r.Judged = c.Outlier != nil || r.Breakers != nil || c.Fallen != nil || r.Latency != nil || c.Gradient != nil
	return r
}

// clip bounds a method's name, which a client may have made up.
func clip(full string) string { return full[:min(len(full), 256)] }

// attach finds or makes the method's live state; beside is what its shadow says, nil without one.
func (c *Cluster) attach(r *Rules, f Facts, beside *serviceconfig.Method) {
	st, m := c.state, r.Method
	st.mu.Lock()
	defer st.mu.Unlock()
	key := r.Full
	ms := st.methods[key]
	if ms == nil && !f.Known {
		if st.strangers >= maxStrangers {
			key = ""
			ms = st.methods[key]
		} else {
			st.strangers++
		}
	}
	if ms == nil {
		ms = &methodState{}
		st.methods[key] = ms
	}
	if ms.of == nil || ms.of.MaxStreams != m.MaxStreams {
		switch {
		case m.MaxStreams == 0:
			ms.streams = nil
		case ms.streams == nil:
			ms.streams = limit.NewConcurrency(int64(m.MaxStreams))
		default:
			ms.streams.SetLimit(int64(m.MaxStreams))
		}
	}
	if ms.of == nil || !reflect.DeepEqual(ms.of.Rates, m.Rates) {
		ms.rates = st.rates(m.Rates, c.store.seed)
	}
	if measures(m) && ms.latency == nil {
		ms.latency = latency.New()
	}
	ms.of = m
	r.Streams, r.Rates = ms.streams, ms.rates
	if measures(m) {
		r.Latency = ms.latency
	}
	if m.Breaker != nil {
		if r.Breakers = st.breakers[*m.Breaker]; r.Breakers == nil {
			if len(st.breakers) >= maxTables {
				clear(st.breakers)
			}
			r.Breakers = breaker.NewTable(m.Breaker, maxBreakers)
			st.breakers[*m.Breaker] = r.Breakers
		}
	}
	if sh := c.shadowing; sh != nil {
		if ms.shadow == nil || !reflect.DeepEqual(ms.beside, beside) || ms.shadowing != sh {
			ms.shadow = shadow.New(m, beside, shadow.Options{Retries: sh.retries, Hedges: sh.hedges, Throttle: sh.throttle, Seed: c.store.seed})
			ms.beside, ms.shadowing = beside, sh
		}
		r.Shadow = &Shadow{report: sh.report, rates: beside.Rates, store: c.store, policy: ms.shadow}
	}
}

// rates makes the rate limits of a method. The lock is held.
func (st *state) rates(list []serviceconfig.RateLimit, seed uint64) (out []*Rate) {
	for _, l := range list {
		r := st.shared[l]
		if r == nil {
			r = &Rate{RateLimit: l}
			if l.Per() == "" {
				r.Bucket = limit.NewBucket(l.Rate)
			} else {
				r.Keyed = limit.NewKeyed(l.Rate, l.MaxKeys, seed)
			}
			if l.Shared != "" {
				if len(st.shared) >= maxTables {
					clear(st.shared)
				}
				st.shared[l] = r
			}
		}
		out = append(out, r)
	}
	return out
}

// adjust moves the adaptive limits.
func (s *Store) adjust() {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	began := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		s.mu.Lock()
		for _, c := range s.clusters {
			if c.Gradient != nil {
				c.Streams.SetLimit(c.Gradient.Adjust(int64(time.Since(began)), c.Streams.InUse()))
			}
		}
		s.mu.Unlock()
	}
}
