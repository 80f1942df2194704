package harness

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// FrameClient is a client that does only what the test tells it: no reading, no window updates, no deadlines by itself. It is
// used by one goroutine.
type FrameClient struct {
	Conn    net.Conn
	Framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
}

// DialFrames connects and sends the preface with the given SETTINGS; the connection is closed when the test ends.
func DialFrames(t testing.TB, addr string, settings ...http2.Setting) *FrameClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &FrameClient{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	c.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c.check(t, c.Framer.WriteSettings(settings...))
	return c
}

// Open begins a call of the test service on a stream, with more header fields in pairs.
func (c *FrameClient) Open(t testing.TB, stream uint32, method string, pairs ...string) {
	t.Helper()
	c.block.Reset()
	pairs = append([]string{":method", "POST", ":scheme", "http", ":path", "/" + Service + "/" + method, ":authority", "frames.test",
		"content-type", "application/grpc", "te", "trailers"}, pairs...)
	for i := 0; i+1 < len(pairs); i += 2 {
		c.check(t, c.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	c.check(t, c.Framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndHeaders: true}))
}

// Send sends a message and, with end, half-closes.
func (c *FrameClient) Send(t testing.TB, stream uint32, m proto.Message, end bool) {
	t.Helper()
	body, err := proto.Marshal(m)
	c.check(t, err)
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	c.check(t, c.Framer.WriteData(stream, end, append(frame, body...)))
}

// Await reads until the stream ends and returns its last header block and how it ended: "END_STREAM" or the code of its RST_STREAM.
// It gives window back for what it reads.
func (c *FrameClient) Await(t testing.TB, stream uint32, limit time.Duration) (fields map[string]string, ending string) {
	t.Helper()
	c.check(t, c.Conn.SetReadDeadline(time.Now().Add(limit)))
	fields = map[string]string{}
	for {
		f, err := c.Framer.ReadFrame()
		if err != nil {
			t.Fatalf("frames: stream %d: %v", stream, err)
		}
		ended := false
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.check(t, c.Framer.WriteSettingsAck())
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.check(t, c.Framer.WritePing(true, f.Data))
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				clear(fields)
				for _, h := range f.Fields {
					fields[h.Name] = h.Value
				}
				ended = f.StreamEnded()
			}
		case *http2.DataFrame:
			if f.Length > 0 {
				c.check(t, c.Framer.WriteWindowUpdate(0, f.Length))
			}
			ended = f.StreamID == stream && f.StreamEnded()
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return fields, f.ErrCode.String()
			}
		}
		if ended {
			return fields, "END_STREAM"
		}
	}
}

func (c *FrameClient) check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("frames: %v", err)
	}
}

// Refuser is a backend that accepts connections and answers every request with RST_STREAM(REFUSED_STREAM).
type Refuser struct {
	Addr    string
	Refused atomic.Int64
}

// StartRefuser starts a Refuser on a free port; it is stopped when the test ends.
func StartRefuser(t testing.TB) *Refuser {
	t.Helper()
	r := &Refuser{Addr: FreeAddr(t)}
	l, err := net.Listen("tcp", r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var conns sync.Map
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(c, nil)
			all.Go(func() {
				defer c.Close()
				r.serve(c) //nolint:errcheck // the connection has ended, one way or the other
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		all.Wait()
	})
	return r
}

func (r *Refuser) serve(c net.Conn) error {
	if _, err := io.CopyN(io.Discard, c, int64(len(http2.ClientPreface))); err != nil {
		return err
	}
	framer := http2.NewFramer(c, c)
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = framer.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			r.Refused.Add(1)
			err = framer.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream)
		}
		if err != nil {
			return err
		}
	}
}
