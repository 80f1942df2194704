// Package listener owns bound addresses, accepting, and what comes before HTTP/2: the PROXY protocol, TLS handshakes, and how many
// connections there may be; it gives each connection to the shard that carries the fewest, and must not read from it afterwards.
package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/transport"
)

// Settings are what accepted connections get. Immutable.
type Settings struct {
	Session session.Config
	Budget  int64 // bytes that one client may make us hold
	// MaxConnections and MaxPerAddress bound the connections of one listener; 0: no limit.
	MaxConnections, MaxPerAddress int
	// UnusedPerSecond bounds the connections of one address of which no call is answered; 0: no limit.
	UnusedPerSecond float64
	// PrefaceTimeout bounds what comes before HTTP/2; 0: no bound.
	PrefaceTimeout time.Duration
}

// Options are what one listener works with. Its shards' forwarders and its settings are set once, by New.
type Options struct {
	// Door is what a connection has to pass first. It may be changed at any time; nil inside: nothing.
	Door  *atomic.Pointer[Door]
	Slots transport.Slots // shared by all listeners
	Log   *slog.Logger
}

// Listener is one bound address.
type Listener struct {
	l          net.Listener
	log        *slog.Logger
	forwarders []*forward.Forwarder
	load       []atomic.Int64 // open connections by shard
	settings   *atomic.Pointer[Settings]
	door       *atomic.Pointer[Door]
	slots      transport.Slots
	guard      guard
	offenders  offenders
	newcomers  newcomers
	cuts       cuts
	mu         sync.Mutex // held while a connection is handed over, so that Close comes before or after
	conns      sync.WaitGroup
	closed     atomic.Bool
	ctx        context.Context // of greetings; ends with Close
	cancel     context.CancelFunc

	// Counters, for metrics.
	counts Counts
}

// Counts are what happened to connections before HTTP/2, and how many were cut off for abuse of it, since the start.
type Counts struct {
	Accepted       atomic.Uint64
	Crowded        atomic.Uint64 // closed: too many connections
	CrowdedAddress atomic.Uint64 // closed: too many of one address
	BadProxyHeader atomic.Uint64
	Handshakes     atomic.Uint64 // over TLS, that were done
	Resumed        atomic.Uint64 // of them, by a session ticket
	BadHandshakes  atomic.Uint64
	Offenders      atomic.Uint64 // closed: others of an address that was cut off wait already
	Unused         atomic.Uint64 // closed: others of an address that does not use its connections wait already
	Cut            [CutReasons]atomic.Uint64
}

// Bind listens on address (host:port). settings is read for each connection.
func Bind(ctx context.Context, address string, fs []*forward.Forwarder, settings *atomic.Pointer[Settings], o Options) (*Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", address, err)
	}
	return New(l, fs, settings, o), nil
}

// New serves a listener that is bound already.
func New(l net.Listener, fs []*forward.Forwarder, settings *atomic.Pointer[Settings], o Options) *Listener {
	if o.Door == nil {
		o.Door = new(atomic.Pointer[Door])
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Listener{l: l, log: o.Log, forwarders: fs, load: make([]atomic.Int64, len(fs)), settings: settings, door: o.Door, slots: o.Slots}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.l.Addr() }

// Counts are the listener's counters.
func (l *Listener) Counts() *Counts { return &l.counts }

// Accept takes connections until Close. It survives what passes, as a lack of file descriptors.
func (l *Listener) Accept() {
	var pause time.Duration
	for {
		nc, err := l.l.Accept()
		if err != nil {
			if l.closed.Load() || errors.Is(err, net.ErrClosed) {
				return
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.log.Warn("cannot accept connections for now", "listener", l.l.Addr().String(), "error", err, "retry_in", pause)
			time.Sleep(pause)
			continue
		}
		pause = 0
		l.counts.Accepted.Add(1)
		l.take(nc)
	}
}

// take lets a connection in: at once, or after a greeting in a goroutine of its own.
func (l *Listener) take(nc net.Conn) {
	door, set := l.door.Load(), l.settings.Load()
	from := addressOf(nc.RemoteAddr())
	g := &guest{Guest: forward.Guest{Conn: nc}, l: l, set: set}
	if !l.guard.enter(set.MaxConnections) {
		l.counts.Crowded.Add(1)
		l.turnAway(g, door, door.trusts(from), tooMany(fmt.Sprintf("this listener has %d connections, and takes no more (limits.maxConnections): try again later, or at another address", set.MaxConnections)))
		return
	}
	if !door.trusts(from) { // a trusted proxy says later whose connection it is
		if why := g.judge(from); why != "" {
			g.leave()
			l.turnAway(g, door, false, why)
			return
		}
	}
	if door == nil && !g.mustWait() {
		l.hand(g)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		g.leave()
		_ = nc.Close()
		return
	}
	l.conns.Go(func() {
		err := l.greet(g, door, from)
		if err == nil {
			l.hand(g)
			return
		}
		l.log.Debug("a connection did not come to HTTP/2", "listener", l.l.Addr().String(), "client", from.String(), "error", err)
		g.leave()
		if why := tooMany(""); errors.As(err, &why) {
			l.turnAway(g, door, false, why)
			return
		}
		_ = nc.Close()
	})
}

// hand gives a connection to its shard, unless the listener has been closed.
func (l *Listener) hand(g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		g.leave()
		_ = g.Conn.Close()
		return
	}
	at := l.least()
	l.load[at].Add(1)
	d := l.forwarders[at].Accept(&g.Guest, &g.set.Session, g.set.Budget, func(abuse string) {
		l.load[at].Add(-1)
		g.leave()
		if abuse != "" {
			l.cutOff(g.at, abuse)
		}
	})
	l.conns.Go(d.Serve)
}

// least is the shard with the fewest connections of this listener.
func (l *Listener) least() int {
	at := 0
	for i := range l.load {
		if l.load[i].Load() < l.load[at].Load() {
			at = i
		}
	}
	return at
}

// Open is how many connections are open.
func (l *Listener) Open() (n int64) {
	for i := range l.load {
		n += l.load[i].Load()
	}
	return n
}

// Close stops accepting. Open connections go on; when it returns, their shards know all of them, and what has not come to HTTP/2 yet
// will not. Call it outside of the shards.
func (l *Listener) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.CompareAndSwap(false, true) {
		_ = l.l.Close()
		l.cancel()
	}
}

// Wait returns when the last connection has ended.
func (l *Listener) Wait() { l.conns.Wait() }
