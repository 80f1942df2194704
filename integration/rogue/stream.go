package rogue

import (
	"context"
	"encoding/binary"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

// Stream is one attempt as the server sees it, for its Script. Writing on a stream that has ended does nothing.
type Stream struct {
	ID      uint32
	Number  int64 // of this stream among those of its server, from 1
	Attempt int   // of its call among all servers of the ledger, from 1
	Fields  []hpack.HeaderField

	c      *conn           // set once in newStream
	ctx    context.Context // ends when the other side ends the stream, or the connection does
	cancel context.CancelFunc
	window int64         // guarded by c.mu
	whole  chan struct{} // closed when the request has ended

	mu      sync.Mutex
	request []byte // guarded by mu
	ending  bool   // guarded by mu; whole is closed
	over    bool   // guarded by mu; we, or the other side, have ended it
}

func newStream(c *conn, id uint32, fields []hpack.HeaderField) *Stream {
	s := &Stream{ID: id, Fields: fields, c: c, whole: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Get is the value of a request header field, "" if it is absent.
func (s *Stream) Get(name string) string { return Attempt{Fields: s.Fields}.Get(name) }

// CallID is the id that the client gave the call.
func (s *Stream) CallID() string { return s.Get(CallKey) }

// Context ends when the other side has ended the stream, or the connection has ended.
func (s *Stream) Context() context.Context { return s.ctx }

func (s *Stream) plan() Script {
	if text := s.Get(PlanKey); text != "" {
		plan, err := Parse(text)
		if err != nil {
			return Only(codes.InvalidArgument, err.Error())
		}
		return plan[min(s.Attempt, len(plan))-1]
	}
	return (*s.c.server.script.Load())(s)
}

// received is called by the reader.
func (s *Stream) received(data []byte, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request = append(s.request, data...)
	if end && !s.ending {
		s.ending = true
		close(s.whole)
	}
}

// ended is called by the reader when the other side has ended the stream.
func (s *Stream) ended(code http2.ErrCode) {
	over := s.close()
	s.cancel()
	if !over && code != http2.ErrCodeConnect {
		s.c.server.Ledger.cancel(s.CallID())
	}
	s.c.mu.Lock()
	s.c.credit.Broadcast()
	s.c.mu.Unlock()
}

// close marks the stream as over and says whether it was. A call is open until the frame that ends it is about to be written:
// who sees that frame may send the next one.
func (s *Stream) close() (was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was = s.over
	if !was {
		s.over = true
		s.c.server.open.Add(-1)
	}
	return was
}

// AwaitRequest waits for the whole request; false if the stream ended before.
func (s *Stream) AwaitRequest() bool {
	select {
	case <-s.whole:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// Request is what has come of the request so far, prefixes of messages included.
func (s *Stream) Request() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]byte(nil), s.request...)
}

// Wait waits; false if the stream ended before.
func (s *Stream) Wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// Execute counts an execution of the call; false, and nothing counted, if a GOAWAY has given it up meanwhile.
func (s *Stream) Execute() bool {
	s.c.mu.Lock()
	given := s.ID > s.c.refuse && s.c.refused
	if !given {
		s.c.executed = max(s.c.executed, s.ID)
	}
	s.c.mu.Unlock()
	if !given {
		s.c.server.Ledger.execute(s.CallID())
	}
	return !given
}

// send writes frames of the stream, unless it has ended; with end it is over after.
func (s *Stream) send(end bool, do func(*http2.Framer) error) {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if end {
		over = s.close()
	}
	if !over {
		s.c.write(do)
	}
}

// Block writes a header block in one frame.
func (s *Stream) Block(end bool, fields []hpack.HeaderField) {
	s.send(end, func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.ID, BlockFragment: s.c.encode(fields), EndHeaders: true, EndStream: end})
	})
}

// Headers writes the response headers of gRPC and more fields, in pairs.
func (s *Stream) Headers(pairs ...string) { s.Block(false, responseHeaders(pairs...)) }

// Trailers ends the stream with a status and more fields, in pairs.
func (s *Stream) Trailers(code codes.Code, message string, pairs ...string) {
	s.Block(true, trailers(code, message, pairs...))
}

// Only ends the stream with a Trailers-Only reply.
func (s *Stream) Only(code codes.Code, message string, pairs ...string) {
	s.Block(true, append(responseHeaders(), trailers(code, message, pairs...)...))
}

// Data writes DATA as the windows allow; false if the stream ended before all was written.
func (s *Stream) Data(data []byte) bool {
	for len(data) > 0 {
		n := s.reserve(len(data))
		if n == 0 {
			return false
		}
		s.send(false, func(f *http2.Framer) error { return f.WriteData(s.ID, false, data[:n]) })
		data = data[n:]
	}
	return true
}

// reserve waits for window and takes at most want of it; 0: the stream or the connection has ended.
func (s *Stream) reserve(want int) int {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.window <= 0 || s.window <= 0 {
		if c.gone || s.ctx.Err() != nil {
			return 0
		}
		c.credit.Wait()
	}
	n := min(int64(want), c.window, s.window, int64(c.frame))
	c.window -= n
	s.window -= n
	return int(n)
}

// Reset ends the stream with RST_STREAM.
func (s *Stream) Reset(code http2.ErrCode) {
	s.send(true, func(f *http2.Framer) error { return f.WriteRSTStream(s.ID, code) })
}

// Cut closes the connection.
func (s *Stream) Cut() { s.c.nc.Close() }

// GoAway writes GOAWAY on the stream's connection.
func (s *Stream) GoAway(last uint32, code http2.ErrCode) { s.c.goAway(last, code) }

// Message is a reply of the test service with its prefix: it bears the server's name and a body of the given size.
func (s *Stream) Message(size int) []byte { return message(s.c.server.Name, size) }

func message(name string, size int) []byte {
	m := &testpb.SimpleResponse{ServerId: name}
	if size > 0 {
		m.Payload = &testpb.Payload{Body: pattern(size)}
	}
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err) // a message of our own making
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
}

// pattern is a body in which a lost, doubled or moved part shows.
func pattern(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// Intact says whether a payload is as a server of this package made it.
func Intact(body []byte) bool { return string(body) == string(pattern(len(body))) }

func responseHeaders(pairs ...string) []hpack.HeaderField {
	return fields(append([]string{":status", "200", "content-type", "application/grpc"}, pairs...)...)
}

func trailers(code codes.Code, message string, pairs ...string) []hpack.HeaderField {
	return fields(append([]string{"grpc-status", strconv.Itoa(int(code)), "grpc-message", url.PathEscape(message)}, pairs...)...)
}

func fields(pairs ...string) []hpack.HeaderField {
	var all []hpack.HeaderField
	for i := 0; i+1 < len(pairs); i += 2 {
		all = append(all, hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return all
}
