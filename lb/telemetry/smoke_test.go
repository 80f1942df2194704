package telemetry

import (
	"context"
	"net/http/httptest"
	"sync"
	"testing"
)

func TestSmoke(t *testing.T) {
	tel, err := New(context.Background(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	r := tel.NewRecorder(&mu)
	m := tel.Method("pkg.S/M", true)
	tel.Endpoint("c", "127.0.0.1:1").Picks.Add(1)
	tel.Observe(func(g *Gauges) { g.Clusters = append(g.Clusters, ClusterGauges{Name: "c"}) })
	r.Start(m)
	r.Record(&Finish{Method: m, Attempts: 1, Total: 1e6, Upstream: 9e5, Own: 1e5})
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	t.Log(w.Body.String())
	if err := tel.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
}
