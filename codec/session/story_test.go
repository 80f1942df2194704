package session

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// A story is a text file of commands and what comes of them: lines of the handler's events, then, with an arrow, the frames
// that we send. Its first line is the sentence that it proves.
//
//	server, client   a new connection; options: stream-window, max-window, conn-window, streams, header-bytes, header-fields, mark,
//	                 budget, resets, idle, refused (per second), preface-timeout, frame-timeout, stall-timeout (seconds)
//	peer             the peer sends these frames, in one piece; with rounds=N many times, then $a is a stream that nobody has used,
//	                 or one from= on, $b and $c are those after it
//	we               our side calls these methods
//	time             seconds (or, with ms, milliseconds) pass; the carrier asks once a second what has expired
//
// With rounds, or with "summed", lines that differ only in numbers are counted.
//
//	socket           open, shut (nothing is taken), blocked (shut, and the session knows), takes=N bytes
//	show             the books of a stream, or of the connection
//
// Every story is told three times: with the peer's bytes in one piece, byte by byte, and in pieces of seven; it must not matter.
// Floods are not told byte by byte: that takes long and tells no more.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var tellings []*telling
		pieces := []int{math.MaxInt, 7, 1}
		if strings.Contains(path, "abuse") {
			pieces = pieces[:2]
		}
		for _, piece := range pieces {
			tellings = append(tellings, &telling{t: t, piece: piece})
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var first string
			for i, y := range tellings {
				y.t = t
				got := y.command(d)
				if i == 0 {
					first = got
				} else if got != first {
					d.Fatalf(t, "in pieces of %d:\n%s\nin one piece:\n%s", y.piece, got, first)
				}
			}
			return first
		})
		for _, y := range tellings {
			y.t = t
			y.end()
		}
	})
}

// telling is one run of a story.
type telling struct {
	t      testing.TB
	piece  int
	env    *Env
	cfg    *Config
	budget *Budget
	conn   *Conn
	rec    *recorder
	peer   *peer
	rest   []byte // what Recv did not take yet
	shut   bool
	failed error
	next   int // the stream of the next round
}

func (y *telling) command(d *datadriven.TestData) string {
	w := newWords(y.t, d.Cmd)
	for _, a := range d.CmdArgs {
		w.list = append(w.list, strings.TrimSuffix(a.Key+"="+strings.Join(a.Vals, ","), "="))
	}
	w.next()
	var lines []string
	summed := w.has("summed")
	switch d.Cmd {
	case "server":
		y.start(Server, w)
	case "client":
		y.start(Client, w)
	case "peer":
		if n := w.num("rounds", 0); n > 0 {
			y.next = w.num("from", y.next)
			summed, lines = true, y.rounds(n, d.Input)
			break
		}
		y.feed(y.peer.frames(d.Input))
	case "time":
		y.pass(w)
	case "we":
		for line := range strings.Lines(d.Input) {
			y.act(newWords(y.t, line))
		}
	case "socket":
		lines = y.socket(w)
	case "show":
		return y.show(w)
	default:
		d.Fatalf(y.t, "no such command")
	}
	lines = append(lines, y.drain()...)
	if err := Check(y.conn); err != nil {
		y.t.Errorf("%s: %v", d.Pos, err)
	}
	lines = append(y.rec.log, lines...)
	y.rec.log = nil
	if summed {
		return summary(lines)
	}
	if len(lines) == 0 {
		return "(nothing)\n"
	}
	return strings.Join(lines, "\n") + "\n"
}

