package main

import (
	"math/rand/v2"
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// Appending HPACK by hand (RFC 7541 section 6).

func appendInt(b []byte, first byte, prefix uint8, v int) []byte {
	mask := 1<<prefix - 1
	if v < mask {
		return append(b, first|byte(v))
	}
	b = append(b, first|byte(mask))
	for v -= mask; v >= 128; v >>= 7 {
		b = append(b, byte(v)|128)
	}
	return append(b, byte(v))
}

func appendString(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		b = appendInt(b, 0x80, 7, int(n))
		return hpack.AppendHuffmanString(b, s)
	}
	b = appendInt(b, 0, 7, len(s))
	return append(b, s...)
}

// style is a client's header habits.
type style uint8

const (
	// styleH2load is nghttp2's: :path and content-length are never indexed.
	styleH2load style = iota
	// styleGRPC is grpc-go's, through x/net's encoder: every field goes into the
	// table, values that never come again too.
	styleGRPC
)

// vary says which fields change with every call.
type vary struct {
	timeout bool // grpc-timeout
	ids     bool // traceparent (sampled in 1 % of the calls) and x-request-id
}

// constant is a field that is the same in every call of a connection.
type constant struct {
	literal []byte // value, or name and value when nameIndex is 0
	index   int    // in the static table, name and value; 0: none
	name    int    // index of the name in the static table; 0: none
	size    int
	never   bool   // literal without indexing
	seq     uint64 // number of its insertion, from 1; 0: never inserted
}

// varying is a field with a new value in every call.
type varying struct {
	nameLiteral []byte
	nameLen     int
	seq         uint64
	value       func(e *requestEncoder, b []byte) (out []byte, length int)
}

// requestEncoder encodes the header blocks of one client connection. It keeps
// what a real encoder keeps of its table: which insertion is still in it.
// Not safe for concurrent use.
type requestEncoder struct {
	constants []constant
	varyings  []varying
	huff      *huffman
	rng       rand.PCG
	sizes     [128]uint16 // by insertion number; the oldest are overwritten
	inserted  uint64
	evicted   uint64
	size, max int
	update    bool   // a table size update is due
	block     []byte // when nothing changes any more: the whole block
	stable    bool
}

func newRequestEncoder(s style, v vary, path, authority string, bodyLen int, seed uint64) *requestEncoder {
	e := &requestEncoder{huff: huffmanTable(), max: defaultTable}
	e.rng.Seed(seed, 0x9e3779b97f4a7c15)
	static := func(i int) { e.constants = append(e.constants, constant{index: i}) }
	field := func(nameIndex int, name, value string, never bool) {
		c := constant{name: nameIndex, size: len(name) + len(value) + 32, never: never}
		if nameIndex == 0 {
			c.literal = appendString(c.literal, name)
		}
		c.literal = appendString(c.literal, value)
		e.constants = append(e.constants, c)
	}
	switch s {
	case styleH2load:
		field(4, ":path", path, true)
		static(6) // :scheme http
		field(1, ":authority", authority, false)
		static(3) // :method POST
		field(58, "user-agent", "h2load nghttp2/1.52.0", false)
		field(31, "content-type", "application/grpc", false)
		field(0, "te", "trailers", false)
		field(28, "content-length", strconv.Itoa(bodyLen), true)
	case styleGRPC:
		static(3)
		static(6)
		field(5, ":path", path, false) // x/net names it by 5, the later of two entries
		field(1, ":authority", authority, false)
		field(31, "content-type", "application/grpc", false)
		field(58, "user-agent", "grpc-go/1.85.0", false)
		field(0, "te", "trailers", false)
	}
	vary := func(name string, value func(*requestEncoder, []byte) ([]byte, int)) {
		e.varyings = append(e.varyings, varying{nameLiteral: appendString(nil, name), nameLen: len(name), value: value})
	}
	if v.timeout {
		vary("grpc-timeout", timeoutValue)
	}
	if v.ids {
		vary("traceparent", traceparentValue)
		vary("x-request-id", requestIDValue)
	}
	return e
}

// setMax obeys the peer's SETTINGS_HEADER_TABLE_SIZE. Like x/net's encoder it
// never uses more than the default.
func (e *requestEncoder) setMax(v uint32) {
	if n := int(min(v, defaultTable)); n != e.max {
		e.max, e.update, e.stable = n, true, false
		e.evictTo(n)
	}
}

func (e *requestEncoder) evictTo(limit int) {
	for e.size > limit {
		e.evicted++
		e.size -= int(e.sizes[e.evicted&127])
	}
}

// insert returns the number of the insertion.
func (e *requestEncoder) insert(size int) uint64 {
	e.evictTo(max(e.max-size, 0))
	if size > e.max {
		return 0
	}
	e.inserted++
	e.sizes[e.inserted&127] = uint16(size)
	e.size += size
	e.stable = false
	return e.inserted
}

// index is the place of an insertion in the table, 0 if it is gone.
func (e *requestEncoder) index(seq uint64) int {
	if seq <= e.evicted {
		return 0
	}
	return 62 + int(e.inserted-seq)
}

