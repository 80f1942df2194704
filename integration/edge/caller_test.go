package edge

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// mustTell fails the test unless the metadata has these values, and nothing that the service may not say.
func mustTell(t *testing.T, md metadata.MD, name string, want ...string) {
	t.Helper()
	if got := md.Get(name); !slices.Equal(got, want) {
		t.Errorf("the caller read %s = %q, want %q, in %v", name, got, want, md)
	}
	for _, name := range []string{"connection", "transfer-encoding", "content-length", "te", "x-trunkline-user", "x bad", "x-lines", "x-bin", "x-long", "grpc-encoding", ""} {
		if got := md.Get(name); got != nil {
			t.Errorf("the caller read %s = %q", name, got)
		}
	}
}

// What it may not say would break the connection, and with it the calls beside.
func TestAnExternalServiceTellsCallersWhatItMay(t *testing.T) {
	_, _, address := startDecider(t)
	b := startServer(t, "b")
	external := "externalAuthorization: { address: '" + address + "', timeout: 20s, except: [ grpc.testing.TestService/StreamingOutputCall ]"
	tr := harness.Start(t, config([]string{plain}, b.Addr, external+" }"))
	cc := harness.Dial(t, tr.Listen)
	finish := hold(t, b.Backend, cc, "beside")
	var first peer.Peer
	unary := func(ctx context.Context, q *testpb.SimpleRequest) (head, trail metadata.MD, err error) {
		var at peer.Peer
		_, err = testpb.NewTestServiceClient(cc).UnaryCall(ctx, q, grpc.Header(&head), grpc.Trailer(&trail), grpc.Peer(&at))
		if first.Addr == nil {
			first = at
		} else if first.LocalAddr.String() != at.LocalAddr.String() {
			t.Errorf("the connection was made anew: %v, then %v", first.LocalAddr, at.LocalAddr)
		}
		return head, trail, err
	}

	t.Run("with the response's headers", func(t *testing.T) {
		head, trail, err := unary(harness.Context(t, limit), &testpb.SimpleRequest{})
		if err != nil {
			t.Fatal(err)
		}
		mustTell(t, head, "x-quota-left", "7")
		mustTell(t, head, "x-proof-bin", "\x00\x01")
		mustTell(t, trail, "x-quota-left")
	})
	t.Run("with the endpoint's error", func(t *testing.T) {
		_, trail, err := unary(harness.Context(t, limit), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound), Message: "no such tea"}})
		if status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
		mustTell(t, trail, "x-quota-left", "7")
	})
	t.Run("with a stream's headers", func(t *testing.T) {
		s, err := testpb.NewTestServiceClient(cc).FullDuplexCall(harness.Context(t, limit))
		if err == nil {
			err = s.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: make([]*testpb.ResponseParameters, 1)})
		}
		if err != nil {
			t.Fatal(err)
		}
		head, err := s.Header()
		if err != nil {
			t.Fatal(err)
		}
		mustTell(t, head, "x-quota-left", "7")
		_ = s.CloseSend()
		for err == nil {
			_, err = s.Recv()
		}
	})
	t.Run("with a refusal", func(t *testing.T) {
		for range 50 { // what repeats is in the compression table
			_, trail, err := unary(withAsk(harness.Context(t, limit), "login"), &testpb.SimpleRequest{})
			mustSay(t, err, codes.Unauthenticated, "DENIED_BY_SERVICE", "log in again")
			mustTell(t, trail, "www-authenticate", `Bearer realm="shop"`)
			mustTell(t, trail, "x-retry-at", "noon")
		}
	})
	t.Run("but nothing when it fails, or in shadow", func(t *testing.T) {
		_, trail, err := unary(withAsk(harness.Context(t, limit), "fail"), &testpb.SimpleRequest{})
		mustSay(t, err, codes.Unavailable, "AUTHORIZATION_SERVICE")
		mustTell(t, trail, "www-authenticate")
		shadow := harness.Start(t, config([]string{plain}, b.Addr, external+", shadow: true }"))
		var head metadata.MD
		_, err = testpb.NewTestServiceClient(harness.Dial(t, shadow.Listen)).UnaryCall(harness.Context(t, limit), &testpb.SimpleRequest{}, grpc.Header(&head))
		if err != nil {
			t.Fatal(err)
		}
		mustTell(t, head, "x-quota-left")
	})
	finish()
}
