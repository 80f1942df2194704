package policies

import (
	"fmt"
	"strings"
	"testing"

	consul "github.com/hashicorp/consul/api"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

func TestAPolicyInConsulIsTakenAtOnceAndABadOneLeavesTheLastGoodInForce(t *testing.T) {
	t.Parallel()
	agent := harness.StartConsul(t)
	backend := harness.StartBackend(t, "shop")
	agent.Register(t, "greeter", backend)
	tr := harness.StartWithoutConfig(t, agent.Env())
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	const key = "trunkline/clusters/greeter/service-config"
	put := func(text string) {
		t.Helper()
		if _, err := agent.API.KV().Put(&consul.KVPair{Key: key, Value: []byte(text)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	size := func(n int) error {
		_, err := client.UnaryCall(harness.Context(t, stepLimit), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, n)}})
		return err
	}
	limit := func(bytes int) string {
		return policies{method: fmt.Sprintf(`"maxRequestMessageBytes": %d`, bytes)}.String()
	}

	harness.Eventually(t, stepLimit, "the method to be routed", func() bool { return size(500) == nil })

	put(limit(100))
	harness.Eventually(t, stepLimit, "the policy to be in force", func() bool { return size(500) != nil })
	must(t, "over the limit", size(500), codes.ResourceExhausted)
	must(t, "below it", size(50), codes.OK)

	bad := strings.Replace(policies{method: retries}.String(), `"maxAttempts": 4`, "\n"+`"maxAttempts": "many"`, 1)
	put(bad)
	var told string
	harness.Eventually(t, stepLimit, "the admin API to tell what is wrong", func() bool {
		told = stateOf(t, tr, "greeter").GetConfig().GetLastError()
		return told != ""
	})
	for _, want := range []string{key, ":2:", "methodConfig[0].retryPolicy.maxAttempts"} {
		if !strings.Contains(told, want) {
			t.Errorf("the error does not name %q: %s", want, told)
		}
	}
	must(t, "with a bad document the last good one holds", size(500), codes.ResourceExhausted)

	put(limit(1000))
	harness.Eventually(t, stepLimit, "the next good one", func() bool { return size(500) == nil })
	must(t, "over the new limit", size(2000), codes.ResourceExhausted)
	if told := stateOf(t, tr, "greeter").GetConfig().GetLastError(); told != "" {
		t.Errorf("an error of the past is still told: %s", told)
	}

	// A shadow beside it, in a key of its own.
	if _, err := agent.API.KV().Put(&consul.KVPair{Key: key + "-shadow", Value: []byte(limit(10))}, nil); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, stepLimit, "the shadow to differ", func() bool {
		must(t, "with a shadow", size(50), codes.OK)
		return stateOf(t, tr, "greeter").GetShadowReport().GetDiffering() > 0
	})

	if _, err := agent.API.KV().Delete(key, nil); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, stepLimit, "the policy to be gone with its key", func() bool { return size(2000) == nil })
}

func TestABadPolicyInTheFileIsRefusedByLineAndFieldAndTheOldOneHolds(t *testing.T) {
	t.Parallel()
	server := rogue.Start(t, "server", rogue.Options{})
	good := policies{method: `"maxRequestMessageBytes": 100`}.String()
	tr := harness.Start(t, config(good, []string{server.Addr}))
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	big := &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 500)}}
	both := policies{method: retries + ", " + hedging(3, "0.1s")}.String()
	for field, text := range map[string]string{
		"retryPolicy":            both,
		"retryableStatusCodes":   strings.Replace(policies{method: retries}.String(), "UNAVAILABLE", "UNAVAILABEL", 1),
		"rateLimits[0].burst":    policies{own: `"rateLimits": [{"requestsPerSecond": 1, "burst": "much"}]`}.String(),
		"methodPolicy[0].retrys": policies{own: `"retrys": 3`}.String(),
	} {
		full := config(text, []string{server.Addr})
		tr.WriteConfig(t, full)
		line := 1 + strings.Count(full[:strings.Index(full, "serviceConfig")], "\n")
		where := fmt.Sprintf("%s:%d:", tr.Config, line)
		var told string
		harness.Eventually(t, stepLimit, "the admin API to tell "+where+" and "+field, func() bool {
			told = tr.Status(t).GetConfig().GetLastError()
			return strings.Contains(told, where) && strings.Contains(told, field)
		})
		_, err := client.UnaryCall(harness.Context(t, stepLimit), big)
		must(t, "the old policy", err, codes.ResourceExhausted)
	}
	tr.WriteConfig(t, config("", []string{server.Addr}))
	harness.Eventually(t, stepLimit, "the next good file", func() bool {
		_, err := client.UnaryCall(harness.Context(t, stepLimit), big)
		return err == nil
	})
}

