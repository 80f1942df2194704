package transparency

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/integration/harness"
)

// exchange is one stream told frame by frame: each step is one side's doing, and the next step waits until the other side has
// seen it. What the sides saw must be the same direct and through Trunkline.
type exchange struct {
	name  string
	steps []step
}

// step is one doing of the client (or else of the server).
type step struct {
	byClient bool
	fields   []hpack.HeaderField // a header block, if any
	data     []byte              // DATA, if not nil
	pad      int
	end      bool           // END_STREAM
	reset    *http2.ErrCode // RST_STREAM
	raw      func(p *peer, stream uint32)
	split    bool // the block is cut over HEADERS and CONTINUATION
}

// peer is one end of an HTTP/2 connection that speaks in frames. Its reader keeps the connection alive (SETTINGS, PING, windows) and
// tells the rest as events.
type peer struct {
	conn    net.Conn
	mu      sync.Mutex // guards writing, and the three below
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	events  chan event
	pongs   chan struct{}
}

// event is something seen on a stream. Empty DATA, and how DATA and header blocks were cut into frames, are not told:
// a proxy may cut them as it likes.
type event struct {
	stream uint32
	text   string // a header block or RST_STREAM; empty for DATA
	data   []byte
	end    bool
	peer   *peer
}

func newPeer(conn net.Conn, events chan event) *peer {
	p := &peer{conn: conn, framer: http2.NewFramer(conn, conn), events: events, pongs: make(chan struct{}, 1)}
	p.encoder = hpack.NewEncoder(&p.block)
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.framer.MaxHeaderListSize = 1 << 20
	return p
}

// read runs until the connection ends.
func (p *peer) read() {
	for {
		f, err := p.framer.ReadFrame()
		var stream http2.StreamError
		if errors.As(err, &stream) {
			p.events <- event{stream: stream.StreamID, text: "malformed: " + stream.Error(), end: true, peer: p}
			continue
		}
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			var b strings.Builder
			b.WriteString("HEADERS")
			for _, h := range f.Fields {
				fmt.Fprintf(&b, "\n  %s: %s", h.Name, h.Value)
				if h.Sensitive {
					b.WriteString("  [never indexed]")
				}
			}
			p.events <- event{stream: f.StreamID, text: b.String(), end: f.StreamEnded(), peer: p}
		case *http2.DataFrame:
			p.events <- event{stream: f.StreamID, data: bytes.Clone(f.Data()), end: f.StreamEnded(), peer: p}
			if n := f.Length; n > 0 {
				p.write(func() error {
					if err := p.framer.WriteWindowUpdate(0, n); err != nil || f.StreamEnded() {
						return err
					}
					return p.framer.WriteWindowUpdate(f.StreamID, n)
				})
			}
		case *http2.RSTStreamFrame:
			p.events <- event{stream: f.StreamID, text: "RST_STREAM " + f.ErrCode.String(), end: true, peer: p}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				p.write(p.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				p.write(func() error { return p.framer.WritePing(true, f.Data) })
				continue
			}
			p.pongs <- struct{}{}
		}
	}
}

// write ignores errors: a broken connection shows as an event that never comes.
func (p *peer) write(do func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do() // see above
}

// do performs a step on a stream.
func (p *peer) do(s step, stream uint32) {
	p.write(func() error {
		if s.fields != nil {
			if err := p.writeBlock(s, stream); err != nil {
				return err
			}
		}
		if s.data != nil {
			if err := p.framer.WriteDataPadded(stream, s.end, s.data, make([]byte, s.pad)); err != nil {
				return err
			}
		}
		if s.reset != nil {
			return p.framer.WriteRSTStream(stream, *s.reset)
		}
		return nil
	})
	if s.raw != nil {
		p.write(func() error { s.raw(p, stream); return nil })
	}
}

func (p *peer) writeBlock(s step, stream uint32) error {
	p.block.Reset()
	for _, f := range s.fields {
		if err := p.encoder.WriteField(f); err != nil {
			return err
		}
	}
	block, rest := p.block.Bytes(), []byte(nil)
	if s.split {
		block, rest = block[:1], block[1:]
	}
	err := p.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block, EndHeaders: rest == nil, EndStream: s.end && s.data == nil, PadLength: uint8(s.pad),
	})
	for err == nil && len(rest) > 0 {
		n := (len(rest) + 1) / 2
		err = p.framer.WriteContinuation(stream, n == len(rest), rest[:n])
		rest = rest[n:]
	}
	return err
}

