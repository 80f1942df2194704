package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// Every key of the configuration that holds a secret, every file it leads to and every proof that callers show has a canary in it. None of them
// is in anything that Trunkline says: log, access log, records, API, metrics, page, profiles, or what its commands print.
func TestNoSecretIsEverSaid(t *testing.T) {
	const canary = "canary7531"
	dir := t.TempDir()
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Error(w, "rpc error making call: ACL not found", http.StatusForbidden)
	}))
	defer consul.Close()
	collector := httptest.NewServer(http.NotFoundHandler())
	defer collector.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := grpc.NewServer() // without a service: it answers UNIMPLEMENTED
	go backend.Serve(l)
	defer backend.Stop()

	cert, key := certificate(t, dir)
	token := save(t, dir, "token", canary+"-admin-token\n")
	keys := save(t, dir, "keys", fmt.Sprintf("shop sha256:%x\n", sha256.Sum256([]byte(canary+"-api-key"))))
	jwks := save(t, dir, "jwks.json", `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	listen, address := free(t), free(t)
	text := fmt.Sprintf(`
log: { level: debug }
accessLog: { mode: all, path: %[1]s/access.log }
listeners: [ { address: "%[2]s" } ]
admin: { address: "%[3]s", tokenFile: %[4]s, tls: { certFile: %[5]s, keyFile: %[6]s } }
tracing: { otlpEndpoint: "http://user:canary7531-otlp@%[7]s", protocol: http/protobuf, sampleRatio: 1, headers: { authorization: canary7531-header } }
authentication:
  jwt:
    - { name: main, issuer: "https://issuer.example.com", audiences: [ shop ], jwksFile: %[8]s }
    - { name: other, issuer: "https://other.example.com", audiences: [ shop ], jwksUrl: "http://user:canary7531-url@%[9]s/keys?key=canary7531-query" }
  apiKeys: { file: %[10]s }
discovery:
  consul: { address: "http://%[9]s", token: canary7531-consul }
  static:
    clusters: [ { name: echo, endpoints: [ { address: "%[11]s" } ], grpcServices: [ bench.Echo, bench.Limited ] } ]
serviceConfig:
  trunkline:
    methodPolicy: [ { name: [ { service: bench.Limited } ], rateLimits: [ { requestsPerSecond: 1, burst: 1, metadata: x-api-key } ] } ]
`, dir, listen, address, token, cert, key, strings.TrimPrefix(collector.URL, "http://"), jwks, strings.TrimPrefix(consul.URL, "http://"), keys, l.Addr())
	file := write(t, dir, text)
	t.Setenv("TRUNKLINE_ADMIN_TOKEN_FILE", token)

	var said strings.Builder
	tell := func(what string, text string) { fmt.Fprintf(&said, "== %s\n%s\n", what, text) }
	command := func(line string) {
		w := newWorld()
		env := w.env()
		env.Explain = ExplainOffline
		code := Main(t.Context(), strings.Fields(line), env)
		tell(line, fmt.Sprintf("exit %d\n%s%s", code, &w.out, &w.err))
	}
	command("check -c " + file)

	w := newWorld()
	env := w.env()
	env.Start = StartEngine
	code := make(chan int, 1)
	go func() { code <- Main(context.Background(), []string{"serve", "-c", file}, env) }()
	until(t, "the start", func() bool { return strings.Contains(w.err.String(), "admin page") || len(code) > 0 })

	conn, err := grpc.NewClient(listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"/bench.Echo/Say", "/bench.Limited/Say", "/bench.Limited/Say", "/bench.Unknown/Say"} {
		for _, md := range [][]string{nil, {"x-api-key", canary + "-api-key"}, {"x-api-key", canary + "-wrong-key"}, {"authorization", "Bearer " + canary + "-token"},
			{"authorization", "Bearer eyJhbGciOiJub25lIn0.Y2FuYXJ5NzUzMQ.canary7531"}, {"authorization", "Basic " + canary}} {
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), md...), 10*time.Second)
			tell("call", fmt.Sprint(conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})))
			cancel()
		}
	}
	conn.Close()

	scheme, client := "https://", (&adminFlags{Admin: address, AdminCA: cert, AdminTokenFile: token})
	api, _, err := client.api()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := api.GetStatus(ctx, connect.NewRequest(&adminv1.GetStatusRequest{})); err != nil {
		scheme, client = "http://", &adminFlags{Admin: address} // not wired: what it says is looked at all the same
		if api, _, err = client.api(); err != nil {
			t.Fatal(err)
		}
	}
	command("explain bench.Echo/Say --admin " + scheme + address + " --admin-ca " + cert)
	command("explain --last 1000 --full --admin " + scheme + address + " --admin-ca " + cert)
	tellAll(ctx, t, api, func(what string, m proto.Message) { tell(what, protojson.Format(m)) })
	for _, path := range []string{"/", "/metrics", "/readyz", "/login", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/nothing"} {
		tell(path, page(t, client, scheme+address+path))
	}

	// Reloads that are refused, and files that become wrong.
	write(t, dir, strings.Replace(text, "canary7531-consul", "[ canary7531-consul ]", 1))
	w.signals <- syscall.SIGHUP
	until(t, "the refusal", func() bool { return strings.Contains(w.err.String(), "stays in force") })
	save(t, dir, "keys", canary+"-api-key")
	save(t, dir, "token", canary)
	save(t, dir, "jwks.json", canary)
	tellAll(ctx, t, api, func(what string, m proto.Message) { tell(what, protojson.Format(m)) })
	w.signals <- syscall.SIGTERM
	<-code
	tell("serve", w.out.String()+w.err.String())
	access, err := os.ReadFile(filepath.Join(dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	tell("access log", string(access))
	command("check -c " + file)

	for what, marker := range map[string]string{"log": "level=DEBUG", "access log": `"method":"bench.Echo/Say"`, "records": "bench.Limited/Say", "metrics": "trunkline_calls_total", "status": `"ready"`} {
		if !strings.Contains(said.String(), marker) {
			t.Errorf("the %s was not seen (%s): the test does not look at all it should", what, marker)
		}
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{canary, strings.Split(string(private), "\n")[1][:40], "Y2FuYXJ5NzUzMQ"}
	place := ""
	for line := range strings.Lines(said.String()) {
		if strings.HasPrefix(line, "== ") {
			place = line[3:]
		}
		for _, s := range secrets {
			if strings.Contains(line, s) {
				t.Errorf("%s: %s", strings.TrimSpace(place), line)
			}
		}
	}
}

// tellAll tells what each call of the API answers.
func tellAll(ctx context.Context, t *testing.T, api adminv1connect.AdminServiceClient, tell func(string, proto.Message)) {
	t.Helper()
	status, err := api.GetStatus(ctx, connect.NewRequest(&adminv1.GetStatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	routes, err1 := api.ListRoutes(ctx, connect.NewRequest(&adminv1.ListRoutesRequest{}))
	clusters, err2 := api.ListClusters(ctx, connect.NewRequest(&adminv1.ListClustersRequest{}))
	streams, err3 := api.ListStreams(ctx, connect.NewRequest(&adminv1.ListStreamsRequest{}))
	connections, err4 := api.ListConnections(ctx, connect.NewRequest(&adminv1.ListConnectionsRequest{}))
	explained, err5 := api.Explain(ctx, connect.NewRequest(&adminv1.ExplainRequest{Method: "bench.Echo/Say"}))
	calls, err6 := api.ExplainCall(ctx, connect.NewRequest(&adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_Last{Last: 1000}}))
	policies, err7 := api.GetPolicies(ctx, connect.NewRequest(&adminv1.GetPoliciesRequest{}))
	for _, err := range []error{err1, err2, err3, err4, err5, err6, err7} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, m := range map[string]proto.Message{"GetStatus": status.Msg, "ListRoutes": routes.Msg, "ListClusters": clusters.Msg, "ListStreams": streams.Msg,
		"ListConnections": connections.Msg, "Explain": explained.Msg, "ExplainCall": calls.Msg, "GetPolicies": policies.Msg} {
		tell(what, m)
	}
}

// page is what a path of the admin address answers.
func page(t *testing.T, f *adminFlags, url string) string {
	t.Helper()
	client, err := f.client()
	if err != nil {
		t.Fatal(err)
	}
	p, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Body.Close()
	text, err := io.ReadAll(p.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(p.Status, p.Header, string(text))
}

// free is an address that nothing listens on, a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
