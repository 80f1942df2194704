package session

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// hooked is a recorder that also does something in its callbacks: do is called with the callback's name and its stream.
type hooked struct {
	recorder
	do func(what string, s *Stream)
}

func (h *hooked) run(what string, s *Stream) {
	if h.do != nil {
		h.do(what, s)
	}
}

func (h *hooked) HandleHeaders(s *Stream, b *Block) {
	h.recorder.HandleHeaders(s, b)
	h.run("headers", s)
}

func (h *hooked) HandleData(s *Stream, p []byte, end bool) {
	h.recorder.HandleData(s, p, end)
	h.run("data", s)
}

func (h *hooked) HandleReset(s *Stream, code h2.Code, why error) {
	h.recorder.HandleReset(s, code, why)
	h.run("reset", s)
}

func (h *hooked) HandleHanded(s *Stream, n int) {
	h.recorder.HandleHanded(s, n)
	h.run("handed", s)
}

func (h *hooked) HandleClosed(s *Stream) {
	h.recorder.HandleClosed(s)
	h.run("closed", s)
}

func (h *hooked) HandleSettings() {
	h.recorder.HandleSettings()
	h.run("settings", nil)
}

func (h *hooked) HandlePong(data [8]byte) {
	h.recorder.HandlePong(data)
	h.run("pong", nil)
}

func (h *hooked) HandleGoAway(code h2.Code, debug string) {
	h.recorder.HandleGoAway(code, debug)
	h.run("goaway", nil)
}

// side is one connection of a stage and its peer.
type side struct {
	*Conn
	*hooked
	peer *peer
}

// stage holds connections that share an Env, as those of a shard do.
type stage struct {
	t     *testing.T
	env   *Env
	sides []*side
}

func newStage(t *testing.T) *stage { return &stage{t: t, env: &Env{Interner: hpack.NewInterner()}} }

// connect adds a connection whose handshake is done, with the peer's windows as given.
func (g *stage) connect(role Role, window int) *side {
	x := &side{hooked: &hooked{}, peer: newPeer(g.t, role == Client)}
	cfg := &Config{StreamWindow: 65535, MaxStreamWindow: 1 << 20, ConnWindow: 1 << 20, MaxStreams: 100, MaxHeaderBytes: 8192, OutputMark: 1 << 20}
	x.Conn = New(g.env, role, cfg, x.hooked, &carrier{})
	x.recorder.conn = x.Conn
	g.sides = append(g.sides, x)
	first := fmt.Sprintf("SETTINGS INITIAL_WINDOW_SIZE=%d", window)
	if role == Server {
		first = "PREFACE\n" + first
	}
	g.recv(x, first)
	g.sent(x)
	x.log = nil
	return x
}

func (g *stage) recv(x *side, frames string) {
	g.t.Helper()
	_, _ = x.Recv(x.peer.frames(frames)) // a test that wants the error looks at Failed
	g.check()
}

func (g *stage) check() {
	g.t.Helper()
	var all []*Conn
	for _, x := range g.sides {
		all = append(all, x.Conn)
	}
	if err := Check(all...); err != nil {
		g.t.Error(err)
	}
	seen := map[*Stream]bool{}
	for _, s := range g.env.free {
		if seen[s] {
			g.t.Error("a stream was recycled twice")
		}
		seen[s] = true
		if s.ID != 0 || s.conn != nil || s.queued {
			g.t.Errorf("a recycled stream is in use as %d", s.ID)
		}
	}
}

// sent are the frames that a connection has sent since the last call.
func (g *stage) sent(x *side) (lines []string) {
	out := x.Output()
	lines = x.peer.read(out)
	x.Advance(len(out))
	return lines
}

