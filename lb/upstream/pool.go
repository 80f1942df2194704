package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/transport"
)

type h2Code = h2.Code

// maxConns bounds the connections of one pool: an endpoint that allows one stream at a time must not eat all descriptors.
const maxConns = 256

// Waiter is a call that waits for a connection.
type Waiter interface {
	// HandleConn gives it one with a free place, to be used at once, or says why there will be none. Called inside of the shard.
	HandleConn(c *Conn, err error)
	// Party is whose it is: no party keeps others from waiting. Comparable.
	Party() any
}

// errRemoved is the end of a connection to an endpoint that no generation has any more.
var errRemoved = errors.New("endpoint removed")

// ErrPending is the answer when too many calls wait for a connection already.
var ErrPending = errors.New("too many calls wait for a connection to the endpoint")

// Pool is the connections of one shard to one endpoint. Guarded by the shard.
type Pool struct {
	ep      *Endpoint    // set once
	shard   *shard.Shard // set once
	conns   []*Conn      // ready ones and such that wait for SETTINGS
	dialing int
	waiting []Waiter
	// displaced are those that lost their places and will be told.
	displaced []Waiter
	tell      shard.Timer
	redial    shard.Timer
}

// Reserve returns a connection on which a stream may be opened now; or (nil, nil): w is told later; or why not.
func (p *Pool) Reserve(w Waiter) (*Conn, error) {
	o := p.ep.opts.Load()
	for _, c := range p.conns {
		if c.open(o) {
			return c, nil
		}
	}
	if len(p.waiting) >= o.MaxPending && !p.displace(w.Party()) {
		return nil, ErrPending
	}
	p.waiting = append(p.waiting, w)
	p.want(o)
	return nil, nil
}

// displace takes the last one of the party that has most waiting out, for one of a party that has few: who fills the queue keeps nobody else
// out of it.
func (p *Pool) displace(by any) bool {
	mine, few := 0, max(1, p.ep.opts.Load().MaxPending/8)
	for _, w := range p.waiting {
		if w.Party() == by {
			mine++
		}
	}
	if mine >= few {
		return false // else those who have many would drive each other out for ever
	}
	count, most := map[any]int{}, by
	for _, w := range p.waiting {
		at := w.Party()
		if count[at]++; count[at] > count[most] {
			most = at
		}
	}
	if count[most] <= count[by]+1 {
		return false
	}
	for i := len(p.waiting) - 1; i >= 0; i-- {
		if w := p.waiting[i]; w.Party() == most {
			p.waiting = slices.Delete(p.waiting, i, i+1)
			p.displaced = append(p.displaced, w)
			break
		}
	}
	p.shard.Timer.Set(&p.tell, p.shard.Now()) // not amid the caller's work
	return true
}

// tellDisplaced tells those that lost their places.
func (p *Pool) tellDisplaced() {
	for len(p.displaced) > 0 {
		w := p.displaced[0]
		p.displaced = p.displaced[1:]
		w.HandleConn(nil, ErrPending)
	}
}

// Cancel takes w out of the waiting ones.
func (p *Pool) Cancel(w Waiter) {
	for _, list := range [...]*[]Waiter{&p.waiting, &p.displaced} {
		if i := slices.Index(*list, w); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// want dials if the connections on their way will not do for those who wait.
func (p *Pool) want(o *Options) {
	coming, places := p.dialing, o.FillMark
	for _, c := range p.conns {
		if !c.Sess.Ready() {
			coming++
		} else if c.Sess.PeerMaxStreams() == 0 && !c.Sess.Closing() {
			return // it takes none for now, and will say when it does: more connections change nothing
		} else if n := int(min(c.Sess.PeerMaxStreams(), uint32(o.FillMark))); n > 0 {
			places = n // what this peer allows, it will probably allow again
		}
	}
	for coming*places < len(p.waiting) && p.dialing+len(p.conns) < maxConns {
		p.startDial()
		coming++
	}
}

func (p *Pool) startDial() {
	r := p.ep.reg
	p.dialing++
	r.dials.Add(1)
	go func() {
		defer r.dials.Done()
		o := p.ep.opts.Load()
		ctx, cancel := context.WithTimeout(r.ctx, o.ConnectTimeout)
		nc, err := r.dial(ctx, p.ep.Address)
		if err == nil && o.Secure != nil {
			plain := nc
			if nc, err = o.Secure(ctx, p.ep.Address, plain); err != nil {
				_ = plain.Close()
			}
		}
		cancel()
		p.shard.Enter()
		defer p.shard.Leave()
		p.dialing--
		if err != nil {
			p.refused(fmt.Errorf("dial %s: %w", p.ep.Address, err))
			return
		}
		if p.ep.retired.Load() && len(p.waiting) == 0 {
			go nc.Close()
			return
		}
		p.attach(nc)
	}()
}

// attach makes a connection of a dialled socket; it takes streams once the peer's SETTINGS are here, so that its limit is
// never exceeded.
func (p *Pool) attach(nc net.Conn) {
	o := p.ep.opts.Load()
	c := &Conn{pool: p, StreamHandler: p.ep.reg.streams[p.shard.ID]}
	c.Conn = transport.New(p.shard, nc, session.Client, &o.Session, c)
	c.OnGone = c.handleGone
	c.lastUsed = p.shard.Now()
	c.tendTimer.Do = c.tend
	p.shard.Timer.Set(&c.tendTimer, p.shard.Now()+int64(o.ConnectTimeout))
	p.conns = append(p.conns, c)
	p.count(1)
	go c.Serve()
}

func (p *Pool) count(d int64) {
	p.ep.Connections.Add(d)
	p.ep.Stats.Connections.Add(d)
}

// refused: a dial failed, or a connection ended before it was ready.
func (p *Pool) refused(err error) {
	if p.ep.retired.Load() {
		p.failWaiting(err)
		return
	}
	p.ep.failed(p, err)
	if p.dialing == 0 && !slices.ContainsFunc(p.conns, func(c *Conn) bool { return !c.Sess.Closing() }) {
		p.failWaiting(err)
	}
}

func (p *Pool) failWaiting(err error) {
	w := p.waiting
	p.waiting = nil
	for _, w := range w {
		w.HandleConn(nil, err)
	}
}

// serve gives free places to those who wait.
func (p *Pool) serve() {
	o := p.ep.opts.Load()
	for len(p.waiting) > 0 {
		i := slices.IndexFunc(p.conns, func(c *Conn) bool { return c.open(o) })
		if i < 0 {
			p.want(o)
			return
		}
		w := p.waiting[0]
		p.waiting[0] = nil
		p.waiting = p.waiting[1:]
		w.HandleConn(p.conns[i], nil)
	}
	p.waiting = nil
}

// retire: the endpoint is in no generation any more.
func (p *Pool) retire() {
	p.shard.Timer.Clear(&p.redial)
	p.tellDisplaced()
	for _, c := range slices.Clone(p.conns) {
		switch {
		case !c.Sess.Ready() && len(p.waiting) == 0:
			c.End(errRemoved)
		case c.Sess.Ready() && c.Sess.Streams() == 0:
			c.leave(errRemoved.Error())
		}
	}
}

func (p *Pool) remove(c *Conn) {
	if i := slices.Index(p.conns, c); i >= 0 {
		p.conns = slices.Delete(p.conns, i, i+1)
		p.count(-1)
	}
}

// Each calls do for every connection of the pool, also such that still wait for the peer's SETTINGS. Inside the shard, or
// with its lock held to look.
func (p *Pool) Each(do func(*Conn)) {
	for _, c := range p.conns {
		do(c)
	}
}
