package hpack

import "encoding/binary"

// huffmanLens are the code lengths of RFC 7541 appendix B. The code is canonical, so they define it.
var huffmanLens = [257]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
	30, // EOS
}

const (
	huffmanStep = 12 // bits of one table look-up: two of the common 5 and 6 bit codes
	huffmanMax  = 30 // longest code
	huffmanEOS  = 256
)

// huffmanTable decodes. It is read-only after the program's start.
type huffmanTable struct {
	// step maps the next 12 bits to up to two symbols: bits | first<<8 | second<<16 | first's bits<<24 |
	// number of symbols<<28; 0 where the code is longer than 12 bits.
	step [1 << huffmanStep]uint32
	// Canonical decoding of the long codes, by length: the first code, the end of the codes (both
	// left-aligned to 30 bits) and the place of the first symbol in symbols.
	first, end [huffmanMax + 1]uint32
	offset     [huffmanMax + 1]uint16
	symbols    [257]uint16
}

var huffman = buildHuffman()

func buildHuffman() *huffmanTable {
	t := new(huffmanTable)
	code, n := uint32(0), 0 // code is left-aligned to 30 bits
	var single [1 << huffmanStep]uint16
	for length := 5; length <= huffmanMax; length++ {
		t.first[length], t.offset[length] = code, uint16(n)
		for sym, l := range huffmanLens {
			if int(l) != length {
				continue
			}
			t.symbols[n] = uint16(sym)
			n++
			if length <= huffmanStep {
				lo := code >> (huffmanMax - huffmanStep)
				for i := range uint32(1) << (huffmanStep - length) {
					single[lo+i] = uint16(sym) | uint16(length)<<8
				}
			}
			code += 1 << (huffmanMax - length)
		}
		t.end[length] = code
	}
	for i := range t.step {
		a := single[i]
		if a == 0 {
			continue
		}
		bits := uint32(a >> 8)
		e := bits | uint32(a&0xff)<<8 | bits<<24 | 1<<28
		rest := uint32(i) << bits & (1<<huffmanStep - 1)
		if b := single[rest]; b != 0 && bits+uint32(b>>8) <= huffmanStep {
			e = (bits + uint32(b>>8)) | uint32(a&0xff)<<8 | uint32(b&0xff)<<16 | bits<<24 | 2<<28
		}
		t.step[i] = e
	}
	return t
}

// decodeHuffman decodes src into buf, which is grown as needed, and returns the result: RFC 7541 5.2, with
// padding longer than 7 bits, padding other than ones, and EOS as errors.
func decodeHuffman(buf, src []byte) ([]byte, error) {
	if need := len(src)*8/5 + 2; cap(buf) < need {
		buf = make([]byte, need+need/2)
	}
	out := buf[:cap(buf)]
	t := huffman
	var acc uint64 // the next bits, left-aligned
	var n uint     // how many of them are valid
	k := 0
	var last uint64 // the last bytes of src, up to eight, right-aligned
	if len(src) >= 8 {
		last = binary.BigEndian.Uint64(src[len(src)-8:])
	} else {
		for _, c := range src {
			last = last<<8 | uint64(c)
		}
	}
	for len(src) > 0 {
		left, taken := uint(len(src)), (63-n)>>3
		if left >= 8 {
			// The bits below n become those of src's next bytes: they will be or-ed again.
			acc |= binary.BigEndian.Uint64(src) >> (n & 63)
		} else {
			acc |= last << ((64 - 8*left) & 63) >> (n & 63)
			taken = min(taken, left)
		}
		src = src[taken:]
		n += taken * 8
		if n < 56 {
			break // src is used up
		}
		// At least 56 bits: enough for four steps.
		for range 4 {
			e := t.step[acc>>(64-huffmanStep)]
			if e == 0 {
				break
			}
			binary.LittleEndian.PutUint16(out[k:], uint16(e>>8))
			k += int(e >> 28)
			acc <<= e & 63
			n -= uint(e & 63)
		}
		if t.step[acc>>(64-huffmanStep)] == 0 && n >= huffmanMax {
			sym, bits := t.long(acc)
			if sym == huffmanEOS {
				return nil, errHuffman
			}
			out[k] = byte(sym)
			k++
			acc <<= bits
			n -= bits
		}
	}
	// The last bits: first in steps, then one symbol at a time, never past n.
	for n >= huffmanStep {
		e := t.step[acc>>(64-huffmanStep)]
		if e == 0 {
			break
		}
		binary.LittleEndian.PutUint16(out[k:], uint16(e>>8))
		k += int(e >> 28)
		acc <<= e & 63
		n -= uint(e & 63)
	}
	for n > 0 {
		sym, bits := t.one(acc)
		if bits > n {
			break
		}
		if sym == huffmanEOS {
			return nil, errHuffman
		}
		out[k] = byte(sym)
		k++
		acc <<= bits & 63
		n -= bits
	}
	if n > 7 || (n > 0 && acc>>(64-n) != 1<<n-1) {
		return nil, errHuffman
	}
	return out[:k], nil
}

// one decodes the first code of acc.
func (t *huffmanTable) one(acc uint64) (sym, bits uint) {
	if e := t.step[acc>>(64-huffmanStep)]; e != 0 {
		return uint(e>>8) & 0xff, uint(e>>24) & 0xf
	}
	return t.long(acc)
}

// long decodes a code of more than 12 bits from the top of acc; the code is complete, so it always finds one.
func (t *huffmanTable) long(acc uint64) (sym, bits uint) {
	code := uint32(acc >> (64 - huffmanMax))
	for length := huffmanStep + 1; length < huffmanMax; length++ {
		if code < t.end[length] {
			return t.symbol(code, length), uint(length)
		}
	}
	return t.symbol(code, huffmanMax), huffmanMax
}

func (t *huffmanTable) symbol(code uint32, length int) uint {
	i := uint(t.offset[length]) + uint((code-t.first[length])>>(huffmanMax-length))
	return uint(t.symbols[i])
}
