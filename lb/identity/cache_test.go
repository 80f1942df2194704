package identity

import (
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

func TestTheCacheForgetsWhatWasUsedLeastRecently(t *testing.T) {
	c := newCache(16 * 10)
	key := func(n byte) *sum { k := sum{0, n}; return &k } // all in one part
	for n := range byte(10) {
		c.put(key(n), &entry{cost: 1})
	}
	c.get(key(0))
	c.put(key(10), &entry{cost: 2})
	if c.get(key(0)) == nil || c.get(key(1)) != nil || c.get(key(2)) != nil || c.get(key(3)) == nil || c.len() != 9 {
		t.Error("the wrong ones are gone")
	}
	c.put(key(11), &entry{cost: 1000})
	if c.get(key(11)) == nil || c.len() != 1 {
		t.Error("the newest is not there alone")
	}
}

// A law: the cost never exceeds the bound, but where one entry does alone, and what is found is what was put last.
func TestTheCacheIsBounded(t *testing.T) {
	const most = 16 * 500
	c := newCache(most)
	random := rand.New(rand.NewPCG(1, 2))
	last := map[sum]*entry{}
	for range 20_000 {
		k := sha256.Sum256([]byte{byte(random.IntN(200))})
		if e := c.get(&k); e != nil && e != last[k] {
			t.Fatal("an entry that was replaced is found")
		}
		e := &entry{cost: 1 + random.IntN(100)}
		c.put(&k, e)
		last[k] = e
	}
	for i := range c.parts {
		p := &c.parts[i]
		sum, n := 0, 0
		for node := p.ring.next; node != &p.ring; node = node.next {
			sum, n = sum+node.entry.cost, n+1
		}
		if sum != p.cost || n != len(p.nodes) || p.cost > p.most {
			t.Errorf("part %d: cost %d, counted %d of %d; %d nodes in the map, %d in the ring", i, p.cost, sum, p.most, len(p.nodes), n)
		}
	}
}
