package serviceconfig

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	"go.yaml.in/yaml/v3"
)

// maxAttempts is the bound that clients have (gRFC A6, "Limits on Retries and Hedges").
const maxAttempts = 5

// methodConfigKeys is never written.
var methodConfigKeys = [...]string{
	"name", "timeout", "waitForReady", "maxRequestMessageBytes", "maxResponseMessageBytes", "retryPolicy", "hedgingPolicy",
}

// methodConfig is what an item of methodConfig says.
type methodConfig struct {
	timeout               time.Duration
	waitForReady          bool
	maxRequest, maxReturn int64
	retry                 *retry.Policy
	hedge                 *hedge.Policy
}

func (c methodConfig) apply(m *Method) {
	m.Timeout, m.WaitForReady = c.timeout, c.waitForReady
	m.MaxRequestBytes, m.MaxResponseBytes = c.maxRequest, c.maxReturn
	m.Retry, m.Hedge = c.retry, c.hedge
}

func readMethodConfig(o object, _ map[name]value) methodConfig {
	c := methodConfig{
		timeout:      o.get("timeout").duration(0, false),
		waitForReady: o.get("waitForReady").boolean(false),
		maxRequest:   o.get("maxRequestMessageBytes").integer(-1, 0, math.MaxInt64),
		maxReturn:    o.get("maxResponseMessageBytes").integer(-1, 0, math.MaxInt64),
		retry:        readRetryPolicy(o.get("retryPolicy")),
		hedge:        readHedgingPolicy(o.get("hedgingPolicy")),
	}
	if h := o.get("hedgingPolicy"); h.given() && o.get("retryPolicy").given() {
		h.errorf("stands beside retryPolicy (line %d): a method has one or the other, remove one", o.get("retryPolicy").at.Line)
	}
	return c
}

func readRetryPolicy(v value) *retry.Policy {
	o, ok := v.object("maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes")
	if !ok {
		return nil
	}
	required(o, "maxAttempts", "the number of attempts, the first included, 2 to 5")
	required(o, "initialBackoff", `a duration, such as "0.1s"`)
	required(o, "maxBackoff", `a duration, such as "1s"`)
	required(o, "backoffMultiplier", "a number over 0, such as 2")
	required(o, "retryableStatusCodes", `a list such as ["UNAVAILABLE"]`)
	return &retry.Policy{
		MaxAttempts:       readAttempts(o.get("maxAttempts")),
		InitialBackoff:    o.get("initialBackoff").duration(time.Second, false),
		MaxBackoff:        o.get("maxBackoff").duration(time.Second, false),
		BackoffMultiplier: o.get("backoffMultiplier").number(1, "over 0", positive),
		Retryable:         o.get("retryableStatusCodes").statuses(0),
	}
}

func readHedgingPolicy(v value) *hedge.Policy {
	o, ok := v.object("maxAttempts", "hedgingDelay", "nonFatalStatusCodes")
	if !ok {
		return nil
	}
	required(o, "maxAttempts", "the number of attempts, the first included, 2 to 5")
	p := &hedge.Policy{
		MaxAttempts: readAttempts(o.get("maxAttempts")),
		Delay:       o.get("hedgingDelay").duration(0, true),
	}
	if codes := o.get("nonFatalStatusCodes"); len(codes.list()) > 0 { // optional, so it may be empty
		p.NonFatal = codes.statuses(0)
	}
	return p
}

func readAttempts(v value) int {
	n := v.integer(2, 2, math.MaxInt64)
	if n > maxAttempts {
		v.warnf("is %d, taken as %d: gRPC's clients allow no more either", n, maxAttempts)
		n = maxAttempts
	}
	return int(n)
}

// required reports a key that is absent or null.
func required(o object, key, what string) {
	if v := o.get(key); !v.given() && (!o.own || !o.has(key)) {
		v.errorf("is missing: write %s", what)
	}
}

