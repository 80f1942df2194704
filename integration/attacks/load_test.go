package attacks

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// load is a well-behaved client that calls at a fixed rate, however long the calls take.
type load struct {
	end  chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	took   []time.Duration // guarded by mu; each from when its call was made
	slow   []slowCall      // guarded by mu
	errors []string        // guarded by mu
}

// slowCall is a call that took longer than the floor.
type slowCall struct {
	at, took time.Duration // at is since the load began
}

// beginLoad begins calls on one connection and, after a while, every second one on another, which has perhaps still to be made.
func beginLoad(old, young *grpc.ClientConn, after time.Duration) *load {
	l := &load{end: make(chan struct{})}
	l.done.Go(func() {
		began := time.Now()
		pace := time.NewTimer(0)
		defer pace.Stop()
		for n := 0; ; n++ {
			// By the clock, not by ticks: none is lost when we come late.
			pace.Reset(time.Until(began.Add(time.Duration(n) * time.Second / rate)))
			select {
			case <-l.end:
				return
			case <-pace.C:
			}
			cc := old
			if n%2 == 1 && time.Since(began) > after {
				cc = young
			}
			l.done.Go(func() { l.call(cc, n, began) })
		}
	})
	return l
}

func (l *load) call(cc *grpc.ClientConn, n int, began time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	at := time.Now()
	_, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 100, Payload: &testpb.Payload{Body: make([]byte, 100)}})
	took := time.Since(at)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took)
	if took > floor {
		l.slow = append(l.slow, slowCall{at: at.Sub(began), took: took})
	}
	if err != nil {
		l.errors = append(l.errors, fmt.Sprintf("call %d, after %v: %v", n, at.Sub(began).Round(time.Millisecond), err))
	}
}

// stop ends the load and waits for its calls.
func (l *load) stop() *load {
	close(l.end)
	l.done.Wait()
	slices.Sort(l.took)
	return l
}

// after lets the load go on for a while, and stops it.
func (l *load) after(d time.Duration) *load {
	time.Sleep(d)
	return l.stop()
}

func (l *load) calls() int { return len(l.took) }

func (l *load) failed() int { return len(l.errors) }

func (l *load) first() string {
	if len(l.errors) == 0 {
		return "none"
	}
	return l.errors[0]
}

// p99 is the latency that one call in a hundred exceeds.
func (l *load) p99() time.Duration {
	if len(l.took) == 0 {
		return 0
	}
	return l.took[len(l.took)*99/100]
}

// spells tells when calls were slow, and how slow the slowest was: a burst at the beginning is another defect than a listener that is slow all the time.
func (l *load) spells() string {
	slices.SortFunc(l.slow, func(a, b slowCall) int { return cmp.Compare(a.at, b.at) })
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d calls above %v", len(l.slow), len(l.took), floor)
	for i := 0; i < len(l.slow); {
		from, to, worst, n := l.slow[i].at, l.slow[i].at, time.Duration(0), 0
		for ; i < len(l.slow) && l.slow[i].at-to < 50*time.Millisecond; i++ {
			to, worst, n = l.slow[i].at, max(worst, l.slow[i].took), n+1
		}
		fmt.Fprintf(&b, "; %d made at %d to %d ms, at most %s", n, from.Milliseconds(), to.Milliseconds(), ms(worst))
	}
	return b.String()
}
