// Package e2e runs a built Trunkline between real gRPC clients and servers, a real Consul and a real Jaeger, and checks from the
// outside what issue 2 promises; it must not reach into the product's packages.
package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// static is a config with one cluster of the given endpoints that serves the test service; more YAML may follow.
func static(addrs []string, more ...string) string {
	var endpoints []string
	for _, a := range addrs {
		endpoints = append(endpoints, "{ address: "+a+" }")
	}
	return fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - name: backends
        endpoints: [ %s ]
        grpcServices: [ %s ]
routes:
  - match: { service: %s }
    cluster: backends
%s
`, strings.Join(endpoints, ", "), harness.Service, harness.Service, strings.Join(more, "\n"))
}

const (
	// stepLimit bounds what takes a moment.
	stepLimit = 15 * time.Second
	// roundRobin makes the spread of a few calls certain.
	roundRobin = "clusters: [ { name: backends, loadBalancing: round_robin } ]"
)

// gatedStream opens a server stream of n messages that waits, after its first message, at the gate of this name; it
// returns when that first message is here, with the name of the backend.
func gatedStream(t *testing.T, c testpb.TestServiceClient, gate string, n int) (stream testpb.TestService_StreamingOutputCallClient, backend string) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(harness.Context(t, 60*time.Second), harness.GateKey, gate)
	stream, err := c.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{ResponseParameters: make([]*testpb.ResponseParameters, n)})
	if err != nil {
		t.Fatalf("open a stream: %v", err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatalf("the first message of a stream: %v", err)
	}
	return stream, string(first.GetPayload().GetBody())
}

// mustEndNormally receives the n messages that a stream still owes, and its OK.
func mustEndNormally(t *testing.T, stream testpb.TestService_StreamingOutputCallClient, n int) {
	t.Helper()
	got := 0
	for {
		_, err := stream.Recv()
		if err != nil {
			if got != n || err.Error() != "EOF" {
				t.Errorf("the live stream got %d more messages and ended with %v, want %d and EOF", got, err, n)
			}
			return
		}
		got++
	}
}
