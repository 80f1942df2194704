package grpc_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	gogrpc "google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/trunkline/trunkline/codec/grpc"
)

// askGoServer sends one request to a grpc-go server in memory, which answers every method that it recognises with answer.
func askGoServer(path, contentType, timeout string, answer error) (resp *http.Response, method string, left time.Duration) {
	srv := gogrpc.NewServer(gogrpc.UnknownServiceHandler(func(_ any, s gogrpc.ServerStream) error {
		method, _ = gogrpc.MethodFromServerStream(s)
		if dl, ok := s.Context().Deadline(); ok {
			left = time.Until(dl)
		}
		return answer
	}))
	defer srv.Stop()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(""))
	r.ProtoMajor, r.URL.Path = 2, path
	r.Header.Set("Content-Type", contentType)
	if timeout != "" {
		r.Header.Set("Grpc-Timeout", timeout)
	}
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, r)
	return w.Result(), method, left
}

func TestGoServersWriteMessagesAsWeDo(t *testing.T) {
	for _, msg := range []string{"plain", "100% sure", "two\nlines", "é€😀", "bad \xff utf8", "cut \xe2\x82", "tilde~\x7f", "in  side"} {
		resp, _, _ := askGoServer("/a.S/M", "application/grpc", "", status.Error(codes.Aborted, msg))
		if got, want := string(grpc.AppendMessage(nil, msg)), resp.Trailer.Get("Grpc-Message"); got != want {
			t.Errorf("%q: we write %q, grpc-go %q", msg, got, want)
		}
	}
}

func TestGoServersSplitPathsAsWeDo(t *testing.T) {
	for _, path := range []string{"/a.S/M", "/a/b/c", "//a/b", "/s", "s/m", "/"} {
		_, method, _ := askGoServer(path, "application/grpc", "", nil)
		service, name, ok := grpc.SplitPath(path)
		if ok != (method != "") {
			t.Errorf("%q: we say %v, grpc-go calls %q", path, ok, method)
		}
		if ok && "/"+service+"/"+name != method {
			t.Errorf("%q: we say %q, %q, grpc-go calls %q", path, service, name, method)
		}
	}
}

func TestGoServersTakeTheSameTimeouts(t *testing.T) {
	for _, v := range []string{"1H", "59M", "5000S", "99999999m", "99999999H", "2562048H", "00000010M", "1h", "S", "12", "-1S", "123456789S", "1.5S"} {
		resp, _, left := askGoServer("/a.S/M", "application/grpc", v, nil)
		d, err := grpc.ParseTimeout(v)
		if (err != nil) != (resp.StatusCode == http.StatusBadRequest) {
			t.Errorf("%q: we say %v, grpc-go answers %d", v, err, resp.StatusCode)
		}
		if err == nil && (left > d || left < d-time.Minute) {
			t.Errorf("%q: we say %v, grpc-go has %v left", v, d, left)
		}
	}
}

func TestGoServersTakeTheSameContentTypes(t *testing.T) {
	for _, v := range []string{"application/grpc", "application/grpc+proto", "application/grpc;x", "application/grpc-web", "application/json", "application/grpcx"} {
		_, method, _ := askGoServer("/a.S/M", v, "", nil)
		if got := grpc.IsContentType(v); got != (method != "") {
			t.Errorf("%q: we say %v, grpc-go calls %q", v, got, method)
		}
	}
}

func TestStatusNamesAreTheCanonicalOnes(t *testing.T) {
	for s := grpc.Status(0); s < grpc.NumStatuses; s++ {
		var c codes.Code // grpc-go reads the canonical names from JSON
		if err := c.UnmarshalJSON([]byte(`"` + s.String() + `"`)); err != nil || uint32(c) != uint32(s) {
			t.Errorf("%d is not %s: %v", s, s, err)
		}
	}
}

