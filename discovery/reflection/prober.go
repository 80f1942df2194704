package reflection

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Target is one instance to be kept asked. Another InstanceID at the same Address is another target: what its predecessor
// said is forgotten.
type Target struct {
	Cluster    string // "" where that makes no difference
	Address    string
	InstanceID string
}

// State is what is known of a Target. It is immutable.
type State struct {
	Target Target
	// Since is when the target appeared.
	Since time.Time
	// Asked is true once the first question was answered or failed.
	Asked bool
	// Result is the last good answer; nil: none yet.
	Result *Result
	// Err is why the latest question failed; nil while it succeeds.
	Err error
	// ChangedAt is when Result or Err last changed.
	ChangedAt time.Time
}

// Options of a Prober; the zero value means the defaults.
type Options struct {
	Asker       *Asker        // nil: the zero Asker
	Refresh     time.Duration // between two questions to a target that answers, jittered by a quarter; 0: 30 s
	RetryFirst  time.Duration // before the first retry after a failure; 0: 200 ms
	RetryMax    time.Duration // the longest pause between retries; 0: 10 s
	RecheckMin  time.Duration // between a question and the next one that Recheck caused; 0: 1 s
	Concurrency int           // questions at once, for new targets and for known ones each; 0: 8
	SchemaBytes int           // of file descriptors that are kept of all targets together; 0: 64 MiB
	Logger      *slog.Logger  // nil: silence
	// Changed is called after a State changed, from any goroutine and without a lock held; nil: nobody cares.
	Changed func()
}

// Prober keeps a set of targets asked. Its zero value is not usable: see NewProber.
type Prober struct {
	options Options       // set once in NewProber
	first   chan struct{} // set once in NewProber; a slot for each question to a new target
	again   chan struct{} // set once in NewProber; a slot for each other question, so that a crowd of dead targets never delays a new one

	mu      sync.Mutex
	targets map[Target]*probe // guarded by mu
	shelf   *shelf            // guarded by mu
	closed  bool              // guarded by mu
	wg      sync.WaitGroup
}

type probe struct {
	cancel  context.CancelFunc // set once in Set
	recheck chan struct{}      // set once in Set; one pending request is enough
	state   *State             // guarded by Prober.mu
}

// NewProber returns a Prober without targets. Close it.
func NewProber(options Options) *Prober {
	if options.Asker == nil {
		options.Asker = &Asker{}
	}
	if options.Refresh <= 0 {
		options.Refresh = 30 * time.Second
	}
	if options.RetryFirst <= 0 {
		options.RetryFirst = 200 * time.Millisecond
	}
	if options.RetryMax <= 0 {
		options.RetryMax = 10 * time.Second
	}
	if options.RecheckMin <= 0 {
		options.RecheckMin = time.Second
	}
	if options.Concurrency <= 0 {
		options.Concurrency = 8
	}
	if options.SchemaBytes <= 0 {
		options.SchemaBytes = 64 << 20
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Changed == nil {
		options.Changed = func() {}
	}
	return &Prober{
		options: options, targets: map[Target]*probe{}, shelf: newShelf(options.SchemaBytes),
		first: make(chan struct{}, options.Concurrency), again: make(chan struct{}, options.Concurrency),
	}
}

// Set names the whole set of targets. New ones are asked at once, missing ones are forgotten, the rest goes on.
func (p *Prober) Set(targets map[Target]struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, pr := range p.targets {
		if _, keep := targets[t]; !keep {
			pr.cancel()
			p.shelf.drop(pr.state.Result)
			delete(p.targets, t)
		}
	}
	if p.closed {
		return
	}
	for t := range targets {
		if p.targets[t] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		pr := &probe{cancel: cancel, recheck: make(chan struct{}, 1), state: &State{Target: t, Since: time.Now()}}
		p.targets[t] = pr
		p.wg.Go(func() { p.keepAsking(ctx, t, pr) })
	}
}

// State says what is known of t; nil if t is not in the set.
func (p *Prober) State(t Target) *State {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pr := p.targets[t]; pr != nil {
		return pr.state
	}
	return nil
}

// Recheck asks every target at address again soon, at the earliest Options.RecheckMin after the last question: for someone
// who saw that the server there was, or may have been, restarted.
func (p *Prober) Recheck(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, pr := range p.targets {
		if t.Address == address {
			select {
			case pr.recheck <- struct{}{}:
			default:
			}
		}
	}
}

// Close forgets all targets and waits for the questions under way, which are cancelled.
func (p *Prober) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Set(nil)
	p.wg.Wait()
}

func (p *Prober) keepAsking(ctx context.Context, t Target, pr *probe) {
	failures := 0
	slots := p.first
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		result, err := p.options.Asker.AskIn(ctx, t.Cluster, t.Address)
		asked := time.Now()
		<-slots
		slots = p.again
		if ctx.Err() != nil {
			return
		}
		p.record(pr, result, err)
		var pause time.Duration
		if err != nil && status.Code(err) != codes.Unimplemented {
			pause = backoff(p.options.RetryFirst, p.options.RetryMax, failures)
			failures++
		} else { // a server that has no reflection will hardly grow it soon
			failures = 0
			pause = p.options.Refresh - p.options.Refresh/8 + rand.N(p.options.Refresh/4+1)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-pr.recheck: // what many saw at once is one reason; one who flaps is not asked all the time
			timer.Reset(time.Until(asked.Add(p.options.RecheckMin)))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			select {
			case <-pr.recheck:
			default:
			}
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// record keeps what was learned and tells of it if it is news. Another failure of the same kind is no news.
func (p *Prober) record(pr *probe, result *Result, err error) {
	p.mu.Lock()
	old := pr.state
	if p.targets[old.Target] != pr { // forgotten a moment ago
		p.mu.Unlock()
		return
	}
	next := *old
	next.Asked = true
	next.Err = err
	if err == nil {
		next.Result = result
	} else if old.Err != nil && status.Code(old.Err) == status.Code(err) {
		next.Err = old.Err
	}
	same := old.Asked && next.Err == old.Err && //nolint:errorlint // the very same error, not one of its kind
		(next.Result == old.Result ||
			next.Result != nil && old.Result != nil && next.Result.Hash == old.Result.Hash)
	if same {
		next.Result = old.Result // the same content keeps the same pointer
		pr.state = &next
		p.mu.Unlock()
		return
	}
	next.ChangedAt = time.Now()
	if next.Result != old.Result {
		next.Result = p.shelf.keep(next.Result)
		p.shelf.drop(old.Result)
	}
	pr.state = &next
	p.mu.Unlock()

	log := p.options.Logger.With("endpoint", next.Target.Address, "instance", next.Target.InstanceID)
	switch {
	case err != nil:
		log.Warn("reflection failed", "err", err, "known", next.Result != nil)
	case next.Result.Schema == nil:
		log.Warn("reflection answered; its file descriptors are not kept: there are too many", "services", len(result.Services), "limit", p.options.SchemaBytes)
	default:
		log.Info("reflection answered", "services", len(result.Services), "version", result.Version, "took", result.Took)
	}
	p.options.Changed()
}

// backoff is first, doubled with each failure up to most, and of that a random half to whole.
func backoff(first, most time.Duration, failures int) time.Duration {
	d := most
	if failures < 20 && first<<failures < most {
		d = first << failures
	}
	return d/2 + rand.N(d/2+1)
}
