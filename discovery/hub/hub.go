// Package hub owns the one picture made of all sources: it runs them, has the endpoints of clusters that nobody describes
// asked by reflection, settles who serves which protobuf service, and publishes immutable snapshots. It must not choose a
// route or an endpoint for a call (that is policy's), nor touch a connection that carries calls (that is lb's).
package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
)

// Options of a Hub; the zero value means the defaults.
type Options struct {
	// Reflection says how endpoints are asked; its Changed is the Hub's own.
	Reflection reflection.Options
	// NoReflection: endpoints are not asked.
	NoReflection bool
	// Withhold is the longest that a new endpoint stays out of learned routes until it was first asked; 0: 1 s.
	Withhold time.Duration
	// Coalesce is the shortest time between two snapshots: a burst of changes is published once at its beginning and once
	// at its end; 0: 5 ms.
	Coalesce time.Duration
	Logger   *slog.Logger // nil: silence
}

// Hub merges sources into snapshots.
type Hub struct {
	options Options       // set once in New
	wake    chan struct{} // set once in New; one pending signal is enough

	mu      sync.Mutex
	running []*running          // guarded by mu; in the order of the last Replace
	ctx     context.Context     // guarded by mu; of Run; nil before it
	wg      sync.WaitGroup      // of the sources; Add only under mu while ctx is alive
	prober  *reflection.Prober  // guarded by mu; nil outside Run, and with NoReflection
	latest  *discovery.Snapshot // guarded by mu; nil before the first
}

// running is one source at work.
type running struct {
	source discovery.Source     // set once
	cancel context.CancelFunc   // guarded by Hub.mu; nil: not started
	sets   []*discovery.Cluster // guarded by Hub.mu; the last emitted set, or that of the namesake it replaced
	spoke  bool                 // guarded by Hub.mu; it emitted, or its predecessor did
	at     time.Time            // guarded by Hub.mu; of the last emit
	err    string               // guarded by Hub.mu; why Run ended, if it did
}

