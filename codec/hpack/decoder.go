package hpack

const (
	// initialTableSize is the size of a dynamic table before any SETTINGS (RFC 9113 6.5.2).
	initialTableSize = 4096
	// defaultMaxList bounds a decoded block until SetMaxListSize.
	defaultMaxList = 64 << 10
	// defaultMaxFields bounds the fields of a block until SetMaxFields.
	defaultMaxFields = 1024
)

// Decoder decodes the header blocks that a connection receives. Guarded by the shard.
type Decoder struct {
	in        *Interner
	t         table
	allowed   uint32 // what we advertised, in bytes
	maxList   uint32 // bytes
	maxFields uint32
	read      int // fields of the last block
}

// NewDecoder returns a decoder whose fields are of in. maxTableSize is what we advertise as
// SETTINGS_HEADER_TABLE_SIZE, in bytes: a peer that asks for more breaks the connection. Until the peer says
// otherwise it uses the protocol's 4,096 bytes, or less if we advertise less.
func NewDecoder(in *Interner, maxTableSize uint32) *Decoder {
	return &Decoder{
		in:        in,
		t:         table{max: initialTableSize},
		allowed:   maxTableSize,
		maxList:   defaultMaxList,
		maxFields: defaultMaxFields,
	}
}

// SetMaxListSize bounds the uncompressed size of a block in bytes, as RFC 9113 6.5.2 counts it. The default is
// 64 KiB.
func (d *Decoder) SetMaxListSize(n uint32) { d.maxList = n }

// SetMaxFields bounds the fields of a block, whatever the list size allows. The default is 1,024.
func (d *Decoder) SetMaxFields(n uint32) { d.maxFields = n }

// Read is how many fields the last block had, also beyond what may be kept of it.
func (d *Decoder) Read() int { return d.read }

// Close releases the dynamic table. The decoder must not be used after.
func (d *Decoder) Close() { d.evict(0) }

// Decode appends the fields of a whole header block (CONTINUATIONs joined) to dst, each with a reference that
// the caller owns. The error is a *CompressionError, which is fatal to the connection, or ErrListTooLarge,
// which is not. With an error dst is returned as it came and no reference is handed over.
func (d *Decoder) Decode(dst []*Field, block []byte) ([]*Field, error) {
	start := len(dst)
	p, err := d.sizeUpdates(block)
	if err != nil {
		return dst, err
	}
	left := int(d.maxList)
	tooLarge := false
	for d.read = 0; p < len(block); d.read++ {
		var f *Field
		b := block[p]
		switch {
		case tooLarge && b&0xc0 != 0x40:
			// Only what the table is told matters now: a block that is refused shall cost little.
			if p, err = d.skip(block, p); err != nil {
				return dst, err
			}
			continue
		case b >= 0x80: // 6.1 indexed
			idx := uint32(b & 0x7f)
			p++
			if idx == 0x7f {
				idx, p, err = readInt(block, p-1, 7)
			}
			if err == nil {
				if f = d.at(idx); f == nil {
					err = errIndex
				} else if f.static == 0 {
					f.refs++
				}
			}
		case b >= 0x40: // 6.2.1 literal with incremental indexing
			if f, p, err = d.literal(block, p, 6, 0); err == nil {
				d.add(f)
			}
		case b >= 0x20:
			err = errSizeLate
		case b >= 0x10: // 6.2.3 never indexed
			f, p, err = d.literal(block, p, 4, Sensitive)
		default: // 6.2.2 without indexing
			f, p, err = d.literal(block, p, 4, 0)
		}
		if err != nil {
			return d.releaseAll(dst, start), err
		}
		if left -= f.Size(); left < 0 || len(dst)-start >= int(d.maxFields) {
			// Go on, for the sake of the table, but keep nothing more.
			left, tooLarge = 0, true
			dst = d.releaseAll(dst, start)
		}
		if tooLarge {
			d.in.Release(f)
		} else {
			dst = append(dst, f)
		}
	}
	if tooLarge {
		return dst, ErrListTooLarge
	}
	return dst, nil
}

