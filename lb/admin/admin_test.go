package admin

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// httpClient returns a client over HTTP/1.1, or over HTTP/2 by prior knowledge.
func httpClient(t *testing.T, h2 bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func TestEveryProtocolReachesTheSameAPI(t *testing.T) {
	f := newFake()
	addr := serve(t, f)
	for _, c := range []struct {
		name string
		h2   bool
		opts []connect.ClientOption
	}{
		{"Connect with protobuf over HTTP/1.1", false, nil},
		{"Connect with JSON over HTTP/1.1", false, []connect.ClientOption{connect.WithProtoJSON()}},
		{"Connect with GET", false, []connect.ClientOption{connect.WithHTTPGet()}},
		{"gRPC over h2c", true, []connect.ClientOption{connect.WithGRPC()}},
		{"gRPC-Web over HTTP/1.1", false, []connect.ClientOption{connect.WithGRPCWeb()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			api := adminv1connect.NewAdminServiceClient(httpClient(t, c.h2), "http://"+addr, c.opts...)
			ctx := t.Context()
			st, err := api.GetStatus(ctx, connect.NewRequest(&adminv1.GetStatusRequest{}))
			if err != nil || !proto.Equal(st.Msg.GetStatus(), f.Status()) {
				t.Fatalf("GetStatus: %v, %v", st, err)
			}
			cl, err := api.ListClusters(ctx, connect.NewRequest(&adminv1.ListClustersRequest{}))
			if err != nil || cl.Msg.GetClusters()[0].GetEndpoints()[1].GetError() != "connection refused" || cl.Msg.GetConflicts()[0].GetService() != "b.T" {
				t.Fatalf("ListClusters: %v, %v", cl, err)
			}
			rt, err := api.ListRoutes(ctx, connect.NewRequest(&adminv1.ListRoutesRequest{}))
			if err != nil || rt.Msg.GetRoutes()[0].GetPattern() != "a.S" {
				t.Fatalf("ListRoutes: %v, %v", rt, err)
			}
			cn, err := api.ListConnections(ctx, connect.NewRequest(&adminv1.ListConnectionsRequest{}))
			if err != nil || len(cn.Msg.GetConnections()) != 1 {
				t.Fatalf("ListConnections: %v, %v", cn, err)
			}
			ce, err := api.ListCertificates(ctx, connect.NewRequest(&adminv1.ListCertificatesRequest{}))
			if err != nil || ce.Msg.GetCertificates()[0].GetSerial() != "12ab" || ce.Msg.GetMesh().GetService() != "edge" {
				t.Fatalf("ListCertificates: %v, %v", ce, err)
			}
			ex, err := api.Explain(ctx, connect.NewRequest(&adminv1.ExplainRequest{Method: "/a.S/Get", Authority: "x"}))
			if err != nil || ex.Msg.GetMethod() != "a.S/Get" || ex.Msg.GetAuthority() != "x" {
				t.Fatalf("Explain: %v, %v", ex, err)
			}
		})
	}
}

func TestExplainOfWhatIsNoMethodShowsTheRightForm(t *testing.T) {
	api := adminv1connect.NewAdminServiceClient(httpClient(t, false), "http://"+serve(t, newFake()))
	for _, bad := range []string{"", "/", "a.S", "a.S/", "/a.S/Get/more", "a.S /Get"} {
		_, err := api.Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Method: bad}))
		if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "write pkg.Service/Method") {
			t.Errorf("Explain(%q) = %v", bad, err)
		}
	}
}

func TestStreamsAreLimitedAndTheTotalIsTold(t *testing.T) {
	api := adminv1connect.NewAdminServiceClient(httpClient(t, false), "http://"+serve(t, newFake()))
	for limit, want := range map[uint32]int{0: 100, 7: 7, 4_000_000_000: 10_000} {
		r, err := api.ListStreams(t.Context(), connect.NewRequest(&adminv1.ListStreamsRequest{Limit: limit}))
		if err != nil || len(r.Msg.GetStreams()) != want || r.Msg.GetTotal() != 12_000 {
			t.Errorf("limit %d: %d of %d streams, %v; want %d", limit, len(r.Msg.GetStreams()), r.Msg.GetTotal(), err, want)
		}
	}
}

func TestWatchTellsEachChangeLongBeforeItsInterval(t *testing.T) {
	f := newFake()
	api := adminv1connect.NewAdminServiceClient(httpClient(t, true), "http://"+serve(t, f), connect.WithGRPC())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := api.Watch(ctx, connect.NewRequest(&adminv1.WatchRequest{Interval: durationpb.New(time.Minute)}))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for want := uint64(1); want < 4; want++ {
		if !w.Receive() || w.Msg().GetStatus().GetConfig().GetGeneration() != want {
			t.Fatalf("got %v (%v), want generation %d", w.Msg(), w.Err(), want)
		}
		f.change(func(s *adminv1.Status) { s.Config.Generation++ })
	}
}

func TestWatchBeatsWithoutChangesAndEndsWithTheServer(t *testing.T) {
	f := newFake()
	// The server of this test stops before the watcher does, so that only the server can end the watch.
	var w *connect.ServerStreamForClient[adminv1.WatchResponse]
	t.Run("server", func(t *testing.T) {
		api := adminv1connect.NewAdminServiceClient(&http.Client{}, "http://"+serve(t, f))
		var err error
		w, err = api.Watch(context.Background(), connect.NewRequest(&adminv1.WatchRequest{Interval: durationpb.New(time.Nanosecond)}))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if !w.Receive() {
				t.Fatal(w.Err())
			}
		}
	})
	for w.Receive() {
	}
	if w.Err() == nil {
		t.Error("the watch ended as if it were complete")
	}
	_ = w.Close()
	http.DefaultClient.CloseIdleConnections()
}

