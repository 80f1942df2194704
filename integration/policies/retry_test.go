package policies

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

func TestAFailureByStatusIsRetriedElsewhereAndTheClientSeesOneAnswer(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries, cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	tests := []struct {
		plan     string
		attempts int
	}{
		{"only:14|ok", 2}, {"trailers:14|ok", 2}, {"trailers:14|big:100000", 2}, {"only:14|trailers:14|only:14|ok", 4},
		{"trailers:14|cuts:1", 2}, {"refused|only:14|ok", 3}, {"early-only:14|ok", 2}, {"ok", 1},
	}
	for _, tt := range tests {
		t.Run(tt.plan, func(t *testing.T) {
			var head, tail metadata.MD
			resp, err := call(t, cc, tt.plan, tt.plan, grpc.Header(&head), grpc.Trailer(&tail))
			if err != nil || !rogue.Intact(resp.GetPayload().GetBody()) {
				t.Fatalf("%v, a body of %d bytes", err, len(resp.GetPayload().GetBody()))
			}
			attempts := ledger.Attempts(tt.plan)
			names := servers(attempts)
			if len(attempts) != tt.attempts {
				t.Fatalf("attempts on %v, want %d", names, tt.attempts)
			}
			if last := names[len(names)-1]; resp.GetServerId() != last {
				t.Errorf("answered by %s, but the last attempt was on %s", resp.GetServerId(), last)
			}
			if len(names) > 1 && names[0] == names[1] {
				t.Errorf("the second attempt went to the endpoint that had failed: %v", names)
			}
			if len(head["content-type"]) != 1 || len(tail["grpc-message"]) > 1 || len(tail[rogue.CutTrailer]) > 1 {
				t.Errorf("doubled fields: headers %v, trailers %v", head, tail)
			}
		})
	}
}

