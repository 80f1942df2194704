package telemetry

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Gauges are the numbers of the whole process that are read when somebody looks.
type Gauges struct {
	DownstreamConnections int64 // open client connections
	Listeners             []ListenerGauges
	Certificates          []CertificateGauges
	ConfigGeneration      uint64        // number of the configuration in use
	ConfigRejected        uint64        // reloads refused as invalid, ever
	DiscoveryLag          time.Duration // of the last change: from seen by the source to used for picks
	Shedding              bool          // Trunkline is overloaded and refuses new calls
	Clusters              []ClusterGauges
}

// ListenerGauges are what happened to connections of one listener before HTTP/2, and for abuse of it. They only grow.
type ListenerGauges struct {
	Listener                                              string // its address
	Accepted, Crowded, CrowdedAddress, BadProxyHeader     uint64
	Handshakes, Resumed, BadHandshakes, Offenders, Unused uint64
	Cut                                                   []ReasonCount // connections that were cut off for abuse of HTTP/2
}

// ReasonCount is a number by a word of a small, fixed set.
type ReasonCount struct {
	Reason string
	N      uint64
}

// CertificateGauges is a certificate that is shown to clients or endpoints.
type CertificateGauges struct {
	Name  string        // the first of its names
	Where string        // that shows it: "listeners[0].tls"
	Left  time.Duration // until it expires; negative afterwards
}

// ClusterGauges are the numbers of one cluster. Names are unique; of a second of the same name nothing is shown.
type ClusterGauges struct {
	Name      string
	Endpoints int           // in the snapshot in use
	Stale     time.Duration // age of the snapshot if its source does not answer; 0 when fresh

	Panic         bool   // too few endpoints are healthy, so all are picked from
	ConfigError   bool   // the newest service config was refused, an older one is in force
	BreakerOpened uint64 // times that any of its breakers opened
	Breakers      []BreakerGauges
	Health        []HealthGauges
	Budgets       []BudgetGauges
	Limits        []LimitGauges
	Shadow        *ShadowGauges // nil: no shadow
}

// BreakerGauges is a breaker that is not closed; those that are need not be named. At most maxBreakers of all clusters are shown.
type BreakerGauges struct {
	Endpoint, Method string // Method "": the endpoint's roll-up
	HalfOpen         bool   // else open
}

// maxBreakers bounds the series of breakers that are not closed.
const maxBreakers = 1000

// HealthGauges is how an endpoint does, beside what its handle ([Endpoint]) knows.
type HealthGauges struct {
	Endpoint  string
	Healthy   bool // its active check does not say otherwise
	Ejected   bool
	Warm      float64 // share of its weight, 0 to 1
	Ejections uint64  // ever
}

// BudgetGauges is what is left of a budget.
type BudgetGauges struct {
	Name   string // "retry", "hedge", "throttle"
	Tokens float64
}

// LimitGauges is a bound of what runs at once.
type LimitGauges struct {
	Kind    string // "cluster", "adaptive"; endpoints and methods are not shown one by one
	InUse   int64
	Limit   int64
	Waiting int64
}

// ShadowGauges compares what happened with what the shadow policies would have done. They only grow.
type ShadowGauges struct {
	Calls  uint64
	Differ []ShadowCount // by kind
}

// ShadowCount counts the calls of one kind of difference.
type ShadowCount struct {
	Kind  string
	Calls uint64
}

// Observe adds a function that fills in its part of the gauges at each scrape: sets its own fields, appends its clusters.
// It is called from the scrape's goroutine with no lock of this package held.
func (t *Telemetry) Observe(fill func(*Gauges)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.observers = append(t.observers, fill)
}

// clusterSeries are the points of all clusters.
type clusterSeries struct {
	size, panics, failed, opened, breakers, healthy, ejected, ejections, inUse, limits, waiting, shadowed, differing []metricdata.DataPoint[int64]
	stale, warm, tokens                                                                                              []metricdata.DataPoint[float64]
}

