package upstream

// Each calls do for every connection of the pool, also such that still wait for the peer's SETTINGS. Inside the shard, or
// with its lock held to look.
func (p *Pool) Each(do func(*Conn)) {
	for _, c := range p.conns {
		do(c)
	}
}
