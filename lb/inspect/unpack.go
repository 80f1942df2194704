package inspect

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
)

// unpack is the message without its compression, at most MaxInspected bytes: so a bomb costs no more than a large message.
func (c *court) unpack() ([]byte, *authn.Refusal) {
	m, most := c.message, c.rules.MaxInspected
	if int64(len(m.Body)) > most {
		no := tooLarge(c.rules)
		return nil, &no
	}
	switch {
	case !m.Compressed:
		return m.Body, nil
	case m.Encoding == "gzip":
		z, err := gzip.NewReader(bytes.NewReader(m.Body))
		if err != nil {
			return nil, malformed("is said to be compressed with gzip, but is not (%v)", err)
		}
		// Beginning with what is usual, it grows with what comes: a header cannot make us reserve anything.
		var out bytes.Buffer
		n, err := io.Copy(&out, io.LimitReader(z, most+1))
		if err != nil {
			return nil, malformed("is said to be compressed with gzip, but is not (%v)", err)
		}
		if n > most {
			no := tooLarge(c.rules)
			return nil, &no
		}
		return out.Bytes(), nil
	case m.Encoding == "" || m.Encoding == "identity":
		// gRPC's "Compression" has INTERNAL for it.
		return nil, &authn.Refusal{Status: grpc.Internal, Reason: "MESSAGE_MALFORMED", Message: "is flagged as compressed, but the call names no grpc-encoding"}
	}
	return nil, &authn.Refusal{Status: grpc.Unimplemented, Reason: "ENCODING_NOT_INSPECTED",
		Message: fmt.Sprintf("is compressed with %q, and messages of this method are inspected (%s): send it with gzip, or not compressed", brief(m.Encoding, 32), c.rules.Why)}
}

func malformed(format string, args ...any) *authn.Refusal {
	return &authn.Refusal{Status: grpc.InvalidArgument, Reason: "MESSAGE_MALFORMED", Message: fmt.Sprintf(format, args...)}
}
