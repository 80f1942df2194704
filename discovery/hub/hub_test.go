package hub

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
	"github.com/trunkline/trunkline/discovery/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scriptedSource emits what the test sends.
type scriptedSource struct {
	name string
	sets chan []*discovery.Cluster
	fail chan error
}

func newSource(name string) *scriptedSource {
	return &scriptedSource{name, make(chan []*discovery.Cluster, 64), make(chan error, 1)}
}

func (s *scriptedSource) Name() string { return s.name }
func (s *scriptedSource) Run(ctx context.Context, emit func([]*discovery.Cluster)) error {
	for {
		select {
		case c := <-s.sets:
			emit(c)
		case err := <-s.fail:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// says makes the source emit clusters with this moment as their ChangedAt.
func (s *scriptedSource) says(clusters ...*discovery.Cluster) {
	for _, c := range clusters {
		c.Source = s.name
		c.ChangedAt = time.Now()
	}
	s.sets <- clusters
}

// tagged is a cluster that wants reflection.
func tagged(name string, addresses ...string) *discovery.Cluster {
	c := &discovery.Cluster{Name: name, WantReflection: true}
	for _, a := range addresses {
		c.Endpoints = append(c.Endpoints, discovery.Endpoint{Address: a, Weight: 1})
	}
	return c
}

// claiming is a cluster that claims services.
func claiming(name string, claim discovery.Claim, services ...string) *discovery.Cluster {
	c := tagged(name, name+":1")
	c.Claim, c.Services = claim, services
	return c
}

type story struct {
	*testing.T
	net *network
	hub *Hub

	mu        sync.Mutex
	snapshots []*discovery.Snapshot
	at        []time.Time
}

// tell runs a story in virtual time, with a hub that runs.
func tell(t *testing.T, script func(s *story)) {
	synctest.Test(t, func(t *testing.T) {
		s := &story{T: t, net: newNetwork()}
		s.hub = New(Options{Reflection: reflection.Options{Asker: &reflection.Asker{Dial: s.net.dial}}})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- s.hub.Run(ctx, func(snap *discovery.Snapshot) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.snapshots = append(s.snapshots, snap)
				s.at = append(s.at, time.Now())
			})
		}()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		synctest.Wait()
		script(s)
	})
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *story) last() *discovery.Snapshot {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.snapshots) == 0 {
		s.Fatal("no snapshot yet")
	}
	return s.snapshots[len(s.snapshots)-1]
}

func (s *story) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.snapshots)
}

func (s *story) publishedAt(i int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[i]
}

// wantServices checks what a cluster serves.
func (s *story) wantServices(cluster string, services ...string) *discovery.Cluster {
	s.Helper()
	c := s.last().Clusters[cluster]
	if c == nil || !slices.Equal(c.Services, services) {
		s.Fatalf("cluster %s: %+v, want services %v", cluster, c, services)
	}
	return c
}

// A tagged cluster's services are learned by reflection, and the snapshot is complete only then.
func TestServicesAreLearned(t *testing.T) {
	tell(t, func(s *story) {
		release := make(chan struct{})
		s.net.offer("a:1", release, "Echo.Ping", "Echo.Pong")
		src := newSource("consul")
		s.hub.Replace([]discovery.Source{src})
		src.says(tagged("echo", "a:1"))
		after(500 * time.Millisecond)
		if snap := s.last(); snap.Complete || snap.Clusters["echo"] == nil || snap.Version != 1 {
			t.Fatalf("%+v", snap)
		}
		close(release)
		after(10 * time.Millisecond)
		c := s.wantServices("echo", "p.Echo")
		if snap := s.last(); !snap.Complete || c.Claim != discovery.ClaimReflection || snap.Version != 2 || snap.Lag != 500*time.Millisecond {
			t.Fatalf("%+v %+v", snap, c)
		}
		if got := c.Endpoints[0].Services["p.Echo"]; !slices.Equal(got, []string{"Ping", "Pong"}) {
			t.Fatalf("%v", got)
		}
		if r := s.hub.Reflected(c.Endpoints[0]); r == nil || len(r.Services) != 1 {
			t.Fatalf("%+v", r)
		}
		n := s.count()
		after(10 * time.Minute)
		if s.count() != n {
			t.Fatal("it publishes what is no news")
		}
	})
}

