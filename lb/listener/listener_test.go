package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type accepted struct {
	nc  net.Conn
	err error
}

// door is a net.Listener that brings what it is told to.
type door struct {
	next chan accepted
	once sync.Once
	shut chan struct{}
}

func newDoor() *door { return &door{next: make(chan accepted, 100), shut: make(chan struct{})} }

func (d *door) Accept() (net.Conn, error) {
	select {
	case a := <-d.next:
		return a.nc, a.err
	case <-d.shut:
		return nil, net.ErrClosed
	}
}
func (d *door) Close() error   { d.once.Do(func() { close(d.shut) }); return nil }
func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

// stage is a listener over n shards.
type stage struct {
	*Listener
	door   *door
	shards []*shard.Shard
	fs     []*forward.Forwarder
	tel    *telemetry.Telemetry
}

func newStage(t *testing.T, n int) *stage {
	tel, err := telemetry.New(context.Background(), telemetry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{door: newDoor(), tel: tel}
	log := slog.New(slog.DiscardHandler)
	var gen atomic.Pointer[forward.Generation]
	for i := range n {
		sh := shard.New(i, time.Now(), 1)
		s.shards = append(s.shards, sh)
		s.fs = append(s.fs, forward.New(sh, &gen, tel, log, forward.Options{}))
	}
	var set atomic.Pointer[Settings]
	set.Store(&Settings{Session: session.Config{StreamWindow: 65535, MaxStreamWindow: 65535, ConnWindow: 1 << 20, MaxStreams: 10, MaxHeaderBytes: 4096, OutputMark: 65536}})
	s.Listener = New(s.door, s.fs, &set, Options{Log: log})
	return s
}

// downs is how many connections each shard knows.
func (s *stage) downs() (n []int) {
	for i, sh := range s.shards {
		k := 0
		sh.Lock()
		s.fs[i].EachDown(func(*forward.Down) { k++ })
		sh.Unlock()
		n = append(n, k)
	}
	return n
}

func (s *stage) end() {
	for i, sh := range s.shards {
		sh.Enter()
		s.fs[i].EachDown(func(d *forward.Down) { d.End(errors.New("over")) })
		sh.Timer.Stop()
		sh.Leave()
	}
	s.Wait()
	_ = s.tel.Shutdown(context.Background())
}

func TestEachConnectionGoesToTheShardWithTheFewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 3)
		go s.Accept()
		var theirs []net.Conn
		for range 7 {
			a, b := net.Pipe()
			theirs = append(theirs, b)
			s.door.next <- accepted{nc: a}
		}
		synctest.Wait()
		if n := s.downs(); n[0] != 3 || n[1] != 2 || n[2] != 2 || s.Open() != 7 {
			t.Errorf("by shard: %v, open %d", n, s.Open())
		}
		_ = theirs[1].Close() // of shard 1
		_ = theirs[4].Close()
		synctest.Wait()
		a, b := net.Pipe()
		theirs = append(theirs, b)
		s.door.next <- accepted{nc: a}
		synctest.Wait()
		if n := s.downs(); n[0] != 3 || n[1] != 1 || n[2] != 2 || s.Open() != 6 {
			t.Errorf("by shard: %v, open %d", n, s.Open())
		}
		s.Close()
		s.Close()
		s.end()
		for _, c := range theirs {
			_ = c.Close()
		}
		if s.Open() != 0 {
			t.Errorf("%d are counted", s.Open())
		}
	})
}

func TestWhatPassesDoesNotEndTheAcceptingAndCloseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		done := make(chan struct{})
		go func() { defer close(done); s.Accept() }()
		began := time.Now()
		for range 12 {
			s.door.next <- accepted{err: errors.New("too many open files")}
		}
		a, b := net.Pipe()
		s.door.next <- accepted{nc: a}
		time.Sleep(time.Minute)
		if n := s.downs(); n[0] != 1 {
			t.Errorf("after %v the connection behind the errors is not accepted", time.Since(began))
		}
		s.Close()
		<-done
		s.end()
		_ = b.Close()
	})
}

// Whoever closes the listener and then tells every connection of the end (drain, shutdown) must miss none: one that was
// missed would hold up the drain to its last second, and Wait for ever.
func TestAfterCloseEveryAcceptedConnectionIsKnownToItsShard(t *testing.T) {
	s := newStage(t, 1)
	go s.Accept()
	a, b := net.Pipe()
	defer b.Close()
	s.shards[0].Lock() // busy
	s.door.next <- accepted{nc: a}
	for end := time.Now().Add(10 * time.Second); s.Open() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not accepted")
		}
	}
	closed := make(chan struct{})
	go func() { defer close(closed); s.Close() }()
	select {
	case <-closed:
		n := 0
		s.fs[0].EachDown(func(*forward.Down) { n++ })
		if n == 0 {
			t.Error("Close has returned, and a connection that was accepted is not known to its shard")
		}
		s.shards[0].Unlock()
	case <-time.After(20 * time.Millisecond): // it waits, as it should
		s.shards[0].Unlock()
		<-closed
		if n := s.downs(); n[0] != 1 {
			t.Errorf("%d connections are known", n[0])
		}
	}
	for s.downs()[0] == 0 {
		time.Sleep(time.Millisecond)
	}
	s.end()
}
