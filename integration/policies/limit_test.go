package policies

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// gated answers when the gate opens.
func gated(gate chan struct{}) func(*rogue.Stream) rogue.Script {
	return func(*rogue.Stream) rogue.Script {
		return func(s *rogue.Stream) {
			if !s.AwaitRequest() {
				return
			}
			s.Execute()
			select {
			case <-gate:
				s.Headers()
				s.Data(s.Message(0))
				s.Trailers(codes.OK, "")
			case <-s.Context().Done():
			}
		}
	}
}

// fill makes n calls that wait at the gate, and returns when they are all there; the results come when they end.
func fill(t *testing.T, cc *grpc.ClientConn, n int, there func() int64) (results func() *tally) {
	t.Helper()
	l := &tally{took: 1}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { _, err := call(t, cc, fmt.Sprint("held", i), ""); l.add(err) })
	}
	harness.Eventually(t, stepLimit, fmt.Sprintf("%d calls to be held", n), func() bool { return there() == int64(n) })
	return func() *tally { all.Wait(); return l }
}

func TestWhatIsOverALimitOfConcurrentCallsIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	tests := []struct {
		story     string
		p         policies
		endpoints int
		holds     int
	}{
		{"of the cluster", policies{cluster: `"concurrency": {"maxStreams": 3}`}, 2, 3},
		{"of each endpoint", policies{cluster: `"concurrency": {"maxStreamsPerEndpoint": 2}`}, 2, 4},
		{"of a method", policies{own: `"maxStreams": 2`}, 2, 2},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			t.Parallel()
			gate := make(chan struct{})
			one, two, ledger := pair(t, rogue.Options{Script: gated(gate)})
			tr := start(t, tt.p, one.Addr, two.Addr)
			cc := harness.Dial(t, tr.Listen)
			held := fill(t, cc, tt.holds, func() int64 { return one.OpenCalls() + two.OpenCalls() })
			if tt.story == "of each endpoint" && (one.OpenCalls() != 2 || two.OpenCalls() != 2) {
				t.Errorf("%d and %d calls on the endpoints", one.OpenCalls(), two.OpenCalls())
			}
			began := time.Now()
			_, err := call(t, cc, "over", "")
			must(t, "one more", err, codes.Unavailable)
			saysWhy(t, err, "limit", "concurren", "at once")
			if took := time.Since(began); took > 2*time.Second || len(ledger.Attempts("over")) > 0 {
				t.Errorf("refused after %v and %d attempts", took, len(ledger.Attempts("over")))
			}
			if tt.story == "of a method" {
				ctx := steer(harness.Context(t, stepLimit), "other", "ok")
				if _, err := testpb.NewTestServiceClient(cc).EmptyCall(ctx, &testpb.Empty{}); err != nil {
					t.Errorf("another method: %v", err)
				}
			}
			close(gate)
			if l := held(); l.share() != 1 {
				t.Errorf("those within the limit: %v", l)
			}
			if _, err := call(t, cc, "after", ""); err != nil {
				t.Errorf("after the places were given back: %v", err)
			}
		})
	}
}

func TestOverflowMayWaitInABoundedQueue(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	server := rogue.Start(t, "server", rogue.Options{Script: gated(gate)})
	tr := start(t, policies{cluster: `"concurrency": {"maxStreams": 2, "maxPending": 20, "pendingTimeout": "10s"}`}, server.Addr)
	cc := harness.Dial(t, tr.Listen)
	held := fill(t, cc, 2, server.OpenCalls)

	var refused atomic.Int64
	results := make(chan *tally)
	go func() {
		results <- crowd(30, 30, func(i int) error {
			_, err := call(t, cc, fmt.Sprint(i), "")
			if err != nil {
				refused.Add(1)
			}
			return err
		})
	}()
	// 20 of them wait, 10 find the queue full; only then the gate opens.
	harness.Eventually(t, stepLimit, "10 refusals", func() bool { return refused.Load() >= 10 })
	close(gate)
	l := <-results
	if l.by[codes.OK] != 20 || l.by[codes.Unavailable] != 10 {
		t.Errorf("20 places in the queue: %v", l)
	}
	if h := held(); h.share() != 1 {
		t.Errorf("those that came first: %v", h)
	}
	if server.PeakCalls() > 2 {
		t.Errorf("%d calls at once", server.PeakCalls())
	}
}

func TestAWaitInTheQueueHasAnEnd(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	defer close(gate)
	server := rogue.Start(t, "server", rogue.Options{Script: gated(gate)})
	tr := start(t, policies{cluster: `"concurrency": {"maxStreams": 1, "maxPending": 5, "pendingTimeout": "0.3s"}`}, server.Addr)
	cc := harness.Dial(t, tr.Listen)
	fill(t, cc, 1, server.OpenCalls)
	began := time.Now()
	_, err := call(t, cc, "late", "")
	must(t, "a call that waited", err, codes.Unavailable)
	if took := time.Since(began); took < 290*time.Millisecond || took > 3*time.Second {
		t.Errorf("it waited %v", took)
	}
}

