package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/lb/connect"
)

// join makes Trunkline's own identity, as the service.
func (m *mesh) join(service string) *connect.Identity {
	m.t.Helper()
	return m.joinWith(service, "")
}

// joinWith is join with an ACL token.
func (m *mesh) joinWith(service, token string) *connect.Identity {
	m.t.Helper()
	client, closeIdle, err := consul.NewClient(consul.Options{Address: m.URL, Token: token})
	if err != nil {
		m.t.Fatal(err)
	}
	i := connect.New(connect.Options{Client: client, Service: service, Log: slog.New(slog.NewTextHandler(m.t.Output(), nil))})
	m.t.Cleanup(func() {
		i.Close()
		closeIdle()
	})
	select {
	case <-i.Ready():
	case <-time.After(20 * time.Second):
		m.t.Fatalf("no identity: %+v", i.Status())
	}
	return i
}

// server and client are how an Identity is put to use: as lb/certs does.
func server(i *connect.Identity) *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: i.GetCertificate, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: i.ClientCAs(), SessionTicketsDisabled: true}, nil
	}}
}

func client(i *connect.Identity, destination string) *tls.Config {
	match := i.Match(destination)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, // VerifyConnection judges
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.Certificate() },
		NextProtos:           []string{"h2"},
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: i.ClientCAs(), Intermediates: between}); err != nil {
				return err
			}
			return match(spiffe(s.PeerCertificates[0]))
		},
	}
}

// authorize waits for the answer about a call of no metadata but its path.
func authorize(t *testing.T, i *connect.Identity, target, id string) (bool, string) {
	t.Helper()
	path := func(name string) (string, bool) { return "/pkg.Shop/Get", name == ":path" }
	c := make(chan connect.Answer, 1)
	if known := i.Authorize(target, id, "01", func(a connect.Answer) { c <- a }); known != nil {
		return known(path)
	}
	select {
	case a := <-c:
		return a(path)
	case <-time.After(10 * time.Second):
		t.Fatal("no answer about an intention")
		return false, ""
	}
}

func TestTheProcessIsAMemberOfTheMesh(t *testing.T) {
	m := startMesh(t)
	i := m.join("trunkline")
	st := i.Status()
	if want := "spiffe://" + i.TrustDomain() + "/ns/default/dc/dc1/svc/trunkline"; st.SPIFFE != want || i.TrustDomain() == "" {
		t.Errorf("status: %+v", st)
	}
	t.Run("members call it", func(t *testing.T) {
		if c, s := shake(t, m.member("web", "trunkline"), server(i)); c != nil || s != nil {
			t.Errorf("client: %v; server: %v", c, s)
		}
	})
	t.Run("who has no certificate of the mesh does not", func(t *testing.T) {
		if _, s := shake(t, &tls.Config{InsecureSkipVerify: true}, server(i)); s == nil { // the server is to refuse
			t.Error("it was let in")
		}
	})
	t.Run("it calls a native service, which sees who it is", func(t *testing.T) {
		n := m.startNative("echo", "echo-1")
		m.intend("echo", map[string]api.IntentionAction{"trunkline": api.IntentionActionAllow})
		cc := harness.Dial(t, n.Addr, grpc.WithTransportCredentials(credentials.NewTLS(client(i, "echo"))))
		if who, err := harness.WhoAnswers(harness.Context(t, 10*time.Second), cc); err != nil || who != "echo-1" {
			t.Errorf("%q, %v", who, err)
		}
		if got := n.seen(); !slices.Equal(got, []string{st.SPIFFE}) {
			t.Errorf("it saw %q", got)
		}
		other := harness.Dial(t, n.Addr, grpc.WithTransportCredentials(credentials.NewTLS(client(i, "cart"))))
		if _, err := harness.WhoAnswers(harness.Context(t, 10*time.Second), other); err == nil || !strings.Contains(err.Error(), "the endpoint is not the service") {
			t.Errorf("it took echo for cart: %v", err)
		}
	})
}

// The mesh gets another authority. Handshakes go on all the while in both directions, with members that have already turned and
// with those that have not, and in the end Trunkline's certificate is the new authority's.
func TestHandshakesGoOnWhileTheAuthorityRotates(t *testing.T) {
	t.Parallel() // Consul takes up to half a minute to renew a certificate
	m := startMesh(t)
	i := m.join("trunkline")
	before := i.Status()
	old, err := m.leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	oldRoots, err := m.roots()
	if err != nil {
		t.Fatal(err)
	}
	stuck := m.member("web", "") // an instance that has heard nothing yet
	stuck.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return old, nil }
	stuck.VerifyConnection = func(s tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: oldRoots, Intermediates: between})
		return err
	}
	all := func() {
		t.Helper()
		for name, pair := range map[string][2]*tls.Config{
			"web calls trunkline":                       {m.member("web", "trunkline"), server(i)},
			"trunkline calls echo":                      {client(i, "echo"), m.member("echo", "")},
			"a web that has not turned calls trunkline": {stuck, server(i)},
		} {
			if c, s := shake(t, pair[0], pair[1]); c != nil || s != nil {
				t.Fatalf("%s: client: %v; server: %v; status: %+v", name, c, s, i.Status())
			}
		}
	}
	all()
	m.rotate()
	began, rooted := time.Now(), time.Duration(0)
	harness.Eventually(t, 90*time.Second, "a certificate of the new authority", func() bool {
		all()
		st := i.Status()
		if rooted == 0 && len(st.Roots) == 2 && st.ActiveRoot == m.activeRoot() {
			rooted = time.Since(began)
		}
		return st.Serial != before.Serial && st.ActiveRoot != before.ActiveRoot
	})
	if rooted == 0 {
		t.Errorf("both authorities are to be trusted: %+v", i.Status())
	}
	t.Logf("the new authority was trusted after %v, its certificate in place after %v", rooted, time.Since(began))
	all()
}

