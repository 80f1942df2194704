package rogue

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// conn is one connection. Its reader keeps it alive and hands frames to the streams; scripts write.
type conn struct {
	server  *Server        // set once in newConn
	nc      net.Conn       // set once in newConn
	scripts sync.WaitGroup // of the streams' goroutines

	mu      sync.Mutex // guards all below
	credit  *sync.Cond // told when window or a stream's window grows, or something ends
	framer  *http2.Framer
	out     *bufio.Writer
	encoder *hpack.Encoder
	block   bytes.Buffer
	streams map[uint32]*Stream
	window  int64 // of the connection, as the other side grants it
	initial int64 // of a new stream
	frame   int   // the largest that the other side takes
	// With refused, a GOAWAY has said that streams above refuse are not processed.
	refused  bool
	refuse   uint32
	executed uint32 // the highest stream that was
	accepted uint32 // the highest stream that a script has got
	gone     bool
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{server: s, nc: nc, out: bufio.NewWriterSize(nc, 32<<10), streams: map[uint32]*Stream{}, window: 65535, initial: 65535, frame: 16384}
	c.credit = sync.NewCond(&c.mu)
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(nc, 32<<10))
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = 1 << 20
	c.encoder = hpack.NewEncoder(&c.block)
	c.encoder.SetMaxDynamicTableSize(0) // so that the same fields always make a block of the same length
	return c
}

// run serves until the connection ends, and until its scripts have ended.
func (c *conn) run() {
	defer c.scripts.Wait()
	defer c.end()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.nc, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	c.write(func(f *http2.Framer) error { return f.WriteSettings(c.server.opts.Settings...) })
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		c.take(f)
	}
}

// take handles one frame.
func (c *conn) take(f http2.Frame) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return
		}
		c.mu.Lock()
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			for _, s := range c.streams {
				s.window += int64(v) - c.initial
			}
			c.initial = int64(v)
		}
		c.credit.Broadcast()
		c.mu.Unlock()
		c.write((*http2.Framer).WriteSettingsAck)
	case *http2.PingFrame:
		if !f.IsAck() {
			data := f.Data
			c.write(func(f *http2.Framer) error { return f.WritePing(true, data) })
		}
	case *http2.WindowUpdateFrame:
		c.mu.Lock()
		if f.StreamID == 0 {
			c.window += int64(f.Increment)
		} else if s := c.streams[f.StreamID]; s != nil {
			s.window += int64(f.Increment)
		}
		c.credit.Broadcast()
		c.mu.Unlock()
	case *http2.MetaHeadersFrame:
		c.headers(f)
	case *http2.DataFrame:
		c.data(f)
	case *http2.RSTStreamFrame:
		if s := c.stream(f.StreamID); s != nil {
			s.ended(f.ErrCode)
		}
	}
}

func (c *conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

func (c *conn) headers(f *http2.MetaHeadersFrame) {
	if s := c.stream(f.StreamID); s != nil { // trailers of a request
		s.received(nil, f.StreamEnded())
		return
	}
	s := newStream(c, f.StreamID, f.Fields)
	c.mu.Lock()
	if c.refused && s.ID > c.refuse { // said so already: nothing of it is looked at
		c.mu.Unlock()
		return
	}
	s.window = c.initial
	c.accepted = s.ID
	c.streams[s.ID] = s
	c.mu.Unlock()
	if f.StreamEnded() {
		s.received(nil, true)
	}
	s.Number = c.server.begin()
	s.Attempt = c.server.Ledger.arrived(s.CallID(), Attempt{Server: c.server.Name, At: time.Now(), Fields: s.Fields})
	c.scripts.Go(func() {
		s.plan()(s)
		s.close()
		c.mu.Lock()
		delete(c.streams, s.ID)
		c.mu.Unlock()
	})
}

func (c *conn) data(f *http2.DataFrame) {
	if s := c.stream(f.StreamID); s != nil {
		s.received(f.Data(), f.StreamEnded())
	}
	if n := f.Length; n > 0 && !c.server.opts.NoCredit {
		id, ended := f.StreamID, f.StreamEnded()
		c.write(func(f *http2.Framer) error {
			if err := f.WriteWindowUpdate(0, n); err != nil || ended {
				return err
			}
			return f.WriteWindowUpdate(id, n)
		})
	}
}

// write writes and flushes. An error ends the connection: its reader sees that.
func (c *conn) write(do func(*http2.Framer) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeLocked(do)
}

func (c *conn) writeLocked(do func(*http2.Framer) error) {
	if c.gone {
		return
	}
	err := do(c.framer)
	if err == nil {
		err = c.out.Flush()
	}
	if err != nil {
		c.nc.Close()
	}
}

// encode makes a header block. c.mu is held; the block is valid until the next call.
func (c *conn) encode(fields []hpack.HeaderField) []byte {
	c.block.Reset()
	for _, f := range fields {
		_ = c.encoder.WriteField(f) // a bytes.Buffer takes everything
	}
	return c.block.Bytes()
}

func (c *conn) goAway(last uint32, code http2.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last < graceful {
		c.refused, c.refuse = true, last
	}
	c.writeGoAway(last, code)
}

// giveUp sends a GOAWAY whose last id is the given one, or that of a higher stream that has been executed, or, for a graceful
// end, of any that a script has got; it returns the id.
func (c *conn) giveUp(last uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last = max(last, c.executed); last >= graceful {
		last = c.accepted
	}
	if c.refused {
		last = min(last, c.refuse) // it must not grow
	}
	c.refused, c.refuse = true, last
	c.writeGoAway(last, http2.ErrCodeNo)
	return last
}

// writeGoAway is for who holds c.mu.
func (c *conn) writeGoAway(last uint32, code http2.ErrCode) {
	c.writeLocked(func(f *http2.Framer) error { return f.WriteGoAway(last, code, []byte("rogue")) })
}

// end closes the connection and tells the scripts.
func (c *conn) end() {
	c.nc.Close()
	c.mu.Lock()
	c.gone = true
	var all []*Stream
	for _, s := range c.streams {
		all = append(all, s)
	}
	c.credit.Broadcast()
	c.mu.Unlock()
	for _, s := range all {
		s.ended(http2.ErrCodeConnect)
	}
}
