package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/trunkline/trunkline/integration/harness"
)

// snail is a compression that nobody inspects.
type snail struct{}

func (snail) Name() string                                 { return "snail" }
func (snail) Compress(w io.Writer) (io.WriteCloser, error) { return slow{w}, nil }
func (snail) Decompress(r io.Reader) (io.Reader, error)    { return r, nil }

type slow struct{ io.Writer }

func (slow) Close() error { return nil }

func TestMessagesAreHeldAgainstRules(t *testing.T) {
	o, b := startOrders(t), startServer(t, "b")
	tr := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery: { static: { clusters: [ { name: orders, endpoints: [ { address: %s } ] }, { name: backends, endpoints: [ { address: %s } ] } ] }, reflection: { interval: 1s } }
payload:
  - { methods: [ "edge.test.Orders/*" ], validate: { refuseUnknownFields: true, protovalidate: true }, maxInspectedBytes: 65536 }
  - { methods: [ grpc.testing.TestService/UnaryCall ], maxRequestMessageBytes: 1000, maxResponseMessageBytes: 2000 }
  - { methods: [ grpc.testing.TestService/StreamingInputCall ], maxRequestBytes: 3000 }
  - { methods: [ grpc.testing.TestService/StreamingOutputCall ], maxResponseBytes: 3000 }
  - { methods: [ grpc.testing.TestService/EmptyCall ], validate: { refuseUnknownFields: true, shadow: true }, maxInspectedBytes: 1000 }
`, o.address, b.Addr))
	cc := harness.Dial(t, tr.Listen)
	harness.Eventually(t, limit, "both services to be routed", func() bool {
		return o.place(t, cc, o.make("tea", 1)) == nil && call(t, cc) == nil
	})
	refusedUnseen := func(t *testing.T, m any, code codes.Code, why string, words []string, opts ...grpc.CallOption) {
		t.Helper()
		before := o.seen.Load()
		mustSay(t, o.place(t, cc, m, opts...), code, why, words...)
		if n := o.seen.Load() - before; n != 0 {
			t.Errorf("the endpoint saw %d messages", n)
		}
	}
	unknown := o.make("tea", 1)
	unknown.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 7))

	t.Run("a message that keeps the descriptors' rules passes, compressed or not", func(t *testing.T) {
		for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
			if err := o.place(t, cc, o.make("tea", 1), opts...); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("one that breaks them is refused before the endpoint sees it, compressed or not", func(t *testing.T) {
		for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
			refusedUnseen(t, o.make("t", 0), codes.InvalidArgument, "INVALID_MESSAGE", []string{"message 1 of " + place, "title:", "count:", "payload[0].validate"}, opts...)
			refusedUnseen(t, unknown, codes.InvalidArgument, "UNKNOWN_FIELDS", []string{"field 99 of edge.test.Order", "remove"}, opts...)
		}
	})
	t.Run("one that is no message at all is refused", func(t *testing.T) {
		refusedUnseen(t, []byte{10, 200, 1, 'x'}, codes.InvalidArgument, "MESSAGE_MALFORMED", []string{"message 1 of " + place}, grpc.ForceCodec(bytesAsTheyAre{}))
	})
	t.Run("one that is too large to inspect is refused, be it large only when it is unpacked", func(t *testing.T) {
		big := o.make(strings.Repeat("tea ", 50_000), 1)
		refusedUnseen(t, big, codes.ResourceExhausted, "MESSAGE_TOO_LARGE_TO_INSPECT", []string{"65536 bytes", "payload[0].maxInspectedBytes"})
		refusedUnseen(t, big, codes.ResourceExhausted, "MESSAGE_TOO_LARGE_TO_INSPECT", []string{"65536 bytes", "payload[0].maxInspectedBytes"}, grpc.UseCompressor(gzip.Name))
	})
	t.Run("one in an encoding that cannot be read is refused", func(t *testing.T) {
		refusedUnseen(t, o.make("tea", 1), codes.Unimplemented, "ENCODING_NOT_INSPECTED", []string{`"snail"`, "gzip"}, grpc.UseCompressor("snail"))
	})
	t.Run("a stream's messages are judged one by one", func(t *testing.T) {
		before := o.seen.Load()
		s, err := cc.NewStream(harness.Context(t, limit), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+each)
		if err != nil {
			t.Fatal(err)
		}
		for n := range int32(3) {
			if err := s.SendMsg(o.make("tea", n+1)); err != nil {
				t.Fatal(err)
			}
			m := dynamicpb.NewMessage(o.order)
			if err := s.RecvMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.SendMsg(o.make("tea", -1)); err != nil {
			t.Fatal(err)
		}
		mustSay(t, s.RecvMsg(dynamicpb.NewMessage(o.order)), codes.InvalidArgument, "INVALID_MESSAGE", "message 4 of "+each, "count")
		if n := o.seen.Load() - before; n != 3 {
			t.Errorf("the endpoint saw %d messages, want 3", n)
		}
	})
	t.Run("a stream of many messages passes in order", func(t *testing.T) {
		s, err := cc.NewStream(harness.Context(t, limit), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+each)
		if err != nil {
			t.Fatal(err)
		}
		const n = 500
		go func() {
			for i := range int32(n) {
				_ = s.SendMsg(o.make(strings.Repeat("tea ", 100), i+1))
			}
			_ = s.CloseSend()
		}()
		for i := range int64(n) {
			m := dynamicpb.NewMessage(o.order)
			if err := s.RecvMsg(m); err != nil {
				t.Fatalf("message %d: %v", i+1, err)
			}
			if got := m.Get(o.order.Fields().ByName("count")).Int(); got != i+1 {
				t.Fatalf("message %d came as number %d", got, i+1)
			}
		}
		if err := s.RecvMsg(dynamicpb.NewMessage(o.order)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
	t.Run("a rule in shadow refuses nothing", func(t *testing.T) {
		m := &testpb.Empty{}
		m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 7))
		if _, err := testpb.NewTestServiceClient(cc).EmptyCall(harness.Context(t, limit), m); err != nil {
			t.Error(err)
		}
		m.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, 2<<20))) // nor one too large to inspect
		if _, err := testpb.NewTestServiceClient(cc).EmptyCall(harness.Context(t, limit), m); err != nil {
			t.Error(err)
		}
	})
	c := testpb.NewTestServiceClient(cc)
	body := func(n int) *testpb.Payload { return &testpb.Payload{Body: bytes.Repeat([]byte("x"), n)} }
	t.Run("messages have their limits of size, either way", func(t *testing.T) {
		_, err := c.UnaryCall(harness.Context(t, limit), &testpb.SimpleRequest{Payload: body(2000)})
		mustSay(t, err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", "request message", "1000", "payload[1].maxRequestMessageBytes")
		_, err = c.UnaryCall(harness.Context(t, limit), &testpb.SimpleRequest{Payload: body(500), ResponseSize: 3000})
		mustSay(t, err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", "response message", "2000", "payload[1].maxResponseMessageBytes")
		if _, err = c.UnaryCall(harness.Context(t, limit), &testpb.SimpleRequest{Payload: body(500), ResponseSize: 1500}); err != nil {
			t.Error(err)
		}
	})
	t.Run("calls have theirs, over all of their messages", func(t *testing.T) {
		in, err := c.StreamingInputCall(harness.Context(t, limit))
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			_ = in.Send(&testpb.StreamingInputCallRequest{Payload: body(900)})
		}
		_, err = in.CloseAndRecv()
		mustSay(t, err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", "all request messages together", "3000", "payload[2].maxRequestBytes")
		sizes := []*testpb.ResponseParameters{{Size: 900}, {Size: 900}, {Size: 900}, {Size: 900}}
		out, err := c.StreamingOutputCall(harness.Context(t, limit), &testpb.StreamingOutputCallRequest{ResponseParameters: sizes})
		got := 0
		for err == nil {
			if _, err = out.Recv(); err == nil {
				got++
			}
		}
		mustSay(t, err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", "all response messages together", "3000", "payload[3].maxResponseBytes")
		if got > 3 {
			t.Errorf("%d messages of 900 bytes came", got)
		}
	})
	t.Run("a message that is not framed as one is refused", func(t *testing.T) {
		f := harness.DialFrames(t, tr.Listen)
		openAt(t, f, 1, place)
		if err := f.Framer.WriteData(1, true, []byte{7, 0, 0, 0, 1, 0}); err != nil {
			t.Fatal(err)
		}
		fields, _ := f.Await(t, 1, limit)
		says(t, fields["grpc-message"], "request message 1 begins with the flag 7")
		openAt(t, f, 3, place)
		if err := f.Framer.WriteData(3, true, []byte{0, 0, 0, 0, 9, 0}); err != nil {
			t.Fatal(err)
		}
		fields, _ = f.Await(t, 3, limit)
		says(t, fields["grpc-message"], "ended amid message 1")
		if fields["grpc-status"] != "13" {
			t.Errorf("grpc-status %s", fields["grpc-status"])
		}
	})
}
