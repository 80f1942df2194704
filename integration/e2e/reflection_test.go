package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/trunkline/trunkline/integration/harness"
	benchpb "github.com/trunkline/trunkline/proto/bench"
)

// echo is a bench.Echo that knows nothing.
type echo struct {
	benchpb.UnimplementedEchoServer
}

func TestGrpcurlSeesEveryClusterByReflectionThroughTheListener(t *testing.T) {
	backend := harness.StartBackend(t, "one")
	other := harness.Serve(t, func(s *grpc.Server) {
		benchpb.RegisterEchoServer(s, echo{})
		reflection.Register(s)
	})
	trunkline := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - { name: backends, endpoints: [ { address: %s } ] }
      - { name: echo, endpoints: [ { address: %s } ] }
`, backend.Addr, other))
	grpcurl := func(args ...string) string {
		t.Helper()
		argv := append([]string{harness.Tool(t, "grpcurl"), "-plaintext"}, args...)
		code, out, errs := harness.Run(t, stepLimit, nil, argv...)
		if code != 0 {
			t.Errorf("grpcurl %q: exit %d\n%s%s", args, code, out, errs)
		}
		return out
	}
	listed := strings.Fields(grpcurl(trunkline.Listen, "list"))
	for _, want := range []string{harness.Service, "bench.Echo", "grpc.health.v1.Health"} {
		if !slices.Contains(listed, want) {
			t.Errorf("listed %q, without %s", listed, want)
		}
	}
	if out := grpcurl(trunkline.Listen, "describe", "bench.Echo"); !strings.Contains(out, "service Echo {") {
		t.Errorf("described as %s", out)
	}
	if out := grpcurl("-d", `{"responseSize": 3}`, trunkline.Listen, harness.Service+"/UnaryCall"); !strings.Contains(out, `"payload"`) {
		t.Errorf("a call without its proto file: %s", out)
	}
}
