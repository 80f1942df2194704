package hpack

const (
	// maxOwnTable bounds an encoder's table in bytes: 16-bit links suffice.
	maxOwnTable = 1 << 20
	// How many values of one name may be in the table, and how many refusals for that reason let one in
	// nevertheless, so that values of yesterday do not hold their places for ever.
	maxValues     = 8
	maxPseudo     = 16
	maxPaths      = 32
	refusalsPerOK = 64
)

// Encoder encodes the header blocks that a connection sends. Blocks must be written in the order in which
// they were encoded. Guarded by the shard.
type Encoder struct {
	in  *Interner
	t   table
	own uint32 // our own bound of the table, in bytes
	// pendingMax is the size to announce in the next block; shrunk that it was smaller in between.
	pendingMax uint32
	pending    bool
	shrunk     bool
	refusals   uint8

	// The entries by field and by name: heads of chains, newest first. A link is a position in the ring plus
	// one. Chains by identity, not by content: that is what interning is for.
	fieldHead, fieldNext []uint16
	nameHead, nameNext   []uint16
}

// NewEncoder returns an encoder for fields of in. ownMax bounds its dynamic table in bytes, whatever the peer
// would allow (at most 1 MiB).
func NewEncoder(in *Interner, ownMax uint32) *Encoder {
	e := &Encoder{in: in, own: min(ownMax, maxOwnTable), t: table{max: initialTableSize}}
	e.SetPeerMaxTableSize(initialTableSize)
	return e
}

// SetPeerMaxTableSize takes the peer's SETTINGS_HEADER_TABLE_SIZE in bytes. What RFC 7541 4.2 has us announce
// is announced at the start of the next block.
func (e *Encoder) SetPeerMaxTableSize(n uint32) {
	n = min(n, e.own)
	if e.pending && e.pendingMax < min(n, e.t.max) {
		e.shrunk = true
	}
	e.pendingMax = n
	e.pending = e.shrunk || n != e.t.max
}

// Close releases the dynamic table. The encoder must not be used after.
func (e *Encoder) Close() { e.evict(0) }

// Append appends a whole header block. It does not consume the caller's references.
func (e *Encoder) Append(dst []byte, fields []*Field) []byte {
	dst = e.AppendStart(dst)
	for _, f := range fields {
		dst = e.AppendField(dst, f)
	}
	return dst
}

// AppendStart appends what a block has to start with: pending table size updates. It is for callers that
// append the fields one by one, and may be called once a block, before the first of them.
func (e *Encoder) AppendStart(dst []byte) []byte {
	if !e.pending {
		return dst
	}
	if e.shrunk {
		// 4.2 asks for the smallest size and the last one. We say 0 for the smallest: x/net, and so grpc-go,
		// takes a second update only if the first has emptied the table.
		dst = appendInt(dst, 0x20, 5, 0)
		e.evict(0)
	}
	dst = appendInt(dst, 0x20, 5, e.pendingMax)
	e.t.max = e.pendingMax
	e.evict(e.t.max)
	e.pending, e.shrunk = false, false
	return dst
}

// AppendField appends one field of a block that AppendStart has begun.
func (e *Encoder) AppendField(dst []byte, f *Field) []byte {
	if f.static != 0 {
		return append(dst, 0x80|f.static)
	}
	if e.t.n != 0 {
		pos := e.fieldHead[uint32(f.hash)&uint32(len(e.fieldHead)-1)]
		for pos != 0 {
			if e.t.ring[pos-1] == f {
				return appendInt(dst, 0x80, 7, e.index(pos))
			}
			pos = e.fieldNext[pos-1]
		}
	}
	return e.appendLiteral(dst, f)
}

// index returns the index of the joined tables (2.3.3) of a link.
func (e *Encoder) index(link uint16) uint32 {
	return staticLen + 1 + (e.t.head-uint32(link))&uint32(len(e.t.ring)-1)
}

