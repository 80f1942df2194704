package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/hub"
	"github.com/trunkline/trunkline/discovery/reflection"
	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/health"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/lb/listener"
	"github.com/trunkline/trunkline/lb/overload"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/transport"
	"github.com/trunkline/trunkline/lb/upstream"
	poverload "github.com/trunkline/trunkline/policy/overload"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// maxShards bounds the shards that GOMAXPROCS asks for: each has its own upstream connections to every endpoint, and carries
// well over 100,000 calls/s.
const maxShards = 16

// Options is what a Server is made of.
type Options struct {
	Config     *configv1.Config
	ConfigName string // for people: the file's name, "" for the built-in default
	Logger     *slog.Logger
	// ExtraSources are sources beside those of the config, e.g. the demo's embedded registry. They live as long as the Server.
	ExtraSources []discovery.Source
	Version      string
	// Dial opens connections to endpoints; nil: TCP.
	Dial upstream.Dialer
}

// Server is one running Trunkline.
type Server struct {
	opts    Options
	log     *slog.Logger
	started time.Time

	shards     []*shard.Shard
	forwarders []*forward.Forwarder
	listeners  []*listener.Listener
	admin      *admin.Server
	adminL     net.Listener
	tel        *telemetry.Telemetry
	registry   *upstream.Registry
	policies   *policies.Store
	keeper     *health.Keeper
	books      decision.Books // by shard
	overload   *overload.Monitor
	hub        *hub.Hub
	builtin    *builtin
	ctx        context.Context // ends when Run is over
	cancel     context.CancelFunc

	gen      atomic.Pointer[forward.Generation]
	settings atomic.Pointer[listener.Settings]
	edge     atomic.Pointer[edge]
	doors    []*atomic.Pointer[listener.Door] // by listener; set once
	library  *inspect.Library                 // set once
	closing  sync.WaitGroup                   // old edges
	rejected atomic.Uint64                    // configurations refused
	shedAt   atomic.Pointer[poverload.Settings]

	mu        sync.Mutex
	cfg       *configv1.Config         // guarded by mu; with defaults
	cfgName   string                   // guarded by mu
	cfgAt     time.Time                // guarded by mu
	cfgNum    uint64                   // guarded by mu: how many configurations were in force
	sources   *sources                 // guarded by mu
	documents documents                // guarded by mu
	snapshot  *discovery.Snapshot      // guarded by mu; nil before the first
	ready     bool                     // guarded by mu
	next      *edge                    // guarded by mu; what generations are compiled with
	changed   chan struct{}            // guarded by mu; closed at the next change
	drained   chan struct{}            // guarded by mu; nil before Drain; closed when it has finished
	targets   map[string]*clusterState // guarded by mu
	notes     notes                    // for Status
}