// readThrottle reads retryThrottling. maxTokens is a whole number by the schema (grpc-go alone takes others), tokenRatio has
// three decimals by gRFC A6; further ones are cut off.
func readThrottle(v value) *retry.ThrottleSettings {
	o, ok := v.object("maxTokens", "tokenRatio")
	if !ok {
		return nil
	}
	required(o, "maxTokens", "a whole number from 1 to 1000")
	required(o, "tokenRatio", "a number over 0, such as 0.1")
	whole := func(f float64) bool { return f >= 1 && f <= 1000 && f == math.Trunc(f) }
	ratio := o.get("tokenRatio").number(1, "of at least 0.001, of which three decimals count", func(f float64) bool { return f >= 0.001 && f <= maxCount })
	return &retry.ThrottleSettings{
		MaxTokens:  int(o.get("maxTokens").number(1, "from 1 to 1000, whole", whole)),
		TokenRatio: math.Floor(ratio*1000+1e-6) / 1000,
	}
}

func readHealthCheckConfig(v value) *string {
	o, ok := v.object("serviceName")
	if !ok || !o.get("serviceName").given() {
		return nil
	}
	service := o.get("serviceName").text("")
	return &service
}

// The balancers of gRPC's names that Trunkline has, and the others that gRPC's documents name: for clients only. Never
// written.
var (
	balancers = map[string]string{
		"round_robin": "round_robin", "weighted_round_robin": "round_robin",
		"least_request_experimental": "least_request", "least_request": "least_request",
	}
	clientBalancers = [...]string{
		"pick_first", "grpclb", "ring_hash_experimental", "rls_experimental", "priority_experimental", "weighted_target_experimental",
		"cluster_impl_experimental", "cds_experimental", "xds_cluster_resolver_experimental", "xds_cluster_manager_experimental",
		"xds_wrr_locality_experimental", "xds_override_host_experimental", "outlier_detection_experimental", "random_subsetting_experimental",
	}
)

// readLoadBalancing takes the first balancer of loadBalancingConfig that Trunkline has, as clients take the first that they
// have; without the list it is the old loadBalancingPolicy.
func readLoadBalancing(o object) string {
	list, old := o.get("loadBalancingConfig"), o.get("loadBalancingPolicy")
	policy := old.text("")
	if !list.given() {
		if policy == "" {
			return ""
		}
		if mine, ok := balancers[strings.ToLower(policy)]; ok {
			return mine
		}
		old.warnf("Trunkline has no balancer %q; it has round_robin and least_request_experimental, and takes its own choice", document.Shorten(policy))
		return ""
	}
	chosen, known := "", false
	var names []string
	items := list.list()
	for _, item := range items {
		if item.n.Kind != yaml.MappingNode || len(item.n.Content) != 2 {
			item.errorf("expected one balancer with its settings, such as {\"round_robin\": {}}")
			known = true
			continue
		}
		balancer := item.n.Content[0].Value
		names = append(names, balancer)
		settings, ok := item.object(balancer)
		if !ok {
			known = true
			continue
		}
		mine, have := balancers[balancer]
		known = known || have || slices.Contains(clientBalancers[:], balancer)
		if !have || chosen != "" {
			continue
		}
		chosen = mine
		inner := settings.get(balancer)
		if keys, ok := inner.object("choiceCount", "enableOobLoadReport", "oobReportingPeriod", "blackoutPeriod", "weightExpirationPeriod", "weightUpdatePeriod", "errorUtilizationPenalty"); ok {
			if n := keys.get("choiceCount"); n.integer(2, 2, math.MaxUint32) != 2 {
				n.warnf("is not used: Trunkline compares two")
			}
		}
	}
	switch {
	case !known:
		list.errorf("names no balancer that gRPC has: write [{\"round_robin\": {}}] or [{\"least_request_experimental\": {}}]")
	case chosen == "" && len(names) > 0:
		list.warnf("Trunkline has none of %s, which are for clients; it takes its own choice", strings.Join(names, ", "))
	}
	return chosen
}
