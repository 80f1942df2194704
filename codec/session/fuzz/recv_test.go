package fuzz

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
)

// subject is one session that is fed, with a handler that does all kinds of things, chosen by stream and event, so that the
// same bytes bring the same deeds.
type subject struct {
	t      *testing.T
	env    *session.Env
	conn   *session.Conn
	budget *session.Budget // of its streams
	own    session.Budget  // of the connection itself: what it holds hangs on how the bytes come in pieces
	total  session.Total
	role   session.Role
	log    strings.Builder
	out    []byte
	rest   []byte
	live   map[uint32]*session.Stream
	err    error
}

func newSubject(t *testing.T, role session.Role, mode byte) *subject {
	u := &subject{t: t, role: role, env: &session.Env{Interner: hpack.NewInterner()}, budget: &session.Budget{Max: 50_000}, live: map[uint32]*session.Stream{}, own: session.Budget{Max: 100_000}}
	cfg := &session.Config{
		StreamWindow: 5000, MaxStreamWindow: 12_000, ConnWindow: 66_000, MaxStreams: 6, MaxHeaderBytes: 2000, MaxHeaderFields: 12, OutputMark: 1 << 30,
		PrefaceTimeout: time.Hour, FrameTimeout: time.Hour, StallTimeout: time.Hour,
	}
	if mode&8 != 0 { // little may be wasted
		cfg.Abuse = session.Abuse{Resets: 1, Idle: 1, Refused: 1}
	}
	u.env.Now = 1
	u.conn = session.New(u.env, role, cfg, u, u)
	session.Spend(u.conn, float64(mode>>4))
	u.budget.Total = &u.total
	if mode&16 != 0 {
		u.total.Max = 20_000
	}
	if role == session.Server {
		u.own.Total = &u.total
		u.conn.SetBudget(&u.own)
	}
	return u
}

func (u *subject) Flush() {}

func (u *subject) say(format string, args ...any) { fmt.Fprintf(&u.log, format+"\n", args...) }

func (u *subject) fields(kv ...string) (list []*hpack.Field) {
	for i := 0; i < len(kv); i += 2 {
		list = append(list, u.env.Interner.Intern(kv[i], kv[i+1]))
	}
	return list
}

func (u *subject) release(list []*hpack.Field) {
	for _, f := range list {
		u.env.Interner.Release(f)
	}
}

func (u *subject) send(s *session.Stream, n int, end bool) {
	if _, ok := u.conn.SendData(s, bytes.Repeat([]byte{'d'}, n), end); !ok {
		u.conn.Reset(s, h2.EnhanceYourCalm)
	}
}

func (u *subject) headers(s *session.Stream, end bool, kv ...string) {
	list := u.fields(kv...)
	u.conn.SendHeaders(s, list, end)
	u.release(list)
}

func (u *subject) HandleHeaders(s *session.Stream, b *session.Block) {
	u.say("headers %d end=%v trailers=%v informational=%v large=%v", s.ID, b.End, b.Trailers, b.Informational, b.TooLarge)
	for _, f := range b.Fields {
		u.say("  %q=%q", f.Name, f.Value)
	}
	u.live[s.ID] = s
	if s.ID%32 == 5 {
		b.Taken = true
		u.release(b.Fields)
	}
	if u.role == session.Client {
		if s.ID%16 == 9 && b.End {
			u.conn.Reset(s, h2.NoError)
		}
		return
	}
	if b.Trailers {
		return
	}
	s.SetBudget(u.budget)
	if s.ID%10 == 9 {
		u.conn.Wasted()
	}
	switch s.ID / 2 % 8 {
	case 0:
		u.headers(s, true, ":status", "200", "grpc-status", "0")
	case 1:
		u.headers(s, false, ":status", "200")
		u.send(s, 70_000, true)
	case 2:
		u.headers(s, false, ":status", "200", "a", strings.Repeat("x", 300))
		u.send(s, int(s.ID%100)*1000, false)
		if u.live[s.ID] == s {
			u.headers(s, true, "grpc-status", "0")
		}
		if u.live[s.ID] == s {
			u.conn.ResetAfter(s, h2.NoError)
		}
	case 3:
		u.conn.Reset(s, h2.Cancel)
	case 4:
		u.headers(s, false, ":status", "200")
		u.send(s, 20_000, false)
		if u.live[s.ID] == s {
			u.conn.ResetAfter(s, h2.InternalError)
		}
	case 5:
		if u.live[1] != nil {
			u.conn.Reset(u.live[1], h2.Cancel)
		}
	case 6:
		u.conn.GoAway("fuzz")
	}
}

