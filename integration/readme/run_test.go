package readme

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/trunkline/trunkline/integration/tools"
	"github.com/trunkline/trunkline/lb/cli"
	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Each YAML block is a whole file that check finds good, without a warning.
func TestEveryExampleOfConfigurationLoads(t *testing.T) {
	for _, b := range blocks(t, "yaml") {
		_, warnings, err := config.Parse("README.md", []byte(b))
		if err != nil {
			t.Errorf("%v in\n%s", err, b)
		}
		for _, w := range warnings {
			t.Errorf("a warning: %v in\n%s", w, b)
		}
	}
}

// What stands under serviceConfig and shadowServiceConfig means something here, and a gRPC client takes it as it stands, with the
// key trunkline in it or without.
func TestEveryServiceConfigLoadsHereAndInAGRPCClient(t *testing.T) {
	configs, seen := 0, map[string]bool{}
	for _, b := range blocks(t, "yaml") {
		cfg, _, err := config.Parse("README.md", []byte(b))
		if err != nil {
			continue // said by the other test
		}
		if live, _, err := config.ServiceConfig(cfg); err != nil {
			t.Errorf("%v in\n%s", err, b)
		} else if said := cfg.GetServiceConfig() + cfg.GetTrunkline(); said != "" && reflect.DeepEqual(live, serviceconfig.Default()) {
			t.Errorf("it says nothing:\n%s", b)
		}
		keys(t, cfg.GetTrunkline(), seen)
		for _, text := range []string{cfg.GetServiceConfig(), cfg.GetShadowServiceConfig()} {
			if text == "" {
				continue
			}
			configs++
			keys(t, text, seen)
			var bare map[string]any
			if err := json.Unmarshal([]byte(text), &bare); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			delete(bare, "trunkline")
			without, _ := json.Marshal(bare)
			for _, text := range []string{text, string(without)} {
				conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(text))
				if err != nil {
					t.Errorf("a gRPC client: %v in\n%s", err, text)
					continue
				}
				_ = conn.Close()
			}
		}
		if cfg.GetOverload() != nil {
			seen["overload"] = true
		}
		if cfg.GetDecisions() != nil {
			seen["decisions"] = true
		}
		if cfg.GetShadowServiceConfig() != "" {
			seen["shadowServiceConfig"] = true
		}
	}
	if configs < 7 {
		t.Errorf("only %d service configs found: this test shows little", configs)
	}
	for _, key := range []string{
		"timeout", "perTryTimeout", "idleTimeout", "refuseHopeless", "retryPolicy", "retryThrottling", "idempotent", "retryBudget", "hedgingPolicy",
		"delayPercentile", "hedgeBudget", "breaker", "outlierDetection", "panicShare", "slowStart", "healthCheckConfig", "healthCheck",
		"concurrency", "maxStreams", "adaptiveConcurrency", "overload", "rateLimits", "clientAddress", "identity", "claim", "rateLimitService", "maxRequestMessageBytes",
		"decisions", "shadowServiceConfig",
	} {
		if !seen[key] {
			t.Errorf("README.md has no example of %s", key)
		}
	}
}

// Whatever can be said about the edge is shown in an example.
func TestTheExamplesHaveEveryKeyOfTheEdge(t *testing.T) {
	var examples []any
	for _, b := range blocks(t, "yaml") {
		var v any
		if err := yaml.Unmarshal([]byte(b), &v); err != nil {
			t.Errorf("%v in\n%s", err, b)
		}
		examples = append(examples, v)
	}
	shown := 0
	var look func(path string, d protoreflect.MessageDescriptor, found []any)
	look = func(path string, d protoreflect.MessageDescriptor, found []any) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			at, in := strings.TrimPrefix(path+"."+f.JSONName(), "."), inside(found, f.JSONName())
			if len(in) == 0 {
				t.Errorf("README.md has no example of %s", at)
				continue
			}
			shown++
			if m := f.Message(); m != nil && m.ParentFile().Package() == d.ParentFile().Package() && !f.IsMap() && m.Name() != "UpstreamTLS" { // shown under clusters
				look(at, m, in)
			}
		}
	}
	config := (&configv1.Config{}).ProtoReflect().Descriptor()
	for _, path := range []string{
		"listeners.tls", "listeners.proxyProtocol", "clusters.tls", "discovery.consul.connect", "admin", "authentication", "authorization",
		"externalAuthorization", "payload", "limits",
	} {
		d, found := config, examples
		for key := range strings.SplitSeq(path, ".") {
			f := d.Fields().ByJSONName(key)
			if f == nil {
				t.Fatalf("%s: there is no %s", path, key)
			}
			d, found = f.Message(), inside(found, key)
		}
		look(path, d, found)
	}
	if shown < 80 {
		t.Errorf("only %d keys found: this test shows little", shown)
	}
}

