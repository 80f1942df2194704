package policies

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// troubles deals out failures at random, one call in three: after the execution, before it, in the middle of an answer, with
// the connection, and such as a policy may retry.
func troubles(seed uint64, dealt *atomic.Int64) func(*rogue.Stream) rogue.Script {
	unexecuted := func(s *rogue.Stream) {
		if s.AwaitRequest() {
			s.Only(codes.Unavailable, "not executed")
		}
	}
	// Of the codes that end a stream only REFUSED_STREAM says that nothing was done.
	resets := []http2.ErrCode{http2.ErrCodeNo, http2.ErrCodeProtocol, http2.ErrCodeInternal, http2.ErrCodeCancel, http2.ErrCodeEnhanceYourCalm}
	return func(s *rogue.Stream) rogue.Script {
		r := rand.New(rand.NewPCG(seed, uint64(s.Number)))
		reset := resets[r.IntN(len(resets))]
		if r.IntN(3) > 0 {
			return rogue.OK()
		}
		dealt.Add(1)
		switch n := r.IntN(300); {
		case n < 60:
			return rogue.Reset(reset)
		case n < 120:
			return rogue.ResetUnread(reset)
		case n < 160:
			return rogue.HeadersReset(reset)
		case n < 190:
			return rogue.PartialReset(reset)
		case n < 240:
			return rogue.ResetUnread(http2.ErrCodeRefusedStream)
		case n < 296:
			return unexecuted
		case n < 298:
			return rogue.CutExecuted()
		}
		return rogue.CutMidResponse()
	}
}

// retryAll retries what can be: only the evidence keeps a call from a second execution.
const retryAll = `"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.001s", "maxBackoff": "0.005s", "backoffMultiplier": 2,
	"retryableStatusCodes": ["UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "ABORTED", "DEADLINE_EXCEEDED"]}`

// storm makes calls against three servers in trouble.
func storm(t *testing.T, calls int, own string) (*tally, *rogue.Ledger) {
	t.Helper()
	ledger := rogue.NewBriefLedger()
	var dealt atomic.Int64
	var addrs []string
	for i := range uint64(3) {
		addrs = append(addrs, rogue.Start(t, fmt.Sprint("rogue", i), rogue.Options{Ledger: ledger, Script: troubles(i, &dealt)}).Addr)
	}
	tr := start(t, policies{method: retryAll, own: own, cluster: freely}, addrs...)
	conns := []*grpc.ClientConn{harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen), harness.Dial(t, tr.Listen)}
	result := crowd(32, calls, func(i int) error {
		_, err := call(t, conns[i%len(conns)], fmt.Sprint(i), "")
		return err
	})
	t.Logf("%v; %d attempts, %d executions, %d troubles dealt", result, ledger.Streams(), ledger.Executed(), dealt.Load())
	if dealt.Load() < int64(calls/5) {
		t.Errorf("only %d troubles for %d calls: that proves nothing", dealt.Load(), calls)
	}
	return result, ledger
}

// Under the race detector the number is smaller, for the time it takes.
func TestAMethodThatIsNotIdempotentIsNeverExecutedTwiceInTenThousandCalls(t *testing.T) {
	t.Parallel()
	calls := 10_000
	if harness.Race {
		calls = 1_500
	}
	result, ledger := storm(t, calls, "")
	if twice := ledger.MoreThanOnce(); len(twice) > 0 {
		t.Errorf("%d calls were executed more than once, the first: %v", len(twice), twice[:min(5, len(twice))])
	}
	// What was refused, or failed with a status, was retried all the same: else this proves nothing.
	if ledger.Streams() < int64(calls+calls/20) {
		t.Errorf("%d attempts for %d calls: nothing was retried", ledger.Streams(), calls)
	}
	// One in three is in for trouble, about six in ten of those for an ambiguous one.
	if s := result.share(); s < 0.70 || s > 0.90 {
		t.Errorf("%v: want about 79 %% OK", result)
	}
	if ledger.Executed() > int64(calls) {
		t.Errorf("%d executions of %d calls", ledger.Executed(), calls)
	}
}

