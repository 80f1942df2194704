package edge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// decider is an authorization service on Envoy's proto: it does as the call's metadata x-ask says.
type decider struct {
	auth.UnimplementedAuthorizationServer
	last  atomic.Pointer[auth.CheckRequest]
	asked atomic.Int64
}

func (d *decider) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	d.last.Store(r)
	d.asked.Add(1)
	set := func(name, value string) *core.HeaderValueOption {
		return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
	}
	denied := func(http typev3.StatusCode, body string) *auth.CheckResponse {
		return &auth.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: http}, Body: body,
				Headers: append(forbidden(), set("www-authenticate", `Bearer realm="shop"`), set("x-retry-at", "noon"))}}}
	}
	switch r.GetAttributes().GetRequest().GetHttp().GetHeaders()["x-ask"] {
	case "deny":
		return denied(typev3.StatusCode_Forbidden, "your plan does not include this; upgrade it at https://example.test/plans"), nil
	case "login":
		return denied(typev3.StatusCode_Unauthorized, "log in again"), nil
	case "fail":
		return nil, fmt.Errorf("no database")
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
		Headers:              []*core.HeaderValueOption{set("x-plan", "gold"), set("x-forwarded-client-cert", "URI=root"), set("grpc-timeout", "1n"), set("x-trunkline-user", "root")},
		HeadersToRemove:      []string{"x-secret"},
		ResponseHeadersToAdd: append(forbidden(), set("x-quota-left", "7"), set("x-proof-bin", "AAE=")),
	}}}, nil
}

// forbidden are fields that would break a reply, or a client that reads it.
func forbidden() (list []*core.HeaderValueOption) {
	for _, kv := range [][2]string{{":status", "500"}, {"content-type", "text/html"}, {"grpc-status", "0"}, {"grpc-message", "fine"}, {"grpc-encoding", "snail"}, {"connection", "close"},
		{"transfer-encoding", "chunked"}, {"content-length", "3"}, {"te", "x"}, {"x-trunkline-user", "root"}, {"X Bad", "1"}, {"x-lines", "a\r\nb: c"}, {"x-bin", "not base64"},
		{"x-long", strings.Repeat("l", 9000)}, {"", "1"}} {
		list = append(list, &core.HeaderValueOption{Header: &core.HeaderValue{Key: kv[0], Value: kv[1]}})
	}
	return list
}

func startDecider(t testing.TB) (*decider, *grpc.Server, string) {
	d := &decider{}
	s := grpc.NewServer()
	auth.RegisterAuthorizationServer(s, d)
	address := harness.FreeAddr(t)
	harness.ServeOn(t, s, harness.Listen(t, address))
	return d, s, address
}

