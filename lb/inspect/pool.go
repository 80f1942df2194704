package inspect

import (
	"sync"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
)

const (
	maxQueued      = 1024     // messages that wait; one address may have a quarter of them
	maxQueuedBytes = 64 << 20 // of their bodies, as they came
)

// pool runs jobs on a few goroutines, the addresses in turn: one client's slow messages delay another's by one job at a time.
type pool struct {
	most, mostBytes int // set once in newPool
	wg              sync.WaitGroup

	mu     sync.Mutex // held for a few instructions
	work   sync.Cond
	queues map[string]*queue // of the addresses that wait for something
	turn   []*queue          // the same, in the order of their turns
	queued int
	bytes  int
	closed bool

	answers []func() // of what was turned away: then is called on another goroutine also then
	answer  sync.Cond
}

type queue struct {
	address string
	jobs    []job
}

type job struct {
	do    func()
	bytes int
}

func newPool(workers, most, mostBytes int) *pool {
	p := &pool{most: most, mostBytes: mostBytes, queues: map[string]*queue{}}
	p.work.L, p.answer.L = &p.mu, &p.mu
	for range workers {
		p.wg.Go(p.run)
	}
	p.wg.Go(p.turnAway)
	return p
}

// put queues do; else it says why not.
func (p *pool) put(address string, bytes int, do func()) *authn.Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return &authn.Refusal{Status: grpc.Unavailable, Reason: "SHUTDOWN", Message: "came when Trunkline was ending: call again"}
	}
	q := p.queues[address]
	if p.queued >= p.most || q != nil && len(q.jobs) >= max(1, p.most/4) || p.queued > 0 && p.bytes+bytes > p.mostBytes {
		return &authn.Refusal{Status: grpc.ResourceExhausted, Reason: "INSPECTION_OVERLOADED",
			Message: "cannot be inspected: too many messages wait for that; call again later, with fewer or smaller messages"}
	}
	if q == nil {
		q = &queue{address: address}
		p.queues[address] = q
		p.turn = append(p.turn, q)
	}
	q.jobs = append(q.jobs, job{do, bytes})
	p.queued++
	p.bytes += bytes
	p.work.Signal()
	return nil
}

// later has do run on another goroutine, soon.
func (p *pool) later(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		go do() // a few stragglers
		return
	}
	p.answers = append(p.answers, do)
	p.answer.Signal()
}

func (p *pool) run() {
	for {
		p.mu.Lock()
		for p.queued == 0 && !p.closed {
			p.work.Wait()
		}
		if p.queued == 0 {
			p.mu.Unlock()
			return
		}
		q := p.turn[0]
		p.turn = p.turn[1:]
		j := q.jobs[0]
		q.jobs[0] = job{}
		q.jobs = q.jobs[1:]
		if len(q.jobs) > 0 {
			p.turn = append(p.turn, q)
		} else {
			delete(p.queues, q.address)
		}
		p.queued--
		p.bytes -= j.bytes
		p.mu.Unlock()
		j.do()
	}
}

func (p *pool) turnAway() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.answers) == 0 && !p.closed {
			p.answer.Wait()
		}
		if len(p.answers) == 0 {
			return
		}
		answers := p.answers
		p.answers = nil
		p.mu.Unlock()
		for _, do := range answers {
			do()
		}
		p.mu.Lock()
	}
}

// close waits until all that waits has been answered.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.work.Broadcast()
	p.answer.Broadcast()
	p.mu.Unlock()
	p.wg.Wait()
}
