package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/trunkline/trunkline/integration/harness"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// A user registers backends with the tag grpc and reflection on, and writes no configuration at all.
func TestCallsReachWhatConsulAndReflectionTellWithoutAnyConfig(t *testing.T) {
	consul := harness.StartConsul(t)
	one, two, three := harness.StartBackend(t, "one"), harness.StartBackend(t, "two"), harness.StartBackend(t, "three")
	consul.Register(t, "greeter", one)
	consul.Register(t, "greeter", two)
	trunkline := harness.StartWithoutConfig(t, consul.Env())
	cc := harness.Dial(t, trunkline.Listen)

	t.Run("calls spread over both servers", func(t *testing.T) {
		const calls = 200
		share := map[string]int{}
		for range calls {
			name, err := harness.WhoAnswers(harness.Context(t, stepLimit), cc)
			if err != nil {
				t.Fatal(err)
			}
			share[name]++
		}
		// Two random choices, and the less loaded of them: one after the other that is a fair coin (7 sigma around the half).
		if share["one"] < 50 || share["two"] < 50 {
			t.Errorf("of %d calls one got %d and two %d", calls, share["one"], share["two"])
		}
	})

	t.Run("grpcurl calls through it", func(t *testing.T) {
		code, out, errs := harness.Run(t, stepLimit, nil, harness.Tool(t, "grpcurl"), "-plaintext", "-protoset", protoset(t),
			"-d", `{"response_size": 3}`, trunkline.Listen, harness.Service+"/UnaryCall")
		if code != 0 || !strings.Contains(out, `"serverId"`) {
			t.Errorf("grpcurl exit %d\n%s%s", code, out, errs)
		}
	})

	t.Run("a third server takes calls within 2 s of its registration", func(t *testing.T) {
		load := harness.StartLoad(t, 2, cc)
		consul.Register(t, "greeter", three)
		began := time.Now()
		harness.Eventually(t, 2*time.Second, "a call on the third server", func() bool { return load.Of("three") > 0 })
		t.Logf("the third server's first call came %v after its registration", time.Since(began))
		load.Await(t, 100)
		load.MustNotHaveFailed(t)
	})

	t.Run("a deregistered server takes no new call, and its live stream ends normally", func(t *testing.T) {
		servers := map[string]*harness.Backend{"one": one, "two": two, "three": three}
		stream, name := gatedStream(t, testpb.NewTestServiceClient(cc), "g", 10)
		leaving := servers[name]
		load := harness.StartLoad(t, 2, cc)
		load.Await(t, 50)
		consul.Deregister(t, leaving)
		quiet := func() bool {
			before := load.Of(name)
			load.Await(t, 60)
			return load.Of(name) == before
		}
		harness.Eventually(t, 5*time.Second, "calls to the deregistered server to cease", quiet)
		before := leaving.Calls()
		load.Await(t, 100)
		if after := leaving.Calls(); after != before {
			t.Errorf("%d calls reached the deregistered server", after-before)
		}
		leaving.OpenGate("g")
		mustEndNormally(t, stream, 9)
		load.MustNotHaveFailed(t)
	})
}

func TestConsulKilledAndRestartedUnderLoadFailsNoCall(t *testing.T) {
	consul := harness.StartConsul(t)
	one, two := harness.StartBackend(t, "one"), harness.StartBackend(t, "two")
	consul.Register(t, "greeter", one)
	consul.Register(t, "greeter", two)
	trunkline := harness.StartWithoutConfig(t, consul.Env())
	load := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen), harness.Dial(t, trunkline.Listen))
	load.Await(t, 100)

	consul.Kill()
	load.Await(t, 1000)
	consul.Start(t) // its checks begin as critical again
	harness.Eventually(t, stepLimit, "consul to see both as passing again", func() bool { return consul.Passing(t, "greeter") == 2 })
	load.Await(t, 1000)

	// The watches live again: what registers now is found.
	consul.Register(t, "greeter", harness.StartBackend(t, "three"))
	harness.Eventually(t, 30*time.Second, "a call on a server that registered after the restart", func() bool { return load.Of("three") > 0 })
	load.MustNotHaveFailed(t)
	if load.Of("one") == 0 || load.Of("two") == 0 {
		t.Errorf("one answered %d calls, two %d", load.Of("one"), load.Of("two"))
	}
}

// Consul says at once that all instances are gone: an accident of Consul more likely than one of every server.
func TestAMassDisappearanceIsHeldBackAndReported(t *testing.T) {
	consul := harness.StartConsul(t)
	one, two := harness.StartBackend(t, "one"), harness.StartBackend(t, "two")
	consul.Register(t, "greeter", one)
	consul.Register(t, "greeter", two)
	trunkline := harness.StartWithoutConfig(t, consul.Env())
	load := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen))
	load.Await(t, 50)
	consul.Deregister(t, one)
	consul.Deregister(t, two)
	harness.Eventually(t, stepLimit, "the admin API to tell of endpoints held back", func() bool {
		r, err := trunkline.API().ListClusters(harness.Context(t, stepLimit), connect.NewRequest(&adminv1.ListClustersRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Msg.GetClusters() {
			if c.GetName() == "greeter" && c.GetHeldBack() > 0 {
				return true
			}
		}
		return false
	})
	load.Await(t, 300)
	load.MustNotHaveFailed(t)
}

func TestAColdStartWithoutConsulServesFromDisk(t *testing.T) {
	consul := harness.StartConsul(t)
	consul.Register(t, "greeter", harness.StartBackend(t, "one"))
	state := "STATE_DIRECTORY=" + t.TempDir()

	warm := harness.StartWithoutConfig(t, consul.Env(), state)
	if name, err := harness.WhoAnswers(harness.Context(t, stepLimit), harness.Dial(t, warm.Listen)); err != nil || name != "one" {
		t.Fatalf("with Consul: %q %v", name, err)
	}
	warm.Stop(t)
	consul.Kill()

	cold := harness.StartWithoutConfig(t, consul.Env(), state)
	for range 20 {
		if name, err := harness.WhoAnswers(harness.Context(t, stepLimit), harness.Dial(t, cold.Listen)); err != nil || name != "one" {
			t.Fatalf("without Consul: %q %v", name, err)
		}
	}
}

// protoset writes the test service's descriptors to a file, for grpcurl.
func protoset(t *testing.T) string {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	service := testpb.File_grpc_testing_test_proto
	for i := range service.Imports().Len() { // they import nothing themselves
		set.File = append(set.File, protodesc.ToFileDescriptorProto(service.Imports().Get(i).FileDescriptor))
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(service))
	raw, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "test.protoset")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
