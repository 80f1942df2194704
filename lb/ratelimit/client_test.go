package ratelimit

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers as the test says.
type service struct {
	rls.UnimplementedRateLimitServiceServer
	answer func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error)
}

func (s *service) ShouldRateLimit(ctx context.Context, r *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	return s.answer(ctx, r)
}

type answerFunc = func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error)

// serve runs a service on the address ("127.0.0.1:0": any) until stop.
func serve(t *testing.T, address string, answer answerFunc) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	rls.RegisterRateLimitServiceServer(server, &service{answer: answer})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	stop = sync.OnceFunc(func() {
		server.Stop()
		<-done
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func newClient(t *testing.T, address string, timeout time.Duration, failOpen bool) *Client {
	t.Helper()
	c, err := New(address, "shop", timeout, failOpen, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var tenant = [][]Entry{{{Key: "tenant", Value: "acme"}, {Key: "method", Value: "shop.Cart/Add"}}, {{Key: "everybody", Value: "yes"}}}

// ask waits for the verdict.
func ask(t *testing.T, c *Client) Verdict {
	t.Helper()
	verdicts := make(chan Verdict, 1)
	c.Ask(tenant, func(v Verdict) { verdicts <- v })
	select {
	case v := <-verdicts:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("no verdict")
		return Verdict{}
	}
}

func says(code rls.RateLimitResponse_Code) answerFunc {
	return func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		return &rls.RateLimitResponse{OverallCode: code}, nil
	}
}

func wantWhy(t *testing.T, v Verdict, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(v.Why, part) {
			t.Errorf("the verdict says %q, which lacks %q", v.Why, part)
		}
	}
}

// Under the limit the call passes, with the fields that the service wants added; it was asked about domain and descriptors.
func TestUnderLimit(t *testing.T) {
	var asked atomic.Pointer[rls.RateLimitRequest]
	at, _ := serve(t, "127.0.0.1:0", func(_ context.Context, r *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		asked.Store(r)
		return &rls.RateLimitResponse{
			OverallCode: rls.RateLimitResponse_OK,
			ResponseHeadersToAdd: []*core.HeaderValue{
				{Key: "X-RateLimit-Remaining", Value: "7"}, {Key: ":status", Value: "500"}, {Key: "grpc-status", Value: "0"},
				{Key: "bad", Value: "a\r\nb: c"}, {Key: "Content-Type", Value: "text/html"}, {Key: "x raw", Value: "x"}, {Key: "x-raw", RawValue: []byte("raw")},
			},
			RequestHeadersToAdd: []*core.HeaderValue{{Key: "x-tier", Value: "gold"}},
		}, nil
	})
	v := ask(t, newClient(t, at, 5*time.Second, false))
	if v.Over || v.Failed || v.Why != "" {
		t.Fatalf("under the limit: %+v", v)
	}
	if got := fmt.Sprint(v.Headers, v.RequestHeaders); got != "[[x-ratelimit-remaining 7] [x-raw raw]] [[x-tier gold]]" {
		t.Errorf("fields to add: %s", got)
	}
	r := asked.Load()
	if r.GetDomain() != "shop" || len(r.GetDescriptors()) != 2 || r.GetDescriptors()[0].GetEntries()[1].GetValue() != "shop.Cart/Add" {
		t.Errorf("asked %v", r)
	}
}

// Over the limit the call is refused, and told which limit it was and when the last of them is reset.
func TestOverLimit(t *testing.T) {
	at, _ := serve(t, "127.0.0.1:0", func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		return &rls.RateLimitResponse{
			OverallCode: rls.RateLimitResponse_OVER_LIMIT,
			Statuses: []*rls.RateLimitResponse_DescriptorStatus{
				{Code: rls.RateLimitResponse_OVER_LIMIT, DurationUntilReset: durationpb.New(12 * time.Second),
					CurrentLimit: &rls.RateLimitResponse_RateLimit{RequestsPerUnit: 100, Unit: rls.RateLimitResponse_RateLimit_MINUTE}},
				{Code: rls.RateLimitResponse_OK, DurationUntilReset: durationpb.New(time.Hour)},
			},
		}, nil
	})
	c := newClient(t, at, 5*time.Second, true)
	v := ask(t, c)
	if !v.Over || v.Failed || v.RetryAfter != 12*time.Second {
		t.Fatalf("over the limit: %+v", v)
	}
	wantWhy(t, v, at, "tenant=acme, method=shop.Cart/Add (100 per minute, reset in 12s)")
	if s := c.Stats(); s.Asked != 1 || s.Over != 1 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

// A value of metadata may be a secret: the service is told, the caller and the record are not.
func TestHiddenValuesAreForTheServiceOnly(t *testing.T) {
	var asked atomic.Pointer[rls.RateLimitRequest]
	at, _ := serve(t, "127.0.0.1:0", func(_ context.Context, r *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		asked.Store(r)
		return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OVER_LIMIT,
			Statuses: []*rls.RateLimitResponse_DescriptorStatus{{Code: rls.RateLimitResponse_OVER_LIMIT}}}, nil
	})
	c := newClient(t, at, 5*time.Second, true)
	verdicts := make(chan Verdict, 1)
	c.Ask([][]Entry{{{Key: "token", Value: "s3cret", Hidden: true}, {Key: "method", Value: "shop.Cart/Add"}}}, func(v Verdict) { verdicts <- v })
	v := <-verdicts
	wantWhy(t, v, at, "token, method=shop.Cart/Add")
	if strings.Contains(v.Why, "s3cret") {
		t.Errorf("the verdict says %q", v.Why)
	}
	if got := asked.Load().GetDescriptors()[0].GetEntries()[0].GetValue(); got != "s3cret" {
		t.Errorf("the service was told %q", got)
	}
}

// A caller whose value is no UTF-8 does not slip through: the question is asked all the same.
func TestNoUTF8(t *testing.T) {
	at, _ := serve(t, "127.0.0.1:0", says(rls.RateLimitResponse_OVER_LIMIT))
	c := newClient(t, at, 5*time.Second, true)
	verdicts := make(chan Verdict, 1)
	c.Ask([][]Entry{{{Key: "tenant", Value: "ac\xffme"}}}, func(v Verdict) { verdicts <- v })
	if v := <-verdicts; !v.Over || v.Failed {
		t.Fatalf("%+v", v)
	}
}

// A service that is too slow costs its timeout and no more; then the call passes or is refused, as configured.
func TestSlow(t *testing.T) {
	at, _ := serve(t, "127.0.0.1:0", func(ctx context.Context, _ *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		if _, ok := ctx.Deadline(); !ok {
			return nil, status.Error(codes.InvalidArgument, "the question has no deadline")
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for _, failOpen := range []bool{true, false} {
		c := newClient(t, at, 30*time.Millisecond, failOpen)
		begin := time.Now()
		v := ask(t, c)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("a timeout of 30ms took %v", took)
		}
		if !v.Failed || v.Over == failOpen {
			t.Errorf("slow with failOpen %v: %+v", failOpen, v)
		}
		wantWhy(t, v, at, "no answer within 30ms", "timeout")
	}
}

// Nobody listens: said so at once or at the timeout, and the call passes or not as configured.
func TestDown(t *testing.T) {
	at, stop := serve(t, "127.0.0.1:0", says(rls.RateLimitResponse_OK))
	stop()
	for _, failOpen := range []bool{true, false} {
		v := ask(t, newClient(t, at, 2*time.Second, failOpen))
		if !v.Failed || v.Over == failOpen {
			t.Errorf("down with failOpen %v: %+v", failOpen, v)
		}
		wantWhy(t, v, at, "connection refused", "failOpen")
	}
}

// A service that comes back after a restart is used again within seconds, and the log tells both, once.
func TestRestarted(t *testing.T) {
	at, stop := serve(t, "127.0.0.1:0", says(rls.RateLimitResponse_OVER_LIMIT))
	var text lockedBuffer
	c, err := New(at, "shop", time.Second, true, slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v := ask(t, c); !v.Over {
		t.Fatalf("before: %+v", v)
	}
	stop()
	for range 20 {
		if v := ask(t, c); !v.Failed || v.Over || !c.Stats().Down {
			t.Fatalf("while it is down: %+v", v)
		}
	}
	serve(t, at, says(rls.RateLimitResponse_OVER_LIMIT))
	for deadline := time.Now().Add(20 * time.Second); !ask(t, c).Over; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never used again")
		}
	}
	if c.Stats().Down {
		t.Error("still down")
	}
	if s := text.String(); strings.Count(s, "fails") != 1 || strings.Count(s, "answers again") != 1 {
		t.Errorf("the log:\n%s", s)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Answers that make no sense are failures, not refusals; numbers that make no sense are bounded.
func TestGarbage(t *testing.T) {
	var answer atomic.Pointer[rls.RateLimitResponse]
	at, _ := serve(t, "127.0.0.1:0", func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		if a := answer.Load(); a != nil {
			return a, nil
		}
		return nil, status.Error(codes.Internal, "redis is gone")
	})
	c := newClient(t, at, 5*time.Second, true)
	v := ask(t, c)
	if !v.Failed || v.Over {
		t.Errorf("an error: %+v", v)
	}
	wantWhy(t, v, "Internal", "redis is gone")

	for _, code := range []rls.RateLimitResponse_Code{0, 3, -1, math.MaxInt32} {
		answer.Store(&rls.RateLimitResponse{OverallCode: code})
		if v := ask(t, c); !v.Failed || v.Over {
			t.Errorf("the code %d: %+v", code, v)
		} else {
			wantWhy(t, v, "neither OK nor OVER_LIMIT")
		}
	}

	answer.Store(&rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK, DynamicMetadata: nil,
		RawBody: make([]byte, 2*maxAnswer)})
	if v := ask(t, c); !v.Failed {
		t.Errorf("an answer of %d bytes: %+v", 2*maxAnswer, v)
	}

	for _, d := range []*durationpb.Duration{{Seconds: math.MaxInt64}, {Seconds: math.MinInt64}, {Nanos: -5}, {Nanos: math.MaxInt32}} {
		answer.Store(&rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OVER_LIMIT,
			Statuses: []*rls.RateLimitResponse_DescriptorStatus{nil, nil, nil, {Code: rls.RateLimitResponse_OVER_LIMIT, DurationUntilReset: d}}})
		v := ask(t, c)
		if !v.Over || v.RetryAfter < 0 {
			t.Errorf("reset in %v: %+v", d, v)
		}
		wantWhy(t, v, `domain "shop"`)
	}

	many := &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}
	for i := range 1000 {
		many.ResponseHeadersToAdd = append(many.ResponseHeadersToAdd, &core.HeaderValue{Key: fmt.Sprint("x-", i), Value: "v"})
	}
	answer.Store(many)
	if v := ask(t, c); len(v.Headers) != maxHeaders {
		t.Errorf("%d fields to add", len(v.Headers))
	}
}

