package main

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// spec is one kind of load.
type spec struct {
	conns, streams int
	rate           float64 // calls per second, Poisson; 0: closed loop, always streams calls on each connection
	method         method
	style          style
	vary           vary
	window         int // initial window that the client grants, bytes; 0: HTTP/2's default
	tls            bool
	shakes         shakes // not calls, but handshakes
	hybrid         bool   // offer X25519MLKEM768 too, as browsers and Go do
}

// load makes the calls of a spec and checks every one of them.
type load struct {
	spec    spec
	addr    string
	start   time.Time // now() counts from here
	conns   []*clientConn
	hist    histogram
	upload  []byte
	pace    *pacer
	done    atomic.Uint64
	active  atomic.Int64
	failed  atomic.Uint64
	record  atomic.Bool // latencies go to hist
	stopped atomic.Bool // start no more calls
	wg      sync.WaitGroup

	mu       sync.Mutex
	problems []string // guarded by mu: the first few
}

func (l *load) now() int64 { return int64(time.Since(l.start)) }

func (l *load) fail(format string, args ...any) {
	l.failed.Add(1)
	l.mu.Lock()
	if len(l.problems) < 3 {
		l.problems = append(l.problems, fmt.Sprintf(format, args...))
	}
	l.mu.Unlock()
}

// firstProblems returns the first few failures' texts.
func (l *load) firstProblems() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.problems...)
}

const (
	dialTimeout = 10 * time.Second
	dialers     = 64
	lookEvery   = 100 * time.Millisecond
)

// connect opens the connections of s to addr and waits for the peer's SETTINGS
// on each. Call close, whatever it returns.
func connect(addr string, s spec) (*load, error) {
	l := &load{spec: s, addr: addr, start: time.Now()}
	if s.shakes != none {
		return l, nil
	}
	if s.method == methodUpload {
		l.upload = message(messageSize)
	}
	l.conns = make([]*clientConn, s.conns)
	var dialing sync.WaitGroup
	errs := make(chan error, dialers)
	var next atomic.Int64
	for range min(dialers, s.conns) {
		dialing.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= s.conns {
					return
				}
				c, err := l.dial(addr, i)
				if err != nil {
					errs <- err
					return
				}
				l.conns[i] = c
			}
		})
	}
	dialing.Wait()
	select {
	case err := <-errs:
		return l, err
	default:
		return l, nil
	}
}

func (l *load) dial(addr string, i int) (*clientConn, error) {
	nc, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return nil, err
	}
	c := newClientConn(l, addr, i)
	bufMax, step, window := 64<<10, defaultWindow/2, uint32(defaultWindow)
	if l.spec.window > 0 {
		bufMax, step, window = 256<<10, bulkConnWindow/4, uint32(l.spec.window)
	}
	if c.link, err = newLink(nc.(*net.TCPConn), c, true, bufMax, step); err != nil {
		nc.Close()
		return nil, err
	}
	if l.spec.tls {
		if c.secret, err = secure(nc, clientConfig(false, nil)); err != nil {
			nc.Close()
			return nil, err
		}
	}
	c.streamStep = int(window) / 2
	hello := appendSettings([]byte(preface), settingEnablePush, 0, settingInitialWindow, window)
	if l.spec.window > 0 {
		hello = appendWindowUpdate(hello, 0, bulkConnWindow-defaultWindow)
	}
	c.mu.Lock()
	c.out = append(c.out, hello...)
	c.flush()
	err = c.writeErr
	c.mu.Unlock()
	if err != nil {
		nc.Close()
		return nil, err
	}
	l.wg.Go(func() { c.ended(c.link.serve()) })
	select {
	case <-c.ready:
		return c, nil
	case <-time.After(dialTimeout):
		err = fmt.Errorf("%s sent no SETTINGS in %v", addr, dialTimeout)
	case <-c.closed:
		err = fmt.Errorf("%s closed the connection before its SETTINGS", addr)
	}
	nc.Close()
	return nil, err
}

// begin starts the load: at once for a closed loop, by the clock otherwise.
func (l *load) begin() error {
	if l.spec.shakes != none {
		l.beginShakes()
		return nil
	}
	if l.spec.rate > 0 {
		p, err := newPacer(l)
		if err != nil {
			return err
		}
		l.pace = p
		l.wg.Go(p.run)
		return nil
	}
	for _, c := range l.conns {
		c.mu.Lock()
		now := l.now()
		for range min(l.spec.streams, c.limit) {
			c.startCall(now)
		}
		c.batchCalls()
		c.settle()
		c.mu.Unlock()
	}
	return nil
}

// once makes a single call on every connection.
func (l *load) once() {
	l.stopped.Store(true)
	for _, c := range l.conns {
		c.mu.Lock()
		if !c.gone {
			c.startCall(l.now())
			c.batchCalls()
			c.settle()
		}
		c.mu.Unlock()
	}
}

// finish starts no more calls and waits for those under way; what has not come
// back by then counts as failed.
func (l *load) finish(patience time.Duration) {
	l.stopped.Store(true)
	if l.pace != nil {
		l.pace.stop()
	}
	began := time.Now()
	for looked := began; l.active.Load() > 0 && time.Since(began) < patience; time.Sleep(time.Millisecond) {
		if time.Since(looked) < lookEvery {
			continue
		}
		looked = time.Now()
		for _, c := range l.conns { // one that ended unseen has calls that never come back
			c.look()
		}
	}
	if n := l.active.Load(); n > 0 {
		l.failed.Add(uint64(n) - 1)
		l.fail("%d calls did not come back in %v", n, patience)
	}
}

// close ends the connections and waits for their goroutines.
func (l *load) close() {
	l.stopped.Store(true)
	for _, c := range l.conns {
		if c != nil {
			_ = c.conn.Close()
		}
	}
	if l.pace != nil {
		l.pace.stop()
	}
	l.wg.Wait()
}
