package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers each call with body; it is what stands behind one connection. Guarded by the shard.
type server struct {
	s      *shard.Shard
	c      *Conn
	body   []byte
	gone   int
	err    error
	resets int
	open   int
}

func (v *server) HandleHeaders(s *session.Stream, b *session.Block) {
	v.open++
	in := v.s.Env.Interner
	status := in.Intern(":status", "200")
	defer in.Release(status)
	v.c.Sess.SendHeaders(s, append(b.Fields[:0:0], status), false)
	v.c.Sess.SendData(s, v.body, true)
}
func (v *server) HandleData(s *session.Stream, p []byte, _ bool) { v.c.Sess.Credit(s, len(p)) }
func (v *server) HandleReset(*session.Stream, h2.Code, error)    { v.resets++ }
func (v *server) HandleHanded(*session.Stream, int)              {}
func (v *server) HandleClosed(*session.Stream)                   { v.open-- }
func (v *server) HandleSettings()                                {}
func (v *server) HandleGoAway(h2.Code, string)                   {}
func (v *server) HandlePong([8]byte)                             {}
func (v *server) in(f func())                                    { v.s.Enter(); defer v.s.Leave(); f() }

var limits = session.Config{StreamWindow: 64 << 10, MaxStreamWindow: 1 << 20, ConnWindow: 1 << 20, MaxStreams: 1000, MaxHeaderBytes: 16 << 10, OutputMark: 64 << 10}

// sockets is a pair of real, connected loopback sockets; ours has a small send buffer.
func sockets(t testing.TB) (ours, theirs *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = b.(*net.TCPConn), a.(*net.TCPConn)
	_ = ours.SetWriteBuffer(32 << 10)
	_ = theirs.SetReadBuffer(64 << 10)
	return ours, theirs
}

// serve begins a connection on a shard of its own.
func serve(t testing.TB, nc net.Conn, body []byte) (v *server, wait func()) {
	return serveAfter(t, nc, body, nil)
}

// serveAfter is serve of a connection of which something has been read already.
func serveAfter(t testing.TB, nc net.Conn, body, first []byte) (v *server, wait func()) {
	s := shard.New(0, time.Now(), 1)
	v = &server{s: s, body: body}
	v.in(func() {
		v.c = New(s, nc, session.Server, &limits, v)
		v.c.OnGone = func(err error) { v.gone++; v.err = err }
		v.c.Before(first)
	})
	done := make(chan struct{})
	go func() { defer close(done); v.c.Serve() }()
	t.Cleanup(func() {
		<-done
		v.in(func() {
			if v.gone != 1 || v.open != 0 {
				t.Errorf("gone %d times, %d streams are open", v.gone, v.open)
			}
			if n, m := s.Env.Interner.Len(), s.Env.Buffers.Outstanding(); n != 0 || m != 0 {
				// A flusher of the stream kind may hold a buffer for a moment longer.
				t.Errorf("%d fields and %d buffers are left", n, m)
			}
			s.Timer.Stop()
		})
	})
	return v, func() { <-done }
}

// hello says what a client says first, then calls n times.
func hello(w io.Writer, n int, window uint32) *http2.Framer {
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	_ = fr.WriteWindowUpdate(0, 1<<30)
	for i := range n {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: request(), EndHeaders: true, EndStream: true})
	}
	_, _ = w.Write(b.Bytes())
	return http2.NewFramer(w, nil)
}

func request() []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/a/b"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return b.Bytes()
}

// replies reads until n streams have ended and returns the body bytes of each.
func replies(t testing.TB, r io.Reader, n int) map[uint32]int {
	t.Helper()
	fr := http2.NewFramer(io.Discard, r)
	got, ended := map[uint32]int{}, 0
	for ended < n {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Errorf("after %d of %d replies: %v", ended, n, err)
			return got
		}
		if d, ok := f.(*http2.DataFrame); ok {
			got[d.StreamID] += len(d.Data())
			if d.StreamEnded() {
				ended++
			}
		}
	}
	return got
}

func TestASlowReaderGetsEveryByteThroughManyPartialWrites(t *testing.T) {
	ours, theirs := sockets(t)
	body := make([]byte, 300<<10)
	v, _ := serve(t, ours, body)
	hello(theirs, 10, 1<<30)
	eventually(t, func() (ok bool) { v.in(func() { ok = v.c.flushing }); return ok }, "the kernel takes all at once: the test says nothing")
	v.in(func() {
		if n := len(v.c.Sess.Output()); n > limits.OutputMark+h2.MinMaxFrameSize {
			t.Errorf("%d bytes of output, above the mark", n)
		}
	})
	for id, n := range replies(t, slow{theirs}, 10) {
		if n != len(body) {
			t.Errorf("stream %d got %d of %d bytes", id, n, len(body))
		}
	}
	_ = theirs.Close()
}

// slow reads a little at a time.
type slow struct{ io.Reader }

func (s slow) Read(p []byte) (int, error) { return s.Reader.Read(p[:min(len(p), 3001)]) }

