package serviceconfig

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/retry"
	"go.yaml.in/yaml/v3"
)

// readCluster reads trunkline.cluster. healthService is what healthCheckConfig names: it turns active checks on, as in
// clients, and is asked about unless healthCheck names another.
func readCluster(v value, healthService *string) Cluster {
	o, _ := v.object("retryBudget", "hedgeBudget", "concurrency", "breaker", "outlierDetection", "panicShare", "slowStart",
		"healthCheck", "adaptiveConcurrency", "rateLimitService")
	return Cluster{
		RetryBudget:  readBudget(o.get("retryBudget")),
		HedgeBudget:  readBudget(o.get("hedgeBudget")),
		Concurrency:  readConcurrency(o.get("concurrency")),
		Breaker:      readBreaker(o.get("breaker")),
		Outlier:      readOutlier(o.get("outlierDetection")),
		PanicShare:   o.get("panicShare").number(0.5, "from 0 (never) to 1", func(f float64) bool { return f >= 0 && f <= 1 }),
		SlowStart:    o.get("slowStart").duration(0, true),
		HealthCheck:  readHealthCheck(o.get("healthCheck"), healthService),
		Adaptive:     readAdaptive(o.get("adaptiveConcurrency")),
		GlobalLimits: readGlobalLimits(o.get("rateLimitService")),
	}
}

func readBudget(v value) retry.BudgetSettings {
	o, _ := v.object("ratio", "burst")
	return retry.BudgetSettings{
		Ratio: o.get("ratio").number(0.1, "over 0, at most 1", share),
		Burst: int(o.get("burst").integer(50, 1, 1_000_000)),
	}
}

func readConcurrency(v value) Concurrency {
	o, _ := v.object("maxStreams", "maxStreamsPerEndpoint", "maxPending", "pendingTimeout")
	if o.has("pendingTimeout") && !o.has("maxPending") {
		o.get("pendingTimeout").errorf("is about maxPending, which is not given: nothing waits")
	}
	if o.has("maxPending") && !o.has("maxStreams") && !o.has("maxStreamsPerEndpoint") {
		o.get("maxPending").errorf("bounds who waits for maxStreams or maxStreamsPerEndpoint, of which none is given")
	}
	return Concurrency{
		MaxStreams:            o.get("maxStreams").count(0, 1),
		MaxStreamsPerEndpoint: o.get("maxStreamsPerEndpoint").count(0, 1),
		MaxPending:            o.get("maxPending").count(0, 0),
		PendingTimeout:        o.get("pendingTimeout").duration(time.Second, false),
	}
}

func readOutlier(v value) *outlier.Settings {
	o, ok := v.object("interval", "baseEjectionTime", "maxEjectionTime", "maxEjectedShare", "consecutive", "successRate",
		"failureShare", "latency", "faults")
	if !ok {
		return nil
	}
	s := &outlier.Settings{
		Interval:        o.get("interval").duration(time.Second, false),
		BaseEjection:    o.get("baseEjectionTime").duration(30*time.Second, false),
		MaxEjectedShare: o.get("maxEjectedShare").number(0.5, "over 0, at most 1", share),
		Consecutive:     o.get("consecutive").count(5, 0),
		Faults:          o.get("faults").statuses(grpc.ServerFaults),
	}
	s.MaxEjection = o.get("maxEjectionTime").duration(max(300*time.Second, s.BaseEjection), false)
	if s.MaxEjection < s.BaseEjection {
		o.get("maxEjectionTime").errorf("is %v, shorter than baseEjectionTime (%v)", s.MaxEjection, s.BaseEjection)
	}
	if c, ok := o.get("successRate").object("stdevFactor", "minHosts", "minVolume"); ok {
		s.SuccessRate = &outlier.SuccessRate{
			StdevFactor: c.get("stdevFactor").number(1.9, "over 0", positive),
			MinHosts:    c.get("minHosts").count(5, 1),
			MinVolume:   c.get("minVolume").count(100, 1),
		}
	}
	if c, ok := o.get("failureShare").object("threshold", "minHosts", "minVolume"); ok {
		s.Failures = &outlier.FailureShare{
			Threshold: c.get("threshold").number(0.85, "over 0, at most 1", share),
			MinHosts:  c.get("minHosts").count(5, 1),
			MinVolume: c.get("minVolume").count(50, 1),
		}
	}
	if c, ok := o.get("latency").object("factor", "min", "minHosts", "minVolume"); ok {
		s.Latency = &outlier.Latency{
			Factor:    c.get("factor").number(3, "over 1", func(f float64) bool { return f > 1 && positive(f) }),
			Min:       c.get("min").duration(50*time.Millisecond, true),
			MinHosts:  c.get("minHosts").count(3, 1),
			MinVolume: c.get("minVolume").count(50, 1),
		}
	}
	if s.Consecutive == 0 && s.SuccessRate == nil && s.Failures == nil && s.Latency == nil {
		v.errorf("says nothing that ejects: leave consecutive away for its default (5), or add successRate, failureShare or latency")
	}
	return s
}