// New binds the listeners and the admin address and starts telemetry; Run does the rest. Errors name what could not be had.
func New(ctx context.Context, o Options) (_ *Server, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Config == nil {
		o.Config = config.Default()
	}
	config.ApplyDefaults(o.Config)
	s := &Server{opts: o, log: o.Logger, started: time.Now(), changed: make(chan struct{}), cfg: o.Config, cfgName: o.ConfigName}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	tc, err := telemetryConfig(o)
	if err != nil {
		return nil, err
	}
	if s.tel, err = telemetry.New(ctx, tc); err != nil {
		return nil, err
	}
	s.builtin = newBuiltin(newReflector(s.outlook, func(e discovery.Endpoint) *reflection.Result { return s.hub.Reflected(e) }))
	s.policies = policies.NewStore(s.log, rand.Uint64())
	settings := func() poverload.Settings { return *s.shedAt.Load() }
	s.setOverload(o.Config)
	s.overload = overload.Start(s.log, settings)
	s.library = inspect.NewLibrary()
	s.startShards()
	s.documents.stored = map[string]*document{}
	if err := errors.Join(s.readPolicies(o.Config), s.buildSources(o.Config)); err != nil {
		return nil, err
	}
	s.hub = hub.New(hub.Options{Logger: o.Logger, NoReflection: o.Config.GetDiscovery().GetReflection().GetDisabled(),
		Reflection: s.reflectionOptions(o.Config)})
	s.registry.OnUp = func(_, address string) { s.hub.Recheck(address) } // what answers there now may be another version
	s.settings.Store(listenerSettings(o.Config))
	s.setTotals(o.Config)
	if s.next, err = s.newEdge(o.Config, nil); err != nil {
		return nil, err
	}
	s.use(s.next)
	s.tel.Observe(s.observe)
	s.mu.Lock()
	s.cfgNum, s.cfgAt = 1, time.Now()
	err = s.compile()
	s.mu.Unlock()
	s.hub.Replace(s.sourceList())
	if err != nil {
		return nil, err
	}
	slots := make(transport.Slots, (runtime.GOMAXPROCS(0)+1)/2)
	for i, l := range o.Config.GetListeners() {
		bound, err := listener.Bind(ctx, l.GetAddress(), s.forwarders, &s.settings, listener.Options{Door: s.doors[i], Slots: slots, Log: o.Logger})
		if err != nil {
			return nil, err
		}
		s.listeners = append(s.listeners, bound)
	}
	if a := o.Config.GetAdmin().GetAddress(); a != "-" {
		if s.adminL, err = new(net.ListenConfig).Listen(ctx, "tcp", a); err != nil {
			return nil, fmt.Errorf("admin %s: %w", a, err)
		}
		metrics := s.tel.Handler()
		if o.Config.GetMetrics().GetDisabled() {
			metrics = nil
		}
		s.admin, err = admin.Open(admin.Options{Source: s, Metrics: metrics, Log: o.Logger, Config: o.Config.GetAdmin(), Authorize: s.authorizeAdmin})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) startShards() {
	n := int(s.opts.Config.GetShards())
	if n == 0 {
		n = min(runtime.GOMAXPROCS(0), maxShards)
	}
	dial := s.opts.Dial
	if dial == nil {
		d := &net.Dialer{}
		dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	s.keeper = health.New(s.log, s.dialIn(dial))
	handlers := make([]upstream.StreamHandler, n)
	for i := range n {
		sh := shard.New(i, s.started, uint64(s.started.UnixNano()))
		book := s.newBook(n, sh)
		f := forward.New(sh, &s.gen, s.tel, s.log, forward.Options{Book: book, Tripped: s.keeper.Tripped, Shedding: s.shedding})
		s.books = append(s.books, book)
		s.shards = append(s.shards, sh)
		s.forwarders = append(s.forwarders, f)
		handlers[i] = f.Upstream()
	}
	s.registry = upstream.NewRegistry(s.ctx, s.log, s.tel, s.builtin.dialer(dial), s.shards, handlers)
	s.registry.Moved = s.keeper.Moved
}

// listenerSettings is what clients get.
func listenerSettings(cfg *configv1.Config) *listener.Settings {
	l := cfg.GetLimits()
	return &listener.Settings{
		Budget: int64(l.GetBufferBytesPerConnection()),
		Session: session.Config{
			StreamWindow: min(firstWindow, int32(l.GetStreamWindowBytes())), MaxStreamWindow: int32(l.GetStreamWindowBytes()),
			ConnWindow: connWindow, MaxStreams: l.GetMaxConcurrentStreams(), MaxHeaderBytes: l.GetMaxHeaderBytes(), OutputMark: outputMark,
			MaxHeaderFields: l.GetMaxHeaderFields(), FrameTimeout: l.GetFrameTimeout().AsDuration(), StallTimeout: l.GetStallTimeout().AsDuration(),
			PrefaceTimeout: l.GetPrefaceTimeout().AsDuration(),
			Abuse: session.Abuse{Resets: float64(l.GetAbuse().GetResetsPerSecond()), Idle: float64(l.GetAbuse().GetIdleFramesPerSecond()),
				Refused: float64(l.GetAbuse().GetRefusedPerSecond())},
		},
		MaxConnections: int(l.GetMaxConnections()), MaxPerAddress: int(l.GetMaxConnectionsPerAddress()), UnusedPerSecond: float64(l.GetAbuse().GetUnusedConnectionsPerSecond()), PrefaceTimeout: l.GetPrefaceTimeout().AsDuration(),
	}
}

// setTotals bounds what clients make the shards hold.
func (s *Server) setTotals(cfg *configv1.Config) {
	most := int64(cfg.GetLimits().GetBufferBytesTotal()) / int64(len(s.shards))
	for i, sh := range s.shards {
		sh.Lock()
		s.forwarders[i].SetTotal(most)
		sh.Unlock()
	}
}

// The windows that every stream and connection begins with, in bytes. A stream's grows while it drains, up to the
// configured size; a connection's is given back on receipt, so that it only has to cover what is on its way.
const (
	firstWindow = 64 << 10
	connWindow  = 16 << 20
	outputMark  = 512 << 10
)

func upstreamOptions(cfg *configv1.Config, cluster string) *upstream.Options {
	u := config.UpstreamFor(cfg, cluster)
	never := func(d time.Duration) time.Duration {
		if d == 0 {
			return 1000 * time.Hour
		}
		return d
	}
	return &upstream.Options{
		Session: session.Config{
			StreamWindow: min(firstWindow, int32(u.GetStreamWindowBytes())), MaxStreamWindow: int32(u.GetStreamWindowBytes()),
			ConnWindow: connWindow, MaxHeaderBytes: cfg.GetLimits().GetMaxHeaderBytes(), OutputMark: outputMark,
		},
		FillMark: int(u.GetMaxStreamsPerConnection()), MaxPending: int(u.GetMaxPendingPerEndpoint()),
		ConnectTimeout: u.GetConnectTimeout().AsDuration(), IdleTimeout: never(u.GetIdleTimeout().AsDuration()),
		KeepaliveInterval: never(u.GetKeepaliveInterval().AsDuration()), KeepaliveTimeout: u.GetKeepaliveTimeout().AsDuration(),
		MinBackoff: u.GetMinBackoff().AsDuration(), MaxBackoff: u.GetMaxBackoff().AsDuration(),
	}
}

func (s *Server) reflectionOptions(cfg *configv1.Config) reflection.Options {
	r := cfg.GetDiscovery().GetReflection()
	return reflection.Options{Refresh: r.GetInterval().AsDuration(), Logger: s.log,
		Asker: &reflection.Asker{Limits: reflection.Limits{Timeout: r.GetTimeout().AsDuration()}, Secure: s.shake}}
}

// Run serves until ctx ends (then at once: call Drain before for an orderly end) or a drain has finished. It returns nil then.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.cancel()
	failed := make(chan error, 2)
	wg.Go(func() {
		if err := s.hub.Run(s.ctx, s.publish); err != nil && s.ctx.Err() == nil {
			failed <- fmt.Errorf("discovery: %w", err)
		}
	})
	if s.admin != nil {
		wg.Go(func() {
			if err := s.admin.Serve(s.ctx, s.adminL); err != nil {
				failed <- fmt.Errorf("admin: %w", err)
			}
		})
	}
	for _, l := range s.listeners {
		wg.Go(l.Accept)
		s.log.Info("listening", "address", l.Addr().String())
	}
	defer func() {
		for _, l := range s.listeners {
			l.Close()
		}
		s.cut("Trunkline shuts down")
		for _, l := range s.listeners {
			l.Wait()
		}
	}()
	for {
		s.mu.Lock()
		drained, changed := s.drained, s.changed
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-drained:
			return nil
		case <-changed:
		}
	}
}

