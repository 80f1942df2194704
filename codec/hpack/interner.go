package hpack

import (
	"hash/maphash"
	"unsafe"
)

const (
	minBuckets = 256
	// Recycled fields beyond these bounds go to the garbage collector.
	maxFree    = 1024 // free fields, in addition to as many as are live
	maxBacking = 1024 // bytes of value memory kept with a free field
	maxScratch = 64 << 10
	// doorLen is how many hashes of dead fields are remembered.
	doorLen = 4096
	// nameSlack is how many bytes of unused names are kept.
	nameSlack = 64 << 10
)

// Interner holds the live fields of one shard, by content. Guarded by the shard.
type Interner struct {
	buckets []*Field
	mask    uint64
	live    int
	free    *Field
	freeLen int

	names     []*name // open addressing; a name without fields stays until the next rebuild
	nameLen   int
	nameBytes int // of names that are not global
	nameLimit int // nameBytes at which unused names are dropped

	scratch []byte // for Huffman decoding
	// door remembers fields by hash as they appear, so that one that comes back is known to repeat.
	door [doorLen]uint32
}

// NewInterner returns an empty Interner; it takes about 25 KiB.
func NewInterner() *Interner {
	in := &Interner{buckets: make([]*Field, minBuckets), mask: minBuckets - 1}
	in.rebuildNames()
	return in
}

// Len returns the number of live fields, for leak tests. Fields of the static table are not counted.
func (in *Interner) Len() int { return in.live }

// Intern returns the field of this content with one more reference, which the caller owns. It copies value.
func (in *Interner) Intern(name, value string) *Field {
	return in.InternBytes(stringBytes(name), stringBytes(value))
}

// InternBytes returns the field of this content with one more reference, which the caller owns. It copies
// what it needs of its arguments.
func (in *Interner) InternBytes(name, value []byte) *Field {
	return in.intern(in.internName(name), value, 0)
}

// Retain adds a reference to f, which must be live and of this Interner, or static.
func (in *Interner) Retain(f *Field) {
	if f.static == 0 {
		f.refs++
	}
}

// Release gives a reference back. With the last one the field is recycled: its strings change under the feet
// of whoever still reads them. Releasing a dead field panics, for it would mix up the headers of two calls.
func (in *Interner) Release(f *Field) {
	if f.static != 0 {
		return
	}
	if f.refs--; f.refs <= 0 {
		in.recycle(f)
	}
}

// intern finds or makes the field; sensitive is 0 or Sensitive.
func (in *Interner) intern(n *name, value []byte, sensitive Flags) *Field {
	if n.statics != 0 && sensitive == 0 {
		for _, f := range static[n.static : n.static+n.statics] {
			if f.Value == string(value) {
				return f
			}
		}
	}
	hash := maphash.Bytes(seed, value) ^ n.hash
	if sensitive != 0 {
		hash = ^hash
	}
	for f := in.buckets[hash&in.mask]; f != nil; f = f.next {
		if f.hash == hash && f.name == n && f.Value == string(value) && f.Flags&Sensitive == sensitive {
			f.refs++
			return f
		}
	}
	return in.newField(n, value, hash, sensitive)
}

func (in *Interner) newField(n *name, value []byte, hash uint64, sensitive Flags) *Field {
	f := in.free
	if f != nil {
		in.free = f.next
		in.freeLen--
	} else {
		f = new(Field)
	}
	f.Name, f.ID, f.Flags = n.s, n.id, n.flags|valueFlags(value)|sensitive
	f.name, f.hash, f.refs = n, hash, 1
	if len(value) == 0 {
		f.Value = ""
	} else {
		if cap(f.backing) < len(value) {
			f.backing = make([]byte, 0, max(64, len(value)))
		}
		b := append(f.backing[:0], value...)
		f.Value = unsafe.String(&b[0], len(b)) //nolint:gosec // the backing is written again only when nobody has the field
	}
	if !n.global {
		n.refs++
	}
	f.sighted = false
	if n.indexing == indexRepeats {
		seen := &in.door[hash>>32%doorLen]
		tag := uint32(hash) | 1 // not 0, the empty slot
		f.sighted = *seen == tag
		*seen = tag
	}
	if in.live >= len(in.buckets) {
		in.grow()
	}
	bucket := &in.buckets[hash&in.mask]
	f.next = *bucket
	*bucket = f
	in.live++
	return f
}

func (in *Interner) recycle(f *Field) {
	if f.refs < 0 {
		panic("hpack: Release of a field without references: " + f.Name)
	}
	p := &in.buckets[f.hash&in.mask]
	for *p != f {
		p = &(*p).next
	}
	*p = f.next
	in.live--
	if !f.name.global {
		f.name.refs--
	}
	if f.Memo != nil {
		f.Memo = nil
	}
	f.MemoGen = 0
	if in.freeLen >= maxFree+in.live {
		f.next = nil
		return
	}
	if cap(f.backing) > maxBacking {
		f.backing = nil
		f.Value = ""
	}
	f.next = in.free
	in.free = f
	in.freeLen++
}

// grow doubles the buckets. They never shrink: 8 bytes for each field of the busiest moment.
func (in *Interner) grow() {
	old := in.buckets
	in.buckets = make([]*Field, 2*len(old))
	in.mask = uint64(len(in.buckets) - 1)
	for _, f := range old {
		for f != nil {
			next := f.next
			bucket := &in.buckets[f.hash&in.mask]
			f.next = *bucket
			*bucket = f
			f = next
		}
	}
}

// internName finds or makes the name. A name without fields lives until internName is called again.
func (in *Interner) internName(s []byte) *name {
	hash := maphash.Bytes(seed, s)
	mask := len(in.names) - 1
	for i := int(hash) & mask; in.names[i] != nil; i = (i + 1) & mask {
		if n := in.names[i]; n.hash == hash && n.s == string(s) {
			return n
		}
	}
	if in.nameBytes += len(s); 2*in.nameLen >= len(in.names) || in.nameBytes > in.nameLimit {
		in.rebuildNames()
		in.nameBytes += len(s)
	}
	n := newName(string(s))
	in.addName(n)
	return n
}

func (in *Interner) addName(n *name) {
	mask := len(in.names) - 1
	i := int(n.hash) & mask
	for in.names[i] != nil {
		i = (i + 1) & mask
	}
	in.names[i] = n
	in.nameLen++
}

// rebuildNames drops the names that no field has and sizes the table for the rest.
func (in *Interner) rebuildNames() {
	old := in.names
	used := len(known)
	for _, n := range old {
		if n != nil && n.refs > 0 {
			used++
		}
	}
	size := 512
	for size < 4*used {
		size *= 2
	}
	in.names, in.nameLen, in.nameBytes = make([]*name, size), 0, 0
	for _, n := range known {
		in.addName(n)
	}
	for _, n := range old {
		if n != nil && n.refs > 0 {
			in.addName(n)
			in.nameBytes += len(n.s)
		}
	}
	in.nameLimit = 2*in.nameBytes + nameSlack
}

// stringBytes views s as bytes that must not be written.
func stringBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) } //nolint:gosec // it is only read
