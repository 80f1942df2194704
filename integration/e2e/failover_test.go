package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestARefusedDialMovesTheCallToAnotherEndpoint(t *testing.T) {
	alive := harness.StartBackend(t, "alive")
	dead := harness.FreeAddr(t)
	trunkline := harness.Start(t, static([]string{dead, alive.Addr}, roundRobin))
	load := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen))
	load.Await(t, 200)

	back := harness.StartBackendAt(t, "back", dead)
	harness.Eventually(t, stepLimit, "calls on the endpoint that has come back", func() bool { return load.Of("back") > 20 })
	load.MustNotHaveFailed(t)
	if back.Calls() == 0 || load.Of("alive") == 0 {
		t.Errorf("calls: %d on the one that came back, %d on the other", back.Calls(), load.Of("alive"))
	}
}

func TestARefusedStreamGoesToAnotherEndpoint(t *testing.T) {
	refuser, good := harness.StartRefuser(t), harness.StartBackend(t, "good")
	trunkline := harness.Start(t, static([]string{refuser.Addr, good.Addr}, roundRobin))
	load := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen))
	load.Await(t, 200)
	load.MustNotHaveFailed(t)
	if refuser.Refused.Load() == 0 {
		t.Error("no call was refused: this proves nothing")
	}
}

func TestABackendThatGoesAwayGracefullyUnderLoadFailsNoCall(t *testing.T) {
	leaving, staying := harness.StartBackend(t, "leaving"), harness.StartBackend(t, "staying")
	trunkline := harness.Start(t, static([]string{leaving.Addr, staying.Addr}))
	conns := []*grpc.ClientConn{harness.Dial(t, trunkline.Listen), harness.Dial(t, trunkline.Listen)}
	load := harness.StartLoad(t, 8, conns...)
	harness.Eventually(t, stepLimit, "calls on both", func() bool { return load.Of("leaving") > 20 && load.Of("staying") > 20 })
	leaving.Server.GracefulStop() // GOAWAY, then waits for its calls
	gone := load.Of("leaving")
	load.Await(t, 300)
	load.MustNotHaveFailed(t)
	if more := load.Of("leaving") - gone; more > 8 {
		t.Errorf("%d calls were answered by the backend after it was gone", more)
	}
}