func (u *subject) HandleData(s *session.Stream, p []byte, end bool) {
	u.say("data %d %x end=%v", s.ID, p, end)
	switch s.ID % 8 {
	case 1:
		u.conn.Credit(s, len(p))
	case 3:
		u.conn.Credit(s, len(p))
		u.send(s, len(p), end)
	case 5:
		if len(p)%7 == 6 {
			u.conn.Reset(s, h2.Cancel)
		}
	}
}

func (u *subject) HandleReset(s *session.Stream, code h2.Code, why error) {
	u.say("reset %d %v %v", s.ID, code, why)
	if s.ID%16 == 1 {
		u.conn.Due()
	}
	if s.ID%4 == 3 {
		u.conn.Reset(s, code)
	}
}

func (u *subject) HandleHanded(s *session.Stream, n int) {
	u.say("handed %d %d", s.ID, n)
	if s.ID%8 == 7 && s.Held() == 0 {
		u.send(s, 5, n%2 == 0)
	}
}

func (u *subject) HandleClosed(s *session.Stream) {
	u.say("closed %d", s.ID)
	if u.live[s.ID] != nil && u.live[s.ID] != s {
		u.t.Fatalf("stream %d is closed under another's id", s.ID)
	}
	delete(u.live, s.ID)
}

func (u *subject) HandleSettings()                         { u.say("settings") }
func (u *subject) HandleGoAway(code h2.Code, debug string) { u.say("goaway %v %q", code, debug) }
func (u *subject) HandlePong(data [8]byte)                 { u.say("pong %x", data) }
func (u *subject) open(n int, end bool, more ...string) uint32 {
	list := u.fields(append([]string{":method", "POST", ":scheme", "http", ":path", "/a.S/Get"}, more...)...)
	s := u.conn.Open(list, end, u.budget)
	u.release(list)
	u.live[s.ID] = s
	if n > 0 {
		u.send(s, n, false)
	}
	return s.ID
}

// recv feeds one chunk, as a carrier does.
func (u *subject) recv(p []byte) {
	if u.err != nil {
		return
	}
	u.rest = append(u.rest, p...)
	n, err := u.conn.Recv(u.rest)
	for i := range n {
		u.rest[i] = 0xaa // consumed: it was only borrowed
	}
	u.rest, u.err = u.rest[n:], err
	if err != nil {
		u.say("failed %v", err)
	}
	if err == nil && len(u.rest) > h2.HeaderLen+h2.MinMaxFrameSize {
		u.t.Fatalf("%d bytes are left: more than a frame", len(u.rest))
	}
	if e := session.Check(u.conn); e != nil {
		u.t.Fatal(e)
	}
	out := u.conn.Output()
	u.out = append(u.out, out...)
	u.conn.Advance(len(out))
}

func (u *subject) end() {
	// Time passes, in steps; what has stalled is reset, and what holds too much while all do.
	for range 3 {
		u.env.Now += int64(40 * time.Minute)
		if e := u.conn.Expired(u.env.Now); (e != nil) != (u.conn.Failed() != nil) {
			u.t.Fatalf("expired: %v, failed: %v", e, u.conn.Failed())
		}
		if e := session.Check(u.conn); e != nil {
			u.t.Fatal(e)
		}
		u.out = append(u.out, u.conn.Output()...)
		u.conn.Advance(len(u.conn.Output()))
	}
	u.conn.Close(h2.Cancel, errors.New("the end"))
	if b, f := u.env.Buffers.Outstanding(), u.env.Interner.Len(); b != 0 || f != 0 || len(u.live) != 0 {
		u.t.Fatalf("%d buffers, %d fields, %d streams are lost", b, f, len(u.live))
	}
	if u.budget.Held != 0 || u.budget.Granted != 0 || u.own.Held != 0 || u.total.Held != 0 || u.total.Holders != 0 {
		u.t.Fatalf("the budgets are left at %+v, %+v, of %+v", *u.budget, u.own, u.total)
	}
}

