package static_test

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Definitions become clusters: sorted, weighted, with their claim or with the wish for reflection.
func TestDefinitionsBecomeClusters(t *testing.T) {
	got, err := static.Clusters([]static.Cluster{
		{
			Name:         "echo",
			Endpoints:    []static.Endpoint{{Address: "127.0.0.1:7002"}, {Address: "[::1]:7001", Weight: 3, Meta: map[string]string{"version": "v1"}}},
			GRPCServices: []string{"bench.Echo", "a.A", "bench.Echo", "grpc.health.v1.Health"},
		},
		{Name: "asked"},
		{Name: "none", GRPCServices: []string{}},
		{Name: "left alone", NoReflection: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range got {
		if c.ChangedAt.IsZero() || c.Source != static.SourceName {
			t.Errorf("%+v", c)
		}
	}
	c := got[0]
	if c.Claim != discovery.ClaimConfig || c.WantReflection || !slices.Equal(c.Services, []string{"a.A", "bench.Echo"}) {
		t.Errorf("%+v", c)
	}
	want := []discovery.Endpoint{{Address: "127.0.0.1:7002", Weight: 1}, {Address: "[::1]:7001", Weight: 3, Meta: map[string]string{"version": "v1"}}}
	if !reflect.DeepEqual(c.Endpoints, want) {
		t.Errorf("%+v", c.Endpoints)
	}
	if !got[1].WantReflection || got[1].Claim != discovery.ClaimNone {
		t.Errorf("%+v", got[1])
	}
	if got[2].WantReflection || got[2].Claim != discovery.ClaimConfig || got[3].WantReflection || got[3].Claim != discovery.ClaimNone {
		t.Errorf("%+v %+v", got[2], got[3])
	}
}

// Every fault is named, and with one nothing is taken.
func TestFaultsAreNamed(t *testing.T) {
	got, err := static.Clusters([]static.Cluster{
		{},
		{Name: "a", Endpoints: []static.Endpoint{{Address: "nowhere"}, {Address: ":1"}, {Address: "h:0"}, {Address: "h:70000"}, {Address: "h:http"}, {Address: "h:1"}, {Address: "h:1"}}},
		{Name: "a"},
		{Name: "b", GRPCServices: []string{"/a.B/"}},
	})
	if got != nil || err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{"no name", `"nowhere"`, `":1"`, `"h:0"`, `"h:70000"`, `"h:http"`, "h:1 is listed twice", `"a": defined twice`, `"/a.B/"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in:\n%v", want, err)
		}
	}
}

// The source emits what it has at once, and what it is given after that; of several in a hurry, the last.
func TestSourceEmitsWhatItIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := static.New([]*discovery.Cluster{{Name: "a"}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		var emits []string
		go func() {
			done <- s.Run(ctx, func(clusters []*discovery.Cluster) {
				var names []string
				for _, c := range clusters {
					names = append(names, c.Name)
				}
				emits = append(emits, strings.Join(names, "+"))
			})
		}()
		synctest.Wait()
		s.Set([]*discovery.Cluster{{Name: "b"}, {Name: "c"}})
		synctest.Wait()
		s.Set(nil)
		s.Set([]*discovery.Cluster{{Name: "d"}})
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		emits = slices.Compact(emits)
		if !slices.Equal(emits, []string{"a", "b+c", "d"}) {
			t.Fatalf("%q", emits)
		}
		if r := s.Report(); r.Clusters != 1 || r.LastSuccess.IsZero() || r.Name != s.Name() {
			t.Fatalf("%+v", r)
		}
	})
}