func (y *telling) start(role Role, w *words) {
	y.end()
	y.env = &Env{Interner: hpack.NewInterner()}
	y.cfg = &Config{
		StreamWindow: int32(w.num("stream-window", 65535)), ConnWindow: int32(w.num("conn-window", 1<<20)),
		MaxStreams: uint32(w.num("streams", 100)), MaxHeaderBytes: uint32(w.num("header-bytes", 8192)), OutputMark: w.num("mark", 1<<20),
		MaxHeaderFields: uint32(w.num("header-fields", 0)), PrefaceTimeout: time.Duration(w.num("preface-timeout", 0)) * time.Second,
		FrameTimeout: time.Duration(w.num("frame-timeout", 0)) * time.Second, StallTimeout: time.Duration(w.num("stall-timeout", 0)) * time.Second,
		Abuse: Abuse{Resets: float64(w.num("resets", 0)), Idle: float64(w.num("idle", 0)), Refused: float64(w.num("refused", 0))},
	}
	y.next = 1
	y.cfg.MaxStreamWindow = int32(w.num("max-window", int(y.cfg.StreamWindow)))
	y.budget = &Budget{Max: int64(w.num("budget", 1<<20))}
	y.rec = &recorder{}
	y.peer = newPeer(y.t, role == Client)
	y.conn = New(y.env, role, y.cfg, y.rec, &carrier{})
	y.rec.conn = y.conn
	if role == Server {
		y.conn.SetBudget(y.budget)
	}
	y.rest, y.failed, y.shut = nil, nil, false
	if !w.has("quiet") {
		return
	}
	y.drain()
	first := "SETTINGS"
	if role == Server {
		first = "PREFACE\n" + first
	}
	y.feed(y.peer.frames(first))
	y.drain()
	y.rec.log = nil
}

// end closes the connection; everything must have gone back to where it came from.
func (y *telling) end() {
	if y.conn == nil {
		return
	}
	y.conn.Close(h2.Cancel, fmt.Errorf("the story is over"))
	y.conn.Close(h2.Cancel, nil) // twice does no harm
	if n := y.env.Buffers.Outstanding(); n != 0 {
		y.t.Errorf("%d buffers are lost", n)
	}
	if n := y.env.Interner.Len(); n != 0 {
		y.t.Errorf("%d fields are lost", n)
	}
	if *y.budget != (Budget{Max: y.budget.Max}) {
		y.t.Errorf("the budget is left at %+v", *y.budget)
	}
	y.conn = nil
}

// feed gives bytes to the session as a carrier does: what it does not take comes again, in front of what follows.
func (y *telling) feed(p []byte) {
	for len(p) > 0 && y.failed == nil {
		n := min(y.piece, len(p))
		y.rest = append(y.rest, p[:n]...)
		p = p[n:]
		took, err := y.conn.Recv(y.rest)
		for i := range took {
			y.rest[i] = 0xaa // what is consumed was only borrowed
		}
		y.rest = y.rest[took:]
		if err != nil {
			y.failed = err
			y.rec.say("failed %v", err)
		}
		if took == 0 || y.conn.Streams() > 200 { // the books of many streams take long
			continue
		}
		if e := Check(y.conn); e != nil {
			y.t.Errorf("after %d more bytes: %v", n, e)
		}
	}
}

// rounds feeds the frames n times, each time for another stream, and returns what was told and sent.
func (y *telling) rounds(n int, frames string) (lines []string) {
	step := 2
	for i, name := range []string{"$b", "$c"} {
		if strings.Contains(frames, name) {
			step = 4 + 2*i
		}
	}
	for range n {
		r := strings.NewReplacer("$a", fmt.Sprint(y.next), "$b", fmt.Sprint(y.next+2), "$c", fmt.Sprint(y.next+4))
		y.feed(y.peer.frames(r.Replace(frames)))
		lines = append(lines, append(y.rec.log, y.drain()...)...)
		y.rec.log = nil
		y.next += step
	}
	return lines
}

// summary counts lines that are alike but for their numbers.
func summary(lines []string) string {
	var kinds []string
	count := map[string]int{}
	for _, l := range lines {
		if !strings.Contains(l, "GOAWAY") && !strings.HasPrefix(l, "failed") {
			l = number.ReplaceAllString(l, " $$")
		}
		if count[l]++; count[l] == 1 {
			kinds = append(kinds, l)
		}
	}
	var b strings.Builder
	for _, l := range kinds {
		fmt.Fprintf(&b, "%d times: %s\n", count[l], l)
	}
	if b.Len() == 0 {
		return "(nothing)\n"
	}
	return b.String()
}

var number = regexp.MustCompile(` [0-9]+`)

