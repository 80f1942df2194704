// Package hedge owns the decision whether a call that has not been answered yet is sent to one more endpoint beside; it
// must not send, wait, cancel, or read a clock.
package hedge

import (
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// Policy is a hedgingPolicy of gRPC's service config (gRFC A6), with what Trunkline adds. Immutable.
type Policy struct {
	MaxAttempts int           // 2 to 5, the first included
	Delay       time.Duration // hedgingDelay between attempts; 0: all at once
	NonFatal    grpc.StatusSet
	// Percentile, over 0 to below 100, puts this percentile of the method's recent latency in the place of Delay, which then
	// only serves until there are enough samples. 0: not used.
	Percentile float64
}
