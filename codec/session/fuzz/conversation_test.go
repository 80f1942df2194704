package fuzz

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
)

// party is one of two sessions that talk to each other, and what it knows of each stream.
type party struct {
	t      *testing.T
	name   string
	env    *session.Env
	conn   *session.Conn
	cfg    session.Config
	budget session.Budget
	own    session.Budget
	total  session.Total
	other  *party
	wire   []byte // sent, and not yet received by the other
	halves map[uint32]*half
	ids    []uint32
}

// half is one party's view of a stream.
type half struct {
	s       *session.Stream // nil once it is closed
	sent    int             // bytes given to SendData
	handed  int             // of them handed to the output, as we were told
	said    bool            // our header block is out
	ended   bool            // we have said that we end
	cut     bool            // it was reset, by whom ever
	got     int             // bytes received
	gotEnd  bool
	credit  int // bytes received and not yet given back
	trailed bool
}

func newParty(t *testing.T, name string, role session.Role, shape byte) *party {
	p := &party{t: t, name: name, env: &session.Env{Interner: hpack.NewInterner()}, halves: map[uint32]*half{}}
	p.cfg = session.Config{
		StreamWindow: []int32{16, 1000, 65535, 200_000}[shape&3], MaxStreamWindow: 300_000, ConnWindow: []int32{66_000, 1 << 20}[shape>>2&1],
		MaxStreams: 5, MaxHeaderBytes: 4000, OutputMark: []int{100, 3000, 70_000, 1 << 20}[shape>>3&3],
	}
	p.budget.Max = []int64{30_000, 1 << 20}[shape>>5&1]
	p.cfg.Abuse = session.Abuse{Resets: 100, Idle: 500, Refused: 1000} // nothing that it does is abuse
	p.cfg.StallTimeout, p.cfg.FrameTimeout, p.cfg.PrefaceTimeout = 24*time.Hour, 24*time.Hour, 24*time.Hour
	p.budget.Total = &p.total
	if shape>>6&1 != 0 {
		p.total.Max = 70_000
	}
	p.conn = session.New(p.env, role, &p.cfg, p, p)
	if role == session.Server {
		p.own = session.Budget{Max: 1 << 20, Total: &p.total} // of its own, so that it is never full
		p.conn.SetBudget(&p.own)
	}
	return p
}

// content is the byte at some place of what a party says on a stream.
func (p *party) content(id uint32, at int) byte { return byte(int(id)*31 + at*7 + len(p.name) + at>>8) }

func (p *party) Flush() {}

func (p *party) half(s *session.Stream) *half {
	h := p.halves[s.ID]
	if h == nil || h.s != s {
		p.t.Fatalf("%s is told of stream %d, which it does not know", p.name, s.ID)
	}
	return h
}

func (p *party) HandleHeaders(s *session.Stream, b *session.Block) {
	if p.halves[s.ID] == nil {
		if p.name == "client" {
			p.t.Fatalf("the client is told of stream %d", s.ID)
		}
		s.SetBudget(&p.budget)
		p.halves[s.ID] = &half{s: s}
		p.ids = append(p.ids, s.ID)
	}
	h := p.half(s)
	if h.trailed = b.Trailers; b.End {
		h.gotEnd = true
	}
}

func (p *party) HandleData(s *session.Stream, b []byte, end bool) {
	h := p.half(s)
	for _, c := range b {
		if want := p.other.content(s.ID, h.got); c != want {
			p.t.Fatalf("%s, stream %d: byte %d is %d, not %d", p.name, s.ID, h.got, c, want)
		}
		h.got++
	}
	h.credit += len(b)
	if h.gotEnd {
		p.t.Fatalf("%s, stream %d: data after the end", p.name, s.ID)
	}
	h.gotEnd = end
}

func (p *party) HandleReset(s *session.Stream, code h2.Code, why error) {
	if why != nil && why != session.ErrUnprocessed && why != session.ErrShare && why != errEnd {
		p.t.Fatalf("%s finds fault with stream %d: %v", p.name, s.ID, why)
	}
	p.half(s).cut = true
}

func (p *party) HandleHanded(s *session.Stream, n int) { p.half(s).handed += n }

func (p *party) HandleClosed(s *session.Stream) { p.half(s).s = nil }

func (p *party) HandleSettings()                     {}
func (p *party) HandleGoAway(code h2.Code, _ string) {}
func (p *party) HandlePong([8]byte)                  {}
func (p *party) intern(kv ...string) (l []*hpack.Field) {
	for i := 0; i < len(kv); i += 2 {
		l = append(l, p.env.Interner.Intern(kv[i], kv[i+1]))
	}
	return l
}