func readHealthCheck(v value, service *string) *HealthCheck {
	o, ok := v.object("service", "interval", "timeout", "unhealthyThreshold", "healthyThreshold")
	if !ok && service == nil {
		return nil
	}
	asked := ""
	if service != nil {
		asked = *service
	}
	return &HealthCheck{
		Service:            o.get("service").text(asked),
		Interval:           o.get("interval").duration(5*time.Second, false),
		Timeout:            o.get("timeout").duration(time.Second, false),
		UnhealthyThreshold: o.get("unhealthyThreshold").count(2, 1),
		HealthyThreshold:   o.get("healthyThreshold").count(1, 1),
	}
}

func readAdaptive(v value) *limit.Adaptive {
	o, ok := v.object("min", "max", "initial", "window", "minSamples", "tolerance", "rebase")
	if !ok {
		return nil
	}
	a := &limit.Adaptive{
		Max:        o.get("max").count(1000, 1),
		Window:     o.get("window").duration(100*time.Millisecond, false),
		MinSamples: o.get("minSamples").count(10, 1),
		Tolerance:  o.get("tolerance").number(1.5, "from 1", func(f float64) bool { return f >= 1 && positive(f) }),
		Rebase:     o.get("rebase").duration(30*time.Second, false),
	}
	// Defaults give way to what is written.
	a.Min = o.get("min").count(min(4, a.Max), 1)
	if !o.has("max") {
		a.Max = max(a.Max, a.Min)
	}
	a.Initial = o.get("initial").count(max(a.Min, min(50, a.Max)), 1)
	if a.Min > a.Max {
		o.get("min").errorf("is %d, more than max (%d)", a.Min, a.Max)
	} else if a.Initial < a.Min || a.Initial > a.Max {
		o.get("initial").errorf("is %d, not between min (%d) and max (%d)", a.Initial, a.Min, a.Max)
	}
	return a
}

func readGlobalLimits(v value) *GlobalLimits {
	o, ok := v.object("address", "domain", "timeout", "failOpen", "descriptors")
	if !ok {
		return nil
	}
	required(o, "address", `the service's host:port, such as "127.0.0.1:8081"`)
	required(o, "descriptors", `what is sent for each call, such as [[{"key": "method", "method": true}]]`)
	g := &GlobalLimits{
		Address:  o.get("address").text(""),
		Domain:   o.get("domain").text("trunkline"),
		Timeout:  o.get("timeout").duration(20*time.Millisecond, false),
		FailOpen: o.get("failOpen").boolean(true),
	}
	if a := o.get("address"); a.given() && !hostPort(g.Address) {
		a.errorf("%q is no address: write host:port, such as \"127.0.0.1:8081\" or \"[::1]:8081\"", g.Address)
	}
	if d := o.get("domain"); d.given() && g.Domain == "" {
		d.errorf("is empty: remove it for \"trunkline\"")
	}
	lists := o.get("descriptors")
	items := lists.list()
	if lists.given() && len(items) == 0 && lists.n.Kind == yaml.SequenceNode && len(lists.n.Content) == 0 {
		lists.errorf("is empty: nothing would be asked")
	}
	for _, list := range items {
		var entries []DescriptorEntry
		inner := list.list()
		if list.n.Kind == yaml.SequenceNode && len(list.n.Content) == 0 {
			list.errorf("expected a list of entries such as {\"key\": \"user\", \"metadata\": \"x-user\"}")
		}
		for _, item := range inner {
			if e, ok := readDescriptorEntry(item); ok {
				entries = append(entries, e)
			}
		}
		g.Descriptors = append(g.Descriptors, entries)
	}
	return g
}

func readDescriptorEntry(v value) (e DescriptorEntry, ok bool) {
	o, ok := v.object("key", "value", "metadata", "clientAddress", "method", "identity", "claim")
	if !ok {
		return e, false
	}
	required(o, "key", "the entry's key")
	e = DescriptorEntry{
		Key:           o.get("key").text(""),
		Value:         o.get("value").text(""),
		Metadata:      o.get("metadata").headerName(),
		ClientAddress: o.get("clientAddress").boolean(false),
		Method:        o.get("method").boolean(false),
		Identity:      o.get("identity").boolean(false),
		Claim:         o.get("claim").text(""),
	}
	if k := o.get("key"); k.given() && e.Key == "" {
		k.errorf("is empty")
	}
	sources := 0
	for _, said := range [...]bool{o.has("value"), o.has("metadata"), e.ClientAddress, e.Method, e.Identity, e.Claim != ""} {
		if said {
			sources++
		}
	}
	if sources != 1 {
		v.errorf("has %s: exactly one of value, metadata, clientAddress, method, identity and claim says where the value comes from", plural(sources, "source"))
	}
	return e, true
}

func plural(n int, what string) string {
	if n == 1 {
		return "one " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// hostPort is a coarse look; who dials it sees the rest.
func hostPort(s string) bool {
	i := strings.LastIndexByte(s, ':')
	if i < 1 || strings.ContainsAny(s, "/ @?#") {
		return false
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	host := s[:i]
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") && len(host) > 2
	return err == nil && port > 0 && (bracketed || !strings.Contains(host, ":"))
}
