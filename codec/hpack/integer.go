package hpack

// readInt reads an integer with a prefix of n bits at block[p:] (RFC 7541 5.1) and returns it with the
// position behind it. Values that do not fit a table size or a length are errors, not wrapped.
func readInt(block []byte, p int, n uint) (uint32, int, error) {
	if p >= len(block) {
		return 0, p, errTruncated
	}
	mask := byte(1)<<n - 1
	v := uint64(block[p] & mask)
	p++
	if byte(v) != mask {
		return uint32(v), p, nil
	}
	// Nine continuation bytes at most, as in x/net: padding with zero bits is legal, endless padding is not.
	for shift := uint(0); shift < 63; shift += 7 {
		if p >= len(block) {
			return 0, p, errTruncated
		}
		b := block[p]
		p++
		v += uint64(b&0x7f) << shift
		if b&0x80 == 0 {
			if v > 1<<32-1 {
				return 0, p, errInteger
			}
			return uint32(v), p, nil
		}
	}
	return 0, p, errInteger
}

// appendInt appends v with a prefix of n bits; first holds the bits above the prefix (RFC 7541 5.1).
func appendInt(dst []byte, first byte, n uint, v uint32) []byte {
	limit := uint32(1)<<n - 1
	if v < limit {
		return append(dst, first|byte(v))
	}
	dst = append(dst, first|byte(limit))
	for v -= limit; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}

// appendString appends a string literal without Huffman coding (RFC 7541 5.2).
func appendString(dst []byte, s string) []byte {
	dst = appendInt(dst, 0, 7, uint32(len(s)))
	return append(dst, s...)
}
