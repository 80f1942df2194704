package rogue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const stepLimit = 10 * time.Second

// call makes one call with an id and a plan.
func call(ctx context.Context, cc *grpc.ClientConn, id, plan string, opts ...grpc.CallOption) (*testpb.SimpleResponse, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, CallKey, id)
	if plan != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, PlanKey, plan)
	}
	return testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{}, opts...)
}

func TestEveryScriptIsSeenByAStockClientAsItWasMeant(t *testing.T) {
	tests := []struct {
		plan       string
		code       codes.Code
		executions int
		headers    bool // the client has got response headers
	}{
		{"ok", codes.OK, 1, true},
		{"big:200000", codes.OK, 1, true},
		{"trailers:14", codes.Unavailable, 1, true},
		{"message:13", codes.Internal, 1, true},
		{"only:14", codes.Unavailable, 1, false},
		{"pushback:14,25", codes.Unavailable, 1, false},
		{"pushback:14,25,30", codes.Unavailable, 1, false},
		{"pushback:14,-1", codes.Unavailable, 1, false},
		{"pushback:14,soon", codes.Unavailable, 1, false},
		{"reset:2", codes.Internal, 1, false},
		{"reset:8", codes.Canceled, 1, false},
		{"reset:11", codes.ResourceExhausted, 1, false},
		{"unread:2", codes.Internal, 0, false},
		{"headers-reset:2", codes.Internal, 1, true},
		{"partial-reset:2", codes.Internal, 1, true},
		{"refused|ok", codes.OK, 1, true}, // grpc-go sends once more what was refused
		{"slow:20ms", codes.OK, 1, true},
		{"slow:1ms,20ms,20ms", codes.OK, 1, true},
		{"early", codes.OK, 1, true},
		{"early-only:5", codes.NotFound, 0, false},
		{"http:503", codes.Unavailable, 0, false},
		{"cut-unread", codes.Unavailable, 0, false},
		{"cut", codes.Unavailable, 1, false},
		{"cut-response", codes.Unavailable, 1, true},
		{"goaway|ok", codes.OK, 1, true}, // and what was not processed
		{"goaway-graceful", codes.OK, 1, true},
		{"nonsense", codes.InvalidArgument, 1, false},
		{"reset:x", codes.InvalidArgument, 1, false},
		{"cuts:3", codes.OK, 1, true},
		{"cuts-fail:3", codes.Unavailable, 1, true},
	}
	s := Start(t, "frames", Options{})
	for _, tt := range tests {
		t.Run(tt.plan, func(t *testing.T) {
			cc := harness.Dial(t, s.Addr)
			var head metadata.MD
			resp, err := call(harness.Context(t, stepLimit), cc, tt.plan, tt.plan, grpc.Header(&head))
			if got := status.Code(err); got != tt.code {
				t.Errorf("status %v, want %v", err, tt.code)
			}
			if err == nil && (resp.GetServerId() != "frames" || !Intact(resp.GetPayload().GetBody())) {
				t.Errorf("answer %v", resp)
			}
			if n := s.Ledger.Executions(tt.plan); n != tt.executions {
				t.Errorf("%d executions, want %d", n, tt.executions)
			}
			if _, ok := head["content-type"]; ok != tt.headers {
				t.Errorf("response headers %v", head)
			}
		})
	}
}

func TestAScriptThatNeverAnswersSeesTheClientGiveUp(t *testing.T) {
	s := Start(t, "frames", Options{})
	cc := harness.Dial(t, s.Addr)
	for _, plan := range []string{"silent", "headers-silent"} {
		_, err := call(harness.Context(t, 100*time.Millisecond), cc, plan, plan)
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s: %v", plan, err)
		}
		harness.Eventually(t, stepLimit, "the cancellation", func() bool { return s.Ledger.Cancelled(plan) == 1 })
	}
	harness.Eventually(t, stepLimit, "no open call", func() bool { return s.OpenCalls() == 0 })
}