// A new instance offers nothing by learned routes until it was asked, and then exactly what it has.
func TestNewInstanceIsWithheldUntilAsked(t *testing.T) {
	tell(t, func(s *story) {
		s.net.offer("a:1", nil, "Echo.Ping")
		src := newSource("consul")
		s.hub.Replace([]discovery.Source{src})
		src.says(tagged("echo", "a:1"))
		after(time.Second)
		release := make(chan struct{})
		s.net.offer("b:1", release, "Echo.Ping", "Echo.New", "Other.X")
		src.says(tagged("echo", "a:1", "b:1"))
		after(100 * time.Millisecond)
		c := s.wantServices("echo", "p.Echo")
		if b := c.Endpoints[1]; b.Services == nil || len(b.Services) != 0 {
			t.Fatalf("before it was asked: %+v", b)
		}
		close(release)
		after(10 * time.Millisecond)
		c = s.wantServices("echo", "p.Echo", "p.Other")
		if a, b := c.Endpoints[0], c.Endpoints[1]; len(a.Services["p.Echo"]) != 1 || len(b.Services["p.Echo"]) != 2 || a.Services["p.Other"] != nil {
			t.Fatalf("%+v", c.Endpoints)
		}
	})
}

// An instance that does not answer its first question is withheld for a second and not longer; one without reflection is
// taken at once to offer what its cluster offers, and the cluster says so.
func TestWithholdingEnds(t *testing.T) {
	tell(t, func(s *story) {
		s.net.offer("a:1", nil, "Echo.Ping")
		src := newSource("consul")
		s.hub.Replace([]discovery.Source{src})
		src.says(tagged("echo", "a:1"))
		after(time.Second)
		s.net.offer("hang:1", make(chan struct{}), "Echo.Ping")
		s.net.offer("none:1", nil)
		src.says(tagged("echo", "a:1", "hang:1", "none:1"))
		after(900 * time.Millisecond)
		c := s.last().Clusters["echo"]
		if c.Endpoints[1].Services == nil || c.Endpoints[2].Services != nil || !strings.Contains(c.Err, "none:1") {
			t.Fatalf("%+v", c)
		}
		after(200 * time.Millisecond)
		if c := s.last().Clusters["echo"]; c.Endpoints[1].Services != nil {
			t.Fatalf("%+v", c)
		}
	})
}

// When no instance is left that was asked, the cluster still serves what it served: calls get "no endpoint", not "unknown
// method", and a successor takes calls before it was asked.
func TestLearnedServicesOutliveTheirInstances(t *testing.T) {
	tell(t, func(s *story) {
		s.net.offer("a:1", nil, "Echo.Ping")
		src := newSource("consul")
		s.hub.Replace([]discovery.Source{src})
		src.says(tagged("echo", "a:1"))
		after(time.Second)
		src.says(tagged("echo"))
		after(time.Second)
		s.wantServices("echo", "p.Echo")
		s.net.offer("b:1", make(chan struct{}), "Echo.Ping")
		src.says(tagged("echo", "b:1"))
		after(time.Millisecond * 100)
		if c := s.wantServices("echo", "p.Echo"); c.Endpoints[0].Services != nil {
			t.Fatalf("%+v", c)
		}
		src.says()
		after(time.Second)
		src.says(tagged("echo", "c:1"))
		after(time.Second)
		s.wantServices("echo") // the cluster was gone in between: what it served is forgotten
	})
}

// An instance whose reflection fails keeps what it last said.
func TestFailedReflectionKeepsTheLastGood(t *testing.T) {
	tell(t, func(s *story) {
		s.net.offer("a:1", nil, "Echo.Ping")
		src := newSource("consul")
		s.hub.Replace([]discovery.Source{src})
		src.says(tagged("echo", "a:1"))
		after(time.Second)
		s.net.remove("a:1")
		after(2 * time.Minute)
		c := s.wantServices("echo", "p.Echo")
		if c.Endpoints[0].Services["p.Echo"] == nil || c.Err == "" {
			t.Fatalf("%+v", c)
		}
		s.net.offer("a:1", nil, "Echo.Ping", "New.X")
		s.hub.Recheck("a:1")
		after(time.Second + 10*time.Millisecond) // the last question may be just behind us: they keep a distance of a second
		if c := s.wantServices("echo", "p.Echo", "p.New"); c.Err != "" {
			t.Fatalf("%+v", c)
		}
	})
}

