// Package listener owns bound addresses and accepting: it gives each new connection to the shard that carries the fewest; it
// must not read from a connection. (TLS and ALPN wrap the accepted socket here when they come.)
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
)

// Settings are what accepted connections get. Immutable.
type Settings struct {
	Session session.Config
	Budget  int64 // bytes that one client may make us hold
}

// Listener is one bound address.
type Listener struct {
	l          net.Listener
	log        *slog.Logger
	forwarders []*forward.Forwarder
	load       []atomic.Int64 // open connections by shard
	settings   *atomic.Pointer[Settings]
	mu         sync.Mutex // held while a connection is handed over, so that Close comes before or after
	conns      sync.WaitGroup
	closed     atomic.Bool
}

// Bind listens on address (host:port). settings is read for each connection.
func Bind(ctx context.Context, address string, fs []*forward.Forwarder, settings *atomic.Pointer[Settings], log *slog.Logger) (*Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", address, err)
	}
	return New(l, fs, settings, log), nil
}

// New serves a listener that is bound already.
func New(l net.Listener, fs []*forward.Forwarder, settings *atomic.Pointer[Settings], log *slog.Logger) *Listener {
	return &Listener{l: l, log: log, forwarders: fs, load: make([]atomic.Int64, len(fs)), settings: settings}
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.l.Addr() }

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
		l.hand(nc)
	}
}

// hand gives a connection to its shard, unless the listener has been closed.
func (l *Listener) hand(nc net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		_ = nc.Close()
		return
	}
	at := l.least()
	l.load[at].Add(1)
	set := l.settings.Load()
	d := l.forwarders[at].Accept(nc, &set.Session, set.Budget, func() { l.load[at].Add(-1) })
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

// Close stops accepting. Open connections go on; when it returns, their shards know all of them. Call it outside of the shards.
func (l *Listener) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.CompareAndSwap(false, true) {
		_ = l.l.Close()
	}
}

// Wait returns when the last connection has ended.
func (l *Listener) Wait() { l.conns.Wait() }
