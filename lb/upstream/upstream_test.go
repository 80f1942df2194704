package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The stories of whole calls are in lb/forward; here is what a pool does by itself.

type waiter struct {
	party any
	conn  *Conn
	err   error
	n     int
}

func (w *waiter) HandleConn(c *Conn, err error) { w.conn, w.err, w.n = c, err, w.n+1 }
func (w *waiter) Party() any                    { return w.party }

func options() *Options {
	return &Options{Session: session.Config{StreamWindow: 65535, MaxStreamWindow: 65535, ConnWindow: 1 << 20, MaxHeaderBytes: 4096, OutputMark: 65536},
		FillMark: 10, MaxPending: 3, ConnectTimeout: 5 * time.Second, IdleTimeout: time.Minute, KeepaliveInterval: time.Minute, KeepaliveTimeout: time.Second,
		MinBackoff: time.Second, MaxBackoff: 8 * time.Second}
}

// registry is one over n shards whose dials go to dial; the end stops it.
func registry(t *testing.T, n int, dial Dialer) (r *Registry, shards []*shard.Shard, end func()) {
	tel, err := telemetry.New(context.Background(), telemetry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	for i := range n {
		shards = append(shards, shard.New(i, time.Now(), 1))
	}
	r = NewRegistry(ctx, slog.New(slog.DiscardHandler), tel, dial, shards, make([]StreamHandler, n))
	return r, shards, func() {
		cancel()
		r.Close()
		time.Sleep(time.Minute)
		for _, s := range shards {
			s.Enter()
			s.Timer.Stop()
			if n := s.Env.Buffers.Outstanding(); n != 0 {
				t.Errorf("%d buffers are out", n)
			}
			s.Leave()
		}
		_ = tel.Shutdown(context.Background())
	}
}

func TestWaitersAreBoundedAndEachIsToldOnceButTheOneThatCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, shards, end := registry(t, 1, func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		defer end()
		e := r.Endpoint("c", "a", options())
		var w [4]waiter
		shards[0].Enter()
		for i := range w {
			_, err := e.Pool(0).Reserve(&w[i])
			if (i == 3) != errors.Is(err, ErrPending) {
				t.Errorf("waiter %d: %v", i, err)
			}
		}
		e.Pool(0).Cancel(&w[1])
		e.Pool(0).Cancel(&w[3])
		shards[0].Leave()
		time.Sleep(6 * time.Second)
		shards[0].Lock()
		defer shards[0].Unlock()
		for i, want := range []int{1, 0, 1, 0} {
			if w[i].n != want || want == 1 && !errors.Is(w[i].err, context.DeadlineExceeded) {
				t.Errorf("waiter %d was told %d times: %v", i, w[i].n, w[i].err)
			}
		}
		if !e.Down() || e.LastError() == "" {
			t.Error("it is in the pick still")
		}
	})
}

func TestAnEndpointThatIsDownIsDialledByOneShardWithGrowingPausesUntilItIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		r, shards, end := registry(t, 4, func(context.Context, string) (net.Conn, error) {
			dials.Add(1)
			return nil, errors.New("refused")
		})
		defer end()
		e := r.Endpoint("c", "a", options())
		for i, s := range shards {
			s.Enter()
			_, _ = e.Pool(i).Reserve(&waiter{})
			s.Leave()
		}
		synctest.Wait()
		if n := dials.Load(); n != 4 {
			t.Errorf("%d dials", n)
		}
		var at []int64
		for range 40 {
			time.Sleep(time.Second)
			at = append(at, dials.Load())
		}
		if n := at[39] - 4; n < 6 || n > 13 {
			t.Errorf("%d dials in 40 s: %v", n, at)
		}
		r.Retire(nil)
		n := dials.Load()
		time.Sleep(time.Hour)
		if dials.Load() != n {
			t.Error("it is dialled though it was removed")
		}
	})
}

func TestAPeerThatSendsNoSettingsIsGivenUpAfterTheConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{}, 10)
		r, shards, end := registry(t, 1, func(context.Context, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b); _ = b.Close(); ended <- struct{}{} }()
			return a, nil
		})
		defer end()
		e := r.Endpoint("c", "a", options())
		var w waiter
		shards[0].Enter()
		_, _ = e.Pool(0).Reserve(&w)
		shards[0].Leave()
		began := time.Now()
		<-ended
		if d := time.Since(began); d < 5*time.Second || d > 5*time.Second+10*time.Millisecond {
			t.Errorf("given up after %v", d)
		}
		synctest.Wait()
		shards[0].Lock()
		defer shards[0].Unlock()
		if w.n != 1 || w.err == nil || !e.Down() || e.Connections.Load() != 0 {
			t.Errorf("told %d times (%v), down %v, %d connections", w.n, w.err, e.Down(), e.Connections.Load())
		}
	})
}

func TestWhoFillsTheQueueForAnEndpointKeepsNobodyElseOutOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, shards, end := registry(t, 1, func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		defer end()
		p := r.Endpoint("c", "a", options()).Pool(0) // of which three may wait
		greedy := [4]waiter{{party: "greedy"}, {party: "greedy"}, {party: "greedy"}, {party: "greedy"}}
		other := [2]waiter{{party: "other"}, {party: "other"}}
		shards[0].Enter()
		for i := range greedy {
			if _, err := p.Reserve(&greedy[i]); (i == 3) != errors.Is(err, ErrPending) {
				t.Errorf("greedy %d: %v", i, err)
			}
		}
		if _, err := p.Reserve(&other[0]); err != nil {
			t.Errorf("the other found no place: %v", err)
		}
		if _, err := p.Reserve(&other[1]); !errors.Is(err, ErrPending) {
			t.Errorf("the other has more than its share: %v", err)
		}
		shards[0].Leave()
		time.Sleep(time.Second)
		shards[0].Lock()
		if greedy[2].n != 1 || !errors.Is(greedy[2].err, ErrPending) || greedy[0].n+greedy[1].n+other[0].n != 0 {
			t.Errorf("told: %v, %v", greedy, other)
		}
		shards[0].Unlock()
		time.Sleep(6 * time.Second)
	})
}
