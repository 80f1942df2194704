// Package discovery owns the nouns of "which endpoints exist, and who says so": Endpoint, Cluster, Snapshot and the
// Source that emits them. It must not decide anything (that is policy's) and must not touch a call (that is lb's).
package discovery

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Endpoint is one address of a cluster, as its source described it. It is immutable once it is part of a Snapshot.
type Endpoint struct {
	// Cluster is the name of the cluster that the endpoint was seen in; set where reflection is asked, else "".
	Cluster string
	// Address is host:port, as it is dialled. It is the endpoint's identity: the same address in two snapshots is the
	// same endpoint, whatever else changed.
	Address string
	// InstanceID is what the source calls it (Consul: the service id). Informative.
	InstanceID string
	// Weight is relative to the other endpoints of its cluster; never 0 in a Snapshot.
	Weight uint32
	// Warning is true where the source's health check says "warning" and warning endpoints are wanted.
	Warning bool
	// Tags and Meta are the source's, verbatim.
	Tags []string
	Meta map[string]string
	// Services maps each fully-qualified protobuf service that this endpoint offers to its method names, sorted. A nil
	// map: nobody knows, the endpoint is taken to offer what its cluster offers. An empty map that is not nil: it offers
	// nothing by a learned route (it is new and has not been asked yet, or has nothing). A nil slice: the service is
	// offered, its methods are unknown. An explicit route in the config does not look at Services.
	Services map[string][]string
	// Described tells one answer by reflection from another; "" without one. It changes, too, with what Services does not show:
	// which methods stream, and which are declared idempotent.
	Described string
}

// Claim says how Trunkline came to know which protobuf services a cluster serves. Lower is stronger.
type Claim uint8

// The claims, strongest first. An explicit route in the config outranks them all and is not a claim of a cluster.
const (
	ClaimNone       Claim = iota // nothing known: only explicit routes lead here
	ClaimConfig                  // grpcServices of a static cluster
	ClaimMeta                    // service meta grpc-services
	ClaimReflection              // asked of the endpoints by server reflection
)

// Cluster is a named group of equivalent endpoints. Immutable once it is part of a Snapshot.
type Cluster struct {
	Name   string
	Source string // "static", "consul", "consul/dc2", ...
	// Endpoints are sorted by Address; no two share one.
	Endpoints []Endpoint
	// Services are the protobuf services this cluster serves, sorted: the union over its endpoints, less what was refused
	// (see Snapshot.Conflicts). grpc.health.* and grpc.reflection.* are never among them.
	Services []string
	Claim    Claim
	// StaleSince is when the source last stopped answering for this cluster; zero while it answers. Endpoints are then the
	// last good ones.
	StaleSince time.Time
	// HeldBack says how many endpoints the source no longer names but the mass-disappearance guard still keeps.
	HeldBack int
	// Err is the last thing that went wrong with this cluster, for people; "" when nothing is.
	Err string
	// WantReflection: while Claim is ClaimNone, the endpoints are to be asked by server reflection what they serve.
	WantReflection bool
	// ChangedAt is when the source received the answer that brought this state; Snapshot.Lag is counted from it.
	ChangedAt time.Time
}

// Conflict is a protobuf service claimed by several clusters; it is routed to none of them (unless a config route says so).
type Conflict struct {
	Service  string
	Clusters []string // sorted
}

// Snapshot is everything that is known at one moment. Immutable.
type Snapshot struct {
	Version   uint64              // grows by one with each snapshot of this process
	Clusters  map[string]*Cluster // by Cluster.Name
	Conflicts []Conflict          // sorted by Service
	// Complete is true once every source has given a first full answer (from the network or from disk): readiness hangs on it.
	Complete bool
	// Lag is how long the newest change took from the source's answer to this snapshot.
	Lag time.Duration
}

// Source watches one origin of clusters. Run calls emit with the source's complete set each time that it changed, the
// first time as soon as it has one (possibly from disk), from one goroutine, and returns when ctx ends. The clusters
// passed to emit belong to the receiver and are not changed afterwards. A Source never emits an emptier set because its
// origin is unreachable: it keeps the last good one and sets StaleSince and Err.
type Source interface {
	Name() string
	Run(ctx context.Context, emit func([]*Cluster)) error
}

// SourceReport is how a source fares at one moment, for people and metrics.
type SourceReport struct {
	Name        string
	LastSuccess time.Time // the origin's last good answer; zero: none yet in this process
	LastFailure time.Time // the last failed question; zero: none
	Err         string    // what failed last; "" once the origin answers again
	Index       uint64    // the origin's version of the last answer, where it has one (Consul: X-Consul-Index)
	Clusters    int       // in its last emitted set
}

// Reporter is what a Source may implement beside. Report may be called from any goroutine.
type Reporter interface {
	Report() SourceReport
}

// SortEndpoints puts endpoints in the order that a Cluster promises: by Address.
func SortEndpoints(endpoints []Endpoint) {
	slices.SortStableFunc(endpoints, func(a, b Endpoint) int { return strings.Compare(a.Address, b.Address) })
}