// skip reads over a field that leaves the dynamic table as it is, with all checks that do not need the field itself.
func (d *Decoder) skip(block []byte, p int) (_ int, err error) {
	b, n := block[p], uint(4)
	switch {
	case b >= 0x80:
		n = 7
	case b >= 0x20:
		return p, errSizeLate
	}
	mask := byte(1)<<n - 1
	idx := uint32(b & mask)
	p++
	if byte(idx) == mask {
		if idx, p, err = readInt(block, p-1, n); err != nil {
			return p, err
		}
	}
	literal := b < 0x80
	switch {
	case idx == 0 && literal:
		if _, p, err = d.str(block, p); err != nil {
			return p, err
		}
	case d.at(idx) == nil:
		return p, errIndex
	}
	if literal {
		_, p, err = d.str(block, p)
	}
	return p, err
}

// sizeUpdates reads the table size updates (6.3) that a block may start with: two at most, since 4.2 has the
// sender name the smallest size and the last one.
func (d *Decoder) sizeUpdates(block []byte) (p int, err error) {
	for n := 0; p < len(block) && block[p]&0xe0 == 0x20; n++ {
		if n == 2 {
			return p, errSizeTooMany
		}
		var size uint32
		if size, p, err = readInt(block, p, 5); err != nil {
			return p, err
		}
		if size > d.allowed {
			return p, errSizeTooBig
		}
		d.t.max = size
		d.evict(size)
	}
	return p, nil
}

// at returns the field of an index of the joined tables (2.3.3), or nil.
func (d *Decoder) at(idx uint32) *Field {
	if idx <= staticLen {
		return static[idx] // [0] is nil
	}
	return d.t.at(idx - staticLen - 1)
}

// literal reads a literal field whose name index has a prefix of n bits, and returns it with a reference.
func (d *Decoder) literal(block []byte, p int, n uint, sensitive Flags) (*Field, int, error) {
	mask := byte(1)<<n - 1
	var err error
	idx := uint32(block[p] & mask)
	p++
	if byte(idx) == mask {
		if idx, p, err = readInt(block, p-1, n); err != nil {
			return nil, p, err
		}
	}
	var nm *name
	if idx == 0 {
		var s []byte
		if s, p, err = d.str(block, p); err != nil {
			return nil, p, err
		}
		nm = d.in.internName(s)
	} else {
		f := d.at(idx)
		if f == nil {
			return nil, p, errIndex
		}
		nm = f.name
	}
	value, p, err := d.str(block, p)
	if err != nil {
		return nil, p, err
	}
	return d.in.intern(nm, value, sensitive), p, nil
}

// str reads a string literal (5.2). The result is borrowed: valid until the next str, or from block.
func (d *Decoder) str(block []byte, p int) ([]byte, int, error) {
	if p >= len(block) {
		return nil, p, errTruncated
	}
	coded := block[p]&0x80 != 0
	n := uint32(block[p] & 0x7f)
	p++
	if n == 0x7f {
		var err error
		if n, p, err = readInt(block, p-1, 7); err != nil {
			return nil, p, err
		}
	}
	if uint64(n) > uint64(len(block)-p) {
		return nil, p, errTruncated
	}
	s := block[p : p+int(n)]
	p += int(n)
	if !coded {
		return s, p, nil
	}
	s, err := decodeHuffman(d.in.scratch, s)
	if err == nil && cap(s) <= maxScratch {
		d.in.scratch = s
	}
	return s, p, err
}

// add inserts f into the dynamic table (4.4): a field larger than the table empties it.
func (d *Decoder) add(f *Field) {
	size := uint64(f.Size())
	if size > uint64(d.t.max) {
		d.evict(0)
		return
	}
	d.evict(d.t.max - uint32(size))
	d.t.push(d.in, f)
}

// evict removes the oldest entries until at most size bytes are left.
func (d *Decoder) evict(size uint32) {
	for d.t.size > size {
		d.in.Release(d.t.drop())
	}
}

func (d *Decoder) releaseAll(dst []*Field, start int) []*Field {
	for _, f := range dst[start:] {
		d.in.Release(f)
	}
	return dst[:start]
}
