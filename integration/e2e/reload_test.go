package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestAReloadUnderLoadCutsNoStreamAndABadOneIsRefused(t *testing.T) {
	old, next := harness.StartBackend(t, "old"), harness.StartBackend(t, "next")
	trunkline := harness.Start(t, static([]string{old.Addr}))
	cc := harness.Dial(t, trunkline.Listen)
	load := harness.StartLoad(t, 4, cc, harness.Dial(t, trunkline.Listen))
	stream, _ := gatedStream(t, testpb.NewTestServiceClient(cc), "g", 5)
	load.Await(t, 100)

	t.Run("new calls go where the new config says", func(t *testing.T) {
		trunkline.WriteConfig(t, static([]string{next.Addr}))
		harness.Eventually(t, stepLimit, "calls on the new backend", func() bool { return load.Of("next") > 0 })
		before := load.Of("old")
		load.Await(t, 200)
		if more := load.Of("old") - before; more > 4 { // those under way
			t.Errorf("%d calls went to the old backend after the reload", more)
		}
	})

	t.Run("a wrong file is refused by file, line and field, and the old config stays", func(t *testing.T) {
		before := trunkline.Status(t).GetConfig()
		good := static([]string{next.Addr})
		trunkline.WriteConfig(t, strings.Replace(good, "grpcServices", "grpcSevrices", 1))
		line := 1 + strings.Count(good[:strings.Index(good, "grpcServices")], "\n")
		where := fmt.Sprintf("%s:%d:", trunkline.Config, line)
		harness.Eventually(t, stepLimit, "the admin API to tell "+where, func() bool {
			return strings.Contains(trunkline.Status(t).GetConfig().GetLastError(), where)
		})
		now := trunkline.Status(t).GetConfig()
		if now.GetGeneration() != before.GetGeneration() || now.GetHash() != before.GetHash() {
			t.Errorf("config %v became %v", before, now)
		}
		if !strings.Contains(now.GetLastError(), "grpcSevrices") {
			t.Errorf("the error does not name the field: %s", now.GetLastError())
		}
		load.Await(t, 100)
	})

	t.Run("the next good file is taken, also by SIGHUP", func(t *testing.T) {
		before := trunkline.Status(t).GetConfig().GetGeneration()
		trunkline.WriteConfig(t, static([]string{old.Addr, next.Addr}))
		trunkline.Signal(t, syscall.SIGHUP)
		harness.Eventually(t, stepLimit, "a newer generation without error", func() bool {
			now := trunkline.Status(t).GetConfig()
			return now.GetGeneration() > before && now.GetLastError() == ""
		})
		was := load.Of("old")
		harness.Eventually(t, stepLimit, "calls on both", func() bool { return load.Of("old") > was+10 })
	})

	old.OpenGate("g")
	mustEndNormally(t, stream, 4)
	load.MustNotHaveFailed(t)
}

func TestReloadsInARowUnderLoadFailNoCall(t *testing.T) {
	one, two := harness.StartBackend(t, "one"), harness.StartBackend(t, "two")
	trunkline := harness.Start(t, static([]string{one.Addr}))
	load := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen), harness.Dial(t, trunkline.Listen))
	stream, _ := gatedStream(t, testpb.NewTestServiceClient(harness.Dial(t, trunkline.Listen)), "g", 5)
	for i := range 20 {
		name, addr := "one", one.Addr
		if i%2 == 0 {
			name, addr = "two", two.Addr
		}
		was := load.Of(name)
		trunkline.WriteConfig(t, static([]string{addr}))
		harness.Eventually(t, stepLimit, "calls on "+name, func() bool { return load.Of(name) > was+5 })
	}
	one.OpenGate("g")
	mustEndNormally(t, stream, 4)
	load.MustNotHaveFailed(t)
}