// Beyond the bound no more questions go to a service that hangs: they fail at once and say so.
func TestBoundedInFlight(t *testing.T) {
	release := make(chan struct{})
	at, _ := serve(t, "127.0.0.1:0", func(ctx context.Context, _ *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		<-release
		return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}, nil
	})
	c := newClient(t, at, time.Minute, true)
	c.max = 5
	const questions = 20
	verdicts := make(chan Verdict, questions)
	for range questions {
		c.Ask(tenant, func(v Verdict) { verdicts <- v })
	}
	for range questions - 5 {
		if v := <-verdicts; !v.Failed || v.Over {
			t.Fatalf("beyond the bound: %+v", v)
		} else {
			wantWhy(t, v, at, "5 questions are on the way already")
		}
	}
	if n := c.Stats().InFlight; n != 5 {
		t.Errorf("%d in flight, want 5", n)
	}
	close(release)
	for range 5 {
		if v := <-verdicts; v.Failed {
			t.Errorf("within the bound: %+v", v)
		}
	}
}

// Close ends what hangs; every done is called exactly once, and also that of a question that comes too late.
func TestCloseAnswersEverybody(t *testing.T) {
	asked := make(chan struct{}, 1000)
	at, _ := serve(t, "127.0.0.1:0", func(ctx context.Context, _ *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c := newClient(t, at, time.Minute, true)
	var calls [200]atomic.Int32
	var late sync.WaitGroup
	for i := range 100 {
		c.Ask(tenant, func(Verdict) {
			for range 10_000 { // long enough for a Close that does not wait
				runtime.Gosched()
			}
			calls[i].Add(1)
		})
	}
	<-asked
	late.Go(func() {
		for i := range 100 {
			late.Add(1)
			c.Ask(tenant, func(v Verdict) {
				defer late.Done()
				calls[100+i].Add(1)
				if !v.Failed {
					t.Errorf("during or after Close: %+v", v)
				}
			})
		}
	})
	c.Close()
	for i := range 100 {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("when Close returned, done of question %d had been called %d times", i, n)
		}
	}
	late.Wait()
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("done of question %d was called %d times", i, n)
		}
	}
	c.Close() // again: nothing happens
}