// Who serves a protobuf service that several claim.
func TestClaims(t *testing.T) {
	const config, meta, refl = discovery.ClaimConfig, discovery.ClaimMeta, discovery.ClaimReflection
	heldBack := func(c *discovery.Cluster) *discovery.Cluster { c.HeldBack = len(c.Endpoints); return c }
	empty := func(c *discovery.Cluster) *discovery.Cluster { c.Endpoints = nil; return c }
	for _, c := range []struct {
		name     string
		clusters []*discovery.Cluster
		want     string // "cluster=services ..."
		conflict string // "service:cluster,cluster"
	}{
		{"one claimant", []*discovery.Cluster{claiming("a", refl, "s.S")}, "a=s.S", ""},
		{"two equal ones conflict", []*discovery.Cluster{claiming("a", refl, "s.S", "s.A"), claiming("b", refl, "s.S")}, "a=s.A b=", "s.S:a,b"},
		{"three equal ones conflict", []*discovery.Cluster{claiming("a", meta, "s.S"), claiming("b", meta, "s.S"), claiming("c", meta, "s.S")}, "a= b= c=", "s.S:a,b,c"},
		{"meta outranks reflection", []*discovery.Cluster{claiming("a", refl, "s.S"), claiming("b", meta, "s.S")}, "a= b=s.S", ""},
		{"config outranks meta", []*discovery.Cluster{claiming("a", config, "s.S"), claiming("b", meta, "s.S"), claiming("c", refl, "s.S")}, "a=s.S b= c=", ""},
		{"a weaker one does not settle a conflict", []*discovery.Cluster{claiming("a", meta, "s.S"), claiming("b", meta, "s.S"), claiming("c", refl, "s.S")}, "a= b= c=", "s.S:a,b"},
		{"a service that is renamed does not conflict with its ghost", []*discovery.Cluster{heldBack(claiming("old", refl, "s.S")), claiming("new", refl, "s.S")}, "old= new=s.S", ""},
		{"nor with its memory", []*discovery.Cluster{empty(claiming("old", meta, "s.S")), claiming("new", refl, "s.S")}, "old= new=s.S", ""},
		{"a ghost alone still serves", []*discovery.Cluster{heldBack(claiming("old", refl, "s.S"))}, "old=s.S", ""},
		{"config without endpoints still outranks", []*discovery.Cluster{empty(claiming("a", config, "s.S")), claiming("b", refl, "s.S")}, "a=s.S b=", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tell(t, func(s *story) {
				src := newSource("test")
				s.hub.Replace([]discovery.Source{src})
				src.says(c.clusters...)
				after(2 * time.Second)
				for want := range strings.FieldsSeq(c.want) {
					name, services, _ := strings.Cut(want, "=")
					got := s.last().Clusters[name]
					if strings.Join(got.Services, ",") != services {
						t.Errorf("%s serves %v, want %s", name, got.Services, services)
					}
					if claimed := c.clusters[slices.IndexFunc(c.clusters, func(c *discovery.Cluster) bool { return c.Name == name })]; len(claimed.Services) > len(got.Services) && got.Err == "" {
						t.Errorf("%s does not say why", name)
					}
				}
				var conflicts []string
				for _, x := range s.last().Conflicts {
					conflicts = append(conflicts, x.Service+":"+strings.Join(x.Clusters, ","))
				}
				if got := strings.Join(conflicts, " "); got != c.conflict {
					t.Errorf("conflicts %q, want %q", got, c.conflict)
				}
			})
		})
	}
}

// Two reflected clusters that offer the same service conflict, and are well again when one stops.
func TestLearnedConflictIsReportedAndEnds(t *testing.T) {
	tell(t, func(s *story) {
		s.net.offer("a:1", nil, "Echo.Ping", "A.x")
		s.net.offer("b:1", nil, "Echo.Ping", "B.x")
		src := newSource("consul")
		s.hub.Replace([]discovery.Source{src})
		src.says(tagged("a", "a:1"), tagged("b", "b:1"))
		after(time.Second)
		s.wantServices("a", "p.A")
		s.wantServices("b", "p.B")
		if x := s.last().Conflicts; len(x) != 1 || x[0].Service != "p.Echo" || !slices.Equal(x[0].Clusters, []string{"a", "b"}) {
			t.Fatalf("%+v", x)
		}
		s.net.offer("b:1", nil, "B.x")
		after(time.Minute)
		s.wantServices("a", "p.A", "p.Echo")
		if x := s.last().Conflicts; len(x) != 0 {
			t.Fatalf("%+v", x)
		}
	})
}

// Of two clusters of one name the static one is used, and it says so.
func TestStaticWinsAName(t *testing.T) {
	tell(t, func(s *story) {
		defs, err := static.Clusters([]static.Cluster{{Name: "echo", Endpoints: []static.Endpoint{{Address: "s:1"}}, GRPCServices: []string{"p.S"}}})
		if err != nil {
			t.Fatal(err)
		}
		src := newSource("consul")
		s.hub.Replace([]discovery.Source{src, static.New(defs)})
		src.says(tagged("echo", "c:1"))
		after(2 * time.Second)
		c := s.wantServices("echo", "p.S")
		if c.Source != "static" || c.Endpoints[0].Address != "s:1" || !strings.Contains(c.Err, "consul") {
			t.Fatalf("%+v", c)
		}
	})
}

