// Package codec is the room of bytes: what do these bytes say, and which bytes may I say next? Its packages take bytes and
// return facts; none of them does I/O, starts a goroutine or reads a clock.
//
//	h2       frames (RFC 9113 sections 4 to 7)
//	hpack    header blocks over interned fields (RFC 7541)
//	session  one HTTP/2 connection without I/O: streams, windows, SETTINGS, GOAWAY
//	grpc     the gRPC words inside: method, timeout, status, messages
//	buf      the byte buffers that the others share
package codec
