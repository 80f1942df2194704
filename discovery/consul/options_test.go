package consul

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

// Where to look and how to read is said in every question.
func TestScopeAndConsistencyAreAsked(t *testing.T) {
	for name, c := range map[string]struct {
		o      Options
		source string
		want   map[string]string
	}{
		"scope": {
			Options{Datacenter: "dc2", Namespace: "team", Partition: "part", Stale: true}, "consul/dc2",
			map[string]string{"dc": "dc2", "ns": "team", "partition": "part", "stale": ""},
		},
		"consistent": {Options{Name: "mine", Consistent: true}, "mine", map[string]string{"consistent": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *story) {
				s.consul.set("echo", "grpc", 1)
				s.start(c.o)
				s.want("echo", 0, 1)
				if got := s.now("echo").Source; got != c.source || s.source.Name() != c.source {
					t.Errorf("the source is called %q", got)
				}
				s.consul.mu.Lock()
				defer s.consul.mu.Unlock()
				for k, v := range c.want {
					if got := s.consul.query; !got.Has(k) || got.Get(k) != v {
						t.Errorf("%s is missing in %v", k, got)
					}
				}
				if c.o.Stale == s.consul.query.Has("consistent") {
					t.Errorf("%v", s.consul.query)
				}
			})
		})
	}
}

// An agent is reached over HTTPS with the given CA, and not without it.
func TestHTTPSToTheAgent(t *testing.T) {
	consul := newFakeConsul(t)
	consul.set("echo", "grpc", 1)
	server := httptest.NewTLSServer(consul)
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(o TLS) []*discovery.Cluster {
		source, err := New(Options{Address: server.URL, TLS: o})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		go func() { // gives up as soon as the question failed
			for ctx.Err() == nil && source.Report().LastFailure.IsZero() {
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
		}()
		var got []*discovery.Cluster
		source.Run(ctx, func(c []*discovery.Cluster) { got = c; cancel() })
		return got
	}
	if got := ask(TLS{CAFile: ca}); len(got) != 1 || len(got[0].Endpoints) != 1 {
		t.Errorf("with the CA: %v", got)
	}
	if got := ask(TLS{}); got != nil {
		t.Errorf("without the CA: %v", got)
	}
}