// inside are the values of a key in mappings and in lists of them.
func inside(all []any, key string) (found []any) {
	for _, v := range all {
		switch v := v.(type) {
		case map[string]any:
			if in, ok := v[key]; ok {
				found = append(found, in)
			}
		case []any:
			found = append(found, inside(v, key)...)
		}
	}
	return found
}

// keys notes every key of a JSON text, at any depth.
func keys(t *testing.T, text string, seen map[string]bool) {
	t.Helper()
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, in := range v {
				seen[k] = true
				walk(in)
			}
		case []any:
			for _, in := range v {
				walk(in)
			}
		}
	}
	if text == "" {
		return
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	walk(v)
}

// The command line's own parser takes each line as far as --help, which it does not obey before it has understood all else.
func TestEveryCommandLineIsUnderstood(t *testing.T) {
	env := cli.Env{
		Out: io.Discard, Command: "trunkline", Signals: make(chan os.Signal),
		Start: func(context.Context, cli.EngineOptions) (cli.Engine, error) { return nil, errors.ErrUnsupported },
		Explain: func(*configv1.Config, string, string) (*adminv1.ExplainResponse, error) {
			return nil, errors.ErrUnsupported
		},
	}
	understood := func(words []string) (string, bool) {
		var complaint strings.Builder
		env.Err = &complaint
		ok := cli.Main(t.Context(), append(words, "--help"), env) == 0
		return complaint.String(), ok
	}
	if _, ok := understood([]string{"serve", "--no-such-flag"}); ok {
		t.Fatal("the parser takes everything: this test shows nothing")
	}
	seen := map[string]bool{}
	for _, b := range blocks(t, "sh") {
		for line := range strings.Lines(b) {
			command, _, _ := strings.Cut(line, " #")
			words := strings.Fields(command)
			switch {
			case len(words) > 1 && words[0] == "trunkline":
				words = words[1:]
			case len(words) > 3 && strings.Join(words[:3], " ") == "go run .":
				words = words[3:]
			default:
				continue
			}
			seen[words[0]] = true
			if complaint, ok := understood(words); !ok {
				t.Errorf("%s: %s", strings.TrimSpace(line), complaint)
			}
		}
	}
	for _, name := range []string{"serve", "check", "explain", "demo", "version"} {
		if !seen[name] {
			t.Errorf("README.md does not show %s", name)
		}
	}
}

// The methods that grpcurl and curl lines call are in our APIs, the packages of go run lines and the tools are there.
func TestWhatTheOtherLinesNameExists(t *testing.T) {
	method := regexp.MustCompile(`(trunkline\.[a-z]+\.v1\.\w+)/(\w+)`)
	known, err := tools.Names()
	if err != nil {
		t.Fatal(err)
	}
	methods, packages := 0, 0
	for _, b := range blocks(t, "sh") {
		for line := range strings.Lines(b) {
			words := strings.Fields(line)
			switch {
			case len(words) > 1 && (words[0] == "grpcurl" || words[0] == "curl"):
				for _, m := range method.FindAllStringSubmatch(line, -1) {
					methods++
					if _, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(m[1] + "." + m[2])); err != nil {
						t.Errorf("%s: %v", strings.TrimSpace(line), err)
					}
				}
			case len(words) > 2 && words[0] == "go" && words[1] == "run" && words[2] != ".":
				packages++
				if _, err := os.Stat(root + words[2]); err != nil {
					t.Errorf("%s: %v", strings.TrimSpace(line), err)
				}
				if strings.HasSuffix(words[2], "/tool") && !slices.Contains(known, words[3]) {
					t.Errorf("%s: there is no tool %s", strings.TrimSpace(line), words[3])
				}
			}
		}
	}
	if methods == 0 || packages == 0 {
		t.Errorf("%d methods and %d packages found: this test shows nothing", methods, packages)
	}
}

// CI runs the very line that the first screen shows.
func TestTheTestCommandIsCIs(t *testing.T) {
	line := regexp.MustCompile(`(?m)^go test .*?\./\.\.\.`)
	first, _, _ := strings.Cut(text(t, "README.md"), "\n## ")
	shown := line.FindString(first)
	if shown == "" {
		t.Fatal("the first screen shows no test command")
	}
	if !strings.Contains(text(t, ".ci/run"), "tests() { "+shown+"; }") {
		t.Errorf(".ci/run does not run %q as its step tests", shown)
	}
}
