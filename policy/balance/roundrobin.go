package balance

import "sync/atomic"

// roundRobin takes turns in a fixed order in which each member appears as often as its weight says, spread out (nginx's
// smooth weighted round robin). The order is computed once, so that a turn is one atomic addition.
type roundRobin struct {
	members []Member      // set once in newRoundRobin
	order   []uint32      // indices into members, one cycle. set once in newRoundRobin
	turn    atomic.Uint64 // atomic: turns taken
}

// maxOrder bounds one cycle, and so the memory and the time to compute it. Weights that need more (after division by their
// common divisor) are scaled down, to 1 at least. A cluster of more than maxOrder/2 members gets two turns per member.
const maxOrder = 4096

func newRoundRobin(members []Member) *roundRobin {
	return &roundRobin{members: members, order: smoothOrder(members)}
}

func (p *roundRobin) Members() []Member { return p.members }
func (p *roundRobin) Policy() string    { return RoundRobin }

func (p *roundRobin) Pick(rnd uint64, avoid *Endpoint) (int, Reason, bool) {
	if len(p.members) < 2 {
		if len(p.members) == 0 || !available(p.members[0].Endpoint) {
			return 0, ReasonNone, false
		}
		return 0, ReasonOnlyOne, true
	}
	turn := p.turn.Add(1) - 1
	if turn == 0 {
		// The first of a new picker starts anywhere: otherwise each new snapshot would begin with the same endpoint.
		turn = rnd % uint64(len(p.order))
		p.turn.Add(turn)
	}
	avoided := -1
	at := int(turn % uint64(len(p.order)))
	for skipped := range p.order {
		i := int(p.order[at])
		switch e := p.members[i].Endpoint; {
		case !available(e):
		case e == avoid:
			avoided = i
		case skipped == 0:
			return i, ReasonRoundRobin, true
		default:
			// The turns of those passed over are used up. If they were not, this one would be next again and carry the
			// load of all of them.
			p.turn.Add(uint64(skipped))
			return i, ReasonRoundRobinSkipped, true
		}
		if at++; at == len(p.order) {
			at = 0
		}
	}
	if avoided >= 0 {
		return avoided, ReasonOnlyAvoided, true
	}
	return 0, ReasonNone, false
}

// smoothOrder is one cycle of nginx's smooth weighted round robin: each step adds every weight to its member's balance, picks
// the largest balance (the first of equals) and takes the sum of the weights from it.
func smoothOrder(members []Member) []uint32 {
	weights := orderWeights(members)
	var total int64
	for _, w := range weights {
		total += w
	}
	order := make([]uint32, 0, total)
	if total == int64(len(weights)) { // all 1: as they come
		for i := range weights {
			order = append(order, uint32(i))
		}
		return order
	}
	balance := make([]int64, len(weights))
	for range total {
		best := 0
		for i, w := range weights {
			if balance[i] += w; balance[i] > balance[best] {
				best = i
			}
		}
		balance[best] -= total
		order = append(order, uint32(best))
	}
	return order
}

// orderWeights reduces the weights to small ones with the same ratios, or nearly the same where their sum must be bounded.
func orderWeights(members []Member) []int64 {
	weights := make([]int64, len(members))
	for i, m := range members {
		weights[i] = int64(m.Weight)
	}
	total := reduce(weights)
	if most := int64(max(maxOrder, 2*len(members))); total > most {
		// Each gets 1 for sure and its share of the rest, so the sum stays within the bound.
		spare := float64(most-int64(len(weights))) / float64(total)
		for i, w := range weights {
			weights[i] = max(1, int64(float64(w)*spare+0.5))
		}
		reduce(weights)
	}
	return weights
}

// reduce divides weights by their greatest common divisor, in place, and returns the new sum.
func reduce(weights []int64) (total int64) {
	var div int64
	for _, w := range weights {
		for a, b := div, w; ; a, b = b, a%b {
			if b == 0 {
				div = a
				break
			}
		}
	}
	for i := range weights {
		weights[i] /= div
		total += weights[i]
	}
	return total
}
