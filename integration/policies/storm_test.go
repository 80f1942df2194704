package policies

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// anything deals out every script that there is.
func anything(seed uint64) func(*rogue.Stream) rogue.Script {
	return func(s *rogue.Stream) rogue.Script {
		r := rand.New(rand.NewPCG(seed, uint64(s.Number)))
		code := http2.ErrCode(r.IntN(14))
		status := codes.Code(1 + r.IntN(16))
		ms := func(n int) time.Duration { return time.Duration(r.IntN(n)) * time.Millisecond }
		scripts := []rogue.Script{
			rogue.OK(), rogue.OK(), rogue.Big(r.IntN(100_000)), rogue.Trailers(status), rogue.Trailers(codes.Unavailable), rogue.Only(codes.Unavailable, "no"),
			rogue.MessageThenTrailers(status), rogue.Pushback(codes.Unavailable, fmt.Sprint(r.IntN(40)-3)), rogue.Reset(code), rogue.ResetUnread(code),
			rogue.ResetUnread(http2.ErrCodeRefusedStream), rogue.HeadersReset(code), rogue.PartialReset(code), rogue.Slow(ms(50), ms(50), ms(50)),
			rogue.Silent(), rogue.HeadersSilent(), rogue.EarlyReply(), rogue.EarlyOnly(codes.Unavailable), rogue.HTTP(503), rogue.Cuts(int(s.Number)),
			rogue.CutsFailing(int(s.Number), codes.Unavailable),
		}
		switch r.IntN(100) {
		case 0:
			return rogue.CutUnread()
		case 1:
			return rogue.CutMidResponse()
		case 2:
			return rogue.GoAwayRefuse()
		case 3:
			return rogue.GoAwayGraceful()
		}
		return scripts[r.IntN(len(scripts))]
	}
}

// Clients give up, servers misbehave in every way, limits and queues are full: when it is over, no call, no copy, no place in
// a limit and no byte of a buffer is left, and the next call is as good as the first.
func TestAfterAStormNothingIsLeft(t *testing.T) {
	t.Parallel()
	everything := `, "timeout": "0.4s"`
	own := idempotent + `, "perTryTimeout": "60ms", "idleTimeout": "150ms", "maxStreams": 40, "replayBytes": 20000, "breaker": {"errorRate": 0.9, "minVolume": 50, "openFor": "0.1s"}`
	cluster := freely + `, "concurrency": {"maxStreams": 30, "maxStreamsPerEndpoint": 12, "maxPending": 10, "pendingTimeout": "0.05s"},
		"outlierDetection": {"consecutive": 20, "interval": "0.1s", "baseEjectionTime": "0.1s", "maxEjectionTime": "0.2s"}, "slowStart": "0.2s"`
	for story, p := range map[string]policies{
		"retries": {method: retries + everything, own: own, cluster: cluster},
		"hedging": {method: hedging(4, "0.01s") + everything, own: own, cluster: cluster},
	} {
		t.Run(story, func(t *testing.T) {
			t.Parallel()
			ledger := rogue.NewBriefLedger()
			var all []*rogue.Server
			var addrs []string
			for i := range 3 {
				s := rogue.Start(t, fmt.Sprint("rogue", i), rogue.Options{Ledger: ledger, Script: anything(uint64(i))})
				all, addrs = append(all, s), append(addrs, s.Addr)
			}
			tr := start(t, p, addrs...)
			var conns []*grpc.ClientConn
			for range 4 {
				conns = append(conns, harness.Dial(t, tr.Listen))
			}
			calls := 4000
			if harness.Race {
				calls = 800
			}
			result := crowd(36, calls, func(i int) error { return anyCall(conns[i%4], uint64(i)) })
			t.Logf("%v; %d attempts", result, ledger.Streams())

			harness.Eventually(t, stepLimit, "no call to be left", func() bool { return liveStreams(t, tr) == 0 })
			harness.Eventually(t, stepLimit, "no attempt to be left", func() bool {
				return all[0].OpenCalls()+all[1].OpenCalls()+all[2].OpenCalls() == 0
			})
			limits := stateOf(t, tr, "backends").GetLimits()
			if len(limits) == 0 {
				t.Error("the admin API shows no limits")
			}
			for _, l := range limits {
				if l.GetInUse() != 0 || l.GetWaiting() != 0 {
					t.Errorf("not given back: %v", l)
				}
			}
			for _, s := range all {
				s.Become(func(*rogue.Stream) rogue.Script { return rogue.OK() })
			}
			harness.Eventually(t, stepLimit, "all to be well again", func() bool {
				return crowd(4, 100, func(i int) error { _, err := call(t, conns[i%4], "", ""); return err }).share() == 1
			})
		})
	}
}

// anyCall makes a call of some shape that may be given up at any time.
func anyCall(cc *grpc.ClientConn, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
	defer cancel()
	switch r.IntN(3) {
	case 0:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(1+r.IntN(100))*time.Millisecond)
		defer cancel()
	case 1:
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer time.AfterFunc(time.Duration(r.IntN(60))*time.Millisecond, cancel).Stop()
	}
	client := testpb.NewTestServiceClient(cc)
	if r.IntN(2) == 0 {
		_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, r.IntN(40_000))}})
		return err
	}
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range r.IntN(4) {
		if stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: make([]byte, r.IntN(10_000))}}) != nil {
			break
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			if err.Error() == "EOF" || errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}
	}
}
