// Package buf owns the byte buffers of one shard: size-classed, recycled, never zeroed; it must not be shared by two shards.
package buf

import "math/bits"

const (
	minBits = 9  // 512 B: one small call's frames
	maxBits = 22 // 4 MiB: larger buffers are left to the garbage collector
	classes = maxBits - minBits + 1
	// keepPerClass bounds what an idle shard holds: in bytes per class, so that many small and few large buffers stay.
	keepPerClass = 2 << 20
)

// Pool hands out and takes back buffers. The zero value is ready. Not safe for concurrent use: guarded by the shard.
type Pool struct {
	free [classes][][]byte
	out  int // buffers handed out and not yet returned
}

func class(n int) int {
	if n <= 1<<minBits {
		return 0
	}
	return bits.Len(uint(n-1)) - minBits
}

// Get returns an empty buffer with a capacity of at least n bytes. The caller owns it until Put.
func (p *Pool) Get(n int) []byte {
	p.out++
	c := class(n)
	if c >= classes {
		return make([]byte, 0, n)
	}
	l := p.free[c]
	if len(l) == 0 {
		return make([]byte, 0, 1<<(c+minBits))
	}
	b := l[len(l)-1]
	l[len(l)-1] = nil
	p.free[c] = l[:len(l)-1]
	return b
}

// Put takes back a buffer that Get or Grow returned. A nil buffer is ignored.
func (p *Pool) Put(b []byte) {
	if cap(b) == 0 {
		return
	}
	p.out--
	c := bits.Len(uint(cap(b))) - 1 - minBits
	if c < 0 || c >= classes || cap(b) != 1<<(c+minBits) || len(p.free[c]) >= max(2, keepPerClass>>(c+minBits)) {
		return
	}
	p.free[c] = append(p.free[c], b[:0])
}

// Grow returns a buffer with the contents of b and room for n more bytes; b must not be used afterwards. A nil b is
// allowed: it becomes a fresh buffer.
func (p *Pool) Grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	nb := p.Get(max(len(b)+n, 2*cap(b)))
	nb = append(nb, b...)
	p.Put(b)
	return nb
}

// Outstanding is the number of buffers handed out and not returned: for leak checks.
func (p *Pool) Outstanding() int { return p.out }