func TestTooLongMessagesAreRefusedAndTheRestPasses(t *testing.T) {
	t.Parallel()
	server := rogue.Start(t, "server", rogue.Options{})
	tr := start(t, policies{method: `"maxRequestMessageBytes": 1000, "maxResponseMessageBytes": 2000`}, server.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	tests := []struct {
		request, response int
		code              codes.Code
	}{
		{900, 1900, codes.OK}, {0, 0, codes.OK}, {1100, 0, codes.ResourceExhausted}, {500_000, 0, codes.ResourceExhausted},
		{0, 2100, codes.ResourceExhausted}, {0, 500_000, codes.ResourceExhausted},
	}
	for _, tt := range tests {
		id := fmt.Sprint(tt.request, "/", tt.response)
		_, err := client.UnaryCall(steer(harness.Context(t, stepLimit), id, fmt.Sprint("big:", tt.response)),
			&testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, tt.request)}})
		must(t, id, err, tt.code)
		if tt.code != codes.OK {
			saysWhy(t, err, "message", "bytes")
		}
		if tt.request > 1000 && server.Ledger.Executions(id) > 0 {
			t.Errorf("%s: executed all the same", id)
		}
	}
}

func TestAShortageOfMemoryRefusesNewCallsWithPushbackAndLiveOnesGoOn(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	server := rogue.Start(t, "server", rogue.Options{Script: gated(gate)})
	calm := config("", []string{server.Addr})
	tr := harness.Start(t, calm)
	cc := harness.Dial(t, tr.Listen)
	held := fill(t, cc, 3, server.OpenCalls)
	tr.WriteConfig(t, calm+"overload: { memoryBytes: 16777216, memoryShare: 0.01, pushback: 2s }\n")
	harness.Eventually(t, stepLimit, "new calls to be refused", func() bool {
		ctx := steer(harness.Context(t, stepLimit), "new", "ok")
		var tail = new(tailer)
		_, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.Trailer(&tail.md))
		if err == nil {
			return false
		}
		must(t, "a new call", err, codes.ResourceExhausted)
		saysWhy(t, err, "memory")
		tail.mustPushBack(t, err)
		return true
	})
	close(gate)
	if l := held(); l.share() != 1 {
		t.Errorf("the live calls: %v", l)
	}
	tr.WriteConfig(t, calm)
	harness.Eventually(t, stepLimit, "new calls to be taken again", func() bool { _, err := call(t, cc, "again", "ok"); return err == nil })
}

// A server that does one thing at a time, 5 ms each, is offered twice what it can do: without a limit its queue would hold
// a thousand calls after 5 s, and every call would wait for all of it.
func TestAnAdaptiveLimitKeepsTheQueueOfAnOverloadedEndpointShort(t *testing.T) {
	t.Parallel()
	var one sync.Mutex
	server := rogue.Start(t, "server", rogue.Options{Ledger: rogue.NewBriefLedger(), Script: func(*rogue.Stream) rogue.Script {
		return func(s *rogue.Stream) {
			if !s.AwaitRequest() {
				return
			}
			one.Lock()
			ok := s.Wait(5 * time.Millisecond)
			one.Unlock()
			if ok {
				s.Execute()
				s.Headers()
				s.Data(s.Message(0))
				s.Trailers(codes.OK, "")
			}
		}
	}})
	tr := start(t, policies{cluster: `"adaptiveConcurrency": {"min": 2, "max": 500, "initial": 40, "minSamples": 5}`}, server.Addr)
	cc := harness.Dial(t, tr.Listen)
	// The base latency is learnt while all is well.
	if calm := pace(50, 2*time.Second, func(int) error { _, err := call(t, cc, "", ""); return err }); calm.share() < 0.95 {
		t.Errorf("in calm: %v", calm)
	}
	result := pace(400, 5*time.Second, func(int) error { _, err := call(t, cc, "", ""); return err })
	t.Logf("%v; at most %d calls at once", result, server.PeakCalls())
	if server.PeakCalls() > 250 {
		t.Errorf("%d calls at once on a server that does one", server.PeakCalls())
	}
	// About 900 where the machine is idle; where it is busy, 5 ms are longer.
	if result.by[codes.OK] < 100 {
		t.Errorf("only %d calls were served", result.by[codes.OK])
	}
	if n := result.by[codes.OK] + result.by[codes.Unavailable] + result.by[codes.ResourceExhausted]; n != result.calls {
		t.Errorf("other failures: %v", result)
	}
}
