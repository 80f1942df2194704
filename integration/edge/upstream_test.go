package edge

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// behind is a backend over TLS.
func behind(t testing.TB, name string, p *pair, change func(*tls.Config)) *server {
	t.Helper()
	c := &tls.Config{Certificates: []tls.Certificate{p.tls()}, MinVersion: tls.VersionTLS12}
	if change != nil {
		change(c)
	}
	return startServer(t, name, grpc.Creds(credentials.NewTLS(c)))
}

// clusters is a configuration of clusters by name: an address, YAML for clusters[] beside the name, and whether reflection is to find what
// they serve. The authority of a call chooses among those that do not.
type cluster struct{ name, address, more string }

func clustersConfig(list []cluster, more ...string) string {
	var static, routes, settings []string
	for _, c := range list {
		static = append(static, fmt.Sprintf("{ name: %s, endpoints: [ { address: %s } ], grpcServices: [ none.%s ] }", c.name, c.address, c.name))
		routes = append(routes, fmt.Sprintf("{ match: { authority: %s.test }, cluster: %s }", c.name, c.name))
		settings = append(settings, fmt.Sprintf("{ name: %s, %s }", c.name, c.more))
	}
	return fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery: { static: { clusters: [ %s ] } }
routes: [ %s ]
clusters: [ %s ]
%s
`, strings.Join(static, ", "), strings.Join(routes, ", "), strings.Join(settings, ", "), strings.Join(more, "\n"))
}

func TestEndpointsAreReachedOverTLS(t *testing.T) {
	ca, other, people := newAuthority(t, "servers"), newAuthority(t, "others"), newAuthority(t, "people")
	const id = "spiffe://example.test/backend"
	ours := people.issue(nil, "trunkline")
	asks := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, people.pool() }
	good := behind(t, "good", ca.issue(nil, "backend.test", "127.0.0.1", id), nil)
	old := behind(t, "old", ca.issue(nil, "127.0.0.1"), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	mutual := behind(t, "mutual", ca.issue(nil, "127.0.0.1"), asks)
	mutualOld := behind(t, "mutual12", ca.issue(nil, "127.0.0.1"), func(c *tls.Config) { asks(c); c.MaxVersion = tls.VersionTLS12 })
	named := behind(t, "named", ca.issue(nil, "backend.test"), nil)
	late := behind(t, "late", ca.issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}, "127.0.0.1"), nil)
	clear := startServer(t, "clear")
	trust := "caFile: " + ca.file()
	tr := harness.Start(t, clustersConfig([]cluster{
		{"good", good.Addr, "tls: { " + trust + " }"},
		{"named", named.Addr, "tls: { " + trust + ", serverName: backend.test }"},
		{"spiffe", good.Addr, "tls: { " + trust + ", spiffeId: '" + id + "' }"},
		{"old", old.Addr, "tls: { " + trust + " }"},
		{"mutual", mutual.Addr, "tls: { " + trust + ", " + ours.yaml() + " }"},
		{"mutual12", mutualOld.Addr, "tls: { " + trust + ", " + ours.yaml() + " }"},
		{"anyone", named.Addr, "tls: { insecureSkipVerify: true }"},
		{"misnamed", named.Addr, "tls: { " + trust + " }"},
		{"misnamed2", named.Addr, "tls: { " + trust + ", serverName: shop.test }"},
		{"stranger", good.Addr, "tls: { caFile: " + other.file() + " }"},
		{"wrongid", good.Addr, "tls: { " + trust + ", spiffeId: 'spiffe://example.test/other' }"},
		{"late", late.Addr, "tls: { " + trust + " }"},
		{"certless", mutual.Addr, "tls: { " + trust + " }"},
		{"certless12", mutualOld.Addr, "tls: { " + trust + " }"},
		{"wrongcert", mutual.Addr, "tls: { " + trust + ", " + other.issue(nil, "trunkline").yaml() + " }"},
		{"clear", clear.Addr, "tls: { " + trust + " }"},
		{"notls", good.Addr, "loadBalancing: round_robin"},
	}))
	to := func(name string) *grpc.ClientConn {
		return harness.Dial(t, tr.Listen, grpc.WithAuthority(name+".test"))
	}

	for name, want := range map[string]*server{"good": good, "named": named, "spiffe": good, "old": old, "mutual": mutual, "mutual12": mutualOld, "anyone": named} {
		t.Run("calls reach "+name, func(t *testing.T) {
			cc := to(name)
			if got, err := harness.WhoAnswers(harness.Context(t, limit), cc); err != nil || got != want.Name {
				t.Fatalf("%q answers, %v; want %q", got, err, want.Name)
			}
			large(t, cc, 3<<20)
			finish := hold(t, want.Backend, cc, "stream of "+name)
			finish()
		})
	}
	for name, words := range map[string][]string{
		"misnamed":   {"certificate is not for the IP address 127.0.0.1, but for backend.test", "write serverName in clusters[7].tls", "the host of the endpoint's address is expected"},
		"misnamed2":  {"certificate is not for the name shop.test, but for backend.test", "correct serverName in clusters[8].tls"},
		"stranger":   {"was issued by CN=servers", "no chain leads", "add its authority there"},
		"wrongid":    {"is of " + id, "spiffe://example.test/other was expected"},
		"late":       {"is not valid after", "renew it"},
		"certless":   {"asks for a client certificate", "write certFile and keyFile in clusters[12].tls"},
		"certless12": {"asks for a client certificate", "see its log"},
		"wrongcert":  {"does not take our client certificate", "see which authorities it trusts"},
		"clear":      {"does not speak TLS on this port", "remove clusters[15].tls"},
	} {
		t.Run("a call to "+name+" is told what is wrong", func(t *testing.T) {
			err := call(t, to(name))
			if status.Code(err) != codes.Unavailable || reason(err) == "" {
				t.Errorf("got %v %q", err, reason(err))
			}
			says(t, status.Convert(err).Message(), words...)
			if _, again, _ := strings.Cut(status.Convert(err).Message(), "127.0.0.1:"); strings.Contains(again, "127.0.0.1:") {
				t.Errorf("the endpoint's address is there twice: %s", status.Convert(err).Message())
			}
		})
	}
	t.Run("an endpoint that wants TLS and is not configured so is refused in words", func(t *testing.T) {
		err := call(t, to("notls"))
		if status.Code(err) != codes.Unavailable || reason(err) == "" {
			t.Errorf("got %v %q", err, reason(err))
		}
		says(t, status.Convert(err).Message(), "if it speaks TLS, write clusters[].tls for notls")
	})
}

func TestReflectionAndHealthChecksGoThroughTLSToo(t *testing.T) {
	ca, people := newAuthority(t, "servers"), newAuthority(t, "people")
	ours := people.issue(nil, "trunkline")
	asks := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, people.pool() }
	one, two := behind(t, "one", ca.issue(nil, "127.0.0.1"), asks), behind(t, "two", ca.issue(nil, "127.0.0.1"), asks)
	for _, s := range []*server{one, two} {
		s.Health.SetServingStatus(harness.Service, healthpb.HealthCheckResponse_SERVING)
	}
	tr := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery: { static: { clusters: [ { name: backends, endpoints: [ { address: %s }, { address: %s } ] } ] }, reflection: { interval: 1s } }
clusters: [ { name: backends, loadBalancing: round_robin, tls: { caFile: %s, %s } } ]
serviceConfig: { healthCheckConfig: { serviceName: %s }, trunkline: { cluster: { healthCheck: { interval: 0.2s, timeout: 5s } } } }
`, one.Addr, two.Addr, ca.file(), ours.yaml(), harness.Service))
	cc := harness.Dial(t, tr.Listen)
	who := func(n int) map[string]int {
		seen := map[string]int{}
		for range n {
			name, err := harness.WhoAnswers(harness.Context(t, limit), cc)
			if err != nil {
				name = err.Error()
			}
			seen[name]++
		}
		return seen
	}
	harness.Eventually(t, limit, "reflection to find the service, over TLS", func() bool { seen := who(4); return seen["one"] > 0 && seen["two"] > 0 })
	t.Run("reflection through the balancer tells of it", func(t *testing.T) {
		stream, err := reflectpb.NewServerReflectionClient(cc).ServerReflectionInfo(harness.Context(t, limit))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(err)
		}
		r, err := stream.Recv()
		if err != nil || !strings.Contains(r.String(), harness.Service) {
			t.Errorf("%v %v", r, err)
		}
	})
	t.Run("an endpoint that says it is not serving gets no calls", func(t *testing.T) {
		two.Health.SetServingStatus(harness.Service, healthpb.HealthCheckResponse_NOT_SERVING)
		harness.Eventually(t, limit, "all calls to go to the other", func() bool { seen := who(8); return seen["one"] == 8 })
		two.Health.SetServingStatus(harness.Service, healthpb.HealthCheckResponse_SERVING)
		harness.Eventually(t, limit, "it to be called again", func() bool { return who(8)["two"] > 0 })
	})
}
