package reflection

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// network is a handful of addresses in memory, so that real servers can be asked in virtual time.
type network struct {
	mu    sync.Mutex
	hosts map[string]chan net.Conn // listening; no entry: the dial is refused
	dials map[string]int
}

func newNetwork() *network {
	return &network{hosts: map[string]chan net.Conn{}, dials: map[string]int{}}
}

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[address]++
	accept := n.hosts[address]
	n.mu.Unlock()
	if accept == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	select {
	case accept <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *network) dialled(address string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[address]
}

// listen serves at address until the returned function is called.
func (n *network) listen(address string, register func(*grpc.Server)) (stop func()) {
	l := &pipeListener{accept: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.hosts[address] = l.accept
	n.mu.Unlock()
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	return func() {
		n.mu.Lock()
		if n.hosts[address] == l.accept {
			delete(n.hosts, address)
		}
		n.mu.Unlock()
		s.Stop()
		<-done
	}
}

type pipeListener struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// offering registers reflection that names the service p.<name> with the method m.
func offering(name string) func(*grpc.Server) {
	return func(s *grpc.Server) {
		v1.RegisterServerReflectionServer(s, scripted{answer: func(q *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			if q.GetFileContainingSymbol() == "" {
				return list("p." + name), nil
			}
			return files(file("p", name+".m")), nil
		}})
	}
}

func offers(st *State, service string) bool {
	if st == nil || st.Result == nil {
		return false
	}
	_, ok := st.Result.Offers()[service]
	return ok
}

func set(targets ...Target) map[Target]struct{} {
	m := map[Target]struct{}{}
	for _, t := range targets {
		m[t] = struct{}{}
	}
	return m
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// A prober's life with one target: asked at once, news told once, kept while it fails, asked again, forgotten.
func TestProberKeepsATargetAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var news atomic.Int32
		p := NewProber(Options{Asker: &Asker{Dial: n.dial}, Changed: func() { news.Add(1) }})
		defer p.Close()
		stop := n.listen("a:1", offering("One"))
		a := Target{Address: "a:1", InstanceID: "i1"}
		p.Set(set(a))
		after(0)
		if st := p.State(a); !st.Asked || !offers(st, "p.One") || st.Err != nil || news.Load() != 1 {
			t.Fatalf("at once: %+v, %d news", st, news.Load())
		}
		after(5 * time.Minute) // nothing new
		if got := n.dialled("a:1"); news.Load() != 1 || got < 8 || got > 13 {
			t.Fatalf("after five minutes: %d news, %d questions", news.Load(), got)
		}
		first := p.State(a).Result

		stop() // what was known stays known
		after(time.Minute)
		st := p.State(a)
		if st.Result != first || status.Code(st.Err) != codes.Unavailable || news.Load() != 2 {
			t.Fatalf("while it is away: %+v, %d news", st, news.Load())
		}
		stop = n.listen("a:1", offering("Two")) // a new version comes up
		after(10 * time.Second)
		if st := p.State(a); st.Err != nil || !offers(st, "p.Two") || offers(st, "p.One") || news.Load() != 3 {
			t.Fatalf("as a new version: %+v, %d news", st, news.Load())
		}
		b := Target{Address: "a:1", InstanceID: "i2"} // another instance takes over the address
		p.Set(set(b))
		if p.State(a) != nil || p.State(b).Result != nil {
			t.Fatal("the successor inherited")
		}
		after(0)
		if !offers(p.State(b), "p.Two") {
			t.Fatalf("%+v", p.State(b))
		}
		p.Set(nil)
		count := n.dialled("a:1")
		after(time.Hour)
		if n.dialled("a:1") != count {
			t.Fatal("it is still asked")
		}
		stop()
	})
}

