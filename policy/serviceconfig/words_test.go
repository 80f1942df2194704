package serviceconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsNotSaidIsNotPutInWords(t *testing.T) {
	c := Default()
	if w := append(c.ClusterWords(), c.For("a.B", "C").Words()...); len(w) != 0 {
		t.Errorf("of no policy: %q", w)
	}
}

func TestAMethodsPolicyIsPutInWords(t *testing.T) {
	c := parsed(t, `{
	"methodConfig": [
		{"name": [{}], "timeout": "2s", "waitForReady": true, "maxRequestMessageBytes": 100, "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.01s",
			"maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"]}},
		{"name": [{"service": "a.B"}], "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]}}],
	"trunkline": {"methodPolicy": [
		{"name": [{}], "idempotent": false, "perTryTimeout": "0.5s", "maxStreams": 1, "breaker": {"consecutive": 5, "errorRate": 0.5, "faults": ["INTERNAL"]},
			"rateLimits": [{"requestsPerSecond": 0.5, "burst": 2, "metadata": "x-user"}]},
		{"name": [{"service": "a.B"}], "idempotent": true, "hedging": {"delayPercentile": 95}, "holdResponse": "0s"}]}}`)
	for method, want := range map[string][]string{
		"x.Y/Z": {
			"timeout 2s", "at most 500ms for each attempt", "waits for an endpoint where there is none (waitForReady)",
			"up to 3 attempts on ABORTED, UNAVAILABLE, waiting 10ms to 1s between them, each 2 times the last",
			"not idempotent, whatever the descriptors say: never repeated where the server may have worked on it",
			"request messages of up to 100 bytes", "at most one call at once",
			"each endpoint's breaker for a method opens after 5 faults in a row or when 50% of 20 or more calls within 10s failed, for 5s (up to 1m0s if it goes on); then 3 probes must succeed; faults are INTERNAL",
			"0.5 calls per second for each x-user, 2 at a time (trunkline.methodPolicy[].rateLimits)",
		},
		"a.B/C": {
			"hedged: up to 2 attempts side by side, another when 95% of such calls have been answered lately (100ms until that is known), in spite of UNAVAILABLE",
			"idempotent: repeated also where the server may have worked on it", "response headers are never held back for a retry",
		},
	} {
		service, name, _ := strings.Cut(method, "/")
		if d := cmp.Diff(want, c.For(service, name).Words()); d != "" {
			t.Errorf("%s (-want +got):\n%s", method, d)
		}
	}
}

func TestAClustersPolicyIsPutInWords(t *testing.T) {
	c := parsed(t, `{"loadBalancingConfig": [{"round_robin": {}}], "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}, "trunkline": {"cluster": {
		"retryBudget": {"ratio": 0.2, "burst": 5}, "concurrency": {"maxStreams": 3, "maxStreamsPerEndpoint": 1, "maxPending": 10},
		"adaptiveConcurrency": {}, "breaker": {"consecutive": 1}, "outlierDetection": {"latency": {}}, "healthCheck": {"service": "a.B"},
		"panicShare": 0, "slowStart": "10s", "rateLimitService": {"address": "127.0.0.1:1", "failOpen": false, "descriptors": [[{"key": "m", "method": true}]]}}}}`)
	want := []string{
		"balanced by round_robin",
		"neither retries nor hedges while half of 10 tokens are gone: a failure takes one, a success gives 0.1 (retryThrottling)",
		"retries of up to 20% of the calls, and up to 5 saved up",
		"at most 3 calls at once", "at most one call at once on each endpoint", "up to 10 calls may wait for a place, each for up to 1s",
		"a limit of calls at once that follows the latency, between 4 and 1000",
		"each endpoint's breaker over all methods opens after one fault in a row, for 5s (up to 1m0s if it goes on); then 3 probes must succeed",
		"endpoints are ejected that had 5 faults in a row, or that are 3 times slower than the median: for 30s, longer each time up to 5m0s, and at most 50% of them at once",
		"the health of service a.B of each endpoint is asked for, each 5s where it does not tell by itself; out after 2 failures in a row, back after 1",
		"unhealthy and ejected endpoints are never used, however few are left",
		"endpoints that come or return get their full share after 10s",
		"the rate limit service 127.0.0.1:1 is asked about each call (domain trunkline); calls are refused if it does not answer within 20ms",
	}
	if d := cmp.Diff(want, c.ClusterWords()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestASentenceSaysWhetherTheRateLimitServiceIsAskedAboutEachCall(t *testing.T) {
	for entries, want := range map[string]string{
		`[[{"key": "m", "method": true}, {"key": "a", "clientAddress": true}]], "failOpen": false`: "The rate limit service 127.0.0.1:1 would be asked, and may refuse it; " +
			"without an answer within 20ms it is refused (trunkline.cluster.rateLimitService).",
		`[[{"key": "m", "method": true}, {"key": "u", "metadata": "x-user"}], [{"key": "o", "claim": "org"}], [{"key": "i", "identity": true}]]`: "The rate limit service 127.0.0.1:1 would be asked, " +
			"if the call has all that one of its descriptors is made of, and may refuse it; without an answer within 20ms it passes (trunkline.cluster.rateLimitService).",
	} {
		c := parsed(t, `{"trunkline": {"cluster": {"rateLimitService": {"address": "127.0.0.1:1", "descriptors": `+entries+`}}}}`)
		if got := c.Cluster.GlobalLimits.Sentence(); got != want {
			t.Errorf("%s: %s", entries, got)
		}
	}
}
