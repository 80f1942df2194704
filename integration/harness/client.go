package harness

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// Dial connects a stock grpc-go client, in plain text, to an address; it is closed when the test ends.
func Dial(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return DialTarget(t, "passthrough:///"+addr, opts...)
}

// DialTarget is Dial for a target of any scheme.
func DialTarget(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(), // grpc-go's own retries would hide failed calls
		grpc.WithNoProxy(),
	}, opts...)...)
	if err != nil {
		t.Fatalf("dial %s: %v", target, err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// Context is a context that ends with the test or after the limit.
func Context(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// WhoAnswers makes a unary call and returns the name of the backend that answered.
func WhoAnswers(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) (string, error) {
	resp, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{}, opts...)
	return resp.GetServerId(), err
}

// Load is a crowd of clients that call without end, each call after the one before.
type Load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	calls  map[string]int // by backend name
	total  int
	errors []string
}

// StartLoad begins unary calls from a number of callers over the connections, in turn. The calls of one caller are a
// few milliseconds apart: the load is there to catch failed calls, not to measure.
func StartLoad(t testing.TB, callers int, conns ...*grpc.ClientConn) *Load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cancel: cancel, calls: map[string]int{}}
	for i := range callers {
		l.done.Go(func() { l.call(ctx, conns[i%len(conns)]) })
	}
	t.Cleanup(func() { l.Stop() })
	return l
}

func (l *Load) call(ctx context.Context, cc *grpc.ClientConn) {
	pace := time.NewTicker(4 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		// A call is never cut by the end of the load, only by its own limit: the last calls count too.
		callCtx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		name, err := WhoAnswers(callCtx, cc)
		cancel()
		l.mu.Lock()
		l.total++
		if err != nil {
			l.errors = append(l.errors, fmt.Sprintf("call %d at %s: %v", l.total, time.Now().Format("15:04:05.000"), err))
		} else {
			l.calls[name]++
		}
		l.mu.Unlock()
	}
}

// Stop ends the load and waits for its calls.
func (l *Load) Stop() {
	l.cancel()
	l.done.Wait()
}

// Total is how many calls have ended so far.
func (l *Load) Total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Of is how many calls a backend has answered so far.
func (l *Load) Of(backend string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls[backend]
}

// Await waits until n more calls have ended.
func (l *Load) Await(t testing.TB, n int) {
	t.Helper()
	want := l.Total() + n
	Eventually(t, 30*time.Second, fmt.Sprintf("%d more calls", n), func() bool { return l.Total() >= want })
}

// MustNotHaveFailed stops the load and fails the test if a call failed, or if there was hardly any load.
func (l *Load) MustNotHaveFailed(t testing.TB) {
	t.Helper()
	l.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total < 20 {
		t.Errorf("the load made only %d calls: that proves nothing", l.total)
	}
	if len(l.errors) > 0 {
		t.Errorf("%d of %d calls failed, the first: %v", len(l.errors), l.total, l.errors[:min(5, len(l.errors))])
	}
	shares := make([]string, 0, len(l.calls))
	for _, name := range slices.Sorted(maps.Keys(l.calls)) {
		shares = append(shares, fmt.Sprintf("%s=%d", name, l.calls[name]))
	}
	t.Logf("load: %d calls, %v", l.total, shares)
}