func TestEveryCutOfAReplyIsOneReplyToAStockClient(t *testing.T) {
	s := Start(t, "frames", Options{Ledger: NewBriefLedger()})
	cc := harness.Dial(t, s.Addr)
	ways := CutCount(s.Name)
	if ways < 150 {
		t.Fatalf("only %d ways to cut", ways)
	}
	for n := range ways + 100 {
		var head, tail metadata.MD
		resp, err := call(harness.Context(t, stepLimit), cc, "cut", fmt.Sprint("cuts:", n), grpc.Header(&head), grpc.Trailer(&tail))
		if err != nil || len(resp.GetPayload().GetBody()) != CutMessage || !Intact(resp.GetPayload().GetBody()) {
			t.Fatalf("way %d: %v %v", n, resp, err)
		}
		if fmt.Sprint(head[CutHeader], tail[CutTrailer]) != fmt.Sprint([]string{CutHeaderValue}, []string{CutTrailerValue}) {
			t.Fatalf("way %d: headers %v, trailers %v", n, head, tail)
		}
	}
	t.Logf("%d ways", ways)
}

// The lengths that the cuts count on must be those that are written, else single cuts are missing.
func TestTheCutsCoverEveryByte(t *testing.T) {
	h, d, tail := cutLengths("frames")
	seen := map[string]bool{}
	for n := range CutCount("frames") {
		seen[fmt.Sprint(chooseCut(n, h, d, tail))] = true
	}
	if len(seen) != h+d+tail+fixedCuts {
		t.Errorf("%d different ways of %d", len(seen), h+d+tail+fixedCuts)
	}
	m := message("frames", cutBody)
	for i := range d {
		if got := bytes.Join(parts(m, []int{i}), nil); !bytes.Equal(got, m) || len(parts(m, []int{i})) != 2 {
			t.Errorf("cut at %d: %x", i, got)
		}
	}
	if d != len(m)+1 {
		t.Errorf("%d cuts of %d bytes", d, len(m))
	}
}

func TestAServerThatOpensNoWindowStopsABigRequest(t *testing.T) {
	closed := Start(t, "closed", Options{Settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, NoCredit: true})
	meagre := Start(t, "meagre", Options{NoCredit: true})
	for _, s := range []*Server{closed, meagre} {
		c := testpb.NewTestServiceClient(harness.Dial(t, s.Addr))
		_, err := c.UnaryCall(harness.Context(t, 200*time.Millisecond), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 1<<20)}})
		if status.Code(err) != codes.DeadlineExceeded || s.Ledger.Executed() != 0 {
			t.Errorf("%s: %v, %d executions", s.Name, err, s.Ledger.Executed())
		}
	}
}