func TestAttemptsAreCountedOnTheWireAndOverHops(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries, cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	const never = "only:14"
	tests := []struct {
		story, previous string // what the caller says
		want            []string
	}{
		{"the first attempt says nothing, the others how many were before", "", []string{"", "1", "2", "3"}},
		{"attempts that the caller has made count", "2", []string{"2", "3"}},
		{"a caller that has made all of them gets one", "4", []string{"4"}},
		{"and one that says it made a great many", "4000000000", nil},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			ctx := steer(harness.Context(t, stepLimit), tt.story, never)
			if tt.previous != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "grpc-previous-rpc-attempts", tt.previous)
			}
			_, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{})
			must(t, "the call", err, codes.Unavailable)
			var got []string
			for _, a := range ledger.Attempts(tt.story) {
				got = append(got, a.Get("grpc-previous-rpc-attempts"))
			}
			if tt.want == nil && len(got) != 1 || tt.want != nil && !slices.Equal(got, tt.want) {
				t.Errorf("grpc-previous-rpc-attempts of the attempts: %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAStatusThatThePolicyDoesNotNameIsNotRetried(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries, cluster: freely}, one.Addr, two.Addr)
	bare := start(t, policies{}, one.Addr, two.Addr)
	for plan, want := range map[string]codes.Code{"only:5|ok": codes.NotFound, "trailers:13|ok": codes.Internal} {
		_, err := call(t, harness.Dial(t, tr.Listen), plan, plan)
		must(t, plan, err, want)
		if n := len(ledger.Attempts(plan)); n != 1 {
			t.Errorf("%s: %d attempts", plan, n)
		}
	}
	_, err := call(t, harness.Dial(t, bare.Listen), "bare", "only:14|ok")
	must(t, "without a policy", err, codes.Unavailable)
	if n := len(ledger.Attempts("bare")); n != 1 {
		t.Errorf("without a policy: %d attempts", n)
	}
}

func TestNothingIsRetriedOnceTheClientHasGotAPart(t *testing.T) {
	t.Parallel()
	seen := make(chan struct{})
	late := func(s *rogue.Stream) rogue.Script {
		return func(s *rogue.Stream) {
			if s.AwaitRequest() {
				s.Execute()
				s.Headers("x-rogue-header", "here")
				select { // the client says when it has got them: a hold of response headers must end by itself
				case <-seen:
					s.Trailers(codes.Unavailable, "after the headers were seen")
				case <-s.Context().Done():
				}
			}
		}
	}
	one, two, ledger := pair(t, rogue.Options{Script: late})
	tr := start(t, policies{method: retries, own: `"idempotent": true`, cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)

	stream, err := testpb.NewTestServiceClient(cc).StreamingOutputCall(steer(harness.Context(t, stepLimit), "headers", ""), &testpb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	head, err := stream.Header()
	if err != nil || len(head["x-rogue-header"]) != 1 {
		t.Errorf("headers %v, %v: they are held for good", head, err)
	}
	close(seen)
	_, err = stream.Recv()
	must(t, "headers, then a status", err, codes.Unavailable)

	_, err = call(t, cc, "message", "message:14|ok")
	must(t, "a message, then a status", err, codes.Unavailable)
	for _, id := range []string{"headers", "message"} {
		if n := len(ledger.Attempts(id)); n != 1 {
			t.Errorf("%s: %d attempts after the client had got a part", id, n)
		}
	}
}

func TestWhatWasNotProcessedIsSentAgainEvenWithoutAPolicy(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	for _, plan := range []string{"refused|ok", "goaway|ok", "goaway-graceful"} {
		if _, err := call(t, cc, plan, plan); err != nil || ledger.Executions(plan) != 1 {
			t.Errorf("%s: %v, %d executions", plan, err, ledger.Executions(plan))
		}
	}
}

func TestPushbackIsObeyed(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	// The policy's own wait is so long that only a pushback explains a second attempt in time.
	tr := start(t, policies{method: `"retryPolicy": {"maxAttempts": 3, "initialBackoff": "60s", "maxBackoff": "60s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}`,
		cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	tests := []struct {
		plan string
		code codes.Code
		wait time.Duration
	}{
		{"pushback:14,300|ok", codes.OK, 300 * time.Millisecond},
		{"trailers:14,300|ok", codes.OK, 300 * time.Millisecond},
		{"pushback:14,0|ok", codes.OK, 0},
		{"pushback:14,-1|ok", codes.Unavailable, 0},
		{"trailers:14,-1|ok", codes.Unavailable, 0},
		{"pushback:14,soon|ok", codes.Unavailable, 0},
		{"pushback:14,1e3|ok", codes.Unavailable, 0},
		{"pushback:14,10,10|ok", codes.Unavailable, 0},
		{"pushback:14,99999999999999999999|ok", codes.Unavailable, 0},
	}
	for _, tt := range tests {
		t.Run(tt.plan, func(t *testing.T) {
			began := time.Now()
			_, err := call(t, cc, tt.plan, tt.plan)
			took := time.Since(began)
			must(t, "the call", err, tt.code)
			want := 1
			if tt.code == codes.OK {
				want = 2
			}
			if n := len(ledger.Attempts(tt.plan)); n != want {
				t.Errorf("%d attempts, want %d", n, want)
			}
			if took < tt.wait || took > tt.wait+5*time.Second {
				t.Errorf("it took %v, want %v", took, tt.wait)
			}
		})
	}
}

func TestARequestIsReplayedVerbatimUpToTheBufferAndNotBeyond(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	requests := map[string][][]byte{}
	keep := func(s *rogue.Stream) rogue.Script {
		return func(s *rogue.Stream) {
			if !s.AwaitRequest() {
				return
			}
			s.Execute()
			mu.Lock()
			requests[s.CallID()] = append(requests[s.CallID()], s.Request())
			mu.Unlock()
			if s.Attempt == 1 {
				s.Only(codes.Unavailable, "once more")
				return
			}
			s.Headers()
			s.Data(s.Message(0))
			s.Trailers(codes.OK, "")
		}
	}
	one, two, ledger := pair(t, rogue.Options{Script: keep})
	tr := start(t, policies{method: retries, own: `"replayBytes": 10000`, cluster: freely}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	for _, size := range []int{0, 1, 9000, 20000, 1 << 20} {
		id := fmt.Sprint(size)
		_, err := client.UnaryCall(steer(harness.Context(t, stepLimit), id, ""), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, size)}})
		if size > 10000 {
			must(t, id, err, codes.Unavailable)
			if n := ledger.Executions(id); n != 1 {
				t.Errorf("%s bytes: %d executions, though the buffer is smaller", id, n)
			}
			continue
		}
		must(t, id, err, codes.OK)
		mu.Lock()
		r := requests[id]
		mu.Unlock()
		if len(r) != 2 || !bytes.Equal(r[0], r[1]) || len(r[0]) < size {
			t.Errorf("%s bytes: %d requests, not equal or not whole", id, len(r))
		}
	}

	// A client stream whose first attempt fails in the middle: what was sent is sent again, and what comes later follows.
	stream, err := client.StreamingInputCall(steer(harness.Context(t, stepLimit), "stream", "early-only:14|ok"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		m := &testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 100+i)}}
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if i == 1 {
			harness.Eventually(t, stepLimit, "the second attempt", func() bool { return len(ledger.Attempts("stream")) == 2 })
		}
	}
	_, err = stream.CloseAndRecv()
	must(t, "a client stream", err, codes.OK)
}

func TestEveryCutOfAReplyIsHeldAndReleasedVerbatim(t *testing.T) {
	t.Parallel()
	one, two, _ := pair(t, rogue.Options{Ledger: rogue.NewBriefLedger()})
	tr := start(t, policies{method: retries, cluster: freely}, one.Addr, two.Addr)
	cc := harness.Dial(t, tr.Listen)
	ways := rogue.CutCount("one")
	random := 200
	if harness.Race {
		random = 20
	}
	result := crowd(8, ways+random, func(n int) error {
		var head, tail metadata.MD
		resp, err := call(t, cc, fmt.Sprint(n), fmt.Sprintf("cuts-fail:%d|cuts:%d", n, n), grpc.Header(&head), grpc.Trailer(&tail))
		if err != nil || len(resp.GetPayload().GetBody()) != rogue.CutMessage || !rogue.Intact(resp.GetPayload().GetBody()) ||
			!slices.Equal(head[rogue.CutHeader], []string{rogue.CutHeaderValue}) || !slices.Equal(tail[rogue.CutTrailer], []string{rogue.CutTrailerValue}) {
			return fmt.Errorf("way %d of %d: %w, %d bytes, headers %v, trailers %v", n, ways, err, len(resp.GetPayload().GetBody()), head, tail)
		}
		return nil
	})
	if result.share() != 1 {
		t.Error(result)
	}
	t.Log(result)
}

// What comes early, or never, without a retry in sight, is as it would be direct.
func TestAnEarlyReplyPassesBeforeTheRequestHasEnded(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries, cluster: freely}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	stream, err := client.FullDuplexCall(steer(harness.Context(t, stepLimit), "early", "early"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // the request has not ended
		t.Errorf("the early reply: %v", err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the early end: %v", err)
	}
	if n := ledger.Executions("early"); n != 1 {
		t.Errorf("%d executions", n)
	}
}