func (p *party) release(l []*hpack.Field) {
	for _, f := range l {
		p.env.Interner.Release(f)
	}
}

// open opens a stream (the client only).
func (p *party) open(end bool, v byte) {
	if p.conn.Closing() || !p.conn.Ready() || uint32(p.conn.Streams()) >= p.conn.PeerMaxStreams() {
		return
	}
	l := p.intern(":method", "POST", ":scheme", "http", ":path", fmt.Sprintf("/a.S/M%d", v%5), "x", string(make([]byte, 0))+fmt.Sprint(v))
	s := p.conn.Open(l, end, &p.budget)
	p.release(l)
	p.halves[s.ID] = &half{s: s, said: true, ended: end}
	p.ids = append(p.ids, s.ID)
}

func (p *party) headers(h *half, end bool, v byte) {
	if h.s == nil || h.ended || h.said && !end {
		return
	}
	l := p.intern("grpc-status", fmt.Sprint(v%17))
	if !h.said {
		l = append(p.intern(":status", "200", "x", fmt.Sprint(v)), l...)
	}
	h.said, h.ended = true, end
	p.conn.SendHeaders(h.s, l, end)
	p.release(l)
}

func (p *party) data(id uint32, h *half, n int, end bool) {
	if h.s == nil || h.ended || !h.said {
		return
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = p.content(id, h.sent+i)
	}
	h.sent += n
	h.ended = end
	s := h.s
	handed, ok := p.conn.SendData(s, b, end)
	h.handed += handed
	if !ok {
		p.reset(h, h2.EnhanceYourCalm)
	}
}

func (p *party) reset(h *half, code h2.Code) {
	if h.s != nil {
		h.cut = true
		p.conn.Reset(h.s, code)
	}
}

func (p *party) giveBack(h *half, n int) {
	if n = min(n, h.credit); h.s != nil && n > 0 {
		h.credit -= n
		p.conn.Credit(h.s, n)
	}
}

// write moves up to n bytes of output to the wire.
func (p *party) write(n int) bool {
	out := p.conn.Output()
	n = min(n, len(out))
	p.wire = append(p.wire, out[:n]...)
	if n > 0 {
		p.conn.Advance(n)
	}
	p.conn.Pump()
	return n > 0
}

// deliver has the other party receive up to n bytes of the wire.
func (p *party) deliver(n int) {
	took, err := p.other.conn.Recv(p.wire[:min(n, len(p.wire))])
	if err != nil {
		p.t.Fatalf("%s finds fault with the connection: %v", p.other.name, err)
	}
	p.wire = p.wire[took:]
}

func (p *party) check() {
	if err := session.Check(p.conn); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	for id, h := range p.halves {
		if h.s != nil && h.handed+h.s.Held() != h.sent {
			p.t.Fatalf("%s, stream %d: %d bytes sent, but %d handed and %d held", p.name, id, h.sent, h.handed, h.s.Held())
		}
		if h.got > p.other.sent(id) {
			p.t.Fatalf("%s, stream %d: more was received than sent", p.name, id)
		}
	}
}

func (p *party) sent(id uint32) int {
	if h := p.halves[id]; h != nil {
		return h.sent
	}
	return 0
}

var errEnd = errors.New("the end")

