package grpc

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"
)

// Details says why Trunkline ended a call itself: google.rpc.ErrorInfo, and google.rpc.RetryInfo where a delay is known.
type Details struct {
	Reason     string        // ErrorInfo.reason, UPPER_SNAKE, e.g. "NO_HEALTHY_ENDPOINT"
	Domain     string        // ErrorInfo.domain, e.g. "trunkline"
	Metadata   [][2]string   // ErrorInfo.metadata, in this order; keys should differ
	RetryAfter time.Duration // RetryInfo.retry_delay; 0 or less: no RetryInfo
}

// AppendStatusDetailsBin appends the value of grpc-status-details-bin: unpadded standard base64 (as the spec asks of -bin
// values that are sent) of a google.rpc.Status with d's details. Invalid UTF-8 in strings becomes U+FFFD, because proto3
// strings must be valid. Without Reason, Domain and Metadata there is no ErrorInfo. Usual sizes allocate nothing but dst.
//
// The protobuf is written by hand: three tiny messages, and no reflection on the way of a call
// (https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto).
func AppendStatusDetailsBin(dst []byte, code Status, msg string, d Details) []byte {
	var statusBuf, anyBuf [512]byte
	status := statusBuf[:0]
	if code != OK {
		status = append(status, 1<<3|0) // Status.code
		status = binary.AppendUvarint(status, uint64(code))
	}
	status = appendString(status, 2, msg) // Status.message
	if d.Reason != "" || d.Domain != "" || len(d.Metadata) > 0 {
		var infoBuf [512]byte
		info := appendString(infoBuf[:0], 1, d.Reason)
		info = appendString(info, 2, d.Domain)
		for _, kv := range d.Metadata {
			var entryBuf [256]byte
			entry := appendString(appendString(entryBuf[:0], 1, kv[0]), 2, kv[1])
			info = appendBytes(info, 3, entry)
		}
		status = appendBytes(status, 3, appendAny(anyBuf[:0], "type.googleapis.com/google.rpc.ErrorInfo", info))
	}
	if d.RetryAfter > 0 {
		var durBuf, retryBuf [32]byte
		dur := durBuf[:0]
		if s := d.RetryAfter / time.Second; s > 0 {
			dur = binary.AppendUvarint(append(dur, 1<<3|0), uint64(s)) // Duration.seconds
		}
		if n := d.RetryAfter % time.Second; n > 0 {
			dur = binary.AppendUvarint(append(dur, 2<<3|0), uint64(n)) // Duration.nanos
		}
		retry := appendBytes(retryBuf[:0], 1, dur)
		status = appendBytes(status, 3, appendAny(anyBuf[:0], "type.googleapis.com/google.rpc.RetryInfo", retry))
	}
	return base64.RawStdEncoding.AppendEncode(dst, status)
}

func appendAny(dst []byte, typeURL string, value []byte) []byte {
	return appendBytes(appendString(dst, 1, typeURL), 2, value)
}

// appendString appends a proto3 string field; an empty one is left out.
func appendString(dst []byte, field byte, s string) []byte {
	if s == "" {
		return dst
	}
	s = strings.ToValidUTF8(s, "\uFFFD") // no copy where it is valid
	dst = binary.AppendUvarint(append(dst, field<<3|2), uint64(len(s)))
	return append(dst, s...)
}

// appendBytes appends a length-delimited field, also when it is empty: presence says something for messages.
func appendBytes(dst []byte, field byte, b []byte) []byte {
	dst = binary.AppendUvarint(append(dst, field<<3|2), uint64(len(b)))
	return append(dst, b...)
}