func (m *page) clusters(all []ClusterGauges) {
	var s clusterSeries
	seen := make(map[string]bool, len(all))
	for i := range all {
		if name := valid(all[i].Name); !seen[name] {
			seen[name] = true
			s.add(m, name, &all[i])
		}
	}
	m.gauge("cluster.endpoints", "{endpoint}", "Endpoints in the snapshot in use.", s.size)
	m.gaugeSeconds("discovery.stale", "Age of a snapshot whose source does not answer; 0 when fresh.", s.stale)
	m.gauge("cluster.panic", "{cluster}", "1 if too few endpoints are healthy and all are picked from, else 0.", s.panics)
	m.gauge("service_config.refused", "{config}", "1 if the newest service config was refused and an older one is in force, else 0.", s.failed)
	m.sum("breaker.opened", "{time}", "Times that a circuit breaker opened.", s.opened)
	m.gauge("breaker.open", "{breaker}", "1 for each circuit breaker that is not closed.", s.breakers)
	m.gauge("endpoint.healthy", "{endpoint}", "1 if the endpoint's active check does not fail, else 0.", s.healthy)
	m.gauge("endpoint.ejected", "{endpoint}", "1 if outlier detection has taken the endpoint out, else 0.", s.ejected)
	m.sum("endpoint.ejections", "{time}", "Times that outlier detection took the endpoint out.", s.ejections)
	m.gaugeNumber("endpoint.warm", "Share of its weight that the endpoint gets while it warms up; 1 otherwise.", s.warm)
	m.gaugeNumber("budget.tokens", "What is left of a retry or hedge budget.", s.tokens)
	m.gauge("concurrency.in_use", "{call}", "Calls that count against a limit of calls at once.", s.inUse)
	m.gauge("concurrency.limit", "{call}", "Limit of calls at once.", s.limits)
	m.gauge("concurrency.waiting", "{call}", "Calls that wait for a place.", s.waiting)
	m.sum("shadow.calls", "{call}", "Calls compared with what the shadow policies would have done.", s.shadowed)
	m.sum("shadow.differing", "{call}", "Calls whose outcome the shadow policies would have changed.", s.differing)
}

func (s *clusterSeries) add(m *page, name string, c *ClusterGauges) {
	cluster := attribute.String("cluster", name)
	set := attribute.NewSet(cluster)
	with := func(kv ...string) attribute.Set {
		list := []attribute.KeyValue{cluster}
		for i := 0; i < len(kv); i += 2 {
			list = append(list, attribute.String(kv[i], valid(kv[i+1])))
		}
		return attribute.NewSet(list...)
	}
	s.size = append(s.size, m.point(set, int64(c.Endpoints)))
	s.stale = append(s.stale, m.seconds(set, c.Stale))
	s.panics = append(s.panics, m.point(set, bit(c.Panic)))
	s.failed = append(s.failed, m.point(set, bit(c.ConfigError)))
	s.opened = append(s.opened, m.point(set, int64(c.BreakerOpened)))
	for _, b := range c.Breakers {
		if len(s.breakers) < maxBreakers {
			state := "open"
			if b.HalfOpen {
				state = "half_open"
			}
			s.breakers = append(s.breakers, m.point(with("endpoint", b.Endpoint, "method", b.Method, "state", state), 1))
		}
	}
	for _, h := range c.Health {
		of := with("endpoint", h.Endpoint)
		s.healthy = append(s.healthy, m.point(of, bit(h.Healthy)))
		s.ejected = append(s.ejected, m.point(of, bit(h.Ejected)))
		s.ejections = append(s.ejections, m.point(of, int64(h.Ejections)))
		s.warm = append(s.warm, m.number(of, h.Warm))
	}
	for _, b := range c.Budgets {
		s.tokens = append(s.tokens, m.number(with("budget", b.Name), b.Tokens))
	}
	for _, l := range c.Limits {
		of := with("kind", l.Kind)
		s.inUse, s.limits, s.waiting = append(s.inUse, m.point(of, l.InUse)), append(s.limits, m.point(of, l.Limit)), append(s.waiting, m.point(of, l.Waiting))
	}
	if c.Shadow != nil {
		s.shadowed = append(s.shadowed, m.point(set, int64(c.Shadow.Calls)))
		for _, d := range c.Shadow.Differ {
			s.differing = append(s.differing, m.point(with("kind", d.Kind), int64(d.Calls)))
		}
	}
}

func bit(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}
