// Package upstream owns the connections to endpoints: one Endpoint per cluster and address for the whole process, one Pool of
// connections per Endpoint and shard; it must not know what a call is: it lends places for streams.
//
// Streams of many clients share few connections. A connection that reaches the peer's MAX_CONCURRENT_STREAMS, or the fill
// mark, gets a sibling; idle ones are closed; silent ones are asked (PING) and given up. An endpoint whose dial is refused
// is out of the pick at once, and is dialled again in the background, with backoff, until it answers.
package upstream

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/outlier"
)

// Options are the settings of all pools. Immutable.
type Options struct {
	Session session.Config
	// FillMark is the number of streams at which a connection gets a sibling.
	FillMark int
	// MaxPending bounds the calls that wait for a connection, per endpoint and shard.
	MaxPending int
	// ConnectTimeout bounds a dial and the wait for the peer's SETTINGS.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a connection without streams is kept.
	IdleTimeout time.Duration
	// KeepaliveInterval is how long a connection with streams may be silent before it is asked; KeepaliveTimeout how long
	// it may then take to answer.
	KeepaliveInterval, KeepaliveTimeout time.Duration
	// Secure shakes hands over TLS, and returns a *transport.Secured; nil: h2c. It may not keep nc after an error.
	Secure func(ctx context.Context, address string, nc net.Conn) (net.Conn, error)
	// MinBackoff and MaxBackoff bound the wait between refused dials.
	MinBackoff, MaxBackoff time.Duration
}

// Dialer opens a connection to host:port.
type Dialer func(ctx context.Context, address string) (net.Conn, error)

// StreamHandler is the part of session.Handler that is about streams: the forwarder's.
type StreamHandler interface {
	HandleHeaders(s *session.Stream, b *session.Block)
	HandleData(s *session.Stream, p []byte, end bool)
	HandleReset(s *session.Stream, code h2Code, why error)
	HandleHanded(s *session.Stream, n int)
	HandleClosed(s *session.Stream)
}

// Registry holds the endpoints of the process, whatever generation uses them.
type Registry struct {
	Log *slog.Logger // set once
	// OnUp is told, in a goroutine of its own, of each connection that became ready: for those who want to know when an
	// endpoint is back, perhaps with other code. Nil: nobody. Set once, before the first Endpoint.
	OnUp func(cluster, address string)
	// Moved is told, inside a shard, of each cluster of which an endpoint went down or came up: it must not block. Nil: nobody. Set
	// once, before the first Endpoint.
	Moved func(cluster string)

	ctx     context.Context // ends with the process's work
	dial    Dialer
	shards  []*shard.Shard
	streams []StreamHandler // by shard
	tel     *telemetry.Telemetry
	mu      sync.Mutex
	known   map[key]*Endpoint // guarded by mu
	dials   sync.WaitGroup
}

type key struct{ cluster, address string }

// NewRegistry returns an empty registry. streams[i] receives what comes on the connections of shards[i].
func NewRegistry(ctx context.Context, log *slog.Logger, tel *telemetry.Telemetry, dial Dialer, shards []*shard.Shard, streams []StreamHandler) *Registry {
	return &Registry{Log: log, ctx: ctx, dial: dial, shards: shards, streams: streams, tel: tel, known: map[key]*Endpoint{}}
}

// Endpoint returns the endpoint of that cluster and address, making it at first sight. The options hold from now on.
func (r *Registry) Endpoint(cluster, address string, o *Options) *Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{cluster, address}
	if e := r.known[k]; e != nil {
		e.opts.Store(o)
		return e
	}
	e := &Endpoint{Endpoint: balance.NewEndpoint(address), Cluster: cluster, Host: outlier.NewHost(), Stats: r.tel.Endpoint(cluster, address), reg: r}
	for _, s := range r.shards {
		p := &Pool{ep: e, shard: s}
		p.tell.Do = p.tellDisplaced
		e.pools = append(e.pools, p)
	}
	e.opts.Store(o)
	r.known[k] = e
	return e
}

