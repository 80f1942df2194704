package consul

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/trunkline/trunkline/discovery"
)

// Source emits the clusters of one Consul datacenter, namespace and partition.
type Source struct {
	*agent            // set once in New
	store  *store     // set once in New; nil: nothing is kept on disk
	events chan event // set once in New; from the watches to the loop

	mu     sync.Mutex
	report discovery.SourceReport // guarded by mu

	// What follows is owned by the loop in Run.
	services  map[string]*service
	cataloged bool // the catalog was answered, or is not asked
	refused   bool // the first question to the catalog failed
	fromDisk  bool // there was a usable file
	emitted   bool
	removed   bool              // a service went since the last emit
	warned    bool              // of too many watches
	failing   map[string]string // why the latest question failed, by service; "" is the catalog
}

// manyWatches is near the connections that a Consul agent grants to one client address unless it is configured otherwise.
const manyWatches = 180

// event is what a watch tells the loop: the catalog's, or one service's.
type event struct {
	service   string // "": the catalog's
	catalog   answer[map[string]bool]
	endpoints answer[health]
}

type health struct {
	endpoints []discovery.Endpoint
	faults    []string
}

// New checks the options. It does not talk to Consul yet, but it reads TLS files, the token file and the environment.
func New(options Options) (*Source, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	a, err := newAgent(o)
	if err != nil {
		return nil, err
	}
	s := &Source{
		agent:    a,
		events:   make(chan event, 64),
		services: map[string]*service{},
		failing:  map[string]string{},
		report:   discovery.SourceReport{Name: o.Name},
	}
	if o.Dir != "" {
		s.store = newStore(o)
	}
	return s, nil
}

// Name implements discovery.Source.
func (s *Source) Name() string { return s.options.Name }

// Report implements discovery.Reporter.
func (s *Source) Report() discovery.SourceReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// Run implements discovery.Source. It may be called once. It returns nil when ctx ends, after its goroutines ended and
// the last state was saved.
func (s *Source) Run(ctx context.Context, emit func([]*discovery.Cluster)) error {
	defer s.http.CloseIdleConnections()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var save func([]*discovery.Cluster)
	if s.store != nil {
		s.restore()
		pending := make(chan []*discovery.Cluster, 1)
		wg.Go(func() { s.store.run(ctx, pending) })
		save = func(clusters []*discovery.Cluster) {
			select { // the newest state takes the place of one not yet fetched
			case <-pending:
			default:
			}
			pending <- clusters
		}
	}
	for _, named := range s.options.Services {
		sv := s.service(named.Name)
		sv.explicit = true
		s.follow(ctx, &wg, sv)
	}
	if s.options.Tag != "" {
		wg.Go(func() {
			watch(ctx, s.agent, retryScout, s.askCatalog, func(a answer[map[string]bool]) { s.tell(ctx, event{catalog: a}) })
		})
	} else {
		s.cataloged = true
	}

	first := time.NewTimer(s.options.FirstWait)
	defer first.Stop()
	late := false
	expiry := time.NewTimer(time.Hour)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.events:
			s.take(ctx, &wg, e)
			for more := true; more; { // what came together is shown together
				select {
				case e := <-s.events:
					s.take(ctx, &wg, e)
				default:
					more = false
				}
			}
		case <-first.C:
			late = true
		case <-expiry.C:
		}
		now := time.Now()
		next := s.settle(now)
		if next.IsZero() {
			next = now.Add(time.Hour)
		}
		expiry.Reset(next.Sub(now))
		if !s.emitted && !s.ready(late) {
			continue
		}
		if clusters, changed := s.render(); changed || !s.emitted {
			s.emitted = true
			s.mu.Lock()
			s.report.Clusters = len(clusters)
			s.mu.Unlock()
			emit(clusters)
			if save != nil && s.worthSaving() {
				save(clusters)
			}
		}
	}
}

func (s *Source) service(name string) *service {
	sv := s.services[name]
	if sv == nil {
		sv = &service{name: name, guard: guard{share: s.options.HoldShare, holdFor: s.options.HoldFor}}
		sv.touch(time.Now())
		s.services[name] = sv
	}
	return sv
}

// follow starts the watch of a service that has none.
func (s *Source) follow(ctx context.Context, wg *sync.WaitGroup, sv *service) {
	if sv.cancel != nil {
		return
	}
	ctx, sv.cancel = context.WithCancel(ctx)
	name, tag, mesh := sv.name, s.options.tagFor(sv.name), s.options.throughMesh(sv.name)
	ask := s.client.Health().Service
	if mesh {
		ask = s.client.Health().Connect
	}
	question := func(_ context.Context, q *api.QueryOptions) (health, *api.QueryMeta, error) {
		entries, meta, err := ask(name, tag, !s.options.Warning, q)
		if err != nil {
			return health{}, nil, err
		}
		var h health
		h.endpoints, h.faults = s.options.endpoints(entries, mesh)
		if len(h.endpoints) == 0 && meta.ResultsFilteredByACLs { // Consul answers a missing right with an empty list
			s.token.current(true)
			return health{}, nil, errors.New("the ACL token may not read it")
		}
		return h, meta, nil
	}
	longest := retryMax
	if s.options.Tag == "" {
		longest = retryScout
	}
	wg.Go(func() {
		watch(ctx, s.agent, longest, question, func(a answer[health]) { s.tell(ctx, event{service: name, endpoints: a}) })
	})
}

// askCatalog lists the services that bear the tag.
func (s *Source) askCatalog(_ context.Context, q *api.QueryOptions) (map[string]bool, *api.QueryMeta, error) {
	all, meta, err := s.client.Catalog().Services(q)
	if err != nil {
		return nil, nil, err
	}
	if len(all) == 0 && meta.ResultsFilteredByACLs {
		s.token.current(true)
		return nil, nil, errors.New("the ACL token may read no service")
	}
	tagged := map[string]bool{}
	for name, tags := range all {
		if slices.Contains(tags, s.options.Tag) {
			tagged[name] = true
		}
	}
	return tagged, meta, nil
}

func (s *Source) tell(ctx context.Context, e event) {
	select {
	case s.events <- e:
	case <-ctx.Done():
	}
}