// A static cluster without services is asked by reflection; one that says "none" is not.
func TestStaticClustersAreAskedToo(t *testing.T) {
	tell(t, func(s *story) {
		s.net.offer("a:1", nil, "Echo.Ping")
		s.net.offer("b:1", nil, "Other.Ping")
		defs, err := static.Clusters([]static.Cluster{
			{Name: "asked", Endpoints: []static.Endpoint{{Address: "a:1"}}},
			{Name: "none", Endpoints: []static.Endpoint{{Address: "b:1"}}, GRPCServices: []string{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		src := static.New(defs)
		s.hub.Replace([]discovery.Source{src})
		after(time.Second)
		s.wantServices("asked", "p.Echo")
		s.wantServices("none")
		src.Set(nil)
		after(time.Second)
		if n := len(s.last().Clusters); n != 0 {
			t.Fatalf("%d clusters after Set", n)
		}
	})
}

// The first change is published without delay; a burst after it becomes one more snapshot; what did not change keeps its pointer.
func TestBurstsAreGathered(t *testing.T) {
	tell(t, func(s *story) {
		src := newSource("test")
		s.hub.Replace([]discovery.Source{src})
		src.says(claiming("a", discovery.ClaimMeta, "s.A"))
		after(time.Second)
		before, n, a := time.Now(), s.count(), s.last().Clusters["a"]
		for i := range 20 {
			src.says(claiming("a", discovery.ClaimMeta, "s.A"), tagged("b", strings.Repeat("x", i+1)+":1"))
			synctest.Wait()
		}
		if s.count() != n+1 || !s.publishedAt(n).Equal(before) {
			t.Fatalf("%d snapshots at once", s.count()-n)
		}
		after(20 * time.Millisecond)
		if s.count() != n+2 && s.count() != n+3 { // the last may bring the outcome of a question
			t.Fatalf("%d snapshots for a burst", s.count()-n)
		}
		snap := s.last()
		if snap.Clusters["b"].Endpoints[0].Address != strings.Repeat("x", 20)+":1" || snap.Clusters["a"] != a {
			t.Fatalf("%+v", snap)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, x := range s.snapshots {
			if x.Version != uint64(i+1) {
				t.Fatalf("snapshot %d has version %d", i, x.Version)
			}
		}
	})
}

// Replacing the sources keeps the ones that stay, lets a namesake stand in until its successor speaks, and drops the rest.
func TestReplaceSources(t *testing.T) {
	tell(t, func(s *story) {
		stays, old, gone := newSource("stays"), newSource("consul"), newSource("gone")
		s.hub.Replace([]discovery.Source{stays, old, gone})
		stays.says(claiming("a", discovery.ClaimMeta, "s.A"))
		after(time.Second)
		if s.last().Complete {
			t.Fatal("complete before all have spoken")
		}
		old.says(claiming("b", discovery.ClaimMeta, "s.B"))
		gone.says(claiming("c", discovery.ClaimMeta, "s.C"))
		after(time.Second)
		if !s.last().Complete || len(s.last().Clusters) != 3 {
			t.Fatalf("%+v", s.last())
		}
		next := newSource("consul")
		s.hub.Replace([]discovery.Source{stays, next})
		after(time.Minute)
		s.wantServices("a", "s.A")
		s.wantServices("b", "s.B")
		if len(s.last().Clusters) != 2 || !s.last().Complete {
			t.Fatalf("%+v", s.last())
		}
		next.says(claiming("b", discovery.ClaimMeta, "s.B2"))
		stays.says(claiming("a", discovery.ClaimMeta, "s.A2"))
		after(time.Second)
		s.wantServices("a", "s.A2")
		s.wantServices("b", "s.B2")
		s.hub.Replace(nil)
		after(time.Second)
		if len(s.last().Clusters) != 0 {
			t.Fatalf("%+v", s.last())
		}
	})
}

// A source that stops by itself is reported, and what it said is kept.
func TestStoppedSourceIsReported(t *testing.T) {
	tell(t, func(s *story) {
		src := newSource("test")
		s.hub.Replace([]discovery.Source{src, static.New(nil)})
		src.says(claiming("a", discovery.ClaimMeta, "s.A"))
		after(time.Second)
		src.fail <- errors.New("broken")
		after(time.Second)
		s.wantServices("a", "s.A")
		reports := s.hub.Reports()
		if len(reports) != 2 || reports[0].Name != "test" || !strings.Contains(reports[0].Err, "broken") || reports[0].Clusters != 1 || reports[1].Name != "static" {
			t.Fatalf("%+v", reports)
		}
	})
}

// A hub without sources publishes an empty, complete snapshot: nothing is what there is to know.
func TestNoSources(t *testing.T) {
	tell(t, func(s *story) {
		s.hub.Replace(nil)
		after(0)
		if snap := s.last(); !snap.Complete || len(snap.Clusters) != 0 || s.hub.Latest() != snap {
			t.Fatalf("%+v", snap)
		}
	})
}
