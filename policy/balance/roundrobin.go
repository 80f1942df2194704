package balance

import "sync/atomic"

// roundRobin takes turns in a fixed order in which each member appears as often as its weight says, spread out (nginx's
// smooth weighted round robin). The order is computed once, so that a turn is one atomic addition.
type roundRobin struct {
	group   *Group        // set once in newRoundRobin
	members []Member      // set once in newRoundRobin
	order   []uint32      // indices into members, one cycle. set once in newRoundRobin
	turn    atomic.Uint64 // atomic: turns taken
}

// maxOrder bounds one cycle, and so the memory and the time to compute it. Weights that need more (after division by their
// common divisor) are scaled down, to 1 at least. A cluster of more than maxOrder/2 members gets two turns per member.
const maxOrder = 4096

func newRoundRobin(members []Member, g *Group) *roundRobin {
	return &roundRobin{group: g, members: members, order: smoothOrder(members)}
}

func (p *roundRobin) Members() []Member { return p.members }
func (p *roundRobin) Policy() string    { return RoundRobin }

func (p *roundRobin) Pick(rnd uint64, ask *Ask) (int, Reason, bool) {
	if len(p.members) < 2 {
		return single(p.members, p.group, ask)
	}
	turn := p.turn.Add(1) - 1
	if turn == 0 {
		// The first of a new picker starts anywhere: otherwise each new snapshot would begin with the same endpoint.
		turn = rnd % uint64(len(p.order))
		p.turn.Add(turn)
	}
	at := int(turn % uint64(len(p.order)))
	if i := int(p.order[at]); ask == nil && p.members[i].Endpoint.Ready() {
		return i, ReasonRoundRobin, true
	}
	return p.search(at, rnd, ask)
}

// search looks for the next who will do, from a place in the order on.
func (p *roundRobin) search(start int, rnd uint64, ask *Ask) (int, Reason, bool) {
	q := newQuery(p.members, p.group, rnd, ask)
	for how, why := range [efforts]Reason{ReasonRoundRobin, ReasonOnlyWarming, ReasonOnlyAvoided} {
		at := start
		for skipped := range p.order {
			i := int(p.order[at])
			if q.fate(i, 1000, effort(how)) == fit && q.open(i) {
				if skipped > 0 {
					// The turns of those passed over are used up. If they were not, this one would be next again and carry
					// the load of all of them.
					p.turn.Add(uint64(skipped))
					if why == ReasonRoundRobin {
						why = ReasonRoundRobinSkipped
					}
				}
				return q.take(i, why)
			}
			if at++; at == len(p.order) {
				at = 0
			}
		}
	}
	return q.none()
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