// wireRig is a framing server, and a framing client of the given address.
type wireRig struct {
	client         *peer
	atClient, atSv chan event
	nextID         uint32
}

// newWireRig connects a framing client to a framing server, through what stands at the address that through gives.
func newWireRig(t *testing.T, through func(server string) string) *wireRig {
	t.Helper()
	r := &wireRig{atClient: make(chan event, 1000), atSv: make(chan event, 1000), nextID: 1}
	addr := harness.FreeAddr(t)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
	}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			keep(c)
			all.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	c, err := net.Dial("tcp", through(addr))
	if err != nil {
		t.Fatal(err)
	}
	keep(c)
	r.client = newPeer(c, r.atClient)
	r.client.write(func() error {
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			return err
		}
		return r.client.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	})
	all.Go(r.client.read)
	return r
}

func (r *wireRig) serve(c net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	p := newPeer(c, r.atSv)
	p.write(func() error { return p.framer.WriteSettings() })
	p.read()
}

// play performs the steps of an exchange and returns what each side saw.
func (r *wireRig) play(t *testing.T, e exchange) string {
	t.Helper()
	id := r.nextID
	r.nextID += 2
	var out strings.Builder
	var serverSide *peer
	var serverID uint32
	for i, s := range e.steps {
		from, events, who := "client", r.atSv, "server"
		ours := func(e event) bool { return serverSide == nil || e.peer == serverSide && e.stream == serverID }
		if s.byClient {
			r.client.do(s, id)
		} else {
			from, events, who = "server", r.atClient, "client"
			ours = func(e event) bool { return e.stream == id }
			if serverSide == nil {
				t.Fatalf("%s: step %d: the server has no stream to answer on", e.name, i)
			}
			serverSide.do(s, serverID)
		}
		want := expectation{data: len(s.data), end: s.end || s.reset != nil, block: s.fields != nil || s.reset != nil}
		seen, last := collect(events, want, ours)
		fmt.Fprintf(&out, "step %d by the %s; the %s saw\n%s", i+1, from, who, indent(seen))
		if strings.Contains(seen, broken) {
			break
		}
		if s.byClient && serverSide == nil && last.peer != nil {
			serverSide, serverID = last.peer, last.stream
		}
	}
	r.client.settle(t)
	if serverSide != nil {
		serverSide.settle(t)
	}
	fmt.Fprintf(&out, "afterwards the client saw\n%s", indent(drain(r.atClient)))
	fmt.Fprintf(&out, "afterwards the server saw\n%s", indent(drain(r.atSv)))
	return out.String()
}

// broken marks a step that did not come through; the rest of the exchange is not played.
const broken = "BROKEN: "

// expectation is what shows that a step has come through.
type expectation struct {
	data       int
	block, end bool
}

// collect takes events until the step has come through whole. What comes for another stream is told as a stray.
func collect(events chan event, want expectation, ours func(event) bool) (string, event) {
	var b strings.Builder
	var data []byte
	var last event
	blocks, end := 0, false
	for (want.block && blocks == 0) || len(data) < want.data || want.end && !end {
		select {
		case e := <-events:
			if !ours(e) {
				fmt.Fprintf(&b, "STRAY %s %d bytes end=%v\n", e.text, len(e.data), e.end)
				continue
			}
			last = e
			data = append(data, e.data...)
			if e.text != "" {
				blocks++
				b.WriteString(e.text + "\n")
			}
			end = end || e.end
			if e.end && (e.text != "") && !want.end {
				return b.String() + broken + "the stream ended too early\n", last
			}
		case <-time.After(5 * time.Second):
			fmt.Fprintf(&b, "DATA %s\n%sno more, after 5 s\n", digest(data), broken)
			return b.String(), last
		}
	}
	if len(data) > 0 {
		fmt.Fprintf(&b, "DATA %s\n", digest(data))
	}
	if end {
		b.WriteString("END\n")
	}
	return b.String(), last
}

// settle waits for a PING's way there and back: what the other end had written before it is here then.
func (p *peer) settle(t *testing.T) {
	t.Helper()
	p.write(func() error { return p.framer.WritePing(false, [8]byte{1}) })
	select {
	case <-p.pongs:
	case <-time.After(5 * time.Second):
		t.Error("a PING was not answered in 5 s")
	}
}

// drain tells what has come after the last step.
func drain(events chan event) string {
	var b strings.Builder
	for {
		select {
		case e := <-events:
			fmt.Fprintf(&b, "%s %d bytes end=%v\n", e.text, len(e.data), e.end)
		default:
			return b.String()
		}
	}
}
