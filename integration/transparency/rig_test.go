package transparency

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// call is one case of the script: what the client does and what the server does, and what each of them saw.
type call struct {
	name   string
	method string // of service transparency.Script; "Play" when empty
	client func(*client)
	server func(*server) error
	// codeOnly is the allow-list: of the status only the code is compared, and no trailers, for the reason given.
	codeOnly string
}

const (
	scriptService = "transparency.Script"
	stepLimit     = 20 * time.Second // no step of a case may take longer
	maxMessage    = 64 << 20
)

// record is what one side saw, in its order.
type record struct {
	mu    sync.Mutex
	lines []string
}

func (r *record) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *record) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n") + "\n"
}

// signals let the two sides of a case wait for each other outside of the connection.
type signals struct {
	mu sync.Mutex
	m  map[string]chan struct{}
}

func (s *signals) get(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[name] == nil {
		s.m[name] = make(chan struct{})
	}
	return s.m[name]
}

// client is the client's side of a case.
type client struct {
	record
	*signals
	codeOnly bool
	cc       *grpc.ClientConn
	method   string
	ctx      context.Context
	cancel   context.CancelFunc
	stream   grpc.ClientStream
}

// open begins the call with request metadata in pairs.
func (c *client) open(pairs ...string) { c.openWith(nil, pairs...) }

func (c *client) openWith(opts []grpc.CallOption, pairs ...string) {
	ctx := metadata.AppendToOutgoingContext(c.ctx, pairs...)
	stream, err := c.cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, c.method, opts...)
	if err != nil {
		c.add("open: %s", describe(err, c.codeOnly))
		stream = unopened{}
	}
	c.stream = stream
}

func (c *client) send(m []byte) {
	if err := c.stream.SendMsg(m); err != nil && !errors.Is(err, io.EOF) { // io.EOF: the status comes from recv
		c.add("send: %s", describe(err, c.codeOnly))
	}
}

func (c *client) closeSend() {
	if err := c.stream.CloseSend(); err != nil {
		c.add("closeSend: %v", err)
	}
}

// header waits for the response headers.
func (c *client) header() {
	md, err := c.stream.Header()
	if err != nil {
		c.add("header: %s", describe(err, c.codeOnly))
		return
	}
	c.add("header: %s", fields(md))
}

// recv receives one message, or the end: false.
func (c *client) recv() bool {
	var m []byte
	if err := c.stream.RecvMsg(&m); err != nil {
		c.add("end: %s", describe(err, c.codeOnly))
		if !c.codeOnly {
			c.add("trailer: %s", fields(c.stream.Trailer()))
		}
		return false
	}
	c.add("message: %s", digest(m))
	return true
}

// rest receives until the end.
func (c *client) rest() {
	for c.recv() {
	}
}

// unopened stands for a stream that could not be opened.
type unopened struct{ grpc.ClientStream }

func (unopened) SendMsg(any) error { return io.EOF }
func (unopened) RecvMsg(any) error { return status.Error(codes.Unknown, "never opened") }
func (unopened) Header() (metadata.MD, error) {
	return nil, status.Error(codes.Unknown, "never opened")
}
func (unopened) Trailer() metadata.MD { return nil }
func (unopened) CloseSend() error     { return nil }

// server is the server's side of a case.
type server struct {
	record
	*signals
	grpc.ServerStream
	done chan struct{} // closed when the handler is through
}

func (s *server) send(m []byte) {
	if err := s.SendMsg(m); err != nil {
		s.add("send failed: %s", status.Code(err))
	}
}

// recv receives one message, or the client's end: false.
func (s *server) recv() bool {
	var m []byte
	err := s.RecvMsg(&m)
	switch {
	case errors.Is(err, io.EOF):
		s.add("client half-closed")
		return false
	case err != nil:
		s.add("recv failed: %s", status.Code(err))
		return false
	}
	s.add("message: %s", digest(m))
	return true
}

func (s *server) rest() {
	for s.recv() {
	}
}

// awaitCancel waits until the call is cancelled. Which of CANCELED and DEADLINE_EXCEEDED the server's context gives is
// a race between its own timer and the client's RST_STREAM, also direct.
func (s *server) awaitCancel() error {
	select {
	case <-s.Context().Done():
		s.add("cancelled")
		return status.FromContextError(s.Context().Err()).Err()
	case <-time.After(stepLimit):
		s.add("never cancelled")
		return status.Error(codes.Internal, "never cancelled")
	}
}

// script is the whole script on one path (direct, or through Trunkline).
type script struct {
	cases map[string]call
	mu    sync.Mutex
	open  map[string]*server // by run id
	wire  wireStats
}

