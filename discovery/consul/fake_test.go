package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/trunkline/trunkline/discovery"
)

// fakeConsul is an agent in memory, reached over pipes so that it lives inside a synctest bubble.
type fakeConsul struct {
	mu       sync.Mutex
	index    uint64
	services map[string][]*api.ServiceEntry
	mesh     map[string][]*api.ServiceEntry // who takes calls to a service in the mesh
	kv       map[string]*api.KVPair
	changed  chan struct{} // closed at each change
	token    string        // required of every request, if set
	filtered bool          // answers claim to be filtered by ACLs
	noLeader bool
	// trouble says what becomes of a request: 0 nothing, an HTTP status, or hang.
	trouble func(path string) int
	queries map[string]int      // answered or not, by path
	indexes map[string][]string // what they waited for, by path
	query   url.Values          // of the latest request
	dials   int
	down    bool
	conns   []net.Conn
	accept  chan net.Conn
	server  *http.Server
}

const hang = -1

func newFakeConsul(t *testing.T) *fakeConsul {
	f := &fakeConsul{
		index: 100, services: map[string][]*api.ServiceEntry{}, mesh: map[string][]*api.ServiceEntry{}, kv: map[string]*api.KVPair{}, changed: make(chan struct{}),
		queries: map[string]int{}, indexes: map[string][]string{}, accept: make(chan net.Conn),
	}
	f.server = &http.Server{Handler: f}
	done := make(chan struct{})
	go func() { f.server.Serve(pipeListener{f.accept, make(chan struct{})}); close(done) }()
	t.Cleanup(func() { f.server.Close(); <-done })
	return f
}

type pipeListener struct {
	accept chan net.Conn
	closed chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l pipeListener) Close() error   { close(l.closed); return nil }
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (f *fakeConsul) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	f.mu.Lock()
	f.dials++
	if f.down {
		f.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	f.conns = append(f.conns, server)
	f.mu.Unlock()
	select {
	case f.accept <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// kill drops all connections and refuses new ones.
func (f *fakeConsul) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

// change edits the state under the lock and wakes the blocking queries.
func (f *fakeConsul) change(edit func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	edit()
	close(f.changed)
	f.changed = make(chan struct{})
}

// set puts instances of a service on ports of 10.0.0.1; "-" as the tag means none.
func (f *fakeConsul) set(name, tag string, ports ...int) {
	f.change(func() {
		f.services[name] = nil
		for _, p := range ports {
			f.services[name] = append(f.services[name], instance(name, tag, p))
		}
		if len(ports) == 0 {
			delete(f.services, name)
		}
	})
}

func instance(name, tag string, port int) *api.ServiceEntry {
	e := &api.ServiceEntry{
		Node:    &api.Node{Node: "n1", Address: "10.0.0.9"},
		Service: &api.AgentService{ID: fmt.Sprintf("%s-%d", name, port), Service: name, Address: "10.0.0.1", Port: port, Weights: api.AgentWeights{Passing: 1, Warning: 1}},
		Checks:  api.HealthChecks{{CheckID: "c", Status: api.HealthPassing}},
	}
	if tag != "-" {
		e.Service.Tags = []string{tag}
	}
	return e
}

func (f *fakeConsul) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.queries[r.URL.Path]++
	f.query = r.URL.Query()
	f.indexes[r.URL.Path] = append(f.indexes[r.URL.Path], r.URL.Query().Get("index"))
	trouble := 0
	if f.trouble != nil {
		trouble = f.trouble(r.URL.Path)
	}
	if f.token != "" && r.Header.Get("X-Consul-Token") != f.token {
		trouble = http.StatusForbidden
	}
	index, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	for trouble == 0 && index > 0 && index >= f.index && wait > 0 {
		changed := f.changed
		f.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
			wait = 0
		case <-r.Context().Done():
			timer.Stop()
			return
		}
		timer.Stop()
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	switch {
	case trouble == hang:
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
		return
	case trouble != 0:
		http.Error(w, "Permission denied or worse", trouble)
		return
	}
	var out any
	missing := false // the KV store says it with a 404, which bears the index all the same
	services := f.services
	name, ok := strings.CutPrefix(r.URL.Path, "/v1/health/service/")
	if !ok {
		name, ok = strings.CutPrefix(r.URL.Path, "/v1/health/connect/")
		services = f.mesh
	}
	if ok {
		tag := r.URL.Query().Get("tag")
		passing := r.URL.Query().Has("passing")
		list := []*api.ServiceEntry{}
		for _, e := range services[name] {
			if (tag == "" || slices.Contains(e.Service.Tags, tag)) && (!passing || e.Checks.AggregatedStatus() == api.HealthPassing) {
				list = append(list, e)
			}
		}
		out = list
	} else if r.URL.Path == "/v1/catalog/services" {
		catalog := map[string][]string{}
		for name, list := range f.services {
			catalog[name] = []string{}
			for _, e := range list {
				catalog[name] = append(catalog[name], e.Service.Tags...)
			}
		}
		out = catalog
	} else if prefix, ok := strings.CutPrefix(r.URL.Path, "/v1/kv/"); ok && r.URL.Query().Has("recurse") {
		pairs := []*api.KVPair{}
		for _, key := range slices.Sorted(maps.Keys(f.kv)) {
			if strings.HasPrefix(key, prefix) && !f.filtered {
				pairs = append(pairs, f.kv[key])
			}
		}
		out = pairs
		missing = len(pairs) == 0
	} else {
		http.NotFound(w, r)
		return
	}
	if f.filtered {
		switch out.(type) {
		case []*api.ServiceEntry:
			out = []*api.ServiceEntry{}
		case map[string][]string:
			out = map[string][]string{}
		}
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(f.index, 10))
	w.Header().Set("X-Consul-KnownLeader", strconv.FormatBool(!f.noLeader))
	w.Header().Set("X-Consul-LastContact", "0")
	if missing {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	json.NewEncoder(w).Encode(out)
}

// count is how many requests came for a path so far.
func (f *fakeConsul) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.queries[path]
}

// dialled is how many connections were asked for so far.
func (f *fakeConsul) dialled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials
}

