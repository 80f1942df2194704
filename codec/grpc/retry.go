package grpc

import "time"

// ParsePushback parses the value of grpc-retry-pushback-ms: after how long a server wants the call sent again. Not retry
// means: not at all, which gRFC A6 says of a negative value and of one that cannot be parsed as "an ASCII encoded signed
// 32-bit integer", so of one over 2^31-1 too. Leading zeros, which A6 forbids senders, are taken, as in grpc-go; a sign, and
// what exceeds 32 bits, is not, unlike in grpc-go, which takes "+5" and 64 bits.
//
// The field sent more than once forbids a retry as well, whatever the values say (grpc-go, csAttempt.shouldRetry: "specified
// multiple values; not retrying"); that is for who reads the fields. It does not allocate.
func ParsePushback(v string) (after time.Duration, retry bool) {
	if len(v) == 0 {
		return 0, false
	}
	var ms int64
	for i := range len(v) {
		d := v[i] - '0'
		if d > 9 {
			return 0, false
		}
		if ms = ms*10 + int64(d); ms > 1<<31-1 {
			return 0, false
		}
	}
	return time.Duration(ms) * time.Millisecond, true
}

// MaxPreviousAttempts is the most that [ParsePreviousAttempts] returns.
const MaxPreviousAttempts = 1000

// ParsePreviousAttempts parses the value of grpc-previous-rpc-attempts: how many attempts of the call the caller made before
// this one (gRFC A6). It comes from outside and only serves to do less, so it is clamped to 0 to [MaxPreviousAttempts], and what
// is not a decimal number counts as 0. It does not allocate.
func ParsePreviousAttempts(v string) int {
	n := 0
	for i := range len(v) {
		d := v[i] - '0'
		if d > 9 {
			return 0
		}
		n = min(n*10+int(d), MaxPreviousAttempts)
	}
	return n
}