// runScript plays every case between a stock grpc-go client and server, and returns what both sides saw, by case.
// through gives the address to call for the address of the server.
func runScript(t *testing.T, calls []call, through func(server string) string) map[string]string {
	t.Helper()
	s := &script{cases: map[string]call{}, open: map[string]*server{}}
	for _, c := range calls {
		s.cases[c.name] = c
	}
	backend := harness.Serve(t, func(g *grpc.Server) { g.RegisterService(s.desc(), s) },
		grpc.ForceServerCodecV2(bytesCodec{}), grpc.MaxRecvMsgSize(maxMessage), grpc.StatsHandler(&s.wire))
	cc := harness.Dial(t, through(backend), grpc.WithAuthority("script.test"), grpc.WithUserAgent("script/1.0"),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{}), grpc.MaxCallRecvMsgSize(maxMessage)))
	seen := map[string]string{}
	for _, c := range calls {
		seen[c.name] = s.play(t, cc, c)
	}
	return seen
}

// play runs one case and returns what both sides saw.
func (s *script) play(t *testing.T, cc *grpc.ClientConn, c call) string {
	t.Helper()
	method := c.method
	if method == "" {
		method = "Play"
	}
	sig := &signals{m: map[string]chan struct{}{}}
	srv := &server{signals: sig, done: make(chan struct{})}
	s.mu.Lock()
	s.open[c.name] = srv
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-case", c.name), stepLimit)
	if c.server == nil {
		close(srv.done) // the case expects that the handler is never reached
	}
	cl := &client{signals: sig, codeOnly: c.codeOnly != "", cc: cc, method: "/" + scriptService + "/" + method, ctx: ctx, cancel: cancel}
	c.client(cl)
	cancel()
	select {
	case <-srv.done:
	case <-time.After(stepLimit):
		t.Errorf("case %q: the server's side did not end", c.name)
	}
	return "client saw\n" + indent(cl.text()) + "server saw\n" + indent(srv.text()+s.wire.take(c.name))
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ") + "\n"
}

// desc has Play, declared as full duplex (on the wire every shape is a case of it), and Echo for streams by the dozen.
func (s *script) desc() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: scriptService,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "Play", Handler: s.handle, ClientStreams: true, ServerStreams: true},
			{StreamName: "Echo", Handler: echo, ClientStreams: true, ServerStreams: true},
		},
	}
}

func echo(_ any, stream grpc.ServerStream) error {
	for {
		var m []byte
		if err := stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
}

func (s *script) handle(_ any, stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	name := strings.Join(md.Get("x-case"), "")
	s.mu.Lock()
	srv := s.open[name]
	s.mu.Unlock()
	if srv == nil {
		return status.Errorf(codes.Internal, "no case %q", name)
	}
	srv.ServerStream = stream
	defer close(srv.done)
	srv.add("metadata: %s", fields(md))
	return s.cases[name].server(srv)
}

// wireStats notes what a handler does not see: the compression and the sizes on the wire.
type wireStats struct {
	mu    sync.Mutex
	cases map[string][]string
}

type caseKey struct{}

func (w *wireStats) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if info.FullMethodName == "/"+scriptService+"/Echo" {
		return ctx // its streams come in no order
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return context.WithValue(ctx, caseKey{}, strings.Join(md.Get("x-case"), ""))
}

func (w *wireStats) HandleRPC(ctx context.Context, s stats.RPCStats) {
	name, ok := ctx.Value(caseKey{}).(string)
	if !ok {
		return
	}
	var line string
	switch s := s.(type) {
	case *stats.InHeader:
		line = fmt.Sprintf("wire: method %s compression %q", s.FullMethod, s.Compression)
	case *stats.InPayload:
		line = fmt.Sprintf("wire: message of %d, compressed to %d", s.Length, s.CompressedLength)
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cases == nil {
		w.cases = map[string][]string{}
	}
	w.cases[name] = append(w.cases[name], line)
}

func (w *wireStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (w *wireStats) HandleConn(context.Context, stats.ConnStats)                       {}

func (w *wireStats) take(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.cases[name], "\n")
}

// describe tells a status with all its parts.
func describe(err error, codeOnly bool) string {
	if errors.Is(err, io.EOF) {
		return "OK"
	}
	st := status.Convert(err)
	if codeOnly {
		return st.Code().String()
	}
	out := fmt.Sprintf("%s %q", st.Code(), st.Message())
	for _, d := range st.Proto().GetDetails() {
		out += fmt.Sprintf(" detail %s %x", d.GetTypeUrl(), sha256.Sum256(d.GetValue()))
	}
	return out
}

// fields tells metadata: keys sorted, the values of a key in their order, long values as a digest.
func fields(md metadata.MD) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(md)) {
		for _, v := range md[key] {
			if len(v) > 200 {
				v = digest([]byte(v))
			}
			fmt.Fprintf(&b, "\n    %s=%q", key, v)
		}
	}
	return b.String()
}

func digest(m []byte) string {
	return fmt.Sprintf("%d bytes %.8x", len(m), sha256.Sum256(m))
}

// bytesCodec carries messages as they are. Its name keeps the content-type of the usual codec.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (bytesCodec) Name() string { return "proto" }
