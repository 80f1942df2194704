package demo

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// refuser is a listener whose HTTP/2 connections refuse each so many-th stream with RST_STREAM(REFUSED_STREAM), before
// the server behind it sees anything of it: what an overloaded server does, provably without having processed the call.
// grpc-go has no switch for that, so each accepted connection is relayed frame by frame to a connection of its own.
type refuser struct {
	net.Listener // the server's, behind
	front        net.Listener
	every        uint64        // set once in newRefuser
	seen         atomic.Uint64 // streams so far
	refused      atomic.Uint64
	wg           sync.WaitGroup
}

// newRefuser listens for the server behind on a loopback port of its own and relays what front accepts. Closing it closes
// both.
func newRefuser(front net.Listener, every uint64) (*refuser, error) {
	behind, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &refuser{Listener: behind, front: front, every: every}
	r.wg.Go(r.accept)
	return r, nil
}

func (r *refuser) Close() error {
	return errors.Join(r.front.Close(), r.Listener.Close())
}

// wait returns when every relayed connection has ended.
func (r *refuser) wait() { r.wg.Wait() }

func (r *refuser) accept() {
	for {
		client, err := r.front.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.Addr().String())
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &refusing{r: r, client: client, server: server, gone: map[uint32]bool{}}
		r.wg.Go(func() { c.run(c.up) })
		r.wg.Go(func() { c.run(c.down) })
	}
}

// refusing is one relayed connection.
type refusing struct {
	r              *refuser
	client, server net.Conn

	mu       sync.Mutex
	toClient *http2.Framer   // guarded by mu
	gone     map[uint32]bool // the refused streams; owned by up
}

// run relays one direction until either side ends, then ends both.
func (c *refusing) run(direction func() error) {
	_ = direction()
	_ = c.client.Close()
	_ = c.server.Close()
}

// down relays from server to client, whole frames only, since up writes refusals among them.
func (c *refusing) down() error {
	from := http2.NewFramer(io.Discard, c.server)
	for {
		f, err := from.ReadFrame()
		if err != nil {
			return err
		}
		if err := c.send(func(to *http2.Framer) error { return relay(to, f) }); err != nil {
			return err
		}
	}
}

func (c *refusing) send(write func(*http2.Framer) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.toClient == nil {
		c.toClient = http2.NewFramer(c.client, nil)
		c.toClient.AllowIllegalWrites = true
	}
	return write(c.toClient)
}

// up relays from client to server. Header blocks are decoded and encoded anew: both directions' compression state lives on
// though some blocks end here.
func (c *refusing) up() error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.client, preface); err != nil {
		return err
	}
	if _, err := c.server.Write(preface); err != nil {
		return err
	}
	from, to := http2.NewFramer(io.Discard, c.client), http2.NewFramer(c.server, nil)
	from.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	to.AllowIllegalWrites = true
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for {
		f, err := from.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if c.refuse(f.StreamID) {
				err = c.send(func(to *http2.Framer) error { return to.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream) })
				break
			}
			block.Reset()
			for _, field := range f.Fields {
				_ = encoder.WriteField(field)
			}
			err = to.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: block.Bytes(), EndStream: f.StreamEnded(), EndHeaders: true})
		case *http2.DataFrame:
			if !c.gone[f.StreamID] {
				err = relay(to, f)
			} else if n := f.Length; n > 0 { // the connection's window is given back, as the server would
				err = c.send(func(to *http2.Framer) error { return to.WriteWindowUpdate(0, n) })
			}
		default:
			if id := f.Header().StreamID; id == 0 || !c.gone[id] {
				err = relay(to, f)
			}
		}
		if err != nil {
			return err
		}
	}
}

// refuse decides about a new stream, and remembers. Only up calls it.
func (c *refusing) refuse(id uint32) bool {
	if c.r.every == 0 || c.r.seen.Add(1)%c.r.every != 0 {
		return false
	}
	if len(c.gone) > 1024 { // a refused stream's last frames come within a round trip
		clear(c.gone)
	}
	c.gone[id] = true
	c.r.refused.Add(1)
	return true
}

// relay writes a frame as it was read.
func relay(to *http2.Framer, f http2.Frame) error {
	switch h := f.Header(); f := f.(type) {
	case *http2.DataFrame:
		return to.WriteData(h.StreamID, f.StreamEnded(), f.Data())
	case *http2.HeadersFrame:
		return to.WriteRawFrame(h.Type, h.Flags&^(http2.FlagHeadersPadded|http2.FlagHeadersPriority), h.StreamID, f.HeaderBlockFragment())
	case *http2.ContinuationFrame:
		return to.WriteRawFrame(h.Type, h.Flags, h.StreamID, f.HeaderBlockFragment())
	case *http2.SettingsFrame:
		if f.IsAck() {
			return to.WriteSettingsAck()
		}
		var all []http2.Setting
		_ = f.ForeachSetting(func(s http2.Setting) error { all = append(all, s); return nil })
		return to.WriteSettings(all...)
	case *http2.WindowUpdateFrame:
		return to.WriteWindowUpdate(h.StreamID, f.Increment)
	case *http2.RSTStreamFrame:
		return to.WriteRSTStream(h.StreamID, f.ErrCode)
	case *http2.PingFrame:
		return to.WritePing(f.IsAck(), f.Data)
	case *http2.GoAwayFrame:
		return to.WriteGoAway(f.LastStreamID, f.ErrCode, f.DebugData())
	default: // PRIORITY and what nobody knows carry nothing that a server needs
		return nil
	}
}