func TestDrainNeedsAPostFromThisVeryPage(t *testing.T) {
	f := newFake()
	addr := serve(t, f)
	url := "http://" + addr + adminv1connect.AdminServiceDrainProcedure
	do := func(method, body string, header ...string) int {
		req, _ := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Host" {
				req.Host = header[i+1]
			}
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := httpClient(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	json := []string{"Content-Type", "application/json"}
	for _, c := range []struct {
		story  string
		code   int
		method string
		header []string
	}{
		{"a GET changes nothing", 405, "GET", nil},
		{"a form has no JSON", 415, "POST", []string{"Content-Type", "text/plain"}},
		{"another origin", 403, "POST", append(json, "Origin", "http://evil.example")},
		{"another site", 403, "POST", append(json, "Sec-Fetch-Site", "cross-site")},
		{"a name rebound to loopback", 403, "POST", append(json, "Host", "evil.example:9901", "Sec-Fetch-Site", "same-origin")},
	} {
		if got := do(c.method, "{}", c.header...); got != c.code {
			t.Errorf("%s: HTTP %d, want %d", c.story, got, c.code)
		}
	}
	if f.drains != 0 {
		t.Fatalf("%d drains were begun by what must not", f.drains)
	}
	if got := do("POST", "{}", append(json, "Origin", "http://"+addr, "Sec-Fetch-Site", "same-origin")...); got != 200 || f.drains != 1 {
		t.Errorf("the page's own drain: HTTP %d, %d drains", got, f.drains)
	}
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	resp, err := httpClient(t, false).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header
}

func TestReadinessFollowsTheTableAndTheDrain(t *testing.T) {
	f := newFake()
	url := "http://" + serve(t, f)
	expect := func(code int, text string) {
		t.Helper()
		if c, body, _ := get(t, url+"/readyz"); c != code || body != text+"\n" {
			t.Errorf("/readyz says %d %q, want %d %q", c, body, code, text)
		}
		if c, _, _ := get(t, url+"/healthz"); c != 200 {
			t.Errorf("/healthz says %d", c)
		}
	}
	expect(200, "ready")
	f.change(func(s *adminv1.Status) { s.Ready, s.NotReadyReason = false, "consul has not answered" })
	expect(503, "not ready: consul has not answered")
	f.change(func(s *adminv1.Status) { s.Ready, s.Draining = true, true })
	expect(503, "not ready: draining")
}

func TestThePageLoadsNothingFromElsewhere(t *testing.T) {
	url := "http://" + serve(t, newFake())
	code, body, h := get(t, url+"/")
	if code != 200 || !strings.Contains(h.Get("Content-Type"), "text/html") || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("HTTP %d, %v", code, h)
	}
	for _, bad := range []string{"src=\"http", "href=\"http", "@import", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"} {
		if strings.Contains(body, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	if code, _, _ := get(t, url+"/nothing"); code != 404 {
		t.Errorf("an unknown path gives HTTP %d", code)
	}
	if code, body, _ := get(t, url+"/metrics"); code != 200 || body != "trunkline_up 1\n" {
		t.Errorf("/metrics: %d %q", code, body)
	}
	if code, _, _ := get(t, url+"/debug/pprof/goroutine?debug=1"); code != 200 {
		t.Errorf("/debug/pprof: %d", code)
	}
}

// What can be listed the page lists: it asks for it, has a place for it, and paints it there.
func TestThePageShowsWhatTheAPILists(t *testing.T) {
	_, body, _ := get(t, "http://"+serve(t, newFake())+"/")
	methods := adminv1.File_trunkline_admin_v1_admin_proto.Services().ByName("AdminService").Methods()
	for _, asked := range regexp.MustCompile(`ask\("(\w+)"`).FindAllStringSubmatch(body, -1) {
		if methods.ByName(protoreflect.Name(asked[1])) == nil {
			t.Errorf("the page asks for %s, which the API does not have", asked[1])
		}
	}
	for method, part := range map[string]string{"ListClusters": "clusters", "ListRoutes": "routes", "ListStreams": "streams", "ListCertificates": "certificates", "GetPolicies": "policies"} {
		paint := "paint" + strings.ToUpper(part[:1]) + part[1:]
		for _, want := range []string{`ask("` + method + `"`, `<div id="` + part + `">`, "const " + paint + " = ", " " + paint + "(", `show("` + part + `", `} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: the page has no %s", method, want)
			}
		}
	}
}

func TestGrpcurlFindsTheServiceByReflection(t *testing.T) {
	conn, err := grpc.NewClient(serve(t, newFake()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		if err := s.Send(r); err != nil {
			t.Fatal(err)
		}
		resp, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	list := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if svcs := list.GetListServicesResponse().GetService(); len(svcs) != 1 || svcs[0].GetName() != adminv1connect.AdminServiceName {
		t.Fatalf("services: %v", svcs)
	}
	file := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: adminv1connect.AdminServiceName}})
	var names []string
	for _, b := range file.GetFileDescriptorResponse().GetFileDescriptorProto() {
		fd := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(b, fd); err != nil {
			t.Fatal(err)
		}
		names = append(names, fd.GetName())
	}
	if !slices.Contains(names, "trunkline/admin/v1/admin.proto") {
		t.Errorf("files: %v", names)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
}
