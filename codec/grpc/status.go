package grpc

import "strconv"

// Status is a grpc-status: how a call ended. Numbers above 16 can arrive from a peer; see [Status.Known].
type Status uint32

// The statuses of https://github.com/grpc/grpc/blob/master/doc/statuscodes.md.
const (
	OK Status = iota
	Canceled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
)

// NumStatuses is the number of known statuses: an array indexed by a known Status has this length.
const NumStatuses = 17

// statusNames is never written.
var statusNames = [NumStatuses]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// String is the canonical name ("CANCELLED" has two Ls), or "CODE(n)" for a number that gRPC does not know. Known names
// do not allocate.
func (s Status) String() string {
	if s < NumStatuses {
		return statusNames[s]
	}
	return "CODE(" + strconv.FormatUint(uint64(s), 10) + ")"
}

// Known is true for the 17 statuses of gRPC. Metric labels must fold the others: a peer may send any number.
func (s Status) Known() bool { return s < NumStatuses }

// ParseStatus parses the value of grpc-status: decimal digits, at most 2^31-1 (grpc-go's int32). Unlike grpc-go it takes no
// sign; like it, it takes leading zeros, which the spec forbids senders. Not ok comes with Unknown, which is what a malformed status means to a client. It does not allocate.
func ParseStatus(v string) (Status, bool) {
	switch len(v) {
	case 0:
		return Unknown, false
	case 1: // nearly all
		if d := v[0] - '0'; d <= 9 {
			return Status(d), true
		}
		return Unknown, false
	}
	var n uint64
	for i := range len(v) {
		d := v[i] - '0'
		if d > 9 {
			return Unknown, false
		}
		if n = n*10 + uint64(d); n > 1<<31-1 {
			return Unknown, false
		}
	}
	return Status(n), true
}

// FromHTTPStatus is the status of a response that carries :status but no grpc-status, by
// https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md. 200 without grpc-status is Unknown, too.
func FromHTTPStatus(code int) Status {
	switch code {
	case 400:
		return Internal
	case 401:
		return Unauthenticated
	case 403:
		return PermissionDenied
	case 404:
		return Unimplemented
	case 429, 502, 503, 504:
		return Unavailable
	}
	return Unknown
}

// FromH2Code is the status of a call whose stream ended with RST_STREAM and that HTTP/2 error code, by the spec's table
// "HTTP2 Transport Mapping / Errors". STREAM_CLOSED, for which the table has "no mapping", HTTP_1_1_REQUIRED and unknown codes (which
// RFC 9113 section 7 lets us treat as INTERNAL_ERROR) are Internal. grpc-go differs in FLOW_CONTROL_ERROR (RESOURCE_EXHAUSTED) and
// in unknown codes (UNKNOWN).
func FromH2Code(code uint32) Status {
	switch code {
	case 0x7: // REFUSED_STREAM
		return Unavailable
	case 0x8: // CANCEL
		return Canceled
	case 0xb: // ENHANCE_YOUR_CALM
		return ResourceExhausted
	case 0xc: // INADEQUATE_SECURITY
		return PermissionDenied
	}
	return Internal
}
