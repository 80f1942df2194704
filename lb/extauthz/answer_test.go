package extauthz

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	grpccodec "github.com/trunkline/trunkline/codec/grpc"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestADenialIsAGRPCStatusWhateverItsForm(t *testing.T) {
	bare := func(code codes.Code) *auth.CheckResponse {
		return &auth.CheckResponse{Status: &rpcstatus.Status{Code: int32(code), Message: "for logs"}}
	}
	for name, c := range map[string]struct {
		answer *auth.CheckResponse
		want   grpccodec.Status
		text   string
	}{
		"a status alone":            {bare(codes.PermissionDenied), grpccodec.PermissionDenied, ""},
		"another status alone":      {bare(codes.Unauthenticated), grpccodec.Unauthenticated, ""},
		"a status nobody knows":     {bare(4711), grpccodec.PermissionDenied, ""},
		"a negative status":         {&auth.CheckResponse{Status: &rpcstatus.Status{Code: -1}}, grpccodec.PermissionDenied, ""},
		"401":                       {denied(codes.PermissionDenied, 401, "log in first"), grpccodec.Unauthenticated, "log in first"},
		"403":                       {denied(codes.PermissionDenied, 403, ""), grpccodec.PermissionDenied, ""},
		"404":                       {denied(codes.Unknown, 404, ""), grpccodec.NotFound, ""},
		"429":                       {denied(codes.PermissionDenied, 429, ""), grpccodec.ResourceExhausted, ""},
		"503":                       {denied(codes.PermissionDenied, 503, ""), grpccodec.Unavailable, ""},
		"302, a way to a login":     {denied(codes.PermissionDenied, 302, ""), grpccodec.PermissionDenied, ""},
		"200, which makes no sense": {denied(codes.PermissionDenied, 200, ""), grpccodec.PermissionDenied, ""},
		"a gRPC status that says more than 403": {denied(codes.FailedPrecondition, 403, "sign the terms first"), grpccodec.FailedPrecondition,
			"sign the terms first"},
		"denied with OK":     {denied(codes.OK, 401, ""), grpccodec.Unauthenticated, ""},
		"a page":             {denied(codes.PermissionDenied, 403, "<html>no</html>"), grpccodec.PermissionDenied, ""},
		"a long text":        {denied(codes.PermissionDenied, 403, strings.Repeat("no ", 1000)), grpccodec.PermissionDenied, ""},
		"a text with lines":  {denied(codes.PermissionDenied, 403, "no\r\n  way\n"), grpccodec.PermissionDenied, "no way"},
		"control characters": {denied(codes.PermissionDenied, 403, "no\x1b[31m"), grpccodec.PermissionDenied, ""},
		"a refusal that says it is fine": {&auth.CheckResponse{Status: &rpcstatus.Status{Code: 7},
			HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{}}}, grpccodec.PermissionDenied, ""},
	} {
		v, wrong := verdict(&owned{}, c.answer)
		if wrong != "" || !v.Denied || v.Failed || v.Status != c.want || v.Message != c.text {
			t.Errorf("%s: %+v %s, want %v %q", name, v, wrong, c.want, c.text)
		}
	}
}

func option(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}}
}

func allowed(remove []string, headers ...*core.HeaderValueOption) *auth.CheckResponse {
	return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{Headers: headers, HeadersToRemove: remove}}}
}