func TestTheSameFailuresAreRetriedWhereTheMethodIsDeclaredIdempotent(t *testing.T) {
	t.Parallel()
	calls := 2_000
	if harness.Race {
		calls = 500
	}
	result, ledger := storm(t, calls, `"idempotent": true`)
	// Half a message that has gone to the client cannot be taken back: about one call in thirty.
	if s := result.share(); s < 0.93 {
		t.Errorf("%v: want nearly all OK", result)
	}
	if len(ledger.MoreThanOnce()) == 0 {
		t.Error("no call was executed twice: no ambiguous failure was retried")
	}
}

// levels is a service with a method of each idempotency level.
func levels() *descriptorpb.FileDescriptorProto {
	method := func(name string, level descriptorpb.MethodOptions_IdempotencyLevel) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{Name: &name, InputType: proto.String(".levels.Nothing"), OutputType: proto.String(".levels.Nothing"),
			Options: &descriptorpb.MethodOptions{IdempotencyLevel: &level}}
	}
	return &descriptorpb.FileDescriptorProto{
		Name: proto.String("levels.proto"), Package: proto.String("levels"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Nothing")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Levels"), Method: []*descriptorpb.MethodDescriptorProto{
			method("Read", descriptorpb.MethodOptions_NO_SIDE_EFFECTS), method("Put", descriptorpb.MethodOptions_IDEMPOTENT),
			method("Add", descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN),
		}}},
	}
}

func TestIdempotencyComesFromTheReflectedDescriptorsUnlessThePolicySaysOtherwise(t *testing.T) {
	t.Parallel()
	tests := []struct {
		story string
		own   string
		want  map[string]int // executions by method
	}{
		{"as the descriptors say", "", map[string]int{"Read": 2, "Put": 2, "Add": 1}},
		{"as the policy says, both ways", `"trunkline": {"cluster": {` + freely + `}, "methodPolicy": [
			{"name": [{"service": "levels.Levels", "method": "Add"}], "idempotent": true},
			{"name": [{"service": "levels.Levels"}], "idempotent": false}]}`, map[string]int{"Read": 1, "Put": 1, "Add": 2}},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			ledger := rogue.NewLedger()
			one := rogue.StartStock(t, "one", rogue.StockOptions{Ledger: ledger, Reflect: levels()})
			two := rogue.StartStock(t, "two", rogue.StockOptions{Ledger: ledger, Reflect: levels()})
			own := tt.own
			if own == "" {
				own = `"trunkline": {"cluster": {` + freely + `}}`
			}
			tr := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery: { static: { clusters: [ { name: levels, endpoints: [ { address: %s }, { address: %s } ] } ] } }
serviceConfig: %s
`, one.Addr, two.Addr, policies{method: retries, more: own}))
			cc := harness.Dial(t, tr.Listen)
			invoke := func(method, id, plan string) error {
				ctx := steer(harness.Context(t, stepLimit), id, plan)
				return cc.Invoke(ctx, "/levels.Levels/"+method, &testpb.Empty{}, &testpb.Empty{})
			}
			harness.Eventually(t, stepLimit, "both endpoints to be asked by reflection", func() bool {
				// Two in turn: the calls go to both.
				for range 8 {
					if status.Code(invoke("Read", "warm", "ok")) != codes.OK {
						return false
					}
				}
				seen := map[string]bool{}
				for _, a := range ledger.Attempts("warm") {
					seen[a.Server] = true
				}
				return len(seen) == 2
			})
			for method, want := range tt.want {
				err := invoke(method, method, "cut|ok")
				if n := ledger.Executions(method); n != want {
					t.Errorf("%s: %d executions, want %d (%v)", method, n, want, err)
				}
				if (err == nil) != (want == 2) {
					t.Errorf("%s: %v", method, err)
				}
			}
		})
	}
}
