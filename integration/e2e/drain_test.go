package e2e

import (
	"syscall"
	"testing"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestSIGTERMLetsLiveStreamsFinishAndRefusesNewOnes(t *testing.T) {
	backend := harness.StartBackend(t, "backend")
	trunkline := harness.Start(t, static([]string{backend.Addr}))
	cc := harness.Dial(t, trunkline.Listen)
	stream, _ := gatedStream(t, testpb.NewTestServiceClient(cc), "g", 10)
	health, err := healthpb.NewHealthClient(cc).Check(harness.Context(t, stepLimit), &healthpb.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("the health service of the listener says %v, %v", health, err)
	}
	if !trunkline.Ready() {
		t.Error("not ready before the drain")
	}

	trunkline.Signal(t, syscall.SIGTERM)
	harness.Eventually(t, stepLimit, "readiness to be withdrawn", func() bool { return !trunkline.Ready() })
	harness.Eventually(t, stepLimit, "new calls to be refused", func() bool {
		_, err := harness.WhoAnswers(harness.Context(t, stepLimit), cc)
		return err != nil
	})
	if trunkline.Exited() {
		t.Fatal("trunkline left while a stream was open")
	}
	backend.OpenGate("g")
	mustEndNormally(t, stream, 9)
	if code := trunkline.WaitExit(t, stepLimit); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
}

// Two Trunklines, as in a rolling deploy: a client that knows both notices nothing.
func TestADrainUnderLoadFailsNoCallWhenThereIsAnotherTrunkline(t *testing.T) {
	one, two := harness.StartBackend(t, "one"), harness.StartBackend(t, "two")
	leaving := harness.Start(t, static([]string{one.Addr}))
	staying := harness.Start(t, static([]string{two.Addr}))
	both := manual.NewBuilderWithScheme("trunklines")
	both.InitialState(resolver.State{Endpoints: []resolver.Endpoint{
		{Addresses: []resolver.Address{{Addr: leaving.Listen}}}, {Addresses: []resolver.Address{{Addr: staying.Listen}}},
	}})
	var conns []*grpc.ClientConn
	for range 4 {
		conns = append(conns, harness.DialTarget(t, "trunklines:///", grpc.WithResolvers(both),
			grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)))
	}
	load := harness.StartLoad(t, 8, conns...)
	harness.Eventually(t, stepLimit, "calls through both", func() bool { return load.Of("one") > 50 && load.Of("two") > 50 })
	leaving.Stop(t)
	load.Await(t, 200)
	load.MustNotHaveFailed(t)
}
