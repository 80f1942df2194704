package serviceconfig

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/retry"
	"go.yaml.in/yaml/v3"
)

// Config is one service config. Immutable once Parse has returned it.
type Config struct {
	Source        string                  // where it came from, for people: a file, or a KV key
	Throttle      *retry.ThrottleSettings // retryThrottling; nil: none
	LoadBalancing string                  // "least_request", "round_robin"; "": not said
	HealthService *string                 // healthCheckConfig.serviceName; nil: not said
	Cluster       Cluster                 // trunkline.cluster

	methods map[name]*Method // set once in compile; the one of name{} always exists then
}

// name is one entry of a name list: a method, all of a service (no method), or all there are (neither).
type name struct{ service, method string }

// String is as people write it.
func (n name) String() string {
	switch {
	case n.service == "":
		return "default"
	case n.method == "":
		return n.service
	}
	return n.service + "/" + n.method
}

// Default is the config where none is given: every field has its default.
func Default() *Config {
	c, _ := ParseNode("", &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"})
	return c
}

// For is what holds for a method ("pkg.Service", "Method"): of methodConfig and of trunkline.methodPolicy each, the entry that
// names the method, else the one that names its service, else the one for all ({}). Entries are not merged with each other:
// as in clients, the most specific one holds alone. Never nil, not for a zero Config either; shared, so not to be changed. It
// does not allocate.
func (c *Config) For(service, method string) *Method {
	if m := c.methods[name{service, method}]; m != nil {
		return m
	}
	if m := c.methods[name{service: service}]; m != nil {
		return m
	}
	if m := c.methods[name{}]; m != nil {
		return m
	}
	return defaultMethod(name{}) // a Config that neither Parse nor Default made
}

// Methods are all entries, by name; the one for all ("default") among them. The caller's own list of what is shared.
func (c *Config) Methods() []*Method {
	return slices.SortedFunc(maps.Values(c.methods), func(a, b *Method) int { return strings.Compare(a.Name, b.Name) })
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
	// At most one of the four. Metadata is a request header field's lower-case name, Claim a path into the token's claims, Identity the
	// caller's name by whatever proves it; calls without share one bucket.
	Metadata      string
	ClientAddress bool
	Identity      bool
	Claim         string
	MaxKeys       int // that are told apart at once; default 10000
	// Shared is the entry whose methods use it together, for people; "": each method has its own.
	Shared string
}

// Per says for people what has a bucket of its own, " for each client address"; "": all calls share one.
func (l *RateLimit) Per() string {
	switch {
	case l.Metadata != "":
		return " for each " + l.Metadata
	case l.ClientAddress:
		return " for each client address"
	case l.Identity:
		return " for each caller's name"
	case l.Claim != "":
		return " for each value of the claim " + l.Claim
	}
	return ""
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
	Method        bool   // "pkg.Service/Method"
	Identity      bool   // the caller's name, by whatever proves it; as Metadata
	Claim         string // of the caller's token; as Metadata
}
