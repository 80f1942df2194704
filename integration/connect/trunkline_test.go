package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

const (
	stepLimit = 15 * time.Second
	allow     = api.IntentionActionAllow
	deny      = api.IntentionActionDeny
)

// startTrunkline starts one that is the service trunkline of the mesh; services are those that it reaches through the mesh, more
// is further YAML.
func (m *mesh) startTrunkline(checkDestinations bool, services []string, more ...string) *harness.Trunkline {
	m.t.Helper()
	var list []string
	for _, s := range services {
		list = append(list, "{ name: "+s+", connect: true }")
	}
	return harness.Start(m.t, fmt.Sprintf(`
listeners: [ { address: LISTEN, tls: { connect: true } } ]
admin: { address: ADMIN }
discovery:
  consul:
    address: %s
    snapshotDir: "-"
    services: [ %s ]
    connect: { service: trunkline, checkDestinations: %t }
%s
`, m.URL, strings.Join(list, ", "), checkDestinations, strings.Join(more, "\n")))
}

// call makes one unary call on a connection of its own.
func call(t *testing.T, dial func() *grpc.ClientConn) error {
	t.Helper()
	cc := dial()
	defer cc.Close()
	_, err := harness.WhoAnswers(harness.Context(t, stepLimit), cc)
	return err
}

// refused checks a refusal: its status, and that its sentence says each of the parts.
func refused(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%v, want %v", err, code)
		return
	}
	for _, p := range parts {
		if !strings.Contains(status.Convert(err).Message(), p) {
			t.Errorf("the refusal does not say %q: %v", p, err)
		}
	}
	t.Logf("it says: %v", err)
}