func TestDetailsAreWhatProtobufWouldWrite(t *testing.T) {
	for name, c := range map[string]struct {
		code grpc.Status
		msg  string
		d    grpc.Details
	}{
		"nothing":      {code: grpc.OK},
		"message only": {code: grpc.Internal, msg: "é 100%"},
		"info and delay": {code: grpc.Unavailable, msg: "no healthy endpoint", d: grpc.Details{Reason: "NO_HEALTHY_ENDPOINT",
			Domain: "trunkline", Metadata: [][2]string{{"method", "a.S/M"}, {"phase", "pick"}, {"", ""}}, RetryAfter: 90*time.Second + 5*time.Millisecond}},
		"delay only":      {code: grpc.ResourceExhausted, msg: "slow down", d: grpc.Details{RetryAfter: time.Nanosecond}},
		"whole seconds":   {code: grpc.ResourceExhausted, d: grpc.Details{RetryAfter: time.Hour}},
		"negative delay":  {code: grpc.Unavailable, d: grpc.Details{RetryAfter: -time.Second}},
		"unknown code":    {code: 1<<31 - 1, d: grpc.Details{Domain: "d"}},
		"bad UTF-8":       {code: grpc.Unimplemented, msg: "m\xff", d: grpc.Details{Reason: "R\xff", Metadata: [][2]string{{"k\xff", "v\xff"}}}},
		"longer than any": {code: grpc.Internal, msg: strings.Repeat("m", 9000), d: grpc.Details{Reason: strings.Repeat("r", 9000)}},
	} {
		want := &spb.Status{Code: int32(c.code), Message: strings.ToValidUTF8(c.msg, "\uFFFD")}
		st := status.FromProto(want)
		if c.d.Reason != "" || c.d.Domain != "" || c.d.Metadata != nil {
			info := &errdetails.ErrorInfo{Reason: strings.ToValidUTF8(c.d.Reason, "\uFFFD"), Domain: c.d.Domain, Metadata: map[string]string{}}
			for _, kv := range c.d.Metadata {
				info.Metadata[strings.ToValidUTF8(kv[0], "\uFFFD")] = strings.ToValidUTF8(kv[1], "\uFFFD")
			}
			st, _ = st.WithDetails(info)
		}
		if c.d.RetryAfter > 0 {
			st, _ = st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(c.d.RetryAfter)})
		}
		value := string(grpc.AppendStatusDetailsBin([]byte("kept:"), c.code, c.msg, c.d))
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(value, "kept:"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := new(spb.Status)
		if err := proto.Unmarshal(raw, got); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same := got.Code == want.Code && got.Message == want.Message && len(got.Details) == len(st.Proto().GetDetails())
		for i := 0; same && i < len(got.Details); i++ { // compare what is inside: map order is free
			a, err1 := got.Details[i].UnmarshalNew()
			b, err2 := st.Proto().Details[i].UnmarshalNew()
			same = err1 == nil && err2 == nil && proto.Equal(a, b)
		}
		if c.code != grpc.OK && !same { // grpc-go gives an OK status no details
			t.Errorf("%s: got %v, want %v", name, got, st.Proto())
		}
	}
}

// A raw HTTP/2 server answers a grpc-go client; what the client makes of it must be what we make of it.
func TestGoClientsReadRepliesAsWeDo(t *testing.T) {
	lis := bufconn.Listen(1 << 16)
	defer lis.Close()
	var reply func(http.ResponseWriter)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w) })
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			(&http2.Server{}).ServeConn(c, &http2.ServeConnOpts{Handler: handler})
		}
	}()
	cc, err := gogrpc.NewClient("passthrough:///raw", gogrpc.WithTransportCredentials(insecure.NewCredentials()),
		gogrpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	call := func(r func(http.ResponseWriter)) *status.Status {
		reply = r
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return status.Convert(cc.Invoke(ctx, "/a.S/M", &spb.Status{}, &spb.Status{}))
	}

	for _, code := range []int{200, 204, 301, 400, 401, 403, 404, 405, 413, 429, 431, 500, 501, 502, 503, 504, 505} {
		st := call(func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(code)
		})
		if got := grpc.FromHTTPStatus(code); uint32(got) != uint32(st.Code()) {
			t.Errorf("HTTP %d: we say %v, grpc-go %v", code, got, st.Code())
		}
	}
	trailersOnly := func(code, msg string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", code)
			w.Header().Set("Grpc-Message", msg)
		}
	}
	for _, v := range []string{"plain", "100%25", "%41%4a", "%", "%4", "a%zz%41", "%%41", "%C3%A9", "%20x%20"} {
		st := call(trailersOnly("10", v))
		if got := grpc.DecodeMessage(v); got != st.Message() {
			t.Errorf("grpc-message %q: we say %q, grpc-go %q", v, got, st.Message())
		}
	}
	for _, v := range []string{"1", "16", "17", "007", "2147483647", "2147483648", "x", "1x"} {
		st := call(trailersOnly(v, "m"))
		if got, _ := grpc.ParseStatus(v); uint32(got) != uint32(st.Code()) {
			t.Errorf("grpc-status %q: we say %v, grpc-go %v", v, got, st.Code())
		}
	}
	// And a reply as Trunkline makes it arrives whole.
	details := grpc.Details{Reason: "NO_ROUTE", Domain: "trunkline", Metadata: [][2]string{{"method", "a.S/M"}}}
	st := call(func(w http.ResponseWriter) {
		trailersOnly("12", string(grpc.AppendMessage(nil, " é 100% ")))(w)
		w.Header().Set("Grpc-Status-Details-Bin", string(grpc.AppendStatusDetailsBin(nil, grpc.Unimplemented, " é 100% ", details)))
	})
	if st.Code() != codes.Unimplemented || st.Message() != " é 100% " || len(st.Details()) != 1 ||
		!proto.Equal(st.Details()[0].(proto.Message), &errdetails.ErrorInfo{Reason: "NO_ROUTE", Domain: "trunkline", Metadata: map[string]string{"method": "a.S/M"}}) {
		t.Errorf("our own reply arrives as %v", fmt.Sprint(st.Code(), st.Message(), st.Details()))
	}
	cc.Close()
	lis.Close()
	<-served
}