// append appends the block of one request.
func (e *requestEncoder) append(b []byte) []byte {
	if e.stable {
		return append(b, e.block...)
	}
	start := len(b)
	e.stable = len(e.varyings) == 0 && !e.update
	if e.update {
		b = appendInt(b, 0x20, 5, e.max)
		e.update = false
	}
	for i := range e.constants {
		c := &e.constants[i]
		if c.index > 0 {
			b = appendInt(b, 0x80, 7, c.index)
			continue
		}
		if c.never {
			b = appendInt(b, 0, 4, c.name)
			b = append(b, c.literal...)
			continue
		}
		if at := e.index(c.seq); at > 0 {
			b = appendInt(b, 0x80, 7, at)
			continue
		}
		b = appendInt(b, 0x40, 6, c.name)
		b = append(b, c.literal...)
		c.seq = e.insert(c.size)
	}
	for i := range e.varyings {
		v := &e.varyings[i]
		at := e.index(v.seq)
		b = appendInt(b, 0x40, 6, at)
		if at == 0 {
			b = append(b, v.nameLiteral...)
		}
		var n int
		b, n = v.value(e, b)
		v.seq = e.insert(v.nameLen + n + 32)
	}
	if e.stable {
		e.block = append(e.block[:0], b[start:]...)
	}
	return b
}

// appendHex writes the hex digits of the n low bytes of v.
func (w *bitWriter) appendHex(t *huffman, v uint64, n int) {
	for i := n - 1; i >= 0; i-- {
		w.put(t.hex[byte(v>>(8*i))])
	}
}

// coded appends a Huffman string of at most 126 coded bytes, whose length is
// filled in afterwards.
func coded(b []byte, write func(w *bitWriter)) []byte {
	at := len(b)
	w := bitWriter{out: append(b, 0)}
	write(&w)
	b = w.finish()
	b[at] = 0x80 | byte(len(b)-at-1)
	return b
}

// timeoutValue is what grpc-go sends of a deadline of a second that was set
// somewhere up the chain of calls.
func timeoutValue(e *requestEncoder, b []byte) ([]byte, int) {
	us := 500000 + e.rng.Uint64()%500000
	var text [7]byte
	for i := 5; i >= 0; i-- {
		text[i] = '0' + byte(us%10)
		us /= 10
	}
	text[6] = 'u'
	b = append(b, 0x80)
	at := len(b)
	b = hpack.AppendHuffmanString(b, string(text[:]))
	b[at-1] = 0x80 | byte(len(b)-at)
	return b, 7
}

func traceparentValue(e *requestEncoder, b []byte) ([]byte, int) {
	hi, lo, span := e.rng.Uint64(), e.rng.Uint64(), e.rng.Uint64()
	flag := uint64(0)
	if span%100 == 0 {
		flag = 1
	}
	dash := e.huff.dash
	b = coded(b, func(w *bitWriter) {
		w.appendHex(e.huff, 0, 1)
		w.put(dash)
		w.appendHex(e.huff, hi, 8)
		w.appendHex(e.huff, lo, 8)
		w.put(dash)
		w.appendHex(e.huff, span, 8)
		w.put(dash)
		w.appendHex(e.huff, flag, 1)
	})
	return b, 55
}

func requestIDValue(e *requestEncoder, b []byte) ([]byte, int) {
	hi, lo := e.rng.Uint64(), e.rng.Uint64()
	dash := e.huff.dash
	b = coded(b, func(w *bitWriter) {
		w.appendHex(e.huff, hi>>32, 4)
		w.put(dash)
		w.appendHex(e.huff, hi>>16, 2)
		w.put(dash)
		w.appendHex(e.huff, hi, 2)
		w.put(dash)
		w.appendHex(e.huff, lo>>48, 2)
		w.put(dash)
		w.appendHex(e.huff, lo, 6)
	})
	return b, 36
}

// replyEncoder encodes what the backend answers: headers, then trailers. Each
// of its two fields is inserted once and indexed from then on.
type replyEncoder struct {
	max         int
	update      bool // a table size update is due
	contentType bool // is in the table, always the first to get there
	grpcStatus  bool // is in the table
}

// setMax obeys the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *replyEncoder) setMax(v uint32) {
	if n := int(min(v, defaultTable)); n != e.max {
		e.max, e.update = n, true
		if !e.fits() {
			e.contentType, e.grpcStatus = false, false
		}
	}
}

// fits says whether the table has room for both fields, 104 bytes.
func (e *replyEncoder) fits() bool { return e.max >= 128 }

func (e *replyEncoder) appendUpdate(b []byte) []byte {
	if e.update {
		e.update = false
		b = appendInt(b, 0x20, 5, e.max)
	}
	return b
}

// appendHeaders appends the block ":status: 200, content-type: application/grpc".
func (e *replyEncoder) appendHeaders(b []byte) []byte {
	b = append(e.appendUpdate(b), 0x88)
	switch {
	case e.grpcStatus:
		return append(b, 0x80|63)
	case e.contentType:
		return append(b, 0x80|62)
	case e.fits():
		e.contentType = true
		b = append(b, 0x40|31)
	default:
		b = append(b, 0x0f, 31-15)
	}
	return appendString(b, "application/grpc")
}

// appendTrailers appends the block "grpc-status: 0".
func (e *replyEncoder) appendTrailers(b []byte) []byte {
	b = e.appendUpdate(b)
	switch {
	case e.grpcStatus:
		return append(b, 0x80|62)
	case e.fits():
		e.grpcStatus = true
		b = append(b, 0x40)
	default:
		b = append(b, 0x00)
	}
	return appendString(appendString(b, "grpc-status"), "0")
}