func TestTheStreamLimitOfABackendIsRespected(t *testing.T) {
	const limit, calls = 5, 50
	backend := harness.StartBackend(t, "small", grpc.MaxConcurrentStreams(limit))
	trunkline := harness.Start(t, static([]string{backend.Addr}))
	c := testpb.NewTestServiceClient(harness.Dial(t, trunkline.Listen))
	ctx := metadata.AppendToOutgoingContext(harness.Context(t, stepLimit), harness.SleepKey, "50ms")
	var all sync.WaitGroup
	for range calls {
		all.Go(func() {
			if _, err := c.EmptyCall(ctx, &testpb.Empty{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	t.Logf("%d calls at once with a limit of %d: %d connections, at most %d calls at once", calls, limit, backend.Conns(), backend.PeakCalls())
	if backend.Conns() < 2 {
		t.Errorf("%d connections: it got no sibling", backend.Conns())
	}
}

// The client here does not watch its own deadline, and the backend ignores it: only Trunkline is left.
func TestTrunklineEnforcesTheDeadlineOfACall(t *testing.T) {
	backend := harness.StartBackend(t, "deaf")
	trunkline := harness.Start(t, static([]string{backend.Addr}))
	c := harness.DialFrames(t, trunkline.Listen)
	began := time.Now()
	c.Open(t, 1, "UnaryCall", "grpc-timeout", "300m", harness.SleepKey, "3s!")
	c.Send(t, 1, &testpb.SimpleRequest{}, true)
	fields, ending := c.Await(t, 1, 2500*time.Millisecond)
	took := time.Since(began)
	if fields["grpc-status"] != "4" || took < 300*time.Millisecond || took > 1500*time.Millisecond {
		t.Errorf("after %v: %v, %s; want grpc-status 4 after 300 ms", took, fields, ending)
	}
	if fields["grpc-message"] == "" || fields[":status"] != "200" {
		t.Errorf("the reply is %v: want a Trailers-Only reply with a message", fields)
	}
}

func TestTheTimeLeftIsForwarded(t *testing.T) {
	left := make(chan time.Duration, 2)
	backend := harness.StartBackend(t, "clock", grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			deadline, ok := ctx.Deadline()
			if !ok {
				deadline = time.Now() // 0 left
			}
			left <- time.Until(deadline)
			return next(ctx, req)
		}))
	trunkline := harness.Start(t, static([]string{backend.Addr}))
	c := harness.DialFrames(t, trunkline.Listen)
	timeouts := map[string]time.Duration{"5S": 5 * time.Second, "4000m": 4 * time.Second, "99999999u": 99999999 * time.Microsecond,
		"7M": 7 * time.Minute, "2H": 2 * time.Hour}
	stream := uint32(1)
	for timeout, want := range timeouts {
		c.Open(t, stream, "UnaryCall", "grpc-timeout", timeout)
		c.Send(t, stream, &testpb.SimpleRequest{}, true)
		// Less than given: the way costs time. Not much less: it is a loopback, and only the last digits of a long timeout may go.
		if got := <-left; got > want || got < want-max(time.Second, want/100) {
			t.Errorf("timeout %s: the backend was left %v", timeout, got)
		}
		c.Await(t, stream, stepLimit)
		stream += 2
	}
}

func TestACallThatCannotBePlacedSaysWhy(t *testing.T) {
	trunkline := harness.Start(t, static([]string{harness.FreeAddr(t)})) // nobody listens there
	cc := harness.Dial(t, trunkline.Listen)
	c := testpb.NewTestServiceClient(cc)
	tests := []struct {
		story string
		call  func(ctx context.Context) error
		code  codes.Code
		names []string // what the message must name
	}{
		{"no endpoint answers", func(ctx context.Context) error { _, err := c.EmptyCall(ctx, &testpb.Empty{}); return err },
			codes.Unavailable, []string{"backends"}},
		{"an unknown service", func(ctx context.Context) error {
			return cc.Invoke(ctx, "/grpc.testing.TestServices/EmptyCall", &testpb.Empty{}, &testpb.Empty{})
		}, codes.Unimplemented, []string{"grpc.testing.TestServices/EmptyCall", harness.Service}},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			st := status.Convert(tt.call(harness.Context(t, stepLimit)))
			if st.Code() != tt.code {
				t.Fatalf("status %v, want %v", st, tt.code)
			}
			for _, name := range tt.names {
				if !strings.Contains(st.Message(), name) {
					t.Errorf("the message %q does not name %q", st.Message(), name)
				}
			}
			var info *errdetails.ErrorInfo
			for _, d := range st.Details() {
				if e, ok := d.(*errdetails.ErrorInfo); ok {
					info = e
				}
			}
			if info.GetReason() == "" || info.GetDomain() == "" {
				t.Errorf("no ErrorInfo among the details %v", st.Details())
			}
		})
	}
}

// What one client does wrong ends its own stream or connection; others on the same upstream connection notice nothing.
func TestOneClientsMalformedFramesHurtNobodyElse(t *testing.T) {
	backend := harness.StartBackend(t, "backend")
	trunkline := harness.Start(t, static([]string{backend.Addr}))
	load := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen))
	load.Await(t, 50)
	evils := map[string]func(*harness.FrameClient) error{
		"half a frame, then the end": func(c *harness.FrameClient) error { _, err := c.Conn.Write([]byte{0, 1, 0}); return err },
		"a huge frame": func(c *harness.FrameClient) error {
			return c.Framer.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<20))
		},
		"a header block that is no HPACK": func(c *harness.FrameClient) error {
			return c.Framer.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		},
		"window overflow": func(c *harness.FrameClient) error { return c.Framer.WriteWindowUpdate(0, 1<<31-1) },
		"no HTTP/2 at all": func(c *harness.FrameClient) error {
			_, err := c.Conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			return err
		},
	}
	for story, evil := range evils {
		t.Run(story, func(t *testing.T) {
			for range 20 {
				c := harness.DialFrames(t, trunkline.Listen)
				c.Open(t, 1, "StreamingInputCall")
				evil(c) // the connection may be cut already
				c.Conn.Close()
			}
			load.Await(t, 50)
		})
	}
	load.MustNotHaveFailed(t)
}
