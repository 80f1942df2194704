package grpc

import (
	"errors"
	"math"
	"strconv"
	"time"
)

// The errors of [ParseTimeout]; ready-made, because the value comes from outside and must cost nothing.
var (
	ErrTimeoutLength = errors.New("grpc-timeout: want 1 to 8 digits and a unit")
	ErrTimeoutUnit   = errors.New("grpc-timeout: unknown unit, want one of H M S m u n")
	ErrTimeoutDigit  = errors.New("grpc-timeout: not a number")
)

// ParseTimeout parses the value of grpc-timeout: 1 to 8 digits and a unit (H M S m u n). What exceeds time.Duration (more
// than about 292 years) is the longest Duration. Zero is accepted, as in grpc-go, though the spec says "positive". The
// errors are the Err values above; it does not allocate.
func ParseTimeout(v string) (time.Duration, error) {
	if len(v) < 2 || len(v) > 9 {
		return 0, ErrTimeoutLength
	}
	var unit time.Duration
	switch v[len(v)-1] {
	case 'n':
		unit = time.Nanosecond
	case 'u':
		unit = time.Microsecond
	case 'm':
		unit = time.Millisecond
	case 'S':
		unit = time.Second
	case 'M':
		unit = time.Minute
	case 'H':
		unit = time.Hour
	default:
		return 0, ErrTimeoutUnit
	}
	var n int64
	for i := range len(v) - 1 {
		d := v[i] - '0'
		if d > 9 {
			return 0, ErrTimeoutDigit
		}
		n = n*10 + int64(d)
	}
	if n > math.MaxInt64/int64(unit) {
		return math.MaxInt64, nil
	}
	return time.Duration(n) * unit, nil
}

// AppendTimeout appends d as a grpc-timeout value: the finest unit in which it fits 8 digits, rounded up, as grpc-go does.
// d <= 0 is "0n", also as grpc-go: the call is over already, and a server answers it with DEADLINE_EXCEEDED.
func AppendTimeout(dst []byte, d time.Duration) []byte {
	const most = 99999999 // 8 digits
	if d <= 0 {
		return append(dst, "0n"...)
	}
	unit, letter := time.Hour, byte('H') // MaxInt64 ns are 2562048 hours: always fits
	switch {
	case d <= most*time.Nanosecond:
		unit, letter = time.Nanosecond, 'n'
	case d <= most*time.Microsecond:
		unit, letter = time.Microsecond, 'u'
	case d <= most*time.Millisecond:
		unit, letter = time.Millisecond, 'm'
	case d <= most*time.Second:
		unit, letter = time.Second, 'S'
	case d <= most*time.Minute:
		unit, letter = time.Minute, 'M'
	}
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return append(strconv.AppendInt(dst, n, 10), letter)
}
