package connect

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/trunkline/trunkline/integration/harness"
)

// sidecar runs Consul's own proxy until the test ends.
func (m *mesh) sidecar(args ...string) {
	m.t.Helper()
	cmd := exec.Command(harness.Tool(m.t, "consul"), append([]string{"connect", "proxy", "-http-addr=" + m.URL, "-log-level=warn"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.t.TempDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = m.t.Output(), m.t.Output()
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// startBehindSidecar starts a backend that knows nothing of the mesh, and its sidecar proxy, and returns the proxy's address.
func (m *mesh) startBehindSidecar(service, name string) (b *harness.Backend, address string) {
	m.t.Helper()
	b, address = harness.StartBackend(m.t, name), harness.FreeAddr(m.t)
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text)
	m.Register(m.t, service, b, func(r *api.AgentServiceRegistration) {
		r.Connect = &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Address: "127.0.0.1", Port: port, Checks: api.AgentServiceChecks{{TCP: address, Interval: "1s", Timeout: "1s"}},
		}}
	})
	m.sidecar("-sidecar-for=" + name)
	harness.Eventually(m.t, 20*time.Second, "the sidecar proxy to pass its check", func() bool {
		entries, _, err := m.API.Health().Connect(service, "", true, nil)
		return err == nil && len(entries) == 1
	})
	return b, address
}

// A backend that knows nothing of the mesh is called through Consul's own sidecar proxy, which asks for intentions itself.
func TestItCallsThroughASidecarOfConsuls(t *testing.T) {
	m := startMesh(t)
	i := m.join("trunkline")
	m.intend("echo", map[string]api.IntentionAction{"trunkline": api.IntentionActionAllow})
	_, address := m.startBehindSidecar("echo", "echo-1")
	dial := func(ctx context.Context, address string) (net.Conn, error) { // the proxy negotiates no ALPN, which grpc-go's TLS insists on
		return (&tls.Dialer{Config: client(i, "echo")}).DialContext(ctx, "tcp", address)
	}
	cc := harness.Dial(t, address, grpc.WithContextDialer(dial))
	harness.Eventually(t, 10*time.Second, "a call through the sidecar", func() bool {
		who, err := harness.WhoAnswers(harness.Context(t, 5*time.Second), cc)
		return err == nil && who == "echo-1"
	})
}
