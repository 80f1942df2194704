package identity

import "sync"

// cache remembers what was found of tokens, the least recently used forgotten first. It is cut into parts with a lock each, so that
// shards seldom meet; a lock is held for some tens of nanoseconds.
type cache struct {
	parts [16]part
}

type part struct {
	mu    sync.Mutex
	most  int           // set once in newCache
	cost  int           // guarded by mu, as all that follow
	nodes map[sum]*node //
	ring  node          // its next was used last, its prev is the first to go
}

type node struct {
	key        sum
	entry      *entry
	prev, next *node
}

// newCache makes a cache whose entries cost that much at most, all together.
func newCache(most int) *cache {
	c := &cache{}
	for i := range c.parts {
		p := &c.parts[i]
		p.most = most / len(c.parts)
		p.nodes = map[sum]*node{}
		p.ring.prev, p.ring.next = &p.ring, &p.ring
	}
	return c
}

func (c *cache) part(key *sum) *part { return &c.parts[key[0]%byte(len(c.parts))] }

// get returns nil for a key that is not there.
func (c *cache) get(key *sum) *entry {
	p := c.part(key)
	p.mu.Lock()
	n := p.nodes[*key]
	if n == nil {
		p.mu.Unlock()
		return nil
	}
	n.unlink()
	p.first(n)
	e := n.entry
	p.mu.Unlock()
	return e
}

// put remembers e instead of what was there.
func (c *cache) put(key *sum, e *entry) {
	p := c.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.nodes[*key]; old != nil {
		p.forget(old)
	}
	n := &node{key: *key, entry: e}
	p.nodes[*key] = n
	p.first(n)
	p.cost += e.cost
	for p.cost > p.most && p.ring.prev != n {
		p.forget(p.ring.prev)
	}
}

func (c *cache) len() int {
	n := 0
	for i := range c.parts {
		p := &c.parts[i]
		p.mu.Lock()
		n += len(p.nodes)
		p.mu.Unlock()
	}
	return n
}

func (p *part) first(n *node) {
	n.prev, n.next = &p.ring, p.ring.next
	n.prev.next, n.next.prev = n, n
}

func (n *node) unlink() { n.prev.next, n.next.prev = n.next, n.prev }

func (p *part) forget(n *node) {
	n.unlink()
	delete(p.nodes, n.key)
	p.cost -= n.entry.cost
}