func conversation(t *testing.T, script []byte) {
	if len(script) < 2 || len(script) > 3000 {
		return
	}
	client, server := newParty(t, "client", session.Client, script[0]), newParty(t, "server", session.Server, script[1])
	client.other, server.other = server, client
	both := [2]*party{client, server}
	for range 3 { // the handshake: smaller windows hold from then on
		for _, p := range both {
			p.write(1 << 30)
			p.deliver(1 << 30)
		}
	}
	for script = script[2:]; len(script) >= 3; script = script[3:] {
		op, which, v := script[0], int(script[1]), script[2]
		p := both[op&1]
		var id uint32
		h := &half{}
		if len(p.ids) > 0 {
			id = p.ids[len(p.ids)-1-which%min(len(p.ids), 8)]
			h = p.halves[id]
		}
		switch op >> 1 % 16 {
		case 0, 1:
			client.open(v&1 != 0 && v&2 != 0, v)
		case 2:
			p.data(id, h, int(v), false)
		case 3:
			p.data(id, h, int(v)*200, v&1 != 0)
		case 4:
			p.data(id, h, int(v)%3, true)
		case 5:
			if p == server {
				p.headers(h, v&3 == 0, v)
			}
		case 6:
			if p == server || v&7 == 0 {
				p.headers(h, true, v)
			}
		case 7:
			if v&3 == 0 {
				p.reset(h, h2.Cancel)
			}
		case 8:
			if h.s != nil && h.ended {
				h.cut = true
				p.conn.ResetAfter(h.s, h2.NoError)
			}
		case 9, 10:
			p.write(int(v) * int(v))
		case 11, 12:
			p.deliver(int(v) * int(v))
		case 13:
			p.giveBack(h, int(v)*100)
		case 14:
			p.conn.Blocked = v&1 != 0
		case 15:
			p.env.Now += int64(time.Millisecond)
			if e := p.conn.Expired(p.env.Now); e != nil {
				t.Fatalf("%s: expired: %v", p.name, e)
			}
			if v < 8 && p == server {
				p.conn.GoAway("")
			} else if v < 16 && p == server {
				p.conn.FinalGoAway()
			} else {
				p.conn.Ping([8]byte{v})
			}
		}
		client.check()
		server.check()
	}
	finish(t, both)
}

// finish lets both say to the end what they have to say, and receive it: everything must arrive.
func finish(t *testing.T, both [2]*party) {
	for round := 0; ; round++ {
		if round > 20_000 {
			t.Fatal("no end")
		}
		moved := false
		for _, p := range both {
			p.conn.Blocked = false
			moved = p.write(1<<30) || len(p.wire) > 0 || moved // the script may have left some on the way
			p.deliver(1 << 30)
			if len(p.wire) > 0 {
				t.Fatalf("%s: %d bytes are not understood", p.name, len(p.wire))
			}
			for _, id := range p.ids {
				h := p.halves[id]
				p.giveBack(h, h.credit)
				if p.name == "server" {
					p.headers(h, false, 0)
				}
				p.data(id, h, 3, true)
			}
			moved = len(p.conn.Output()) > 0 || moved
			p.check()
		}
		if !moved {
			break
		}
	}
	for _, p := range both {
		if p.conn.Streams() != 0 {
			t.Fatalf("%s: %d streams have not ended", p.name, p.conn.Streams())
		}
		for id, h := range p.halves {
			o := p.other.halves[id]
			if h.cut || o != nil && o.cut {
				continue
			}
			if o == nil || h.got != o.sent || !h.gotEnd {
				t.Fatalf("%s, stream %d: received %d, end %v; the other: %+v", p.name, id, h.got, h.gotEnd, o)
			}
		}
		p.conn.Close(h2.Cancel, errEnd)
		if b, f := p.env.Buffers.Outstanding(), p.env.Interner.Len(); b != 0 || f != 0 || p.budget.Held != 0 || p.budget.Granted != 0 || p.total.Held != 0 || p.total.Holders != 0 {
			t.Fatalf("%s: %d buffers and %d fields are lost, the budget is left at %+v", p.name, b, f, p.budget)
		}
	}
}

// FuzzConversation: two sessions that both keep the rules find no fault with each other, whatever they do and however their
// bytes are delivered; all that was sent arrives once windows are given back, and nothing waits for ever.
func FuzzConversation(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 6, 0, 255, 18, 0, 255, 22, 0, 255, 11, 0, 1, 7, 0, 255, 19, 0, 255, 23, 0, 255})
	f.Add([]byte{0x3f, 0x3f, 0, 0, 0, 0, 0, 0, 6, 0, 200, 6, 1, 200, 18, 0, 255, 22, 0, 255, 11, 0, 1, 11, 1, 1, 7, 0, 200, 7, 1, 201, 13, 0, 1, 17, 0, 0, 31, 0, 1})
	f.Add([]byte{1, 9, 0, 0, 0, 0, 0, 3, 6, 0, 99, 18, 0, 255, 22, 0, 255, 15, 0, 0, 14, 0, 0, 29, 0, 1, 11, 1, 1, 5, 1, 100, 9, 1, 2})
	f.Fuzz(conversation)
}

func TestRandomConversationsLoseNothingAndEnd(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 9))
	n := 1500
	if testing.Short() {
		n = 200
	}
	for range n {
		script := make([]byte, 2+3*rnd.IntN(300))
		for i := range script {
			script[i] = byte(rnd.Uint32())
		}
		conversation(t, script)
		if t.Failed() {
			t.Fatalf("script %x", script)
		}
	}
}
