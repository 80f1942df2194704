// Package serviceconfig owns gRPC's service config with Trunkline's key beside it: reading it with the place of each mistake,
// and finding what holds for a method; it must not act on it.
//
// The format is gRPC's own (https://github.com/grpc/grpc/blob/master/doc/service_config.md, gRFC A2, A6, A21), so that the
// same document serves clients and proxy; what it has no word for stands in it under the key "trunkline", which clients skip.
package serviceconfig

import (
	"time"

	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/retry"
)

// Config is one service config. Immutable once Parse has returned it.
type Config struct {
	Source        string                  // where it came from, for people: a file, or a KV key
	Throttle      *retry.ThrottleSettings // retryThrottling; nil: none
	LoadBalancing string                  // "least_request", "round_robin"; "": not said
	HealthService *string                 // healthCheckConfig.serviceName; nil: not said
	Cluster       Cluster                 // trunkline.cluster

	methods []Method // in the document's order
	byName  map[string]int
}

// Method is what holds for the methods of one or more names.
type Method struct {
	Name string // the name that matched, for people: "pkg.S/M", "pkg.S", or "default"

	// From methodConfig.
	Timeout          time.Duration // 0: none
	WaitForReady     bool
	MaxRequestBytes  int64 // of one message; -1: no limit
	MaxResponseBytes int64
	Retry            *retry.Policy
	Hedge            *hedge.Policy

	// From trunkline.methodPolicy.
	Idempotent     *bool         // overrides what the descriptors declare; nil: not said
	PerTryTimeout  time.Duration // 0: none
	IdleTimeout    time.Duration // 0: none
	RefuseHopeless bool          // refuse on arrival what has less time left than the method's recent median
	HoldResponse   time.Duration // how long response headers may be held back for the sake of a retry; default 100ms
	ReplayBytes    int           // of the request kept for another attempt; -1: not said
	MaxStreams     int           // calls of the method at once; 0: no limit
	Breaker        *breaker.Settings
	Rates          []RateLimit
}

// Cluster is what holds for a cluster as a whole.
type Cluster struct {
	RetryBudget  retry.BudgetSettings // with its defaults
	HedgeBudget  retry.BudgetSettings // with its defaults
	Concurrency  Concurrency
	Breaker      *breaker.Settings // of an endpoint over all methods: the roll-up; nil: none
	Outlier      *outlier.Settings // nil: none
	PanicShare   float64           // below this share of healthy endpoints all are picked from again; default 0.5; 0: never
	SlowStart    time.Duration     // how long an endpoint that came or returned takes to get its full share; 0: at once
	HealthCheck  *HealthCheck      // nil: none
	Adaptive     *limit.Adaptive   // nil: none
	GlobalLimits *GlobalLimits     // nil: none
}

// Concurrency bounds what runs at once. 0: no limit.
type Concurrency struct {
	MaxStreams            int // calls of the cluster on endpoints
	MaxStreamsPerEndpoint int
	MaxPending            int           // calls that may wait for a place; 0: overflow is refused at once
	PendingTimeout        time.Duration // the longest wait; default 1s
}

// HealthCheck is active checking by grpc.health.v1.
type HealthCheck struct {
	Service            string        // asked about; "" is the server as a whole
	Interval           time.Duration // between Checks, where Watch is not served; default 5s
	Timeout            time.Duration // of one; default 1s
	UnhealthyThreshold int           // failures in a row that take it out; default 2
	HealthyThreshold   int           // successes in a row that bring it back; default 1
}

// RateLimit is a token bucket, or one per key.
type RateLimit struct {
	Rate limit.Rate
	// At most one of the two. Metadata is a request header field's lower-case name; calls without the field share one bucket.
	Metadata      string
	ClientAddress bool
	MaxKeys       int // that are told apart at once; default 10000
}

// GlobalLimits asks a rate limit service of Envoy's protocol (envoy.service.ratelimit.v3).
type GlobalLimits struct {
	Address  string        // host:port, h2c
	Domain   string        // default "trunkline"
	Timeout  time.Duration // default 20ms
	FailOpen bool          // default true: calls pass when it does not answer
	// Descriptors are what is sent for each call; each is a list of entries.
	Descriptors [][]DescriptorEntry
}

// DescriptorEntry is one key and where its value comes from: exactly one of the others.
type DescriptorEntry struct {
	Key           string
	Value         string // a constant
	Metadata      string // a request header field; a descriptor whose field is absent is not sent
	ClientAddress bool
	Method        bool // "pkg.Service/Method"
}
