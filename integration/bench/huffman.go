package main

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// huffman is HPACK's Huffman code (RFC 7541, appendix B) as a machine that
// eats four bits at a time. The code itself is asked from x/net's encoder, so
// there is no table to mistype. Immutable once built.
type huffman struct {
	step [256][16]huffStep
	// skip does a whole byte at a time and only counts what it would emit: what
	// becomes of values that nobody reads.
	skip [256][256]huffSkip
	// hex holds the code of the two hex digits of each byte value, so that
	// random ids are written as fast as they are drawn.
	hex  [256]huffCode
	dash huffCode
}

type huffStep struct {
	next uint8
	sym  uint8
	emit bool
	fail bool
}

type huffSkip struct {
	next uint8
	n    uint8
}

type huffCode struct {
	bits uint32
	n    uint8
}

var errHuffman = errors.New("bad Huffman code")

// huffmanTable builds the machine on first use.
var huffmanTable = sync.OnceValue(buildHuffman)

// codeOf returns the code of one byte. Eight times the same byte take exactly
// as many bytes as the code has bits.
func codeOf(b byte) huffCode {
	n := hpack.HuffmanEncodeLength(strings.Repeat(string([]byte{b}), 8))
	var v uint32
	enc := hpack.AppendHuffmanString(nil, string([]byte{b}))
	for _, x := range enc {
		v = v<<8 | uint32(x)
	}
	return huffCode{v >> (uint64(len(enc))*8 - n), uint8(n)}
}

func buildHuffman() *huffman {
	type node struct {
		child [2]int // index of a node, or -1-symbol; 0 is "none"
	}
	nodes := []node{{}}
	insert := func(code huffCode, sym int) {
		at := 0
		for i := int(code.n) - 1; i >= 0; i-- {
			bit := code.bits >> i & 1
			if i == 0 {
				nodes[at].child[bit] = -1 - sym
				return
			}
			if nodes[at].child[bit] == 0 {
				nodes = append(nodes, node{})
				nodes[at].child[bit] = len(nodes) - 1
			}
			at = nodes[at].child[bit]
		}
	}
	for b := range 256 {
		insert(codeOf(byte(b)), b)
	}
	// EOS, thirty ones, keeps no symbol: its leaf stays 0 and fails.
	t := &huffman{}
	for s := range nodes {
		for nib := range 16 {
			st := huffStep{}
			at := s
			for i := 3; i >= 0; i-- {
				to := nodes[at].child[nib>>i&1]
				switch {
				case to < 0:
					st.sym, st.emit = uint8(-1-to), true
					at = 0
				case to == 0:
					st.fail = true
				default:
					at = to
				}
			}
			st.next = uint8(at)
			t.step[s][nib] = st
		}
	}
	t.dash = codeOf('-')
	for s := range nodes {
		for b := range 256 {
			hi := t.step[s][b>>4]
			lo := t.step[hi.next][b&15]
			k := huffSkip{next: lo.next}
			for _, st := range []huffStep{hi, lo} {
				if st.emit {
					k.n++
				}
				if st.fail {
					k.n |= huffFail
				}
			}
			t.skip[s][b] = k
		}
	}
	const digits = "0123456789abcdef"
	for b := range 256 {
		hi, lo := codeOf(digits[b>>4]), codeOf(digits[b&15])
		t.hex[b] = huffCode{hi.bits<<lo.n | lo.bits, hi.n + lo.n}
	}
	return t
}

// decode appends the text of src to dst.
func (t *huffman) decode(dst, src []byte) ([]byte, error) {
	state := uint8(0)
	for _, b := range src {
		st := &t.step[state][b>>4]
		if st.emit {
			dst = append(dst, st.sym)
		}
		if st.fail {
			return dst, errHuffman
		}
		st = &t.step[st.next][b&15]
		if st.emit {
			dst = append(dst, st.sym)
		}
		if st.fail {
			return dst, errHuffman
		}
		state = st.next
	}
	return dst, nil
}

const huffFail = 0x80 // in huffSkip.n

// length returns how many bytes the text of src has.
func (t *huffman) length(src []byte) (n int, err error) {
	state, bad := uint8(0), uint8(0)
	for _, b := range src {
		k := t.skip[state][b]
		n += int(k.n)
		bad |= k.n
		state = k.next
	}
	if bad&huffFail != 0 {
		return 0, errHuffman
	}
	return n, nil
}

// bitWriter appends codes to a byte slice, most significant bit first.
type bitWriter struct {
	out  []byte
	acc  uint64
	fill uint8
}

func (w *bitWriter) put(c huffCode) {
	w.acc = w.acc<<c.n | uint64(c.bits)
	w.fill += c.n
	if w.fill >= 32 {
		w.fill -= 32
		w.out = binary.BigEndian.AppendUint32(w.out, uint32(w.acc>>w.fill))
	}
}

// finish pads with ones, as RFC 7541 section 5.2 demands.
func (w *bitWriter) finish() []byte {
	if pad := -w.fill & 7; pad > 0 {
		w.acc = w.acc<<pad | (1<<pad - 1)
		w.fill += pad
	}
	for w.fill > 0 {
		w.fill -= 8
		w.out = append(w.out, byte(w.acc>>w.fill))
	}
	return w.out
}