func TestManyCallsAtOnceAreCountedEach(t *testing.T) {
	s := Start(t, "frames", Options{Script: func(s *Stream) Script {
		if s.Number%4 == 0 {
			return Trailers(codes.Unavailable)
		}
		return Big(3000)
	}})
	cc := harness.Dial(t, s.Addr)
	const calls = 1000
	var all sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	for w := range 20 {
		all.Go(func() {
			for i := range calls / 20 {
				if _, err := call(harness.Context(t, stepLimit), cc, fmt.Sprint(w, "-", i), ""); err != nil {
					mu.Lock()
					failed++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if failed != calls/4 || s.Calls() != calls || s.Ledger.Streams() != calls || s.Ledger.Executed() != calls || len(s.Ledger.MoreThanOnce()) > 0 {
		t.Errorf("%d failed; %d calls, %d streams, %d executions, more than once: %v", failed, s.Calls(), s.Ledger.Streams(), s.Ledger.Executed(), s.Ledger.MoreThanOnce())
	}
	if n := s.Ledger.Executions("3-7"); n != 1 {
		t.Errorf("one call was executed %d times", n)
	}
	_, err := call(harness.Context(t, stepLimit), cc, "3-7", "ok")
	if got := s.Ledger.MoreThanOnce(); err != nil || len(got) != 1 || got[0] != "3-7" {
		t.Errorf("executed again (%v): %v", err, got)
	}
}

// A GOAWAY under load costs a stock client no call: it moves on to another connection.
func TestGoAwayUnderLoad(t *testing.T) {
	s := Start(t, "frames", Options{})
	load := harness.StartLoad(t, 4, harness.Dial(t, s.Addr))
	load.Await(t, 50)
	for range 5 {
		before := s.Conns()
		s.GoAway(graceful, http2.ErrCodeNo)
		harness.Eventually(t, stepLimit, "another connection", func() bool { return s.Conns() > before })
		load.Await(t, 20)
	}
	load.MustNotHaveFailed(t)
}

func TestAServerThatStopsCanComeBack(t *testing.T) {
	s := Start(t, "frames", Options{})
	cc := harness.Dial(t, s.Addr)
	ctx := harness.Context(t, stepLimit)
	if _, err := call(ctx, cc, "a", ""); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if _, err := call(ctx, cc, "b", ""); status.Code(err) != codes.Unavailable {
		t.Errorf("while it was down: %v", err)
	}
	s.Listen(t)
	if _, err := call(ctx, cc, "c", "", grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
}

func TestAStockServerFollowsItsPlan(t *testing.T) {
	s := StartStock(t, "stock", StockOptions{Plan: func(n int64) string {
		if n%2 == 0 {
			return "only:14"
		}
		return "ok"
	}})
	cc := harness.Dial(t, s.Addr)
	tests := []struct {
		plan string
		code codes.Code
	}{
		{"", codes.OK}, {"", codes.Unavailable}, {"trailers:13", codes.Internal}, {"only:5", codes.NotFound}, {"slow:10ms", codes.OK},
		{"pushback:14,10", codes.Unavailable}, {"cut", codes.Unavailable}, {"dance", codes.InvalidArgument}, {"slow:x", codes.InvalidArgument},
	}
	for i, tt := range tests {
		id := fmt.Sprint(i)
		var tail metadata.MD
		resp, err := call(harness.Context(t, stepLimit), cc, id, tt.plan, grpc.Trailer(&tail))
		if status.Code(err) != tt.code || err == nil && resp.GetServerId() != "stock" {
			t.Errorf("%q: %v %v", tt.plan, resp, err)
		}
		if s.Ledger.Executions(id) != 1 || len(s.Ledger.Attempts(id)) != 1 || s.Ledger.Attempts(id)[0].Get(CallKey) != id {
			t.Errorf("%q: %d executions, attempts %v", tt.plan, s.Ledger.Executions(id), s.Ledger.Attempts(id))
		}
		if strings.HasPrefix(tt.plan, "pushback") != (len(tail["grpc-retry-pushback-ms"]) > 0) {
			t.Errorf("%q: trailers %v", tt.plan, tail)
		}
	}
	ctx, cancel := context.WithCancel(harness.Context(t, stepLimit))
	go func() {
		for s.OpenCalls() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := call(ctx, cc, "given up", "silent"); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	harness.Eventually(t, stepLimit, "the cancellation", func() bool { return s.Ledger.Cancelled("given up") == 1 })
}

func TestAStreamsMessagesArriveWholeAndInOrder(t *testing.T) {
	s := Start(t, "frames", Options{Script: func(*Stream) Script {
		return func(s *Stream) {
			if executed(s) {
				s.Headers()
				for i := range 50 {
					s.Data(s.Message(i * 1000))
				}
				s.Trailers(codes.OK, "")
			}
		}
	}})
	stream, err := harness.Dial(t, s.Addr).NewStream(harness.Context(t, stepLimit), &grpc.StreamDesc{ServerStreams: true}, "/any.Service/Method")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(&testpb.Empty{}), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		var m testpb.SimpleResponse
		if err := stream.RecvMsg(&m); err != nil {
			if !errors.Is(err, io.EOF) || i != 50 {
				t.Errorf("ended after %d messages: %v", i, err)
			}
			return
		}
		if b := m.GetPayload().GetBody(); len(b) != i*1000 || !Intact(b) {
			t.Fatalf("message %d has %d bytes", i, len(b))
		}
	}
}