// Ask returns while done is still busy, and before it was called: the caller may hold the lock that done wants.
func TestAskNeverBlocks(t *testing.T) {
	at, stop := serve(t, "127.0.0.1:0", says(rls.RateLimitResponse_OK))
	c := newClient(t, at, 5*time.Second, true)
	var shard sync.Mutex
	var done sync.WaitGroup
	want := func() {
		done.Add(1)
		c.Ask(tenant, func(Verdict) {
			shard.Lock()
			defer shard.Unlock()
			done.Done()
		})
	}
	shard.Lock()
	for range 50 {
		want()
	}
	stop()
	want()
	done.Add(1)
	c.Ask(nil, func(v Verdict) {
		shard.Lock()
		defer shard.Unlock()
		if v.Over || v.Failed {
			t.Errorf("nothing to ask: %+v", v)
		}
		done.Done()
	})
	shard.Unlock()
	done.Wait()
}

// An address that makes no sense is an error with the address in it.
func TestBadAddress(t *testing.T) {
	_, err := New("dns:///%zz\x7f:1:2:3", "shop", time.Second, true, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "rate limit service") {
		t.Fatalf("error %v", err)
	}
}

func BenchmarkAsk(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	rls.RegisterRateLimitServiceServer(server, &service{answer: says(rls.RateLimitResponse_OK)})
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	c, err := New(l.Addr().String(), "shop", time.Second, true, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.ReportAllocs()
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		verdicts := make(chan Verdict, 1)
		for pb.Next() {
			c.Ask(tenant, func(v Verdict) { verdicts <- v })
			<-verdicts
		}
	})
}