func (g *stage) end() {
	g.t.Helper()
	for _, x := range g.sides {
		x.do = nil
		x.Close(h2.Cancel, errors.New("the end"))
	}
	g.check()
	if b, f := g.env.Buffers.Outstanding(), g.env.Interner.Len(); b != 0 || f != 0 {
		g.t.Errorf("%d buffers and %d fields are lost", b, f)
	}
	for _, x := range g.sides {
		count := map[string]int{}
		for _, l := range x.log {
			if count[l]++; count[l] > 1 && l[0] == 'c' {
				g.t.Errorf("told twice: %s", l)
			}
		}
	}
}

func (g *stage) open(x *side, end bool) *Stream {
	var list []*hpack.Field
	for _, kv := range newWords(g.t, "@get").fields() {
		list = append(list, g.env.Interner.Intern(kv[0], kv[1]))
	}
	s := x.Open(list, end, nil)
	for _, f := range list {
		g.env.Interner.Release(f)
	}
	return s
}

// respond sends a header block.
func (g *stage) respond(x *side, s *Stream, end bool, kv ...string) {
	var list []*hpack.Field
	for i := 0; i < len(kv); i += 2 {
		list = append(list, g.env.Interner.Intern(kv[i], kv[i+1]))
	}
	x.SendHeaders(s, list, end)
	for _, f := range list {
		g.env.Interner.Release(f)
	}
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// provoke makes the callback of that name happen on stream 1 of a server's connection, which exists already unless the
// callback is "headers".
func (g *stage) provoke(x *side, what string) {
	switch what {
	case "headers":
		g.recv(x, "HEADERS 1 end @get")
	case "data":
		g.recv(x, "DATA 1 end hello")
	case "reset":
		g.recv(x, "RST_STREAM 1 CANCEL")
	case "fault":
		g.recv(x, "FRAME 2 0 1 00")
	case "handed":
		s := x.streams.get(1)
		x.SendData(s, []byte("0123456789"), false)
		g.recv(x, "WINDOW_UPDATE 1 100")
	case "trailers":
		g.recv(x, "HEADERS 1 end a=b cut=1\nCONTINUATION 1")
	}
}

var callbacks = []string{"headers", "data", "reset", "fault", "handed", "trailers"}

// on is the name under which a provoked callback arrives.
func on(what string) string {
	switch what {
	case "fault":
		return "reset"
	case "trailers":
		return "headers"
	}
	return what
}

func TestAStreamThatItsHandlerResetsInACallbackIsClosedOnceAndResetOnce(t *testing.T) {
	for _, what := range callbacks {
		t.Run(what, func(t *testing.T) {
			g := newStage(t)
			a := g.connect(Server, 5)
			if what != "headers" {
				g.recv(a, "HEADERS 1 @get")
			}
			g.sent(a)
			a.do = func(w string, s *Stream) {
				if w == on(what) {
					a.Reset(s, h2.InternalError)
				}
			}
			g.provoke(a, what)
			resets := 0
			for _, l := range g.sent(a) {
				if l == "-> RST_STREAM 1 INTERNAL_ERROR" || l == "-> RST_STREAM 1 FRAME_SIZE_ERROR" {
					resets++
				}
			}
			if what == "reset" && resets != 0 || what != "reset" && resets != 1 { // a reset is not answered with one
				t.Errorf("%d RST_STREAM", resets)
			}
			if a.Streams() != 0 {
				t.Errorf("%d streams", a.Streams())
			}
			g.end()
		})
	}
}

func TestAStreamRecycledInACallbackAndReusedUnderItsIDElsewhereIsLeftAlone(t *testing.T) {
	for _, what := range callbacks {
		t.Run(what, func(t *testing.T) {
			g := newStage(t)
			a, b := g.connect(Server, 5), g.connect(Client, 5)
			if what != "headers" {
				g.recv(a, "HEADERS 1 @get")
			}
			var other *Stream
			a.do = func(w string, s *Stream) {
				if w != on(what) || other != nil {
					return
				}
				a.Reset(s, h2.Cancel)
				if other = g.open(b, true); other != s || other.ID != 1 {
					t.Fatalf("the test is void: stream %d is another one", other.ID)
				}
				b.SendData(other, nil, true)
			}
			g.provoke(a, what)
			if b.Streams() != 1 || b.streams.get(1) != other || a.Streams() != 0 {
				t.Errorf("a has %d streams, b %d", a.Streams(), b.Streams())
			}
			same(t, "b heard", b.log)
			g.recv(b, "HEADERS 1 end @ok")
			same(t, "b heard", b.log, "response 1 end :status=200 content-type=application/grpc", "closed 1")
			g.end()
		})
	}
}

func TestAConnectionThatIsClosedInACallbackIsClosedOnce(t *testing.T) {
	for _, what := range append([]string{"closed", "settings", "pong", "goaway"}, callbacks...) {
		t.Run(what, func(t *testing.T) {
			g := newStage(t)
			a := g.connect(Server, 5)
			if what != "headers" {
				g.recv(a, "HEADERS 1 @get\nHEADERS 3 @get")
				a.SendData(a.streams.get(3), []byte("0123456789"), false)
			}
			n := 0
			a.do = func(w string, _ *Stream) {
				if n++; n > 50 {
					t.Fatal("no end")
				}
				if w == on(what) || n > 1 {
					a.Close(h2.Cancel, errors.New("closed in a callback"))
				}
			}
			switch what {
			case "settings", "pong", "goaway":
				g.recv(a, "SETTINGS\nPING ack\nGOAWAY 0 NO_ERROR")
			case "closed":
				g.recv(a, "RST_STREAM 1 CANCEL")
			default:
				g.provoke(a, what)
			}
			if a.Streams() != 0 {
				t.Errorf("%d streams", a.Streams())
			}
			resets := map[string]int{}
			for _, l := range a.log {
				if l[:5] == "reset" {
					resets[l[:7]]++
				}
			}
			for l, n := range resets {
				if n > 1 {
					t.Errorf("%s %d times", l, n)
				}
			}
			g.end()
		})
	}
}

// The stream that is being reset because the connection closes may be reset by its handler, too: found by reading; it was
// recycled twice, so that two calls to come would have shared one Stream.
func TestAResetInsideCloseRecyclesNoStreamTwice(t *testing.T) {
	g := newStage(t)
	a := g.connect(Client, 100)
	g.open(a, false)
	g.open(a, true)
	a.do = func(what string, s *Stream) {
		if what == "reset" {
			a.Reset(s, h2.Cancel)
		}
	}
	a.Close(h2.Cancel, errors.New("gone"))
	g.check()
	same(t, "heard", a.log, "reset 1 CANCEL because gone", "closed 1", "reset 3 CANCEL because gone", "closed 3")
	g.end()
}

// A connection that ends goes through its streams; the handler of one may reset the next, whose Stream another connection
// takes at once. That one is not to be touched: found by reading.
func TestAStreamThatMovedToAnotherConnectionWhileItsOldOneEndedLivesOn(t *testing.T) {
	for _, how := range []string{"close", "goaway"} {
		t.Run(how, func(t *testing.T) {
			g := newStage(t)
			a, b := g.connect(Client, 100), g.connect(Client, 100)
			first, second := g.open(a, false), g.open(a, false)
			var moved *Stream
			a.do = func(what string, s *Stream) {
				if what == "reset" && s == first {
					a.Reset(second, h2.Cancel)
					if moved = g.open(b, false); moved != second {
						t.Fatal("the test is void")
					}
				}
			}
			if how == "close" {
				a.Close(h2.Cancel, errors.New("gone"))
			} else {
				g.recv(a, "GOAWAY 0 NO_ERROR")
			}
			g.check()
			if b.Streams() != 1 || b.streams.get(1) != moved {
				t.Error("b has lost its stream")
			}
			same(t, "b heard", b.log)
			g.end()
		})
	}
}

// A handler that sends more when told that all was handed over, the end included: the end is sent after that more, not
// before. Found by reading: Pump took the new end for the old data's.
func TestDataThatIsSentInHandleHandedComesBeforeTheEnd(t *testing.T) {
	for _, more := range []int{1, 5, 6, 40} {
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			g := newStage(t)
			a := g.connect(Server, 5)
			g.recv(a, "HEADERS 1 end @get")
			s := a.streams.get(1)
			g.respond(a, s, false, ":status", "200")
			a.SendData(s, []byte("0123456789"), false)
			sent := false
			a.do = func(what string, s *Stream) {
				if what == "handed" && !sent {
					sent = true
					a.SendData(s, bytes.Repeat([]byte("m"), more), true)
				}
			}
			g.recv(a, "WINDOW_UPDATE 1 10")
			g.recv(a, "WINDOW_UPDATE 1 100")
			got := g.sent(a)
			if a.Streams() != 0 {
				t.Fatalf("the stream has not ended; sent %q", got)
			}
			n := 0
			for i, l := range got[1:] {
				if i < len(got)-2 == bytes.HasSuffix([]byte(l), []byte(" end")) {
					t.Errorf("the end is not at the end: %q", got)
				}
				var q string
				if _, err := fmt.Sscanf(l, "-> DATA 1 %q", &q); err == nil {
					n += len(q)
				} else if _, err := fmt.Sscanf(l, "-> DATA 1 (%d bytes)", &more); err == nil {
					n += more
				}
			}
			if n < 11 {
				t.Errorf("%d bytes: %q", n, got)
			}
			g.end()
		})
	}
}

