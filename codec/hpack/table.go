package hpack

// table is a dynamic table (RFC 7541 2.3.2): a ring of fields, each with a reference. Its memory is allocated
// with the first entry and grows with the entries, not with the maximum size. Guarded by the shard.
type table struct {
	ring []*Field // length is a power of two
	head uint32   // entries ever added: the newest is at ring[(head-1)&mask]
	n    uint32   // entries now
	size uint32   // bytes, RFC 7541 4.1
	max  uint32   // bytes
}

const minRing = 8

// at returns the entry with 0-based age, 0 being the newest, or nil.
func (t *table) at(age uint32) *Field {
	if age >= t.n {
		return nil
	}
	return t.ring[(t.head-1-age)&uint32(len(t.ring)-1)]
}

// oldest returns the position in the ring of the entry to be evicted next; the table is not empty.
func (t *table) oldest() uint32 { return (t.head - t.n) & uint32(len(t.ring)-1) }

// drop removes the oldest entry and returns it with its reference.
func (t *table) drop() *Field {
	pos := t.oldest()
	f := t.ring[pos]
	t.ring[pos] = nil
	t.n--
	t.size -= uint32(f.Size())
	return f
}

// push adds f, which must fit, with a reference of the table's own; it reports whether the ring was moved.
func (t *table) push(in *Interner, f *Field) (moved bool) {
	if int(t.n) == len(t.ring) {
		ring := make([]*Field, max(minRing, 2*len(t.ring)))
		for age := range t.n {
			ring[(t.head-1-age)&uint32(len(ring)-1)] = t.at(age)
		}
		t.ring = ring
		moved = true
	}
	in.Retain(f)
	t.ring[t.head&uint32(len(t.ring)-1)] = f
	t.head++
	t.n++
	t.size += uint32(f.Size())
	return moved
}