// appendLiteral appends f as a literal (6.2) and decides whether it is worth a place in the table.
func (e *Encoder) appendLiteral(dst []byte, f *Field) []byte {
	n := f.name
	idx := uint32(n.static)
	if idx == 0 {
		if link := e.findName(n); link != 0 {
			idx = e.index(link)
		}
	}
	switch {
	case f.Flags&Sensitive != 0:
		dst = appendInt(dst, 0x10, 4, idx)
	case e.worth(f, idx):
		dst = appendInt(dst, 0x40, 6, idx)
		e.add(f) // may evict the entry behind idx, which is as 4.4 has it
	default:
		dst = appendInt(dst, 0, 4, idx)
	}
	if idx == 0 {
		dst = appendString(dst, n.s)
	}
	return appendString(dst, f.Value)
}

// worth decides whether to insert f, and notes that f and its name were seen.
func (e *Encoder) worth(f *Field, nameIdx uint32) bool {
	n := f.name
	repeats, nameRepeats := f.sighted, n.sighted
	f.sighted = true
	if !n.global {
		n.sighted = true
	}
	if n.indexing == indexNever || f.Size() > int(e.t.max/4) {
		return false
	}
	if nameIdx == 0 && nameRepeats {
		return true
	}
	return repeats && n.indexing == indexRepeats && e.room(n)
}

// room reports whether the table may take one more value of n.
func (e *Encoder) room(n *name) bool {
	limit := maxValues
	switch {
	case n.id == Path:
		limit = maxPaths
	case n.flags&Pseudo != 0:
		limit = maxPseudo
	}
	for link := e.findName(n); link != 0 && limit > 0; link = e.nameNext[link-1] {
		if e.t.ring[link-1].name == n {
			limit--
		}
	}
	if limit > 0 {
		return true
	}
	e.refusals++
	return e.refusals%refusalsPerOK == 0
}

// findName returns the link of the newest entry of the name, or 0.
func (e *Encoder) findName(n *name) uint16 {
	if e.t.n == 0 {
		return 0
	}
	link := e.nameHead[uint32(n.hash)&uint32(len(e.nameHead)-1)]
	for link != 0 && e.t.ring[link-1].name != n {
		link = e.nameNext[link-1]
	}
	return link
}

// add inserts f, which is at most a quarter of the table.
func (e *Encoder) add(f *Field) {
	e.evict(e.t.max - uint32(f.Size()))
	if e.t.push(e.in, f) {
		e.relink()
		return
	}
	e.link((e.t.head - 1) & uint32(len(e.t.ring)-1))
}

// link puts the entry at a position of the ring, which is the newest, at the head of its chains.
func (e *Encoder) link(pos uint32) {
	f := e.t.ring[pos]
	mask := uint32(len(e.fieldHead) - 1)
	head := &e.fieldHead[uint32(f.hash)&mask]
	e.fieldNext[pos], *head = *head, uint16(pos+1)
	head = &e.nameHead[uint32(f.name.hash)&mask]
	e.nameNext[pos], *head = *head, uint16(pos+1)
}

// relink makes the chains anew for a ring that has moved.
func (e *Encoder) relink() {
	n := len(e.t.ring)
	links := make([]uint16, 6*n)
	e.fieldHead, links = links[:2*n], links[2*n:]
	e.nameHead, links = links[:2*n], links[2*n:]
	e.fieldNext, e.nameNext = links[:n], links[n:]
	for i := range e.t.n {
		e.link((e.t.head - e.t.n + i) & uint32(n-1))
	}
}

// evict removes the oldest entries until at most size bytes are left.
func (e *Encoder) evict(size uint32) {
	for e.t.size > size {
		pos := e.t.oldest()
		f := e.t.ring[pos]
		mask := uint32(len(e.fieldHead) - 1)
		unlink(&e.fieldHead[uint32(f.hash)&mask], e.fieldNext, pos)
		unlink(&e.nameHead[uint32(f.name.hash)&mask], e.nameNext, pos)
		e.in.Release(e.t.drop())
	}
}

// unlink takes the oldest entry, which is the last of its chain, out of it.
func unlink(link *uint16, next []uint16, pos uint32) {
	for *link != uint16(pos+1) {
		link = &next[*link-1]
	}
	*link = next[pos]
}
