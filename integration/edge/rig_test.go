package edge

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestMain(m *testing.M) {
	encoding.RegisterCompressor(snail{})
	harness.Main(m)
}

// limit bounds what takes a moment, on a machine that does much else.
const limit = 30 * time.Second

// unary is the method that most stories call.
const unary = harness.Service + "/UnaryCall"

// server is a backend that remembers the metadata of its last call.
type server struct {
	*harness.Backend
	mu   sync.Mutex
	last metadata.MD
}

func startServer(t testing.TB, name string, opts ...grpc.ServerOption) *server {
	t.Helper()
	s := &server{}
	note := func(ctx context.Context) {
		md, _ := metadata.FromIncomingContext(ctx)
		s.mu.Lock()
		s.last = md
		s.mu.Unlock()
	}
	s.Backend = harness.StartBackend(t, name, append([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, q any, i *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if strings.HasPrefix(i.FullMethod, "/"+harness.Service) {
				note(ctx)
			}
			return next(ctx, q)
		}),
	}, opts...)...)
	return s
}

// saw is what the last call brought of a metadata field.
func (s *server) saw(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Get(name)
}

// mustHaveSeen fails the test unless the last call brought these values.
func (s *server) mustHaveSeen(t testing.TB, name string, want ...string) {
	t.Helper()
	if got := s.saw(name); !slices.Equal(got, want) {
		t.Errorf("the endpoint saw %s = %q, want %q", name, got, want)
	}
}

// config is a configuration of these listeners (YAML, each in braces) with one cluster, "backends"; more YAML may follow.
func config(listeners []string, address string, more ...string) string {
	return fmt.Sprintf(`
listeners: [ %s ]
admin: { address: ADMIN }
discovery: { static: { clusters: [ { name: backends, endpoints: [ { address: %s } ], grpcServices: [ %s ] } ] } }
%s
`, strings.Join(listeners, ", "), address, harness.Service, strings.Join(more, "\n"))
}

// plain is the listener of most stories.
const plain = "{ address: LISTEN }"

// secure is a client's TLS: these roots, and the name that is asked for.
func secure(roots *authority, name string) *tls.Config {
	return &tls.Config{RootCAs: roots.pool(), ServerName: name, MinVersion: tls.VersionTLS12}
}

// dial connects a stock grpc-go client over TLS.
func dial(t testing.TB, address string, c *tls.Config, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return harness.Dial(t, address, append([]grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(c))}, opts...)...)
}

// call makes a unary call with metadata, in pairs.
func call(t testing.TB, cc grpc.ClientConnInterface, pairs ...string) error {
	t.Helper()
	_, err := answer(t, cc, pairs...)
	return err
}

// answer is call, with how the connection was made.
func answer(t testing.TB, cc grpc.ClientConnInterface, pairs ...string) (tls.ConnectionState, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), pairs...), limit)
	defer cancel()
	var p peer.Peer
	_, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.Peer(&p))
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		return info.State, err
	}
	return tls.ConnectionState{}, err
}

// mustCall is a call that must pass.
func mustCall(t testing.TB, cc grpc.ClientConnInterface, pairs ...string) tls.ConnectionState {
	t.Helper()
	state, err := answer(t, cc, pairs...)
	if err != nil {
		t.Errorf("the call failed: %v", err)
	}
	return state
}

// reason is that of a status that Trunkline made; "" for others.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// mustSay fails the test unless err is Trunkline's refusal for that reason, and says all of the words.
func mustSay(t testing.TB, err error, code codes.Code, why string, words ...string) {
	t.Helper()
	if status.Code(err) != code || reason(err) != why {
		t.Errorf("got %v %q (%v), want %v %s", status.Code(err), reason(err), err, code, why)
	}
	says(t, status.Convert(err).Message(), words...)
}

// says fails the test unless the text has all of the words.
func says(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
}

// hold opens a server stream and returns when its first message is here; finish lets it end, and checks that it ends well.
func hold(t testing.TB, b *harness.Backend, cc grpc.ClientConnInterface, gate string, pairs ...string) (finish func()) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(harness.Context(t, 2*time.Minute), append([]string{harness.GateKey, gate}, pairs...)...)
	stream, err := testpb.NewTestServiceClient(cc).StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{ResponseParameters: make([]*testpb.ResponseParameters, 3)})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatalf("open a stream: %v", err)
	}
	return func() {
		t.Helper()
		b.OpenGate(gate)
		for n := range 3 {
			_, err := stream.Recv()
			if n < 2 && err != nil || n == 2 && err.Error() != "EOF" {
				t.Errorf("the stream that was open all the time ended with %v after %d messages more", err, n)
				return
			}
		}
	}
}

// lines are the records of an access log that is a file.
func lines(t testing.TB, path string) (list []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, m)
	}
	return list
}

// record waits for a line of an access log that the test wants.
func record(t testing.TB, path, what string, want func(map[string]any) bool) (found map[string]any) {
	t.Helper()
	harness.Eventually(t, limit, what+" in the access log", func() bool {
		list := lines(t, path)
		i := slices.IndexFunc(list, want)
		if i >= 0 {
			found = list[i]
		}
		return i >= 0
	})
	return found
}

// reload gives Trunkline another configuration and waits until it is in force.
func reload(t testing.TB, tr *harness.Trunkline, text string) {
	t.Helper()
	before := tr.Status(t).GetConfig()
	tr.WriteConfig(t, text)
	harness.Eventually(t, limit, "the new configuration to be in force", func() bool {
		now := tr.Status(t).GetConfig()
		if now.GetLastError() != "" && now.GetLastError() != before.GetLastError() {
			t.Fatalf("the configuration was refused: %s", now.GetLastError())
		}
		return now.GetHash() != before.GetHash()
	})
}

// large makes a call with n bytes each way.
func large(t testing.TB, cc grpc.ClientConnInterface, n int) {
	t.Helper()
	r, err := testpb.NewTestServiceClient(cc).UnaryCall(harness.Context(t, limit), &testpb.SimpleRequest{ResponseSize: int32(n), Payload: &testpb.Payload{Body: make([]byte, n)}})
	if err != nil || len(r.GetPayload().GetBody()) != n {
		t.Errorf("a call of %d bytes got %d and %v", n, len(r.GetPayload().GetBody()), err)
	}
}

func contains(text, what string) bool { return strings.Contains(text, what) }

// shortCall is a call that is given up soon: clients whose connections are refused try again and again.
func shortCall(t testing.TB, cc *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := harness.WhoAnswers(ctx, cc)
	return err
}

func withAsk(ctx context.Context, ask string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-ask", ask)
}

func codeOf(err error) codes.Code { return status.Code(err) }

// answered is the answer that came on stream 1, as an error.
func answered(t *testing.T, f *harness.FrameClient) error {
	t.Helper()
	fields, _ := f.Await(t, 1, limit)
	details, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields["grpc-status-details-bin"], "="))
	s := &spb.Status{}
	if err == nil {
		err = proto.Unmarshal(details, s)
	}
	if err != nil || fields["grpc-status"] != strconv.Itoa(int(s.GetCode())) {
		t.Errorf("the answer is %v (%v)", fields, err)
	}
	return status.ErrorProto(s)
}