func TestIntentionsAreFollowed(t *testing.T) {
	m := startMesh(t)
	i := m.join("trunkline")
	id := func(service string) string {
		return "spiffe://" + i.TrustDomain() + "/ns/default/dc/dc1/svc/" + service
	}
	m.intend("trunkline", map[string]api.IntentionAction{"web": api.IntentionActionAllow, "evil": api.IntentionActionDeny})

	if yes, why := authorize(t, i, "trunkline", id("web")); !yes || !strings.Contains(why, "ALLOW") {
		t.Errorf("web: %v %s", yes, why)
	}
	if yes, why := authorize(t, i, "trunkline", id("evil")); yes || !strings.Contains(why, `do not let "evil" call "trunkline"`) || !strings.Contains(why, "default/evil => default/trunkline") {
		t.Errorf("evil: %v %s", yes, why)
	}
	if yes, why := authorize(t, i, "trunkline", id("nobody")); yes || !strings.Contains(why, "default/* => default/*") {
		t.Errorf("nobody: %v %s", yes, why)
	}
	if yes, why := authorize(t, i, "echo", id("web")); yes {
		t.Errorf("web to echo: %v %s", yes, why)
	}

	for _, now := range []api.IntentionAction{api.IntentionActionDeny, api.IntentionActionAllow} {
		m.intend("trunkline", map[string]api.IntentionAction{"web": now})
		began := time.Now()
		harness.Eventually(t, 10*time.Second, "the changed intention to hold: "+string(now), func() bool {
			known := i.Authorize("trunkline", id("web"), "01", nil)
			if known == nil {
				t.Fatal("a call had to wait")
			}
			yes, _ := known(nil)
			return yes == (now == api.IntentionActionAllow)
		})
		t.Logf("%s was obeyed after %v", now, time.Since(began))
	}

	// The agent judges by services only, and its word is not the last.
	m.write(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "trunkline", Protocol: "grpc"})
	m.write(&api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: "trunkline", Sources: []*api.SourceIntention{
		{Name: "shop", Permissions: []*api.IntentionPermission{{Action: api.IntentionActionAllow, HTTP: &api.IntentionHTTPPermission{PathPrefix: "/"}}}},
	}})
	harness.Eventually(t, 10*time.Second, "an intention with permissions to allow", func() bool {
		yes, why := authorize(t, i, "trunkline", id("shop"))
		return yes && strings.Contains(why, "permission 1 of the intention default/shop => default/trunkline")
	})

	// The agent goes, and comes back.
	m.intend("trunkline", map[string]api.IntentionAction{"web": api.IntentionActionAllow})
	harness.Eventually(t, 10*time.Second, "web to be allowed", func() bool {
		yes, _ := authorize(t, i, "trunkline", id("web"))
		return yes
	})
	m.Kill()
	harness.Eventually(t, 20*time.Second, "the agent's absence to be noticed", func() bool { return i.Status().Err != "" && i.Status().IntentionsFailing > 0 })
	if yes, why := authorize(t, i, "trunkline", id("web")); !yes {
		t.Errorf("web: %v %s", yes, why)
	}
	if yes, why := authorize(t, i, "trunkline", id("stranger")); yes || !strings.Contains(why, "Consul's agent cannot be asked") {
		t.Errorf("stranger: %v %s", yes, why)
	}
	if _, err := i.Certificate(); err != nil {
		t.Error(err)
	}
	m.Start(t)
	harness.Eventually(t, 30*time.Second, "the agent's return to be noticed", func() bool {
		_, why := authorize(t, i, "trunkline", id("stranger"))
		authorize(t, i, "trunkline", id("web"))
		return i.Status().Err == "" && i.Status().IntentionsFailing == 0 && strings.Contains(why, "DENY")
	})
}

// Discovery finds who takes a service's calls in the mesh: its sidecar proxies at their ports, and native instances.
func TestDiscoveryFindsWhoTakesTheCalls(t *testing.T) {
	m := startMesh(t)
	n := m.startNative("echo", "echo-1")
	register := func(reg *api.AgentServiceRegistration) {
		if err := m.API.Agent().ServiceRegister(reg); err != nil {
			t.Fatal(err)
		}
	}
	register(&api.AgentServiceRegistration{ID: "echo-2", Name: "echo", Address: "127.0.0.1", Port: 7001, Tags: []string{"grpc"},
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: 21001, Checks: api.AgentServiceChecks{{TTL: "1h", Status: api.HealthPassing}}}}})
	register(&api.AgentServiceRegistration{ID: "echo-3", Name: "echo", Address: "127.0.0.1", Port: 7002, Tags: []string{"grpc"}}) // not of the mesh

	source, err := consul.New(consul.Options{Address: m.URL, Services: []consul.Service{{Name: "echo", Connect: true}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var endpoints []string
	done := make(chan error, 1)
	go func() {
		done <- source.Run(ctx, func(clusters []*discovery.Cluster) {
			mu.Lock()
			defer mu.Unlock()
			endpoints = nil
			for _, c := range clusters {
				for _, e := range c.Endpoints {
					endpoints = append(endpoints, c.Name+" "+e.Address)
				}
			}
		})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	want := []string{"echo 127.0.0.1:21001", "echo " + n.Addr}
	slices.Sort(want)
	harness.Eventually(t, 10*time.Second, "the sidecar and the native instance", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(endpoints, want)
	})
}
