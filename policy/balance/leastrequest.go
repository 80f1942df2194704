package balance

import "math/bits"

// leastRequest is the power of two choices: draw two members in proportion to their weights, take the less loaded.
type leastRequest struct {
	members []Member // set once in newLeastRequest
	// ends are the running sums of the weights, for drawing; nil when all weights are equal. set once in newLeastRequest
	ends  []uint64
	total uint64 // the last of ends, or the number of members. set once in newLeastRequest
	// guide makes the search in ends short: it cuts the weights into 1 to 2 pieces of 1<<shift per member, and says for
	// each piece (and one more) in which member's stretch it begins. set once in newLeastRequest
	guide []uint32
	shift uint
}

func newLeastRequest(members []Member) *leastRequest {
	p := &leastRequest{members: members, total: uint64(len(members))}
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

func (p *leastRequest) Pick(rnd uint64, avoid *Endpoint) (int, Reason, bool) {
	if len(p.members) < 2 {
		if len(p.members) == 0 || !available(p.members[0].Endpoint) {
			return 0, ReasonNone, false
		}
		return 0, ReasonOnlyOne, true
	}
	a, b := p.draw(rnd)
	ea, eb := p.members[a].Endpoint, p.members[b].Endpoint
	okA, okB := available(ea) && ea != avoid, available(eb) && eb != avoid
	switch {
	case okA && okB:
		if p.lessLoaded(b, a) {
			return b, ReasonP2CLessLoaded, true
		}
		if p.lessLoaded(a, b) {
			return a, ReasonP2CLessLoaded, true
		}
		return a, ReasonP2CTie, true
	case okA:
		return a, otherReason(eb, avoid), true
	case okB:
		return b, otherReason(ea, avoid), true
	}
	return p.scan(a, avoid)
}

func otherReason(other, avoid *Endpoint) Reason {
	if other == avoid {
		return ReasonP2COtherAvoided
	}
	return ReasonP2COtherDown
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

// scan is for the case that both drawn are not available: the least loaded of all that are, from start on.
func (p *leastRequest) scan(start int, avoid *Endpoint) (int, Reason, bool) {
	best, avoided := -1, -1
	for k := range p.members {
		i := start + k
		if i >= len(p.members) {
			i -= len(p.members)
		}
		switch e := p.members[i].Endpoint; {
		case !available(e):
		case e == avoid:
			avoided = i
		case best < 0 || p.lessLoaded(i, best):
			best = i
		}
	}
	switch {
	case best >= 0:
		return best, ReasonScanAvailable, true
	case avoided >= 0:
		return avoided, ReasonOnlyAvoided, true
	}
	return 0, ReasonNone, false
}
