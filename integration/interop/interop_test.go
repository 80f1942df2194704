// Package interop runs the official gRPC interop cases, as grpc-go publishes them, through Trunkline; it must not change
// them. The cases are specified in grpc/doc/interop-test-descriptions.md.
package interop

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"

	"github.com/trunkline/trunkline/integration/harness"
)

// An official case ends its process when it fails (log.Fatalf), so each runs in a child: this test binary again, with
// these two variables set.
const (
	caseVariable   = "TRUNKLINE_INTEROP_CASE"
	targetVariable = "TRUNKLINE_INTEROP_TARGET"
)

// caseLimit is how long one case may take.
const caseLimit = 20 * time.Second

func TestMain(m *testing.M) {
	if name := os.Getenv(caseVariable); name != "" {
		runCase(name, os.Getenv(targetVariable))
		os.Exit(0)
	}
	harness.Main(m)
}

// cases are the official cases that need neither TLS nor an account nor xDS.
func cases() map[string]func(context.Context, *grpc.ClientConn, testpb.TestServiceClient) {
	type client = testpb.TestServiceClient
	plain := func(do func(context.Context, client, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn, client) {
		return func(ctx context.Context, _ *grpc.ClientConn, c client) { do(ctx, c) }
	}
	return map[string]func(context.Context, *grpc.ClientConn, client){
		"empty_unary":                 plain(interop.DoEmptyUnaryCall),
		"large_unary":                 plain(interop.DoLargeUnaryCall),
		"client_streaming":            plain(interop.DoClientStreaming),
		"server_streaming":            plain(interop.DoServerStreaming),
		"ping_pong":                   plain(interop.DoPingPong),
		"empty_stream":                plain(interop.DoEmptyStream),
		"timeout_on_sleeping_server":  plain(interop.DoTimeoutOnSleepingServer),
		"cancel_after_begin":          plain(interop.DoCancelAfterBegin),
		"cancel_after_first_response": plain(interop.DoCancelAfterFirstResponse),
		"custom_metadata":             plain(interop.DoCustomMetadata),
		"status_code_and_message":     plain(interop.DoStatusCodeAndMessage),
		"special_status_message":      plain(interop.DoSpecialStatusMessage),
		"unimplemented_method": func(ctx context.Context, cc *grpc.ClientConn, _ client) {
			interop.DoUnimplementedMethod(ctx, cc)
		},
		"unimplemented_service": func(ctx context.Context, cc *grpc.ClientConn, _ client) {
			interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
		},
		"orca_per_rpc": func(ctx context.Context, _ *grpc.ClientConn, c client) {
			interop.DoORCAPerRPCTest(ctx, c)
		},
		"rpc_soak": func(ctx context.Context, cc *grpc.ClientConn, _ client) {
			soak(ctx, cc.Target(), func() (*grpc.ClientConn, func()) { return cc, func() {} })
		},
		"channel_soak": func(ctx context.Context, cc *grpc.ClientConn, _ client) {
			soak(ctx, cc.Target(), func() (*grpc.ClientConn, func()) {
				fresh := dial(strings.TrimPrefix(cc.Target(), "passthrough:///"))
				return fresh, func() { fresh.Close() }
			})
		},
	}
}

// notApplicable are the other official cases, each with the reason why it does not run here.
func notApplicable() map[string]string {
	return map[string]string{
		"pick_first_unary":                   "asks that all calls reach one backend: a choice of the client's balancer; Trunkline spreads calls",
		"orca_oob":                           "needs a switch of the server that is internal to grpc-go (a reporting interval below 30 s)",
		"compute_engine_creds":               "needs TLS and a Google account",
		"compute_engine_channel_credentials": "needs TLS and a Google account",
		"service_account_creds":              "needs TLS and a Google account",
		"jwt_token_creds":                    "needs TLS and a Google account",
		"per_rpc_creds":                      "needs TLS and a Google account",
		"oauth2_auth_token":                  "needs TLS and a Google account",
		"google_default_credentials":         "needs TLS and a Google account",
		"rpc_soak_xds, rpc_behavior, ...":    "need an xDS control plane",
	}
}

func soak(ctx context.Context, target string, channel func() (*grpc.ClientConn, func())) {
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, // the official sizes
		Iterations: 60, NumWorkers: 4, MaxFailures: 0,
		PerIterationMaxAcceptableLatency: 5 * time.Second, OverallTimeout: caseLimit,
		ServerAddr: target, ChannelForTest: channel,
	})
}

func dial(addr string) *grpc.ClientConn {
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		// The balancer that reads load reports for orca_per_rpc; it picks the first address, as is the default.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`))
	if err != nil {
		fmt.Fprintln(os.Stderr, "dial:", err)
		os.Exit(1)
	}
	return cc
}

func runCase(name, addr string) {
	cc := dial(addr)
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), caseLimit)
	defer cancel()
	cases()[name](ctx, cc, testpb.NewTestServiceClient(cc))
}

func TestOfficialCasesPassThroughTrunkline(t *testing.T) {
	backend := startServer(t)
	trunkline := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - name: interop
        endpoints: [ { address: %s } ]
        grpcServices: [ grpc.testing.TestService ]
routes:
  - match: { service: grpc.testing.TestService }
    cluster: interop
`, backend))
	runAll(t, trunkline.Listen)
}

// The control: a case that fails here too is not Trunkline's fault.
func TestOfficialCasesPassDirect(t *testing.T) {
	runAll(t, startServer(t))
}

func TestEveryOfficialCaseIsRunOrHasAReason(t *testing.T) {
	source, err := os.ReadFile(clientSource(t))
	if err != nil {
		t.Fatal(err)
	}
	run, not := cases(), notApplicable()
	found := 0
	for line := range strings.Lines(string(source)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), `case "`)
		name, ok2 := strings.CutSuffix(name, `":`)
		if !ok || !ok2 {
			continue
		}
		found++
		_, runs := run[name]
		_, excused := not[name]
		if runs == excused {
			t.Errorf("case %s: runs %v, excused %v: want one of the two", name, runs, excused)
		}
	}
	if found < 20 {
		t.Errorf("only %d cases in grpc-go's interop client: has the source moved?", found)
	}
}

func runAll(t *testing.T, addr string) {
	t.Helper()
	all := cases()
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := harness.Run(t, 2*caseLimit, []string{caseVariable + "=" + name, targetVariable + "=" + addr}, self)
			if code != 0 {
				t.Errorf("case %s failed (exit %d):\n%s%s", name, code, stdout, stderr)
			}
		})
	}
}

// startServer starts the official interop server and returns its address.
func startServer(t *testing.T) string {
	t.Helper()
	return harness.Serve(t, func(s *grpc.Server) {
		testpb.RegisterTestServiceServer(s, interop.NewTestServer())
	}, orca.CallMetricsServerOption(nil))
}
