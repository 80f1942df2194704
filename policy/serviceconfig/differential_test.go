package serviceconfig

import (
	"slices"
	"strings"
	"testing"

	grpcgo "google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest" // so that grpc-go knows the name
	"google.golang.org/grpc/credentials/insecure"
)

// verdict is what a grpc-go client says of a service config that it is given as its default.
func verdict(t testing.TB, text string) error {
	t.Helper()
	conn, err := grpcgo.NewClient("passthrough:///nowhere", grpcgo.WithTransportCredentials(insecure.NewCredentials()),
		grpcgo.WithDefaultServiceConfig(text))
	if err == nil {
		conn.Close()
	}
	return err
}

// The document that holds everything, the key "trunkline" too, loads in a grpc-go client as it stands.
func TestTheSameDocumentLoadsInAGRPCClient(t *testing.T) {
	text := packageExample(t)
	if !strings.Contains(text, `"trunkline"`) {
		t.Fatal("the example has no trunkline key")
	}
	if err := verdict(t, text); err != nil {
		t.Error(err)
	}
	parsed(t, text)
}

const (
	goodRetry = `"maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]`
	hedging   = `"hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]}`
)

func method(fields string) string {
	return `{"methodConfig": [{"name": [{"service": "a.A"}], ` + fields + `}]}`
}

// policy is a retryPolicy of which one field is replaced.
func policy(field, value string) string {
	var out []string
	for _, f := range strings.SplitAfter(goodRetry, ", \"") {
		f = strings.TrimSuffix(f, ", \"")
		if !strings.HasPrefix(f, `"`) {
			f = `"` + f
		}
		if strings.HasPrefix(f, `"`+field+`"`) {
			if value == "" {
				continue
			}
			f = `"` + field + `": ` + value
		}
		out = append(out, f)
	}
	return method(`"retryPolicy": {` + strings.Join(out, ", ") + `}`)
}