// understood has x/net read all that was sent.
func (u *subject) understood() {
	out := u.out
	if u.role == session.Client {
		out = bytes.TrimPrefix(out, []byte(h2.Preface))
	}
	fr := http2.NewFramer(nil, bytes.NewReader(out))
	fr.ReadMetaHeaders = xhpack.NewDecoder(4096, nil)
	fr.SetMaxReadFrameSize(1 << 20)
	for {
		_, err := fr.ReadFrame()
		if err == io.EOF {
			return
		}
		if err != nil {
			u.t.Fatalf("x/net does not understand us: %v (%v)", err, fr.ErrorDetail())
		}
	}
}

// joined is all that was sent, with what follows DATA of the same stream joined to it: small frames are, unless they were written between.
func (u *subject) joined() (all []byte) {
	out := u.out
	if u.role == session.Client {
		all, out = append(all, out[:len(h2.Preface)]...), out[len(h2.Preface):]
	}
	last, n := 0, 0 // the last header, and the length that it says; none if n is 0
	for len(out) > 0 {
		h := h2.ParseHeader(out)
		payload := out[h2.HeaderLen:][:h.Length]
		out = out[h2.HeaderLen+int(h.Length):]
		if h.Type == h2.Data && n > 0 && h2.ParseHeader(all[last:]).StreamID == h.StreamID {
			all = append(all, payload...)
			n += len(payload)
			h2.PutHeader(all[last:], n&0xffffff, h2.Data, h.Flags, h.StreamID)
			continue
		}
		last, n = len(all), 0
		if h.Type == h2.Data {
			n = len(payload)
		}
		all = append(h2.AppendHeader(all, len(payload), h.Type, h.Flags, h.StreamID), payload...)
	}
	return all
}

// frames makes well-formed frames of fuzz input: type, flags, stream, length of the payload, payload; DATA is 40 times as long.
func frames(in []byte) (out []byte) {
	for len(in) >= 4 {
		typ, flags, id, n := h2.Type(in[0]%12), in[1], uint32(in[2]%32), min(int(in[3]), len(in)-4)
		payload := in[4 : 4+n]
		in = in[4+n:]
		if typ == h2.Data && id%2 == 1 {
			payload = bytes.Repeat(payload, 40)
		}
		out = append(h2.AppendHeader(out, len(payload), typ, flags, id), payload...)
	}
	return out
}

// run feeds input in chunks of step bytes (a changing number where step is 0).
func run(t *testing.T, role session.Role, mode byte, input []byte, step int) *subject {
	u := newSubject(t, role, mode)
	if role == session.Server && mode&1 != 0 {
		u.recv([]byte(h2.Preface))
	}
	if mode&2 != 0 {
		u.recv(h2.AppendSettings(nil, h2.Setting{ID: h2.SettingInitialWindowSize, Value: uint32(mode) * 300}))
	}
	if role == session.Client {
		for i := range 9 {
			u.open(i*i*1000, false)
		}
		u.open(0, true, "a", strings.Repeat("x", 20_000))
		u.conn.ResetAfter(u.live[7], h2.Cancel)
	}
	for i := 1; len(input) > 0 && u.err == nil; i++ {
		n := step
		if n == 0 {
			n = 1 + i*i%37
		}
		n = min(n, len(input))
		u.recv(input[:n])
		input = input[n:]
	}
	u.end()
	u.understood()
	return u
}

func fuzzRecv(t *testing.T, role session.Role, mode byte, input []byte) {
	if len(input) > 4000 {
		return
	}
	if mode&4 != 0 {
		input = frames(input)
	}
	whole := run(t, role, mode, input, max(1, len(input)))
	for _, step := range []int{1, 0} {
		if step == 1 && len(input) > 800 {
			continue // too slow for what it tells
		}
		u := run(t, role, mode, input, step)
		if u.log.String() != whole.log.String() {
			t.Fatalf("in pieces (%d):\n%s\nin one:\n%s", step, u.log.String(), whole.log.String())
		}
		if !bytes.Equal(u.joined(), whole.joined()) {
			t.Fatalf("in pieces (%d) it sent\n%x\nin one\n%x", step, u.out, whole.out)
		}
	}
}