// story is one test's world: a fake Consul, a source, and what it emitted.
type story struct {
	*testing.T
	consul *fakeConsul
	source *Source
	stop   func()

	mu    sync.Mutex
	emits []emission
	log   bytes.Buffer
}

type emission struct {
	at       time.Time
	clusters []*discovery.Cluster
}

// tell runs a story in virtual time. The source is started by s.start.
func tell(t *testing.T, script func(s *story)) {
	synctest.Test(t, func(t *testing.T) {
		s := &story{T: t, consul: newFakeConsul(t)}
		script(s)
		if s.stop != nil {
			s.stop()
		}
	})
}

// start runs a source against the story's Consul.
func (s *story) start(o Options) {
	s.Helper()
	o.Address, o.DialContext = "127.0.0.1:8500", s.consul.dial
	o.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.log.Write(p)
	}), nil))
	source, err := New(o)
	if err != nil {
		s.Fatal(err)
	}
	s.source = source
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- source.Run(ctx, func(c []*discovery.Cluster) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.emits = append(s.emits, emission{time.Now(), c})
		})
	}()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("Run: %v", err)
		}
		s.stop = nil
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// after lets d pass, and then everybody come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// logged says whether the log holds text.
func (s *story) logged(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.log.String(), text)
}

func (s *story) emitted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.emits)
}

func (s *story) emittedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.emits[len(s.emits)-1].at
}

// now is the cluster as it was last emitted; nil if it was not among them.
func (s *story) now(name string) *discovery.Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.emits) == 0 {
		return nil
	}
	for _, c := range s.emits[len(s.emits)-1].clusters {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// want checks the ports of the cluster's endpoints and how many of them are held back.
func (s *story) want(name string, held int, ports ...int) {
	s.Helper()
	synctest.Wait()
	c := s.now(name)
	if c == nil {
		s.Fatalf("cluster %s is not there; want ports %v", name, ports)
	}
	var got []int
	for _, e := range c.Endpoints {
		_, p, _ := net.SplitHostPort(e.Address)
		n, _ := strconv.Atoi(p)
		got = append(got, n)
	}
	if !slices.Equal(got, ports) || c.HeldBack != held {
		s.Fatalf("cluster %s has ports %v with %d held back, want %v with %d (%s)", name, got, c.HeldBack, ports, held, c.Err)
	}
}

// wantGone checks that the cluster is no more, though something was emitted.
func (s *story) wantGone(name string) {
	s.Helper()
	synctest.Wait()
	if s.emitted() == 0 || s.now(name) != nil {
		s.Fatalf("cluster %s: want it gone, after %d emits it is %+v", name, s.emitted(), s.now(name))
	}
}