// What grpc-go refuses, Parse refuses. Where Parse alone refuses, or alone accepts, the last column says why.
func TestTheVerdictIsThatOfAGRPCClientOrTheTableSaysWhyNot(t *testing.T) {
	const ok, no = true, false
	for _, x := range []struct {
		what         string
		text         string
		grpcGo, ours bool
		why          string
	}{
		{"nothing said", `{}`, ok, ok, ""},
		{"a good retry policy", method(`"retryPolicy": {` + goodRetry + `}`), ok, ok, ""},
		{"a good hedging policy", method(hedging), ok, ok, ""},
		{"codes as numbers", policy("retryableStatusCodes", `[14, 8]`), ok, ok, ""},
		{"maxAttempts over 5", policy("maxAttempts", `9`), ok, ok, "capped at 5 by both"},
		{"an unknown key", method(`"newThing": 1`), ok, ok, "a warning here: a newer gRPC may know it"},
		{"keys in another case", `{"MethodConfig": [{"Name": [{"Service": "a.A"}], "Timeout": "1s"}]}`, ok, no, "only in names: see the next"},
		{"keys in another case but in names", `{"MethodConfig": [{"Name": [{"service": "a.A"}], "Timeout": "1s"}]}`, ok, ok, "a warning here: only Go takes it"},

		{"no text", ``, no, no, ""},
		{"no JSON", `{"methodConfig": [}`, no, no, ""},
		{"a trailing comma", `{"methodConfig": [],}`, no, no, ""},
		{"a comment", "{\"methodConfig\": [] // none\n}", no, no, ""},
		{"something behind", `{} {}`, no, no, ""},
		{"a list", `[]`, no, no, ""},
		{"methodConfig that is no list", `{"methodConfig": {}}`, no, no, ""},
		{"a method config that is no mapping", `{"methodConfig": [1]}`, no, no, ""},
		{"name that is no list", `{"methodConfig": [{"name": {"service": "a.A"}}]}`, no, no, ""},
		{"a name that is a string", `{"methodConfig": [{"name": ["a.A"]}]}`, no, no, ""},
		{"a method without its service", `{"methodConfig": [{"name": [{"method": "M"}]}]}`, no, no, ""},
		{"a name twice in one entry", `{"methodConfig": [{"name": [{"service": "a.A"}, {"service": "a.A"}]}]}`, no, no, ""},
		{"a name twice in two entries", `{"methodConfig": [{"name": [{"service": "a.A"}]}, {"name": [{"service": "a.A"}]}]}`, no, no, ""},
		{"two defaults", `{"methodConfig": [{"name": [{}]}, {"name": [{"service": ""}]}]}`, no, no, ""},
		{"a number as service", `{"methodConfig": [{"name": [{"service": 5}]}]}`, no, no, ""},
		{"timeout as a number", method(`"timeout": 5`), no, no, ""},
		{"timeout without a unit", method(`"timeout": "5"`), no, no, ""},
		{"timeout in Go's units", method(`"timeout": "250ms"`), no, no, ""},
		{"timeout in minutes", method(`"timeout": "5m"`), no, no, ""},
		{"timeout with ten decimals", method(`"timeout": "0.0000000001s"`), no, no, ""},
		{"timeout with two dots", method(`"timeout": "1.2.3s"`), no, no, ""},
		{"timeout without digits", method(`"timeout": ".s"`), no, no, ""},
		{"timeout beyond protobuf's", method(`"timeout": "315576000001s"`), no, no, ""},
		{"the longest timeout", method(`"timeout": "315576000000s"`), ok, ok, "taken as ten years here, with a warning"},
		{"waitForReady as a string", method(`"waitForReady": "true"`), no, no, ""},
		{"a size as a string", method(`"maxRequestMessageBytes": "5"`), no, no, ""},
		{"a size with decimals", method(`"maxResponseMessageBytes": 5.5`), no, no, ""},
		{"no maxAttempts", policy("maxAttempts", ""), no, no, ""},
		{"one attempt", policy("maxAttempts", `1`), no, no, ""},
		{"no attempts", policy("maxAttempts", `0`), no, no, ""},
		{"negative attempts", policy("maxAttempts", `-3`), no, no, ""},
		{"half an attempt", policy("maxAttempts", `2.5`), no, no, ""},
		{"maxAttempts as a string", policy("maxAttempts", `"3"`), no, no, ""},
		{"no initialBackoff", policy("initialBackoff", ""), no, no, ""},
		{"initialBackoff of zero", policy("initialBackoff", `"0s"`), no, no, ""},
		{"a negative initialBackoff", policy("initialBackoff", `"-1s"`), no, no, ""},
		{"no maxBackoff", policy("maxBackoff", ""), no, no, ""},
		{"maxBackoff of zero", policy("maxBackoff", `"0s"`), no, no, ""},
		{"no backoffMultiplier", policy("backoffMultiplier", ""), no, no, ""},
		{"backoffMultiplier of zero", policy("backoffMultiplier", `0`), no, no, ""},
		{"a negative backoffMultiplier", policy("backoffMultiplier", `-2`), no, no, ""},
		{"no retryableStatusCodes", policy("retryableStatusCodes", ""), no, no, ""},
		{"empty retryableStatusCodes", policy("retryableStatusCodes", `[]`), no, no, ""},
		{"an unknown code", policy("retryableStatusCodes", `["UNAVAILBLE"]`), no, no, ""},
		{"a code in lower case", policy("retryableStatusCodes", `["unavailable"]`), no, no, ""},
		{"CANCELED with one L", policy("retryableStatusCodes", `["CANCELED"]`), no, no, ""},
		{"a code that is too large", policy("retryableStatusCodes", `[17]`), no, no, ""},
		{"a negative code", policy("retryableStatusCodes", `[-1]`), no, no, ""},
		{"a code's number as a string", policy("retryableStatusCodes", `["14"]`), no, no, ""},
		{"codes that are no list", policy("retryableStatusCodes", `"UNAVAILABLE"`), no, no, ""},
		{"retryPolicy that is a list", method(`"retryPolicy": []`), no, no, ""},
		{"no maxTokens", `{"methodConfig": [], "retryThrottling": {"tokenRatio": 0.1}}`, no, no, ""},
		{"maxTokens of zero", `{"methodConfig": [], "retryThrottling": {"maxTokens": 0, "tokenRatio": 0.1}}`, no, no, ""},
		{"maxTokens over 1000", `{"methodConfig": [], "retryThrottling": {"maxTokens": 1001, "tokenRatio": 0.1}}`, no, no, ""},
		{"no tokenRatio", `{"methodConfig": [], "retryThrottling": {"maxTokens": 10}}`, no, no, ""},
		{"tokenRatio of zero", `{"methodConfig": [], "retryThrottling": {"maxTokens": 10, "tokenRatio": 0}}`, no, no, ""},
		{"tokenRatio as a string", `{"methodConfig": [], "retryThrottling": {"maxTokens": 10, "tokenRatio": "0.1"}}`, no, no, ""},
		{"two balancers in one", `{"loadBalancingConfig": [{"round_robin": {}, "pick_first": {}}]}`, no, no, ""},
		{"no balancer in one", `{"loadBalancingConfig": [{}]}`, no, no, ""},
		{"no balancers", `{"loadBalancingConfig": []}`, no, no, ""},
		{"only unknown balancers", `{"loadBalancingConfig": [{"my_own": {}}]}`, no, no, ""},
		{"loadBalancingConfig that is a mapping", `{"loadBalancingConfig": {"round_robin": {}}}`, no, no, ""},
		{"choiceCount of one", `{"loadBalancingConfig": [{"least_request_experimental": {"choiceCount": 1}}]}`, no, no, ""},
		{"loadBalancingPolicy as a number", `{"loadBalancingPolicy": 1}`, no, no, ""},
		{"serviceName as a number", `{"healthCheckConfig": {"serviceName": 1}}`, no, no, ""},

		{"retryPolicy and hedgingPolicy", method(`"retryPolicy": {` + goodRetry + `}, ` + hedging), ok, no, "gRFC A6 forbids it; grpc-go does not know hedging"},
		{"a bad hedgingPolicy", method(`"hedgingPolicy": {"maxAttempts": 1}`), ok, no, "gRFC A6 forbids it; grpc-go does not know hedging"},
		{"a key twice", `{"methodConfig": [], "methodConfig": []}`, ok, no, "which holds is a guess: clients differ"},
		{"a misspelt service", `{"methodConfig": [{"name": [{"servce": "a.A"}], "timeout": "1s"}]}`, ok, no, "clients take it as every method"},
		{"null as a name", `{"methodConfig": [{"name": [null], "timeout": "1s"}]}`, ok, no, "grpc-go takes it as every method, others refuse it"},
		{"null as a code", policy("retryableStatusCodes", `[null]`), ok, no, "grpc-go takes it as OK"},
		{"OK as a code", policy("retryableStatusCodes", `["OK"]`), ok, no, "a success is not retried"},
		{"a negative timeout", method(`"timeout": "-1s"`), ok, no, "grpc-go fails every call of it or forgets it"},
		{"a timeout of zero", method(`"timeout": "0s"`), ok, no, "every call would fail"},
		{"a signed duration", method(`"timeout": "+5s"`), ok, no, "not in the schema; grpc-go's parser lets it through"},
		{"a negative size", method(`"maxRequestMessageBytes": -1`), ok, no, "not in the schema (uint32); every call would fail"},
		{"maxTokens with decimals", `{"methodConfig": [], "retryThrottling": {"maxTokens": 9.5, "tokenRatio": 0.1}}`, ok, no, "not in the schema (uint32)"},
		{"a tiny tokenRatio", `{"methodConfig": [], "retryThrottling": {"maxTokens": 9, "tokenRatio": 0.0001}}`, ok, no, "three decimals count (gRFC A6): it would be 0"},
		{"throttling that is wrong, without methodConfig", `{"retryThrottling": {"maxTokens": 0, "tokenRatio": 0.1}}`, ok, no, "grpc-go returns before it looks"},
		{"a wrong entry without names", `{"methodConfig": [{"retryPolicy": {}}]}`, ok, no, "grpc-go does not look at what it does not use"},
		{"a mistake in Trunkline's part", `{"trunkline": {"clstr": {}}}`, ok, no, "clients skip the key"},
		{"text that is not UTF-8", "{\"a\": \"\xff\"}", ok, no, "not JSON (RFC 8259 section 8.1)"},
		{"YAML", "methodConfig: []\n", no, ok, "for our own files"},
		{"a client's balancer that grpc-go was not built with", `{"loadBalancingConfig": [{"ring_hash_experimental": {}}]}`, no, ok, "it is for other clients: a warning here"},
		{"wrong settings of a client's balancer", `{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": 5}}]}`, no, ok, "they are the client's"},
	} {
		t.Run(x.what, func(t *testing.T) {
			err := verdict(t, x.text)
			if (err == nil) != x.grpcGo {
				t.Errorf("grpc-go says %v", err)
			}
			c, problems := Parse("test", []byte(x.text), 1)
			if (c != nil) != x.ours {
				t.Errorf("Parse says %v", problems)
			}
			if x.grpcGo != x.ours && x.why == "" {
				t.Error("differs without a reason")
			}
			if c != nil && slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning }) {
				t.Error("a config beside errors")
			}
		})
	}
}
