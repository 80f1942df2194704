package policies

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

func TestAnActiveHealthCheckTakesAnEndpointOutAndBringsItBack(t *testing.T) {
	t.Parallel()
	unwatched := grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if info.FullMethod == healthpb.Health_Watch_FullMethodName {
			return status.Error(codes.Unimplemented, "only Check here")
		}
		return next(srv, ss)
	})
	for story, opts := range map[string][]grpc.ServerOption{"by Watch": nil, "by Check": {unwatched}} {
		t.Run(story, func(t *testing.T) {
			t.Parallel()
			ledger := rogue.NewLedger()
			one := rogue.StartStock(t, "one", rogue.StockOptions{Ledger: ledger, Server: opts})
			two := rogue.StartStock(t, "two", rogue.StockOptions{Ledger: ledger, Server: opts})
			one.Health.SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
			two.Health.SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
			tr := start(t, policies{cluster: `"panicShare": 0, "healthCheck": {"service": "shop", "interval": "0.2s", "timeout": "1s"}`}, one.Addr, two.Addr)
			cc := harness.Dial(t, tr.Listen)
			spread := func(n int) (ones int) {
				for range n {
					resp, err := call(t, cc, "", "")
					if err != nil {
						t.Fatal(err)
					}
					if resp.GetServerId() == "one" {
						ones++
					}
				}
				return ones
			}
			harness.Eventually(t, stepLimit, "calls on both", func() bool { n := spread(20); return n > 2 && n < 18 })

			live := make(chan error)
			go func() { // until it is on the endpoint that falls ill
				for {
					resp, err := call(t, cc, "live", "slow:1500ms")
					if err != nil || resp.GetServerId() == "one" {
						live <- err
						return
					}
				}
			}()
			harness.Eventually(t, stepLimit, "a live call on the first", func() bool { return one.OpenCalls() > 0 })
			one.Health.SetServingStatus("shop", healthpb.HealthCheckResponse_NOT_SERVING)
			harness.Eventually(t, stepLimit, "all calls on the healthy one", func() bool { return spread(20) == 0 })
			if n := spread(50); n != 0 {
				t.Errorf("%d calls on the unhealthy endpoint", n)
			}
			if err := <-live; err != nil {
				t.Errorf("the live call on the endpoint that fell ill: %v", err)
			}
			one.Health.SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
			harness.Eventually(t, stepLimit, "calls on both again", func() bool { n := spread(20); return n > 2 })
		})
	}
}

func TestAnEndpointHasOneProberWhoeverUsesIt(t *testing.T) {
	t.Parallel()
	var checks atomic.Int64
	count := grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if info.FullMethod == healthpb.Health_Watch_FullMethodName {
			checks.Add(1)
			defer checks.Add(-1)
		}
		return next(srv, ss)
	})
	one := rogue.StartStock(t, "one", rogue.StockOptions{Server: []grpc.ServerOption{count}})
	tr := start(t, policies{cluster: `"healthCheck": {"interval": "0.2s"}`}, one.Addr)
	conns := []*grpc.ClientConn{harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen)}
	harness.Eventually(t, stepLimit, "a watch", func() bool { return checks.Load() > 0 })
	if l := crowd(6, 300, func(i int) error { _, err := call(t, conns[i%3], "", ""); return err }); l.share() != 1 {
		t.Error(l)
	}
	if n := checks.Load(); n != 1 {
		t.Errorf("%d watches", n)
	}
}

func TestAnEndpointThatComesGetsItsShareSlowly(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewBriefLedger()
	one, two := rogue.Start(t, "one", rogue.Options{Ledger: ledger}), rogue.Start(t, "two", rogue.Options{Ledger: ledger})
	fresh := rogue.Start(t, "new", rogue.Options{Ledger: ledger})
	sc := policies{cluster: `"slowStart": "4s"`}.String()
	tr := harness.Start(t, config(sc, []string{one.Addr, two.Addr}))
	conns := []*grpc.ClientConn{harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan *tally)
	go func() {
		done <- pace(200, 12*time.Second, func(i int) error {
			if ctx.Err() != nil {
				return nil
			}
			_, err := call(t, conns[i%2], "", "")
			return err
		})
	}()
	harness.Eventually(t, stepLimit, "the load", func() bool { return one.Calls()+two.Calls() > 50 })
	tr.WriteConfig(t, config(sc, []string{one.Addr, two.Addr, fresh.Addr}))
	harness.Eventually(t, stepLimit, "the first call on the new endpoint", func() bool { return fresh.Calls() > 0 })
	share := func(d time.Duration) float64 {
		old, young := one.Calls()+two.Calls(), fresh.Calls()
		time.Sleep(d) // what is measured is the share over this time
		old, young = one.Calls()+two.Calls()-old, fresh.Calls()-young
		return float64(young) / float64(max(1, old+young))
	}
	early := share(time.Second)
	share(3500 * time.Millisecond)
	late := share(1500 * time.Millisecond)
	cancel()
	l := <-done
	t.Logf("the new endpoint's share: %.2f in its first second, %.2f after 4.5 s; %v", early, late, l)
	if early > 0.2 || late < 0.25 || late > 0.45 {
		t.Errorf("its share is %.2f in its first second, %.2f after its slow start; want little, then a third", early, late)
	}
	if l.share() != 1 {
		t.Error(l)
	}
}

func TestACallWaitsForAnEndpointWhereThePolicySaysSo(t *testing.T) {
	t.Parallel()
	addr := harness.FreeAddr(t)
	waiting := start(t, policies{method: `"waitForReady": true`}, addr)
	hasty := start(t, policies{}, addr)
	cc := harness.Dial(t, waiting.Listen)

	began := time.Now()
	_, err := call(t, harness.Dial(t, hasty.Listen), "hasty", "")
	must(t, "without waiting", err, codes.Unavailable)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v to say that nobody is there", took)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	_, err = testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{})
	must(t, "a wait that the deadline ends", err, codes.DeadlineExceeded)

	const calls = 10
	results := make(chan *tally)
	go func() {
		results <- crowd(calls, calls, func(i int) error { _, err := call(t, cc, fmt.Sprint(i), ""); return err })
	}()
	harness.Eventually(t, stepLimit, "the calls to wait", func() bool { return liveStreams(t, waiting) >= calls })
	server := rogue.Start(t, "late", rogue.Options{Addr: addr})
	if l := <-results; l.share() != 1 || server.Calls() != calls {
		t.Errorf("%v, %d on the server", l, server.Calls())
	}
}
