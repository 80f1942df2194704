package demo

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/consul/api"
)

// agent is a Consul agent as far as registering goes; it refuses the service with the id that contains refuse.
type agent struct {
	*httptest.Server
	refuse  string
	mu      sync.Mutex
	entries map[string]api.AgentServiceRegistration // guarded by mu
	gone    []string                                // guarded by mu
}

func startAgent(t *testing.T, refuse string) *agent {
	a := &agent{refuse: refuse, entries: map[string]api.AgentServiceRegistration{}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/agent/service/register", func(w http.ResponseWriter, r *http.Request) {
		var e api.AgentServiceRegistration
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || a.refuse != "" && strings.Contains(e.ID, a.refuse) {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.entries[e.ID] = e
	})
	mux.HandleFunc("PUT /v1/agent/service/deregister/{id}", func(_ http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.gone = append(a.gone, r.PathValue("id"))
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *agent) address() string { return strings.TrimPrefix(a.URL, "http://") }

func TestBackendsRegisterWithTagAndGRPCCheckAndWithdraw(t *testing.T) {
	a := startAgent(t, "")
	var backends []*backend
	for _, c := range cast() {
		backends = append(backends, start(t, c.name))
	}
	c, err := register(t.Context(), a.address(), backends)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.entries) != 4 || len(a.gone) != 0 {
		t.Fatalf("%d entries, withdrawn %v", len(a.entries), a.gone)
	}
	for id, e := range a.entries {
		b := backends[slices.IndexFunc(backends, func(b *backend) bool { return strings.Contains(id, b.name) })]
		if e.Name != "shop" || !slices.Equal(e.Tags, []string{"grpc"}) || e.Address != "127.0.0.1" || e.Port != b.port() || e.Meta["version"] != b.version || e.Check.GRPC != b.address+"/trunkline.demo.v1.Shop" {
			t.Errorf("%s: %+v, check %+v", id, e, e.Check)
		}
	}
	if err := c.withdraw(); err != nil || len(a.gone) != 4 {
		t.Errorf("withdrawn %v: %v", a.gone, err)
	}
}

func TestARefusedRegistrationIsNamedAndTheOthersAreWithdrawn(t *testing.T) {
	a := startAgent(t, "shop-b")
	backends := []*backend{start(t, "shop-a"), start(t, "shop-b")}
	_, err := register(t.Context(), a.address(), backends)
	if err == nil || !strings.Contains(err.Error(), "registering shop-b") || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("got %v", err)
	}
	if len(a.gone) != 1 || !strings.Contains(a.gone[0], "shop-a") {
		t.Errorf("withdrawn: %v", a.gone)
	}
}
