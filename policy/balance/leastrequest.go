package balance

import "math/bits"

// leastRequest is the power of two choices: draw two members in proportion to their weights, take the less loaded.
type leastRequest struct {
	group   *Group   // set once in newLeastRequest
	members []Member // set once in newLeastRequest
	// ends are the running sums of the weights, for drawing; nil when all weights are equal. set once in newLeastRequest
	ends  []uint64
	total uint64 // the last of ends, or the number of members. set once in newLeastRequest
	// guide makes the search in ends short: it cuts the weights into 1 to 2 pieces of 1<<shift per member, and says for
	// each piece (and one more) in which member's stretch it begins. set once in newLeastRequest
	guide []uint32
	shift uint
}

func newLeastRequest(members []Member, g *Group) *leastRequest {
	p := &leastRequest{group: g, members: members, total: uint64(len(members))}
	for _, m := range members {
		if m.Weight != members[0].Weight {
			p.weigh()
			break
		}
	}
	return p
}

// weigh prepares for drawing by different weights.
func (p *leastRequest) weigh() {
	p.ends = make([]uint64, len(p.members))
	p.total = 0
	for i, m := range p.members {
		p.total += uint64(m.Weight)
		p.ends[i] = p.total
	}
	for p.total>>p.shift > 2*uint64(len(p.members)) {
		p.shift++
	}
	p.guide = make([]uint32, p.total>>p.shift+2)
	at := uint32(0)
	for k := range p.guide {
		for int(at) < len(p.ends)-1 && p.ends[at] <= uint64(k)<<p.shift {
			at++
		}
		p.guide[k] = at
	}
}

func (p *leastRequest) Members() []Member { return p.members }
func (p *leastRequest) Policy() string    { return LeastRequest }

// Pick: the way of nearly all calls is the first half.
func (p *leastRequest) Pick(rnd uint64, ask *Ask) (int, Reason, bool) {
	if len(p.members) < 2 {
		return single(p.members, p.group, ask)
	}
	if ask == nil {
		a, b := p.draw(rnd)
		if p.members[a].Endpoint.state.Load()|p.members[b].Endpoint.state.Load() == 0 {
			return p.ofTwo(a, b)
		}
	}
	return p.search(rnd, ask)
}

// ofTwo is the choice between two that are fit.
func (p *leastRequest) ofTwo(a, b int) (int, Reason, bool) {
	if p.lessLoaded(b, a) {
		return b, ReasonP2CLessLoaded, true
	}
	if p.lessLoaded(a, b) {
		return a, ReasonP2CLessLoaded, true
	}
	return a, ReasonP2CTie, true
}

// draws bounds how often two are drawn because those drawn before warm up and were not accepted. In the last draw they are
// measured against each other only: where nearly all warm up, they get the calls, rather than few that are warm.
const draws = 4

// search is a pick in which something stands against somebody. It draws as Pick does, so the choice is the same as long as
// those two are fit.
func (p *leastRequest) search(rnd uint64, ask *Ask) (int, Reason, bool) {
	q := newQuery(p.members, p.group, rnd, ask)
	a, b := p.draw(rnd)
	for n := range draws {
		limit := 1000
		if n > 0 {
			a, b = p.draw(q.next())
		}
		if n == draws-1 {
			limit = max(p.members[a].Endpoint.Warm(), p.members[b].Endpoint.Warm())
		}
		fa, fb := q.fate(a, limit, ordinary), q.fate(b, limit, ordinary)
		if fa == fit && fb == fit {
			i, why, _ := p.ofTwo(a, b)
			if q.open(i) {
				return q.take(i, why)
			}
			if other := a + b - i; q.open(other) {
				return q.take(other, ReasonP2COtherClosed)
			}
			break
		}
		if fa == fit || fb == fit {
			i, other := a, fb
			if fa != fit {
				i, other = b, fa
			}
			if q.open(i) {
				return q.take(i, otherReasons[other])
			}
			break
		}
		if fa != warming && fb != warming {
			break
		}
	}
	return p.scan(&q, a)
}

// draw returns two different members. The product of rnd and a number has the draw in its high word and fresh randomness,
// for the second draw, in its low word.
func (p *leastRequest) draw(rnd uint64) (a, b int) {
	hi, lo := bits.Mul64(rnd, p.total)
	if p.ends == nil {
		a = int(hi)
		hi, _ = bits.Mul64(lo, p.total-1)
		if b = int(hi); b >= a {
			b++
		}
		return a, b
	}
	a = p.at(hi)
	w := uint64(p.members[a].Weight)
	hi, _ = bits.Mul64(lo, p.total-w)
	if hi >= p.ends[a]-w { // leave a's own stretch out
		hi += w
	}
	return a, p.at(hi)
}

// at returns the member in whose stretch of the weights x lies.
func (p *leastRequest) at(x uint64) int {
	k := x >> p.shift
	lo, hi := p.guide[k], p.guide[k+1]
	for lo < hi {
		if mid := (lo + hi) / 2; p.ends[mid] > x {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return int(lo)
}

// lessLoaded says whether a is less loaded than b for its weight, as it is now AND with the call on it: inflight/weight and
// (inflight+1)/weight. With equal weights both say the same. With different ones the first alone favours the light
// endpoint (idle beats busy, whatever the weight), the second alone starves it (of two idle ones the heavy always wins); where
// they disagree the draw decides, which is in proportion to the weights.
func (p *leastRequest) lessLoaded(a, b int) bool {
	la, lb := p.members[a].Endpoint.InFlight.Load(), p.members[b].Endpoint.InFlight.Load()
	if p.ends == nil {
		return la < lb
	}
	wa, wb := int64(p.members[a].Weight), int64(p.members[b].Weight)
	return la*wb < lb*wa && (la+1)*wb < (lb+1)*wa
}

// scan is for the case that none of those drawn will do: the least loaded of all that are fit, from start on.
func (p *leastRequest) scan(q *query, start int) (int, Reason, bool) {
	for how, why := range [efforts]Reason{ReasonScanAvailable, ReasonOnlyWarming, ReasonOnlyAvoided} {
		best := -1
		for k := range p.members {
			i := start + k
			if i >= len(p.members) {
				i -= len(p.members)
			}
			if q.fate(i, 1000, effort(how)) == fit && (best < 0 || p.lessLoaded(i, best)) && q.open(i) {
				best = i
			}
		}
		if best >= 0 {
			return q.take(best, why)
		}
	}
	return q.none()
}
