package consul

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// join puts members of Consul's mesh in front of a service: sidecar proxies on the ports, and native instances.
func (f *fakeConsul) join(name string, proxies, native []int) {
	f.change(func() {
		f.mesh[name] = nil
		for _, p := range proxies {
			e := instance(name+"-sidecar-proxy", "-", p)
			e.Service.Kind = api.ServiceKindConnectProxy
			e.Service.Proxy = &api.AgentServiceConnectProxyConfig{DestinationServiceName: name}
			f.mesh[name] = append(f.mesh[name], e)
		}
		for _, p := range native {
			e := instance(name, "-", p)
			e.Service.Connect = &api.AgentServiceConnect{Native: true}
			f.mesh[name] = append(f.mesh[name], e)
		}
	})
}

var throughTheMesh = Options{Services: []Service{{Name: "echo", Connect: true}}} // read only

// A service that is reached through the mesh is watched at its proxies and native instances, by the service's name and whatever the
// tag; a change is seen at once, and what fails its checks is left out.
func TestAServiceOfTheMeshIsWhoTakesItsCalls(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 7001, 7002) // their plain ports
		s.consul.set("plain", "grpc", 7003)
		s.consul.join("echo", []int{21000, 21001}, []int{7005})
		s.start(throughTheMesh)
		s.want("echo", 0, 21000, 21001, 7005)
		s.want("plain", 0, 7003)
		s.wantGone("echo-sidecar-proxy")
		if c := s.now("echo"); c.Err != "" || !c.WantReflection {
			t.Errorf("%+v", c)
		}
		after(10 * time.Second)
		s.consul.join("echo", []int{21001}, []int{7005})
		s.want("echo", 0, 21001, 7005)
		after(3 * time.Second) // or it would be a mass disappearance
		s.consul.change(func() { s.consul.mesh["echo"][0].Checks[0].Status = api.HealthCritical })
		s.want("echo", 0, 7005)
		s.consul.mu.Lock()
		defer s.consul.mu.Unlock()
		if s.consul.queries["/v1/health/service/echo"] != 0 {
			t.Errorf("it asked %v", s.consul.queries)
		}
	})
}

// A gateway goes by another certificate than its services': it is left out, and told of.
func TestAGatewayOfTheMeshIsToldOf(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.join("echo", []int{21000, 21001}, nil)
		s.consul.change(func() { s.consul.mesh["echo"][1].Service.Kind = api.ServiceKindTerminatingGateway })
		s.start(throughTheMesh)
		s.want("echo", 0, 21000)
		if c := s.now("echo"); !strings.Contains(c.Err, "echo-sidecar-proxy-21001") || !strings.Contains(c.Err, "terminating-gateway") {
			t.Errorf("it says %q", c.Err)
		}
	})
}

// What is promised of services is promised of those in the mesh: a sudden emptiness is not believed at once, and while Consul is away
// the last good holds on.
func TestAServiceOfTheMeshIsNotLostAtOnce(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.join("echo", []int{21000, 21001, 21002}, nil)
		s.start(throughTheMesh)
		s.want("echo", 0, 21000, 21001, 21002)
		after(10 * time.Second)
		s.consul.join("echo", nil, nil)
		s.want("echo", 3, 21000, 21001, 21002)
		s.consul.join("echo", []int{21000, 21001}, nil)
		s.want("echo", 0, 21000, 21001)
		s.consul.kill()
		after(10 * time.Minute)
		s.want("echo", 0, 21000, 21001)
		if s.now("echo").StaleSince.IsZero() {
			t.Error("it does not say that Consul is away")
		}
	})
}

// A cold start without Consul finds the mesh's endpoints on disk, unless the service is no longer reached that way: an address of the
// mesh must not be spoken to in plain text, nor the other way round.
func TestTheDiskTellsTheMeshFromPlainText(t *testing.T) {
	plain := Options{Services: []Service{{Name: "echo"}}}
	for name, c := range map[string]struct {
		saved, started Options
		ports          []int
	}{
		"mesh, mesh":   {throughTheMesh, throughTheMesh, []int{21000}},
		"mesh, plain":  {throughTheMesh, plain, nil},
		"plain, mesh":  {plain, throughTheMesh, nil},
		"plain, plain": {plain, plain, []int{7001}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tell(t, func(s *story) {
				s.consul.set("echo", "-", 7001)
				s.consul.set("other", "grpc", 7002)
				s.consul.join("echo", []int{21000}, nil)
				o := c.saved
				o.Dir = dir
				s.start(o)
				after(2 * time.Second)
			})
			tell(t, func(s *story) {
				s.consul.kill()
				o := c.started
				o.Dir = dir
				s.start(o)
				after(2 * time.Second)
				s.want("other", 0, 7002)
				s.want("echo", 0, c.ports...)
			})
		})
	}
}

// One cluster cannot be in the mesh and out of it.
func TestOneServiceIsReachedOneWay(t *testing.T) {
	_, err := New(Options{Services: []Service{{Name: "cart"}, {Name: "cart", Connect: true}}})
	if err == nil || !strings.Contains(err.Error(), "cart") || !strings.Contains(err.Error(), "mesh") {
		t.Errorf("error: %v", err)
	}
}

// Other questions to the agent bear the token that is in its file now.
func TestOtherQuestionsBearTheCurrentToken(t *testing.T) {
	var mu sync.Mutex
	var tokens []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		token := r.Header.Get("X-Consul-Token")
		if tokens = append(tokens, token); token == "one" && len(tokens) > 1 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Write([]byte(`{}`))
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Unix(1e9, 0)); err != nil { // a change that does not show
			t.Fatal(err)
		}
	}
	write("one")
	client, closeIdle, err := NewClient(Options{Address: server.URL, Token: "none", TokenFile: file, NoTag: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIdle()
	ask := func() error {
		_, err := client.Agent().ConnectAuthorize(&api.AgentAuthorizeParams{})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	write("two")
	if err := ask(); err == nil {
		t.Fatal("the test's server took the old token")
	}
	if err := ask(); err != nil || strings.Join(tokens, " ") != "one one two" {
		t.Fatalf("%v; it sent %q", err, tokens)
	}
}
