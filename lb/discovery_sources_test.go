package lb

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// agent is a Consul agent without services that writes down what it was asked.
type agent struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]bool // guarded by mu: "path dc=... token=...", and " tag=..." if there is one
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	for _, name := range []string{"CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_NAMESPACE", "CONSUL_HTTP_SSL", "CONSUL_PARTITION"} {
		t.Setenv(name, "")
	}
	a := &agent{asked: map[string]bool{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		a.mu.Lock()
		a.asked[strings.TrimPrefix(r.URL.Path, "/v1/")+" dc="+q.Get("dc")+" token="+r.Header.Get("X-Consul-Token")+tagIn(q)] = true
		a.mu.Unlock()
		if q.Get("index") != "" && q.Get("index") != "0" {
			<-r.Context().Done() // nothing changes
			return
		}
		w.Header().Set("X-Consul-Index", "7")
		body := "[]"
		if strings.HasSuffix(r.URL.Path, "catalog/services") {
			body = "{}"
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(func() {
		a.CloseClientConnections()
		a.Close()
	})
	return a
}

func tagIn(q url.Values) string {
	if !q.Has("tag") {
		return ""
	}
	return " tag=" + q.Get("tag")
}

func (a *agent) questions() (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.asked))
}

// sourceNames are what the admin API shows, less the static one.
func (r *running) sourceNames() (names []string) {
	for _, s := range r.Clusters().GetSources() {
		if s.GetName() != "static" {
			names = append(names, s.GetName())
		}
	}
	return names
}

func TestTheConfigSaysWhatConsulIsAsked(t *testing.T) {
	for _, c := range []struct {
		name, yaml string
		asks       []string
		sources    string
	}{
		// Beside what the services need, the policies in the KV store are watched.
		{"services by tag are found in the catalog", `token: secret`,
			[]string{"catalog/services dc= token=secret", "kv/trunkline/clusters/ dc= token=secret"}, "consul consul/kv"},
		{"named services are asked for beside", `services: [ { name: cart } ]`,
			[]string{"catalog/services dc= token=", "health/service/cart dc= token=", "kv/trunkline/clusters/ dc= token="}, "consul consul/kv"},
		{"without a tag only the named ones are", `tag: "-", services: [ { name: cart } ]`,
			[]string{"health/service/cart dc= token=", "kv/trunkline/clusters/ dc= token="}, "consul consul/kv"},
		{"with a tag, only those that bear it", `services: [ { name: cart, tag: blue } ]`,
			[]string{"catalog/services dc= token=", "health/service/cart dc= token= tag=blue", "kv/trunkline/clusters/ dc= token="}, "consul consul/kv"},
		{"each in its datacenter", `tag: "-", datacenter: dc1, services: [ { name: cart }, { name: stock, datacenter: dc2 } ]`,
			[]string{"health/service/cart dc=dc1 token=", "health/service/stock dc=dc2 token=", "kv/trunkline/clusters/ dc=dc1 token="}, "consul/dc1 consul/dc1/kv consul/dc2/stock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAgent(t)
			r := run(t, "discovery: { consul: { address: \""+a.URL+"\", snapshotDir: \"-\", "+c.yaml+" } }\n")
			r.until("Consul was asked", func() bool { return len(a.questions()) >= len(c.asks) })
			if got := a.questions(); !slices.Equal(got, c.asks) {
				t.Errorf("asked %q, want %q", got, c.asks)
			}
			if got := strings.Join(r.sourceNames(), " "); got != c.sources {
				t.Errorf("sources %q, want %q", got, c.sources)
			}
		})
	}
}

func TestAReloadKeepsTheConsulSourceUnlessItsSettingsChange(t *testing.T) {
	a := newAgent(t)
	yaml := func(more, rest string) *configv1.Config {
		return parse(t, "discovery: { consul: { address: \""+a.URL+"\", snapshotDir: \"-\""+more+" } }\n"+rest)
	}
	r := runConfig(t, yaml("", ""))
	first := r.sources.consul[0]
	if err := r.Apply(yaml("", "drain: { timeout: 5s }\n")); err != nil {
		t.Fatal(err)
	}
	if r.sources.consul[0] != first {
		t.Error("the source was made anew though nothing of it changed: its state is lost")
	}
	// An authority that cannot be read: refused whole, and the old source goes on.
	bad := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bad, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := yaml("", "limits: { maxConcurrentStreams: 7 }\n")
	wrong.Discovery.Consul.Address, wrong.Discovery.Consul.Tls = "https://127.0.0.1:1", &configv1.ConsulTLS{CaFile: bad}
	if err := r.Apply(wrong); err == nil {
		t.Fatal("it was applied")
	}
	if r.sources.consul[0] != first || r.settings.Load().Session.MaxStreams == 7 || r.Status().GetConfig().GetLastError() == "" {
		t.Errorf("half of a refused configuration is in force: %v", r.Status().GetConfig())
	}
	if err := r.Apply(yaml(", datacenter: dc9", "")); err != nil {
		t.Fatal(err)
	}
	if r.sources.consul[0] == first {
		t.Error("the source still asks the old datacenter")
	}
	r.until("the other datacenter was asked", func() bool { return slices.Contains(a.questions(), "catalog/services dc=dc9 token=") })
	if got := strings.Join(r.sourceNames(), " "); got != "consul/dc9 consul/dc9/kv" || !r.Status().GetReady() {
		t.Errorf("sources %q, ready %v", got, r.Status().GetReady())
	}
}
