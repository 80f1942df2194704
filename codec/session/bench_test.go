package session

import (
	"testing"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// answerer is a handler that answers each request with headers, a message of 16 bytes and trailers, as a server does, and gives
// credit for all that it gets.
type answerer struct {
	recorder
	head, tail []*hpack.Field
	reply      [16]byte
	silent     bool // it answers nothing by itself
}

func (a *answerer) HandleHeaders(s *Stream, b *Block) {
	if b.End {
		a.answer(s)
	}
}

func (a *answerer) HandleData(s *Stream, p []byte, end bool) {
	a.conn.Credit(s, len(p))
	if end {
		a.answer(s)
	}
}

func (a *answerer) answer(s *Stream) {
	if a.silent {
		return
	}
	a.conn.SendHeaders(s, a.head, false)
	a.conn.SendData(s, a.reply[:], false)
	a.conn.SendHeaders(s, a.tail, true)
}

func (a *answerer) HandleReset(*Stream, h2.Code, error) {
	if a.due {
		a.conn.Due()
	}
}
func (a *answerer) HandleClosed(*Stream)      {}
func (a *answerer) HandleHanded(*Stream, int) {}
func (a *answerer) HandlePong([8]byte)        {}

// newAnswerer is a server whose client has said hello.
func newAnswerer(tb testing.TB, cfg *Config) (*Conn, *answerer, *Env) {
	env := &Env{Interner: hpack.NewInterner()}
	a := &answerer{
		head: []*hpack.Field{env.Interner.Intern(":status", "200"), env.Interner.Intern("content-type", "application/grpc")},
		tail: []*hpack.Field{env.Interner.Intern("grpc-status", "0")},
	}
	c := New(env, Server, cfg, a, &carrier{})
	a.conn = c
	if _, err := c.Recv(h2.AppendSettings([]byte(h2.Preface))); err != nil {
		tb.Fatal(err)
	}
	c.Advance(len(c.Output()))
	a.log = nil
	return c, a, env
}

func benchConfig() *Config {
	return &Config{StreamWindow: 128 << 10, MaxStreamWindow: 1 << 20, ConnWindow: 16 << 20, MaxStreams: 1000, MaxHeaderBytes: 256 << 10, OutputMark: 512 << 10}
}

// The cost of a unary call's frames, both ways: HEADERS and DATA in, HEADERS, DATA and trailers out.
func BenchmarkUnary(b *testing.B) {
	c, _, _ := newAnswerer(b, benchConfig())
	block := []byte{0x83, 0x86, 0x84} // POST, http, /
	var in []byte
	id := uint32(1)
	b.ReportAllocs()
	for b.Loop() {
		in = append(h2.AppendHeader(in[:0], len(block), h2.Headers, h2.FlagEndHeaders, id), block...)
		in = append(h2.AppendHeader(in, 21, h2.Data, h2.FlagEndStream, id), make([]byte, 21)...)
		if _, err := c.Recv(in); err != nil {
			b.Fatal(err)
		}
		c.Advance(len(c.Output()))
		c.Clean()
		c.env.Dirty = c.env.Dirty[:0]
		if c.sendWin < 1<<20 {
			in = h2.AppendWindowUpdate(in[:0], 0, 1<<29)
			_, _ = c.Recv(in)
		}
		if id += 2; id > 1<<30 {
			b.Fatal("no more ids")
		}
	}
}

// The cost of small messages on one stream, as they come in.
func BenchmarkSmallData(b *testing.B) {
	c, _, _ := newAnswerer(b, benchConfig())
	in := append(h2.AppendHeader(nil, 3, h2.Headers, h2.FlagEndHeaders, 1), 0x83, 0x86, 0x84)
	if _, err := c.Recv(in); err != nil {
		b.Fatal(err)
	}
	in = nil
	for range 100 {
		in = append(h2.AppendHeader(in, 16, h2.Data, 0, 1), make([]byte, 16)...)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Recv(in); err != nil {
			b.Fatal(err)
		}
		c.Advance(len(c.Output()))
		c.Clean()
		c.env.Dirty = c.env.Dirty[:0]
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/frame")
}