// pass lets seconds go by.
func (y *telling) pass(w *words) {
	d, n := time.Second, 1
	if v := w.next(); strings.HasSuffix(v, "ms") {
		d = time.Duration(w.atoi(strings.TrimSuffix(v, "ms"))) * time.Millisecond
	} else {
		n = w.atoi(v)
	}
	for range n {
		y.env.Now += int64(d)
		if e := y.conn.Expired(y.env.Now); e != nil && y.failed == nil {
			y.failed = e
			y.rec.say("expired: %v", e)
		}
	}
}

// drain takes the output as an open socket does.
func (y *telling) drain() (lines []string) {
	for !y.shut {
		out := y.conn.Output()
		if len(out) == 0 {
			break
		}
		lines = append(lines, y.peer.read(out)...)
		y.conn.Advance(len(out))
		y.conn.Pump()
	}
	return lines
}

func (y *telling) socket(w *words) (lines []string) {
	switch {
	case w.has("open"):
		y.shut, y.conn.Blocked = false, false
	case w.has("shut"):
		y.shut = true
	case w.has("blocked"):
		y.shut, y.conn.Blocked = true, true
	default:
		n := w.num("takes", 0)
		out := y.conn.Output()
		lines = y.peer.read(out[:n])
		y.conn.Advance(n)
		y.conn.Pump()
	}
	return lines
}

func (y *telling) stream(w *words) *Stream {
	id := uint32(w.atoi(w.next()))
	s := y.conn.streams.get(id)
	if s == nil {
		y.t.Fatalf("%q: there is no stream %d", w.line, id)
	}
	return s
}

// with interns the fields, calls f and gives the references back.
func (y *telling) with(w *words, f func([]*hpack.Field)) {
	var fields []*hpack.Field
	for _, kv := range w.fields() {
		fields = append(fields, y.env.Interner.Intern(kv[0], kv[1]))
	}
	f(fields)
	for _, x := range fields {
		y.env.Interner.Release(x)
	}
}

func (y *telling) act(w *words) {
	switch w.next() {
	case "open":
		end := w.has("end")
		y.with(w, func(f []*hpack.Field) { y.conn.Open(f, end, y.budget) })
	case "headers":
		s, end := y.stream(w), w.has("end")
		y.with(w, func(f []*hpack.Field) { y.conn.SendHeaders(s, f, end) })
	case "data":
		s, end := y.stream(w), w.has("end")
		if y.conn.role == Server && s.Held() == 0 {
			s.SetBudget(y.budget)
		}
		n, ok := y.conn.SendData(s, w.body(), end)
		y.rec.say("sent %d at once%s", n, flag(!ok, ", over budget"))
	case "reset":
		y.conn.Reset(y.stream(w), w.code())
	case "reset-after":
		y.conn.ResetAfter(y.stream(w), w.code())
	case "credit":
		s := y.stream(w)
		if y.conn.role == Server {
			s.SetBudget(y.budget)
		}
		y.conn.Credit(s, w.atoi(w.next()))
	case "ping":
		var data [8]byte
		copy(data[:], w.body())
		y.conn.Ping(data)
	case "goaway":
		y.conn.GoAway(string(w.body()))
	case "final":
		y.conn.FinalGoAway()
	case "answer", "refuse": // from now on: every whole request, at once
		waste := strings.HasPrefix(w.line, "refuse")
		y.rec.answer = func(s *Stream) {
			if waste {
				y.conn.Wasted()
			}
			y.with(w, func(f []*hpack.Field) { y.conn.SendHeaders(s, f, true) })
		}
	case "partial":
		y.conn.Partial(w.atoi(w.next()))
	case "due": // from now on: every reset
		y.rec.due = true
	case "close":
		y.conn.Close(w.code(), fmt.Errorf("the socket is gone"))
	default:
		y.t.Fatalf("%q: no such call", w.line)
	}
}

func (y *telling) show(w *words) string {
	if len(w.list) > 0 {
		s := y.stream(w)
		return fmt.Sprintf("stream %d: may send %d, holds %d; may receive %d of %d\n", s.ID, s.sendWin, s.Held(), s.recvWin, s.recvMax)
	}
	c := y.conn
	return fmt.Sprintf("connection: may send %d, holds %d; may receive %d; %d streams; output %d%s%s\n",
		c.sendWin, y.budget.Held, c.recvWin, c.Streams(), len(c.Output()), flag(c.Closing(), "; closing"), flag(c.Final(), "; final"))
}