// close gives back what New took; for a Server that ran, and for one that did not come to that.
func (s *Server) close() {
	s.cancel()
	for _, l := range s.listeners {
		l.Close()
	}
	if s.adminL != nil {
		_ = s.adminL.Close()
	}
	if s.admin != nil {
		s.admin.Close()
	}
	if s.overload != nil {
		s.overload.Stop()
	}
	if s.keeper != nil {
		s.keeper.Close()
	}
	if s.registry != nil {
		s.registry.Close()
	}
	if s.policies != nil {
		s.policies.Close()
	}
	if e := s.edge.Load(); e != nil {
		e.closeBut(&edge{cfg: e.cfg})
	}
	s.closing.Wait()
	if s.builtin != nil {
		s.builtin.stop()
	}
	for _, sh := range s.shards {
		sh.Enter()
		sh.Timer.Stop()
		sh.Leave()
	}
	if s.tel != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := s.tel.Shutdown(ctx); err != nil {
			s.log.Warn("telemetry did not end in order", "error", err)
		}
	}
}

// errCut ends connections whose clients did not close in time.
var errCut = errors.New("Trunkline shuts down") //nolint:staticcheck // a proper name

// cut ends all calls, saying why, and all downstream connections; clients get a moment to read it.
func (s *Server) cut(why string) {
	for i, sh := range s.shards {
		sh.Enter()
		s.forwarders[i].CutAll(why)
		sh.Leave()
	}
	ctx, cancel := context.WithTimeout(context.Background(), cutWait)
	defer cancel()
	for s.openConns() > 0 && pause(ctx, 5*time.Millisecond) {
	}
	for i, sh := range s.shards {
		sh.Enter()
		s.forwarders[i].EachDown(func(d *forward.Down) { d.End(errCut) })
		sh.Leave()
	}
}

