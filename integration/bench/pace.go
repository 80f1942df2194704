package main

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pacer starts calls at Poisson arrivals, whatever the proxy does meanwhile: an
// arrival that finds every connection busy waits, and its latency counts from
// when it was due. It waits on a timerfd, because the runtime's own timers round
// to milliseconds when the process is idle and would turn arrivals into bursts.
type pacer struct {
	load  *load
	timer *os.File
	rng   *rand.Rand

	mu      sync.Mutex
	idle    []*clientConn // guarded by mu: first in, first out
	waiting []int64       // guarded by mu: due times of arrivals without a connection
}

func newPacer(l *load) (*pacer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	p := &pacer{load: l, timer: os.NewFile(uintptr(fd), "timerfd"), rng: rand.New(rand.NewPCG(1, 2))}
	for range l.spec.streams {
		p.idle = append(p.idle, l.conns...)
	}
	return p, nil
}

// stop ends run; it may be called more than once.
func (p *pacer) stop() { p.timer.Close() }

func (p *pacer) sleep(d time.Duration) bool {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	raw, err := p.timer.SyscallConn()
	if err != nil {
		return false
	}
	err2 := raw.Control(func(fd uintptr) { err = unix.TimerfdSettime(int(fd), 0, &spec, nil) })
	if err != nil || err2 != nil {
		return false
	}
	var ticks [8]byte
	n, err := p.timer.Read(ticks[:])
	return err == nil && n == 8 && binary.NativeEndian.Uint64(ticks[:]) > 0
}

func (p *pacer) run() {
	next := p.load.now()
	for !p.load.stopped.Load() {
		next += int64(p.rng.ExpFloat64() / p.load.spec.rate * 1e9)
		if d := next - p.load.now(); d > 0 && !p.sleep(time.Duration(d)) {
			return
		}
		p.arrive(next)
	}
}

func (p *pacer) arrive(due int64) {
	p.mu.Lock()
	if len(p.idle) == 0 {
		p.waiting = append(p.waiting, due)
		p.mu.Unlock()
		return
	}
	c := p.idle[0]
	p.idle = p.idle[1:]
	p.mu.Unlock()
	c.mu.Lock()
	if !c.gone {
		c.startCall(due)
		c.batchCalls()
		c.settle()
	}
	c.mu.Unlock()
}

// freed gives a connection that can take a call to the next arrival. The caller
// holds c.mu and settles.
func (p *pacer) freed(c *clientConn) {
	p.mu.Lock()
	if len(p.waiting) == 0 || p.load.stopped.Load() {
		p.idle = append(p.idle, c)
		p.mu.Unlock()
		return
	}
	due := p.waiting[0]
	p.waiting = p.waiting[1:]
	p.mu.Unlock()
	c.startCall(due)
}