func (r *Registry) moved(cluster string) {
	if r.Moved != nil {
		r.Moved(cluster)
	}
}

// Retire forgets the endpoints that keep does not name: they take no new streams, since no generation to come has them; their
// live streams run to their end, then their connections close.
func (r *Registry) Retire(keep map[*Endpoint]bool) {
	r.mu.Lock()
	var gone []*Endpoint
	for k, e := range r.known {
		if !keep[e] {
			gone = append(gone, e)
			delete(r.known, k)
		}
	}
	r.mu.Unlock()
	for _, e := range gone {
		e.retired.Store(true)
		r.tel.Forget(e.Stats)
		for _, p := range e.pools {
			p.shard.Enter()
			p.retire()
			p.shard.Leave()
		}
	}
}

// Each calls f for every known endpoint.
func (r *Registry) Each(f func(*Endpoint)) {
	r.mu.Lock()
	all := make([]*Endpoint, 0, len(r.known))
	for _, e := range r.known {
		all = append(all, e)
	}
	r.mu.Unlock()
	for _, e := range all {
		f(e)
	}
}

// Close ends all connections and waits for dials under way; ctx of NewRegistry has ended before.
func (r *Registry) Close() {
	r.Retire(nil)
	r.dials.Wait()
}

// Endpoint is one address of one cluster: what all shards share about it, and each shard's pool.
type Endpoint struct {
	*balance.Endpoint                     // set once; load and down are atomic
	Cluster           string              // set once
	Stats             *telemetry.Endpoint // set once
	Connections       atomic.Int64        // open ones, of all shards
	Host              *outlier.Host       // how attempts at it ended, for outlier detection; set once

	reg      *Registry
	opts     atomic.Pointer[Options]
	pools    []*Pool // by shard; set once
	retired  atomic.Bool
	redials  atomic.Int32 // dials refused in a row
	pursuing atomic.Bool  // somebody dials it again in the background
	lastErr  atomic.Pointer[string]
}

// Pool is the endpoint's pool of that shard.
func (e *Endpoint) Pool(shard int) *Pool { return e.pools[shard] }

// LastError is why the endpoint is down, or was; "" if it never was.
func (e *Endpoint) LastError() string {
	if s := e.lastErr.Load(); s != nil {
		return *s
	}
	return ""
}

// up notes that the endpoint answered.
func (e *Endpoint) up() {
	if e.Down() {
		e.reg.Log.Info("endpoint answers again", "cluster", e.Cluster, "endpoint", e.Address)
	}
	e.redials.Store(0)
	if e.Down() {
		e.MarkUp()
		e.reg.moved(e.Cluster)
	}
	if f := e.reg.OnUp; f != nil {
		go f(e.Cluster, e.Address)
	}
}

// failed takes the endpoint out of the pick and has it dialled again later. Call it inside of p's shard.
func (e *Endpoint) failed(p *Pool, err error) {
	msg := err.Error()
	e.lastErr.Store(&msg)
	e.Stats.DialFailures.Add(1)
	if !e.Down() {
		e.reg.Log.Warn("endpoint is down", "cluster", e.Cluster, "endpoint", e.Address, "error", msg)
		e.MarkDown()
		e.reg.moved(e.Cluster)
	}
	if e.retired.Load() || !e.pursuing.CompareAndSwap(false, true) {
		return
	}
	n := e.redials.Add(1)
	// Doubled each time, each drawn from its upper half so that many balancers do not knock together.
	o := e.opts.Load()
	full := max(2, min(o.MinBackoff<<min(n-1, 10), o.MaxBackoff))
	wait := full/2 + time.Duration(p.shard.Rand()%uint64(full/2))
	p.redial.Do = func() {
		e.pursuing.Store(false)
		if !e.retired.Load() && e.Down() {
			p.startDial()
		}
	}
	p.shard.Timer.Set(&p.redial, p.shard.Now()+int64(wait))
}