// shown is the serial of the certificate that a member is shown at an address.
func (m *mesh) shown(address string) string {
	m.t.Helper()
	config := m.member("web", "")
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// A service of the mesh calls through Trunkline to a native one that Trunkline learned of by reflection; intentions are asked for at
// each hop, changes of them hold within ten seconds, and everybody who is refused reads why.
func TestCallsThroughTheMesh(t *testing.T) {
	m := startMesh(t)
	m.intend("trunkline", map[string]api.IntentionAction{"web": allow, "evil": deny})
	m.intend("echo", map[string]api.IntentionAction{"trunkline": allow})
	n := m.startNative("echo", "echo-1")
	trunkline := m.startTrunkline(false, []string{"echo"})
	web := func() *grpc.ClientConn { return m.dial("web", "trunkline", trunkline.Listen) }
	evil := func() *grpc.ClientConn { return m.dial("evil", "trunkline", trunkline.Listen) }

	harness.Eventually(t, stepLimit, "the service to be learned by reflection", func() bool {
		err := call(t, web)
		if err != nil && status.Code(err) != codes.Unimplemented {
			t.Logf("not yet: %v", err)
		}
		return err == nil
	})
	t.Run("the backend sees Trunkline, and nobody else", func(t *testing.T) {
		if seen := n.seen(); len(seen) != 1 || !strings.HasSuffix(seen[0], "/svc/trunkline") {
			t.Errorf("it saw %q", seen)
		}
	})
	t.Run("whom an intention denies is refused in words", func(t *testing.T) {
		refused(t, call(t, evil), codes.PermissionDenied, `"evil"`, `"trunkline"`, "default/evil => default/trunkline", "DENY")
	})
	t.Run("so is whom no intention names", func(t *testing.T) {
		err := call(t, func() *grpc.ClientConn { return m.dial("stranger", "trunkline", trunkline.Listen) })
		refused(t, err, codes.PermissionDenied, `"stranger"`, "default/* => default/*")
	})
	t.Run("and who has no certificate of the mesh", func(t *testing.T) {
		config := m.member("web", "trunkline")
		config.GetClientCertificate = nil
		err := call(t, func() *grpc.ClientConn {
			return harness.Dial(t, trunkline.Listen, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		})
		refused(t, err, codes.Unauthenticated, "certificate")
	})
	t.Run("a changed intention holds within ten seconds, on connections that are open, too", func(t *testing.T) {
		cc := web()
		defer cc.Close()
		for _, now := range []api.IntentionAction{deny, allow} {
			m.intend("trunkline", map[string]api.IntentionAction{"web": now})
			began := time.Now()
			harness.Eventually(t, 10*time.Second, "the changed intention to hold: "+string(now), func() bool {
				_, err := harness.WhoAnswers(harness.Context(t, stepLimit), cc)
				if err != nil && status.Code(err) != codes.PermissionDenied {
					t.Fatal(err)
				}
				return (err == nil) == (now == allow)
			})
			t.Logf("%s held after %v", now, time.Since(began))
		}
	})
	t.Run("while the agent is away things are as they were", func(t *testing.T) {
		load := harness.StartLoad(t, 2, web())
		load.Await(t, 20)
		m.Kill()
		load.Await(t, 2000)
		m.Start(t)
		load.Await(t, 500)
		load.MustNotHaveFailed(t)
	})
}

// The mesh's authority is replaced. No call fails meanwhile, neither on connections that stay nor on new ones, no stream is cut, and in
// the end Trunkline shows a certificate of the new authority.
func TestARotationOfTheAuthorityCutsNoCall(t *testing.T) {
	t.Parallel() // Consul takes up to half a minute to renew a certificate
	m := startMesh(t)
	m.intend("trunkline", map[string]api.IntentionAction{"web": allow})
	m.intend("echo", map[string]api.IntentionAction{"trunkline": allow})
	n := m.startNative("echo", "echo-1")
	trunkline := m.startTrunkline(false, []string{"echo"}, "routes: [ { match: { service: "+harness.Service+" }, cluster: echo } ]")
	cc := m.dial("web", "trunkline", trunkline.Listen)

	ctx := metadata.AppendToOutgoingContext(harness.Context(t, 3*time.Minute), harness.GateKey, "g")
	stream, err := testpb.NewTestServiceClient(cc).StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{ResponseParameters: make([]*testpb.ResponseParameters, 5)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	load := harness.StartLoad(t, 2, cc)
	load.Await(t, 100)
	before := m.shown(trunkline.Listen)
	fresh := 0
	m.rotate()
	began := time.Now()
	harness.Eventually(t, 90*time.Second, "Trunkline to show another certificate", func() bool {
		fresh++
		if err := call(t, func() *grpc.ClientConn { return m.dial("web", "trunkline", trunkline.Listen) }); err != nil {
			t.Fatalf("a call on a new connection, %v after the rotation: %v", time.Since(began), err)
		}
		return m.shown(trunkline.Listen) != before
	})
	t.Logf("another certificate after %v; %d calls on new connections meanwhile", time.Since(began), fresh)
	load.Await(t, 100)
	load.MustNotHaveFailed(t)
	n.OpenGate("g")
	for range 4 {
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("the stream from before the rotation: %v", err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("the stream from before the rotation: %v", err)
	}
}

// With checkDestinations a caller needs an intention to the service that its call is for, too, as if it called that itself.
func TestDestinationsAreCheckedToo(t *testing.T) {
	m := startMesh(t)
	m.intend("trunkline", map[string]api.IntentionAction{"web": allow})
	m.intend("echo", map[string]api.IntentionAction{"trunkline": allow, "web": allow})
	m.intend("cart", map[string]api.IntentionAction{"trunkline": allow})
	m.startNative("echo", "echo-1")
	n := m.startNative("cart", "cart-1")
	trunkline := m.startTrunkline(true, []string{"echo", "cart"}, fmt.Sprintf(`
routes:
  - { match: { method: %[1]s/UnaryCall }, cluster: echo }
  - { match: { method: %[1]s/EmptyCall }, cluster: cart }
`, harness.Service))
	web := m.dial("web", "trunkline", trunkline.Listen)
	harness.Eventually(t, stepLimit, "a call to echo", func() bool {
		who, err := harness.WhoAnswers(harness.Context(t, stepLimit), web)
		return err == nil && who == "echo-1"
	})
	toCart := func() error {
		_, err := testpb.NewTestServiceClient(web).EmptyCall(harness.Context(t, stepLimit), &testpb.Empty{})
		return err
	}
	refused(t, toCart(), codes.PermissionDenied, `"web"`, `"cart"`, "default/* => default/*")
	if n.Calls() != 0 {
		t.Error("the backend saw the call")
	}
	m.intend("cart", map[string]api.IntentionAction{"trunkline": allow, "web": allow})
	harness.Eventually(t, 10*time.Second, "the new intention to hold", func() bool { return toCart() == nil })
}

// The caller knows nothing of the mesh: it has a sidecar of Consul's, which knows neither HTTP/2 nor ALPN.
func TestCallsFromASidecar(t *testing.T) {
	m := startMesh(t)
	m.intend("trunkline", map[string]api.IntentionAction{"web": allow})
	m.intend("echo", map[string]api.IntentionAction{"trunkline": allow})
	m.startBehindSidecar("echo", "echo-1")
	trunkline := m.startTrunkline(false, []string{"echo"}, "routes: [ { match: { service: "+harness.Service+" }, cluster: echo } ]")
	_, text, _ := net.SplitHostPort(trunkline.Listen)
	port, _ := strconv.Atoi(text)
	// Trunkline is found like any native service, by a registration that is its operator's.
	if err := m.API.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "trunkline", Address: "127.0.0.1", Port: port, Connect: &api.AgentServiceConnect{Native: true},
	}); err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"web", "evil"} {
		local := harness.FreeAddr(t)
		_, text, _ := net.SplitHostPort(local)
		m.sidecar("-service="+service, "-upstream=trunkline:127.0.0.1:"+text)
		cc := harness.Dial(t, local)
		if service == "web" {
			harness.Eventually(t, stepLimit, "a call from the sidecar", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				who, err := harness.WhoAnswers(ctx, cc, grpc.WaitForReady(true))
				return err == nil && who == "echo-1"
			})
			continue
		}
		var err error
		harness.Eventually(t, stepLimit, "the sidecar to be there", func() bool {
			_, err = harness.WhoAnswers(harness.Context(t, stepLimit), cc)
			return status.Code(err) != codes.Unavailable
		})
		refused(t, err, codes.PermissionDenied, `"evil"`, `"trunkline"`)
	}
}