func TestTheMostSpecificNameHolds(t *testing.T) {
	t.Parallel()
	server := rogue.Start(t, "server", rogue.Options{})
	entry := func(name string, bytes int) string {
		return fmt.Sprintf(`{"name": [%s], "maxResponseMessageBytes": %d}`, name, bytes)
	}
	tr := start(t, policies{more: `"methodConfig": [` + strings.Join([]string{
		entry(`{"service": "grpc.testing.TestService", "method": "UnaryCall"}`, 5000),
		entry(`{"service": "grpc.testing.TestService"}`, 3000), entry(`{}`, 100)}, ", ") + `]`}, server.Addr)
	cc := harness.Dial(t, tr.Listen)
	for method, bytes := range map[string]int{"UnaryCall": 5000, "StreamingOutputCall": 3000} {
		for _, size := range []int{bytes - 100, bytes + 100} {
			ctx := steer(harness.Context(t, stepLimit), "", fmt.Sprint("big:", size))
			err := cc.Invoke(ctx, "/"+harness.Service+"/"+method, &testpb.Empty{}, &testpb.SimpleResponse{})
			want := codes.OK
			if size > bytes {
				want = codes.ResourceExhausted
			}
			must(t, fmt.Sprintf("%s with %d bytes", method, size), err, want)
		}
	}
}

func TestAShadowTellsWhichCallsItWouldHaveChangedAndChangesNone(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	shadow := policies{method: retries, own: `"rateLimits": [{"requestsPerSecond": 0.01, "burst": 12}]`}
	tr := harness.Start(t, config(policies{}.String(), []string{one.Addr, two.Addr}, "shadowServiceConfig: "+shadow.String()))
	cc := harness.Dial(t, tr.Listen)
	for i := range 20 {
		plan, want := "ok", codes.OK
		if i < 5 {
			plan, want = "only:14|ok", codes.Unavailable
		}
		_, err := call(t, cc, fmt.Sprint(i), plan)
		must(t, fmt.Sprintf("call %d, as the live policy has it", i), err, want)
	}
	if n := ledger.Streams(); n != 20 {
		t.Errorf("%d attempts of 20 calls: the shadow acts", n)
	}
	kinds := map[string]uint64{}
	var report *adminv1.ShadowReport
	harness.Eventually(t, stepLimit, "the shadow to have looked at all calls", func() bool {
		report = stateOf(t, tr, "backends").GetShadowReport()
		return report.GetCalls() >= 20
	})
	for _, k := range report.GetKinds() {
		kinds[k.GetWhat()] += k.GetCalls()
	}
	t.Logf("the report: %v", report)
	if report.GetCalls() != 20 || kinds["retry"] != 5 || kinds["rate limit"] != 8 {
		t.Errorf("of %d calls differing %v; want of 20 calls 5 by retry and 8 by rate limit", report.GetCalls(), kinds)
	}
	if len(report.GetLatest()) == 0 || len(report.GetLatest()[0].GetDifferences()) == 0 {
		t.Error("no differing call is told")
	}
}