func TestTheServiceChangesMetadataButNothingElse(t *testing.T) {
	add := option("X-Added", "2")
	add.Append = wrapperspb.Bool(true) //nolint:staticcheck // deprecated, and what services send
	absent, present := option("x-absent", "3"), option("x-here", "4")
	absent.AppendAction, present.AppendAction = core.HeaderValueOption_ADD_IF_ABSENT, core.HeaderValueOption_ADD_IF_ABSENT
	over, nothing := option("x-here", "5"), option("x-absent", "6")
	over.AppendAction, nothing.AppendAction = core.HeaderValueOption_OVERWRITE_IF_EXISTS, core.HeaderValueOption_OVERWRITE_IF_EXISTS
	raw := &core.HeaderValueOption{Header: &core.HeaderValue{Key: "x-raw", RawValue: []byte("7")}}
	o := &owned{fields: [][2]string{{"x-here", "0"}}}
	v, wrong := verdict(o, allowed([]string{"X-Gone", ":path", "te", "Content-Length", "grpc-timeout", "x y", "x-trunkline-a"},
		option("x-set", " 1 "), add, absent, present, over, nothing, raw,
		option(":path", "/admin.Admin/Stop"), option("te", "x"), option("grpc-timeout", "1S"), option("content-length", "0"), option("content-type", "text/html"),
		option("x-forwarded-client-cert", "By=me"), option("x-trunkline-a", "b"), option("x-lines", "a\r\nb: c"), option("x-empty", ""), option("bad name", "x"),
		option("x-long", strings.Repeat("x", maxValue+1)), option("x-bad-bin", "not base64!"), option("x-bin", "AAE="), nil))
	if wrong != "" || v.Denied || v.Failed {
		t.Fatalf("%+v %s", v, wrong)
	}
	if got, want := fmt.Sprint(v.Set), "[[x-set 1] [x-absent 3] [x-here 5] [x-raw 7] [x-bin AAE=]]"; got != want {
		t.Errorf("set %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(v.Add, v.Remove), "[[x-added 2]] [x-gone]"; got != want {
		t.Errorf("add and remove %s, want %s", got, want)
	}
}

func TestTheServiceTellsTheCallerWhatMayBeSentAndNothingElse(t *testing.T) {
	with := func(h *core.HeaderValueOption, also *wrapperspb.BoolValue, action core.HeaderValueOption_HeaderAppendAction) *core.HeaderValueOption {
		h.Append, h.AppendAction = also, action //nolint:staticcheck // deprecated, and what services send
		return h
	}
	bad := []*core.HeaderValueOption{option(":status", "200"), option("Content-Type", "text/html"), option("grpc-status", "0"), option("te", "x"), option("connection", "close"),
		option("x-trunkline-a", "b"), option("x-lines", "a\r\nb: c"), option("x-empty", ""), option("bad name", "x"), option("x-bad-bin", "!"), option("x-odd-bin", "A"),
		option("x-long", strings.Repeat("x", maxValue+1)), nil}
	good := []*core.HeaderValueOption{option("X-Quota", "7"), with(option("x-in", "1"), wrapperspb.Bool(false), 0), with(option("x-and", "2"), wrapperspb.Bool(true), 0),
		with(option("x-absent", "3"), nil, core.HeaderValueOption_ADD_IF_ABSENT), with(option("x-over", "4"), nil, core.HeaderValueOption_OVERWRITE_IF_EXISTS),
		with(option("x-set", "5"), nil, core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD), option("x-raw-bin", "AAE")}
	v, wrong := verdict(&owned{}, &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{
		OkResponse: &auth.OkHttpResponse{ResponseHeadersToAdd: append(bad, good...)}}})
	want := []Told{{"x-quota", "7", Beside}, {"x-in", "1", Instead}, {"x-and", "2", Beside}, {"x-absent", "3", IfAbsent}, {"x-over", "4", IfPresent}, {"x-set", "5", Instead},
		{"x-raw-bin", "AAE", Beside}}
	if wrong != "" || v.Denied || !slices.Equal(v.Told, want) || len(v.Set)+len(v.Add) > 0 {
		t.Errorf("%+v %s\nwant %+v", v, wrong, want)
	}

	deny := denied(codes.PermissionDenied, 401, "log in")
	challenge := []*core.HeaderValueOption{option("WWW-Authenticate", "Bearer"), option("www-authenticate", "Basic")}
	deny.GetDeniedResponse().Headers = append(bad, challenge...)
	v, wrong = verdict(&owned{}, deny)
	if want = []Told{{"www-authenticate", "Bearer", Beside}, {"www-authenticate", "Basic", Beside}}; wrong != "" || !v.Denied || !slices.Equal(v.Told, want) {
		t.Errorf("%+v %s\nwant %+v", v, wrong, want)
	}

	// A denial with too much to tell is a denial still: with failOpen the call would pass if it made no sense.
	for i := range 3 * maxHeaders {
		deny.GetDeniedResponse().Headers = append(deny.GetDeniedResponse().Headers, option(fmt.Sprint("x-", i), "v"))
	}
	if v, wrong = verdict(&owned{}, deny); wrong != "" || !v.Denied || len(v.Told) != maxHeaders {
		t.Errorf("%+v %s", v, wrong)
	}
}

func TestAnAnswerThatChangesTooMuchMakesNoSense(t *testing.T) {
	var many []*core.HeaderValueOption
	var names []string
	for i := range maxHeaders + 1 {
		many = append(many, option(fmt.Sprint("x-", i), "v"))
		names = append(names, fmt.Sprint("x-", i))
	}
	if _, wrong := verdict(&owned{}, allowed(nil, many...)); !strings.Contains(wrong, "more than 64") {
		t.Errorf("sets: %q", wrong)
	}
	if _, wrong := verdict(&owned{}, allowed(names)); !strings.Contains(wrong, "more than 64") {
		t.Errorf("removes: %q", wrong)
	}
}

// Whatever a service answers, its words are short and its fields can be sent.
func FuzzAnswer(f *testing.F) {
	for _, m := range []*auth.CheckResponse{denied(codes.PermissionDenied, 401, "log in"), allowed([]string{"x-gone"}, option("x-set", "1")),
		{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{ResponseHeadersToAdd: []*core.HeaderValueOption{option("x-told-bin", "AAE=")}}}}, {}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var answer auth.CheckResponse
		if proto.Unmarshal(b, &answer) != nil {
			return
		}
		v, wrong := verdict(&owned{}, &answer)
		if (v == nil) == (wrong == "") {
			t.Fatal("neither a verdict nor an error, or both")
		}
		if v == nil {
			return
		}
		if len(v.Message) > maxMessage || strings.ContainsAny(v.Message, "\r\n\x00\x1b") || v.Denied && (v.Status == 0 || !v.Status.Known()) {
			t.Fatalf("%+v", v)
		}
		for _, h := range v.Told {
			v.Add = append(v.Add, [2]string{h.Name, h.Value})
		}
		for _, h := range append(v.Set, v.Add...) {
			if h[0] == "" || h[0] != strings.ToLower(h[0]) || strings.ContainsAny(h[0]+h[1], "\r\n\x00") || strings.ContainsAny(h[0], ": ") ||
				strings.HasPrefix(h[0], "grpc-") || h[1] != strings.TrimSpace(h[1]) {
				t.Fatalf("field %q", h)
			}
		}
	})
}
