package hpack

import "errors"

// CompressionError means that a header block broke RFC 7541. The tables of both ends can no longer be
// trusted to agree: the connection must end with COMPRESSION_ERROR (RFC 9113 4.3).
type CompressionError struct {
	// Reason says what was wrong, for logs and GOAWAY debug data.
	Reason string
}

// Error implements error.
func (e *CompressionError) Error() string { return "hpack: " + e.Reason }

// ErrListTooLarge means that a block decoded to more bytes (RFC 9113 6.5.2) or fields than allowed. The
// dynamic table is in step, so only the stream has to end.
var ErrListTooLarge = errors.New("hpack: header list too large")

// The reasons are values, so that hostile input costs no allocation.
var (
	errTruncated   = &CompressionError{"block ends inside a field"}
	errInteger     = &CompressionError{"integer too large"}
	errIndex       = &CompressionError{"index outside of the tables"}
	errSizeTooBig  = &CompressionError{"table size update above the advertised maximum"}
	errSizeTooMany = &CompressionError{"more than two table size updates in a block"}
	errSizeLate    = &CompressionError{"table size update after the first field"}
	errHuffman     = &CompressionError{"invalid Huffman coding"}
)
