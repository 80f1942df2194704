package grpc

import "encoding/binary"

// prefixLen is the flag byte and the 4-byte length in front of every message (the spec's Length-Prefixed-Message).
const prefixLen = 5

// MessageCounter counts the length-prefixed messages of one direction of a call as its DATA passes by in pieces, without
// keeping any of it. The zero value is ready. It does not judge: flag byte and sizes are the peers' business.
type MessageCounter struct {
	body    uint32 // bytes of the current body still to come; with prefix < prefixLen the length as read so far
	longest uint32 // the longest length that a prefix announced
	prefix  uint8  // bytes of the current prefix seen, 0..prefixLen; prefixLen: in a body
}

// Add takes the next payload of DATA (without padding) and returns how many messages it completed. Bodies are skipped by
// length, so it costs the number of messages that begin in p, not the length of p. A message without body is complete with its prefix.
// p is borrowed: valid until Add returns.
func (c *MessageCounter) Add(p []byte) (n int) {
	for len(p) > 0 {
		if c.prefix == prefixLen {
			if uint64(len(p)) < uint64(c.body) {
				c.body -= uint32(len(p))
				return n
			}
			p = p[c.body:]
			c.body, c.prefix = 0, 0
			n++
			continue
		}
		if c.prefix == 0 && len(p) >= prefixLen { // the usual frame: begins with a prefix
			c.body = binary.BigEndian.Uint32(p[1:])
			c.prefix = prefixLen
			p = p[prefixLen:]
		} else { // a prefix across frames, byte by byte
			if c.prefix > 0 { // the first byte is the flag
				c.body = c.body<<8 | uint32(p[0])
			}
			c.prefix++
			p = p[1:]
		}
		if c.prefix == prefixLen {
			c.longest = max(c.longest, c.body)
			if c.body == 0 {
				c.prefix = 0
				n++
			}
		}
	}
	return n
}

// Partial is true in the middle of a message: a direction that ends so was cut off.
func (c *MessageCounter) Partial() bool { return c.prefix != 0 }

// Longest is the longest length, in bytes, that a prefix has announced so far, whether or not its message has come: 0 before the
// first whole prefix. It is the length on the wire, that is, of the message as compressed.
func (c *MessageCounter) Longest() uint32 { return c.longest }