// eventually polls what a real kernel and scheduler decide.
func eventually(t testing.TB, ok func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestAStalledReaderThatGoesAwayLeavesNoFlusher(t *testing.T) {
	for _, how := range []string{"close", "reset", "half"} {
		t.Run(how, func(t *testing.T) {
			ours, theirs := sockets(t)
			v, wait := serve(t, ours, make([]byte, 4<<20))
			hello(theirs, 3, 1<<30)
			eventually(t, func() (ok bool) { v.in(func() { ok = v.c.flushing }); return ok }, "nothing waits")
			switch how {
			case "close":
				_ = theirs.Close()
			case "reset":
				_ = theirs.SetLinger(0)
				_ = theirs.Close()
			case "half":
				_ = theirs.CloseWrite() // an HTTP/2 client that says no more is gone
				defer theirs.Close()
			}
			wait()
			v.in(func() {
				if v.resets != 3 {
					t.Errorf("%d streams were reset", v.resets)
				}
			})
		})
	}
}

func TestOurOwnEndWakesReaderAndFlusher(t *testing.T) {
	ours, theirs := sockets(t)
	defer theirs.Close()
	v, wait := serve(t, ours, make([]byte, 4<<20))
	hello(theirs, 3, 1<<30)
	eventually(t, func() (ok bool) { v.in(func() { ok = v.c.flushing }); return ok }, "nothing waits")
	cut := errors.New("cut")
	v.in(func() { v.c.End(cut); v.c.End(errors.New("again")) })
	wait()
	v.in(func() {
		if v.err != cut {
			t.Errorf("the end is %v", v.err)
		}
	})
}

func TestAFaultOfThePeersIsNamedInAGoAwayThatItCanReadBeforeTheEnd(t *testing.T) {
	ours, theirs := sockets(t)
	_, wait := serve(t, ours, nil)
	_, _ = io.WriteString(theirs, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"+string(make([]byte, 100<<10)))
	fr := http2.NewFramer(io.Discard, theirs)
	var why http2.ErrCode
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			if err != io.EOF {
				t.Errorf("ended by %v: the GOAWAY may be lost", err)
			}
			break
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			why = g.ErrCode
		}
	}
	if why != http2.ErrCodeProtocol {
		t.Errorf("the code is %v", why)
	}
	_ = theirs.Close()
	wait()
}

func TestAPeerThatDoesNotCloseAfterOurGoodbyeIsCutOff(t *testing.T) {
	ours, theirs := sockets(t)
	defer theirs.Close()
	v, wait := serve(t, ours, nil)
	hello(theirs, 1, 100)
	replies(t, theirs, 1)
	v.in(v.c.Finish)
	if _, err := io.Copy(io.Discard, theirs); err != nil {
		t.Errorf("our side was not closed in order: %v", err)
	}
	began := time.Now()
	wait()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestFramesThatComeInPiecesAreFrames(t *testing.T) {
	ours, theirs := sockets(t)
	_ = theirs.SetNoDelay(true)
	body := make([]byte, 100)
	serve(t, ours, body)
	var b bytes.Buffer
	hello(&b, 5, 1<<20)
	go func() {
		for i, c := range b.Bytes() {
			_, _ = theirs.Write([]byte{c})
			if i%16 == 0 {
				time.Sleep(100 * time.Microsecond) // so that pieces arrive apart; nothing is decided by it
			}
		}
	}()
	if got := replies(t, theirs, 5); len(got) != 5 {
		t.Errorf("got %v", got)
	}
	_ = theirs.Close()
}

func TestManyConnectionsOfOneShardComeAndGo(t *testing.T) {
	s := shard.New(0, time.Now(), 1)
	body := make([]byte, 50<<10)
	var wg sync.WaitGroup
	var all []*server
	for i := range 100 {
		ours, theirs := sockets(t)
		v := &server{s: s, body: body}
		all = append(all, v)
		v.in(func() {
			v.c = New(s, ours, session.Server, &limits, v)
			v.c.OnGone = func(error) { v.gone++ }
		})
		wg.Go(v.c.Serve)
		wg.Go(func() {
			defer theirs.Close()
			hello(theirs, 4, 1<<20)
			switch i % 4 {
			case 0:
				_ = theirs.SetLinger(0) // RST amid everything
			case 1:
				v.in(func() { v.c.End(nil) })
			default:
				replies(t, theirs, 4)
			}
		})
	}
	wg.Wait()
	s.Enter()
	defer s.Leave()
	for i, v := range all {
		if v.gone != 1 || v.open != 0 {
			t.Errorf("connection %d: gone %d times, %d streams open", i, v.gone, v.open)
		}
	}
	if n, m := s.Env.Interner.Len(), s.Env.Buffers.Outstanding(); n != 0 || m != 0 {
		t.Errorf("%d fields and %d buffers are left", n, m)
	}
	s.Timer.Stop()
}

func TestAClosedDescriptorIsNotUsed(t *testing.T) {
	ours, theirs := sockets(t)
	v, wait := serve(t, ours, nil)
	hello(theirs, 1, 100)
	replies(t, theirs, 1)
	v.in(func() { v.c.End(nil) })
	wait()
	_ = theirs.Close()
	// Whoever holds the number now must not hear of us.
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(p[0])
	defer syscall.Close(p[1])
	v.in(func() { v.c.Sess.Touch(); v.c.Finish(); v.c.Flush() })
	_ = syscall.SetNonblock(p[0], true)
	if n, err := syscall.Read(p[0], make([]byte, 10)); n > 0 || err != syscall.EAGAIN {
		t.Errorf("read %d, %v", n, err)
	}
}