// cutWait is how long clients have to read the last words.
const cutWait = 500 * time.Millisecond

// Drain ends the Server in order: readiness goes, listeners close after the configured delay, clients get a two-step GOAWAY,
// live streams run to their end. When ctx ends first, what is left is reset. Then Run returns.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	if s.drained != nil {
		done := s.drained
		s.mu.Unlock()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.drained = make(chan struct{})
	s.notes.drainUntil, _ = ctx.Deadline()
	delay := s.cfg.GetDrain().GetDelay().AsDuration()
	s.notify()
	s.mu.Unlock()
	defer close(s.drained)
	s.builtin.notServing()
	s.log.Info("draining", "streams", s.liveStreams())
	if !pause(ctx, delay) {
		return ctx.Err()
	}
	for _, l := range s.listeners {
		l.Close()
	}
	for i, sh := range s.shards {
		sh.Enter()
		s.forwarders[i].EachDown(func(d *forward.Down) { d.Drain() })
		sh.Leave()
	}
	for s.openConns() > 0 {
		if !pause(ctx, 10*time.Millisecond) {
			s.log.Warn("the time to drain is over", "streams", s.liveStreams())
			s.cut("Trunkline shuts down: the time to drain is over")
			return ctx.Err()
		}
	}
	return nil
}

// pause waits for d; false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) openConns() (n int64) {
	for _, l := range s.listeners {
		n += l.Open()
	}
	return n
}

func (s *Server) liveStreams() (n int) {
	for i, sh := range s.shards {
		sh.Lock()
		n += s.forwarders[i].Live()
		sh.Unlock()
	}
	return n
}

// ListenerAddrs are the bound addresses, in the order of the config.
func (s *Server) ListenerAddrs() []net.Addr {
	var addrs []net.Addr
	for _, l := range s.listeners {
		addrs = append(addrs, l.Addr())
	}
	return addrs
}

// AdminAddr is the bound admin address; nil if there is none.
func (s *Server) AdminAddr() net.Addr {
	if s.adminL == nil {
		return nil
	}
	return s.adminL.Addr()
}

// notify wakes those who wait for a change. s.mu is held.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed implements admin.Source.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