func TestWhatIsAskedOfAClosedStreamInHandleClosedIsNotDone(t *testing.T) {
	g := newStage(t)
	a := g.connect(Server, 5)
	a.do = func(what string, s *Stream) {
		if what != "closed" {
			return
		}
		a.SendData(s, []byte("0123456789"), true)
		g.respond(a, s, true, ":status", "200")
		a.Credit(s, 65535)
		a.Reset(s, h2.Cancel)
		a.ResetAfter(s, h2.Cancel)
	}
	g.recv(a, "HEADERS 1 @get\nRST_STREAM 1 CANCEL\nHEADERS 3 @get\nFRAME 2 0 3 00\nHEADERS 5 end @get")
	s := a.streams.get(5)
	g.respond(a, s, true, ":status", "200")
	g.check()
	same(t, "sent", g.sent(a), "-> RST_STREAM 3 FRAME_SIZE_ERROR", "-> HEADERS 5 end :status=200")
	g.end()
}

func TestStreamsOpenedAndFedOnOtherConnectionsInCallbacksAreServed(t *testing.T) {
	g := newStage(t)
	a, b := g.connect(Server, 100), g.connect(Client, 3)
	pairs := map[*Stream]*Stream{}
	a.do = func(what string, s *Stream) {
		switch what {
		case "headers":
			pairs[s] = g.open(b, false)
		case "data":
			b.SendData(pairs[s], []byte("hello"), true)
		}
	}
	b.do = func(what string, s *Stream) {
		if what != "closed" {
			return
		}
		for down, up := range pairs {
			if up == s {
				g.respond(a, down, true, ":status", "200")
			}
		}
	}
	g.recv(a, "HEADERS 1 @get\nHEADERS 3 @get\nDATA 1 end x\nDATA 3 end x")
	g.recv(b, "WINDOW_UPDATE 1 2\nHEADERS 1 end @ok\nHEADERS 3 end @ok\nWINDOW_UPDATE 3 2")
	if a.Streams() != 0 || b.Streams() != 0 {
		t.Errorf("%d and %d streams", a.Streams(), b.Streams())
	}
	same(t, "a sent", g.sent(a), "-> HEADERS 1 end :status=200", "-> HEADERS 3 end :status=200")
	g.end()
}