// New returns a Hub without sources: see Replace and Run.
func New(options Options) *Hub {
	if options.Withhold <= 0 {
		options.Withhold = time.Second
	}
	if options.Coalesce <= 0 {
		options.Coalesce = 5 * time.Millisecond
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Reflection.Logger == nil {
		options.Reflection.Logger = options.Logger
	}
	return &Hub{options: options, wake: make(chan struct{}, 1)}
}

// Replace names the whole list of sources; of two sources with the same cluster, static ones win, then earlier ones.
// A Source that is in the list already goes on as it is; the others are stopped; new ones are started, at once if the Hub
// runs. A new one with the Name of one that is stopped stands in with its predecessor's clusters until it emits, so that a
// reload never empties a route. Sources must be usable as map keys (pointers); each may be given to one Hub only.
func (h *Hub) Replace(sources []discovery.Source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := map[discovery.Source]*running{}
	byName := map[string]*running{}
	for _, r := range h.running {
		old[r.source] = r
		byName[r.source.Name()] = r
	}
	h.running = nil
	for _, s := range sources {
		r := old[s]
		if r == nil {
			r = &running{source: s}
			if was := byName[s.Name()]; was != nil {
				r.sets, r.spoke, r.at = was.sets, was.spoke, was.at
			}
			h.start(r)
		}
		delete(old, s)
		h.running = append(h.running, r)
	}
	for _, r := range old {
		if r.cancel != nil {
			r.cancel()
		}
	}
	h.signal()
}

// start runs a source if the Hub runs. h.mu is held.
func (h *Hub) start(r *running) {
	if h.ctx == nil || h.ctx.Err() != nil || r.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(h.ctx)
	r.cancel = cancel
	h.wg.Go(func() {
		defer cancel()
		err := r.source.Run(ctx, func(clusters []*discovery.Cluster) {
			h.mu.Lock()
			r.sets, r.spoke, r.at = clusters, true, time.Now()
			h.mu.Unlock()
			h.signal()
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		h.options.Logger.Error("a discovery source stopped; what it said last is kept", "source", r.source.Name(), "err", err)
		h.mu.Lock()
		r.err = fmt.Sprintf("the source stopped: %v", err)
		h.mu.Unlock()
	})
}

func (h *Hub) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Run runs the sources and publishes a snapshot each time that something changed, from this goroutine; the first as soon
// as a source has spoken. Snapshots belong to everybody: nobody changes them. It may be called once; it returns nil when
// ctx ends, after all that it started ended.
func (h *Hub) Run(ctx context.Context, publish func(*discovery.Snapshot)) error {
	h.mu.Lock()
	if h.ctx != nil {
		h.mu.Unlock()
		return errors.New("discovery/hub: Run was called twice")
	}
	ctx, cancel := context.WithCancel(ctx)
	h.ctx = ctx
	if !h.options.NoReflection {
		o := h.options.Reflection
		o.Changed = h.signal
		h.prober = reflection.NewProber(o)
	}
	prober := h.prober
	for _, r := range h.running {
		h.start(r)
	}
	h.mu.Unlock()
	defer func() {
		cancel()
		h.mu.Lock()   // from here on nothing is started
		h.mu.Unlock() //nolint:staticcheck // SA2001: to pass through is the point
		h.wg.Wait()
		if prober != nil {
			prober.Close()
		}
	}()

	m := &merger{withhold: h.options.Withhold, prober: prober, log: h.options.Logger, learned: map[string][]string{}}
	timer := time.NewTimer(time.Hour) // a withheld endpoint's end of patience
	defer timer.Stop()
	pause := time.NewTimer(time.Hour) // between two snapshots
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-timer.C:
		}
		if snapshot, again := m.merge(h.sets(), time.Now()); snapshot != nil || !again.IsZero() {
			if !again.IsZero() {
				timer.Reset(time.Until(again))
			}
			if snapshot == nil {
				continue
			}
			h.mu.Lock()
			h.latest = snapshot
			h.mu.Unlock()
			publish(snapshot)
			// Leading edge: the change above was not delayed; what follows closely is gathered.
			pause.Reset(h.options.Coalesce)
			select {
			case <-pause.C:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// sets is what the sources said last.
func (h *Hub) sets() []sourceSet {
	h.mu.Lock()
	defer h.mu.Unlock()
	sets := make([]sourceSet, 0, len(h.running))
	for _, r := range h.running {
		sets = append(sets, sourceSet{clusters: r.sets, spoke: r.spoke})
	}
	return sets
}

// Latest returns the newest snapshot; nil before the first.
func (h *Hub) Latest() *discovery.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest
}

// Reports says how each source fares, in the order of the last Replace.
func (h *Hub) Reports() []discovery.SourceReport {
	h.mu.Lock()
	list := make([]*running, len(h.running))
	reports := make([]discovery.SourceReport, len(h.running))
	for i, r := range h.running {
		list[i] = r
		reports[i] = discovery.SourceReport{Name: r.source.Name(), LastSuccess: r.at, Err: r.err, Clusters: len(r.sets)}
	}
	h.mu.Unlock()
	for i, r := range list {
		if reporter, ok := r.source.(discovery.Reporter); ok {
			own := reporter.Report()
			if reports[i].Err != "" {
				own.Err = reports[i].Err
			}
			reports[i] = own
		}
	}
	return reports
}

// Reflected returns what an endpoint last said by reflection; nil if nothing. It knows more than Endpoint.Services: which
// methods stream, and which are declared idempotent.
func (h *Hub) Reflected(e discovery.Endpoint) *reflection.Result {
	h.mu.Lock()
	prober := h.prober
	h.mu.Unlock()
	if prober == nil {
		return nil
	}
	if st := prober.State(targetOf(e)); st != nil {
		return st.Result
	}
	return nil
}

// Recheck has the endpoint at address asked again by reflection: for lb, when it sees that the server there was restarted.
func (h *Hub) Recheck(address string) {
	h.mu.Lock()
	prober := h.prober
	h.mu.Unlock()
	if prober != nil {
		prober.Recheck(address)
	}
}

func targetOf(e discovery.Endpoint) reflection.Target {
	return reflection.Target{Cluster: e.Cluster, Address: e.Address, InstanceID: e.InstanceID}
}