// A server that is registered before it listens is found soon after it does.
func TestRegisteredBeforeListening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		p := NewProber(Options{Asker: &Asker{Dial: n.dial}})
		defer p.Close()
		a := Target{Address: "a:1"}
		p.Set(set(a))
		after(0)
		if st := p.State(a); !st.Asked || st.Err == nil {
			t.Fatalf("%+v", st)
		}
		after(400 * time.Millisecond)
		stop := n.listen("a:1", offering("One"))
		defer stop()
		after(800 * time.Millisecond)
		if !offers(p.State(a), "p.One") {
			t.Fatalf("%+v", p.State(a))
		}
	})
}

// A dead target is asked ever less often, and a server without reflection only at the usual pace.
func TestFailuresBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		p := NewProber(Options{Asker: &Asker{Dial: n.dial}})
		defer p.Close()
		stop := n.listen("none:1", func(*grpc.Server) {})
		defer stop()
		p.Set(set(Target{Address: "dead:1"}, Target{Address: "none:1"}))
		after(10 * time.Minute)
		if got := n.dialled("dead:1"); got < 60 || got > 140 {
			t.Errorf("dead: %d questions in ten minutes", got)
		}
		if got := n.dialled("none:1"); got < 15 || got > 25 {
			t.Errorf("without reflection: %d questions in ten minutes", got)
		}
		if st := p.State(Target{Address: "none:1"}); st.Result != nil || status.Code(st.Err) != codes.Unimplemented {
			t.Errorf("%+v", st)
		}
	})
}

// A crowd of targets that hang does not delay a new one for long, and few questions run at once.
func TestHangingTargetsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var running, most atomic.Int32
		p := NewProber(Options{Concurrency: 4, Asker: &Asker{Dial: func(ctx context.Context, address string) (net.Conn, error) {
			now := running.Add(1)
			defer running.Add(-1)
			if now > most.Load() {
				most.Store(now)
			}
			if address == "good:1" {
				return n.dial(ctx, address)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}})
		defer p.Close()
		stop := n.listen("good:1", offering("One"))
		defer stop()
		hanging := map[Target]struct{}{}
		for i := range 20 {
			hanging[Target{Address: "hang:1", InstanceID: string(rune('a' + i))}] = struct{}{}
		}
		p.Set(hanging)
		after(time.Minute)
		good := Target{Address: "good:1"}
		hanging[good] = struct{}{}
		p.Set(hanging)
		after(0)
		if !offers(p.State(good), "p.One") {
			t.Fatalf("%+v", p.State(good))
		}
		if most.Load() > 12 { // 4 first and 4 further ones; a cancelled dial may end a moment after its question
			t.Fatalf("%d questions at once", most.Load())
		}
	})
}

// Recheck asks at once: a restarted server's new methods are known before the next round.
func TestRecheckAsksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		p := NewProber(Options{Asker: &Asker{Dial: n.dial}})
		defer p.Close()
		a := Target{Address: "a:1"}
		stop := n.listen("a:1", offering("One"))
		p.Set(set(a))
		after(time.Second)
		stop()
		stop = n.listen("a:1", offering("Two"))
		defer func() { stop() }()
		p.Recheck("b:1")
		after(0)
		if offers(p.State(a), "p.Two") {
			t.Fatal("it was asked without a reason")
		}
		p.Recheck("a:1")
		after(0)
		if !offers(p.State(a), "p.Two") {
			t.Fatalf("%+v", p.State(a))
		}
	})
}

// Many connections see the same restart, and one that flaps is seen again and again: that is at most one question a second.
func TestRecheckIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		p := NewProber(Options{Asker: &Asker{Dial: n.dial}})
		defer p.Close()
		a := Target{Address: "a:1"}
		stop := n.listen("a:1", offering("One"))
		defer stop()
		p.Set(set(a))
		after(5 * time.Second)
		before := n.dialled("a:1")
		for range 100 { // over one second
			p.Recheck("a:1")
			after(10 * time.Millisecond)
		}
		after(2 * time.Second)
		if got := n.dialled("a:1") - before; got < 2 || got > 3 {
			t.Errorf("it was asked %d times", got)
		}
	})
}