// seeds are honest peers, and a few of the other kind.
func seeds(f *testing.F, server bool) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	fr.AllowIllegalWrites = true
	var hb bytes.Buffer
	enc := xhpack.NewEncoder(&hb)
	block := func(kv ...string) []byte {
		hb.Reset()
		for i := 0; i < len(kv); i += 2 {
			_ = enc.WriteField(xhpack.HeaderField{Name: kv[i], Value: kv[i+1]})
		}
		return bytes.Clone(hb.Bytes())
	}
	first := []string{":status", "200", "content-type", "application/grpc"}
	if server {
		first = []string{":method", "POST", ":scheme", "http", ":path", "/a.S/Get", "te", "trailers"}
	}
	for id := uint32(1); id < 20; id += 2 {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(first...), EndHeaders: id%3 != 0, EndStream: id%4 == 3, PadLength: uint8(id)})
		if id%3 == 0 {
			_ = fr.WriteContinuation(id, true, block("x", fmt.Sprint(id)))
		}
		_ = fr.WriteDataPadded(id, id%8 == 1, bytes.Repeat([]byte("b"), int(id)*9), make([]byte, id))
		_ = fr.WriteWindowUpdate(id, id*1000)
		switch id % 8 {
		case 3:
			_ = fr.WriteRSTStream(id-2, http2.ErrCodeCancel)
		case 5:
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block("grpc-status", "0"), EndHeaders: true, EndStream: true})
		case 7:
			_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: id * 99}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: id * 10})
		}
	}
	_ = fr.WritePing(false, [8]byte{1})
	_ = fr.WriteWindowUpdate(0, 100_000)
	_ = fr.WriteGoAway(9, 0, []byte("bye"))
	f.Add(byte(3), b.Bytes())
	f.Add(byte(0x2b), b.Bytes())
	f.Add(byte(0x4f), []byte(strings.Repeat("\x01\x05\x01\x03\x83\x86\x84\x03\x00\x01\x04\x00\x00\x00\x08\x06\x00\x00\x08abcdefgh", 9)))
	f.Add(byte(0x1f), []byte("\x01\x05\x03\x03\x83\x86\x84\x01\x05\x05\x03\x83\x86\x84\x01\x00\x09\x03\x83\x86\x84\x09\x00\x09\x00\x00\x00"))
	f.Add(byte(0), append([]byte(h2.Preface), b.Bytes()...))
	f.Add(byte(7), []byte("\x01\x04\x01\x03\x83\x86\x84\x00\x00\x01\x05hello\x00\x01\x01\x00\x08\x00\x00\x04\x00\x00\xff\xff"))
	f.Add(byte(7), []byte("\x01\x04\x03\x03\x83\x86\x84\x04\x00\x00\x06\x00\x04\x00\x00\x00\x00\x08\x00\x03\x04\x00\x00\xff\xff\x03\x00\x03\x04\x00\x00\x00\x08"))
	f.Add(byte(7), []byte("\x01\x00\x05\x02\x83\x86\x09\x04\x05\x01\x84\x00\x08\x05\x06\x02hello\x02\x00\x05\x01x\x07\x00\x00\x08\x00\x00\x00\x03\x00\x00\x00\x00"))
	f.Add(byte(7), []byte("\x01\x05\x01\x01\x88\x01\x04\x03\x01\x88\x00\x00\x03\x60"+strings.Repeat("x", 96)+"\x00\x00\x03\x60"+strings.Repeat("x", 96)))
}

// FuzzServerRecv: any bytes from a client, in any pieces.
func FuzzServerRecv(f *testing.F) {
	seeds(f, true)
	f.Fuzz(func(t *testing.T, mode byte, input []byte) { fuzzRecv(t, session.Server, mode, input) })
}

// FuzzClientRecv: any bytes from a server, in any pieces.
func FuzzClientRecv(f *testing.F) {
	seeds(f, false)
	f.Fuzz(func(t *testing.T, mode byte, input []byte) { fuzzRecv(t, session.Client, mode, input) })
}