func TestAnExternalServiceIsAskedAboutCalls(t *testing.T) {
	d, service, address := startDecider(t)
	b := startServer(t, "b")
	tr := harness.Start(t, config([]string{plain}, b.Addr, "externalAuthorization: { address: '"+address+"', timeout: 5s, except: [ grpc.testing.TestService/EmptyCall ], metadata: [ x-ask, x-told ] }"))
	open := harness.Start(t, config([]string{plain}, b.Addr, "externalAuthorization: { address: '"+address+"', timeout: 1s, failOpen: true }"))
	shadow := harness.Start(t, config([]string{plain}, b.Addr, "externalAuthorization: { address: '"+address+"', timeout: 5s, shadow: true }"))
	cc, ccOpen, ccShadow := harness.Dial(t, tr.Listen), harness.Dial(t, open.Listen), harness.Dial(t, shadow.Listen)

	t.Run("it allows a call and changes its metadata, but none that only Trunkline or gRPC may set", func(t *testing.T) {
		mustCall(t, cc, "x-told", "1", "x-untold", "2", "x-plan", "none", "x-secret", "3")
		b.mustHaveSeen(t, "x-plan", "gold")
		b.mustHaveSeen(t, "x-secret")
		for _, name := range []string{"x-forwarded-client-cert", "x-trunkline-user"} {
			b.mustHaveSeen(t, name)
		}
		q := d.last.Load().GetAttributes()
		if h := q.GetRequest().GetHttp(); h.GetPath() != "/"+unary || h.GetHeaders()["x-told"] != "1" || h.GetHeaders()["x-untold"] != "" {
			t.Errorf("the service was asked about %v", h)
		}
		if from := q.GetSource().GetAddress().GetSocketAddress().GetAddress(); from != "127.0.0.1" {
			t.Errorf("the service was told that the client is %q", from)
		}
	})
	t.Run("it denies a call, in its words", func(t *testing.T) {
		calls := b.Calls()
		mustSay(t, call(t, cc, "x-ask", "deny"), codes.PermissionDenied, "DENIED_BY_SERVICE", "your plan does not include this", "upgrade it", "externalAuthorization")
		mustSay(t, call(t, cc, "x-ask", "login"), codes.Unauthenticated, "DENIED_BY_SERVICE", "log in again")
		if b.Calls() != calls {
			t.Error("a denied call reached the endpoint")
		}
	})
	t.Run("callers of the admin API are told what it has to tell them", func(t *testing.T) {
		for name, opts := range map[string][]connect.ClientOption{"Connect": nil, "gRPC-Web": {connect.WithGRPCWeb()}} {
			q := connect.NewRequest(&adminv1.GetStatusRequest{})
			r, err := tr.API(opts...).GetStatus(harness.Context(t, limit), q)
			if err != nil {
				t.Fatal(err)
			}
			if h := r.Header(); h.Get("x-quota-left") != "7" || h.Get("x-proof-bin") != "AAE=" || h.Get("x-trunkline-user") != "" {
				t.Errorf("%s: the answer tells %v", name, h)
			}
			q.Header().Set("x-ask", "login")
			_, err = tr.API(opts...).GetStatus(harness.Context(t, limit), q)
			e := (*connect.Error)(nil)
			if !errors.As(err, &e) || e.Code() != connect.CodeUnauthenticated || e.Meta().Get("www-authenticate") != `Bearer realm="shop"` || e.Meta().Get("x-retry-at") != "noon" {
				t.Errorf("%s: the refusal is %v", name, err)
			} else if e.Meta().Get("x-quota-left") != "" || e.Meta().Get("x-lines") != "" {
				t.Errorf("%s: the refusal tells %v", name, e.Meta())
			}
		}
	})
	t.Run("methods that are excepted are not asked about", func(t *testing.T) {
		asked := d.asked.Load()
		if _, err := testpb.NewTestServiceClient(cc).EmptyCall(harness.Context(t, limit), &testpb.Empty{}); err != nil || d.asked.Load() != asked {
			t.Errorf("%v, asked %d times", err, d.asked.Load()-asked)
		}
	})
	t.Run("in shadow it refuses nobody", func(t *testing.T) {
		mustCall(t, ccShadow, "x-ask", "deny", "x-plan", "none")
		b.mustHaveSeen(t, "x-plan", "none")
	})
	refused := func(t *testing.T, ask string) {
		t.Helper()
		mustSay(t, call(t, cc, "x-ask", ask), codes.Unavailable, "AUTHORIZATION_SERVICE", "does not answer", "try again")
	}
	t.Run("where it fails calls are refused, or pass with failOpen", func(t *testing.T) {
		refused(t, "fail")
		mustCall(t, ccOpen, "x-ask", "fail")
		mustSay(t, call(t, ccOpen, "x-ask", "deny"), codes.PermissionDenied, "DENIED_BY_SERVICE")
	})
	t.Run("where it is slow calls wait no longer than its timeout, and others do not wait for them", func(t *testing.T) {
		slow := make(chan error, 1)
		go func() { slow <- call(t, cc, "x-ask", "slow") }()
		for range 5 {
			mustCall(t, cc)
		}
		mustSay(t, <-slow, codes.Unavailable, "AUTHORIZATION_SERVICE", "does not answer")
		mustCall(t, ccOpen, "x-ask", "slow")
	})
	t.Run("a caller's own deadline is kept meanwhile", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		_, err := harness.WhoAnswers(withAsk(ctx, "slow"), cc)
		if c := codeOf(err); c != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
	})
	t.Run("where it is away calls are refused, or pass with failOpen; when it is back they pass", func(t *testing.T) {
		service.Stop()
		refused(t, "")
		mustCall(t, ccOpen)
		again := grpc.NewServer()
		auth.RegisterAuthorizationServer(again, d)
		harness.ServeOn(t, again, harness.Listen(t, address))
		harness.Eventually(t, limit, "calls to pass again", func() bool { return call(t, cc) == nil })
	})
}
