package consul

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/trunkline/trunkline/discovery"
)

// saved runs a source until its state is on disk, and returns the directory.
func saved(t *testing.T, edit func(f *fakeConsul)) string {
	dir := t.TempDir()
	tell(t, func(s *story) {
		edit(s.consul)
		s.start(Options{Dir: dir})
		after(time.Second)
	})
	if info, err := os.Stat(filepath.Join(dir, "consul.json")); err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	return dir
}

func twoServices(f *fakeConsul) {
	f.set("echo", "grpc", 1, 2)
	f.set("meta", "grpc", 3)
	f.change(func() { f.services["meta"][0].Service.Meta = map[string]string{"grpc-services": "x.M"} })
}

// A start without Consul serves from disk at once, says so, and takes Consul's word when it comes.
func TestColdStartFromDisk(t *testing.T) {
	dir := saved(t, twoServices)
	tell(t, func(s *story) {
		s.consul.kill()
		began := time.Now()
		s.start(Options{Dir: dir})
		s.want("echo", 0, 1, 2)
		if took := time.Since(began); took > 0 {
			t.Fatalf("it took %v", took)
		}
		c := s.now("echo")
		if !strings.HasPrefix(c.Err, "from disk, saved at ") || c.StaleSince.IsZero() || !c.WantReflection {
			t.Fatalf("%+v", c)
		}
		if m := s.now("meta"); m.Claim != discovery.ClaimMeta || len(m.Services) != 1 || m.Endpoints[0].Services == nil {
			t.Fatalf("%+v", m)
		}
		after(time.Minute)
		s.want("echo", 0, 1, 2)
		twoServices(s.consul)
		s.consul.set("echo", "grpc", 2, 9)
		s.consul.mu.Lock()
		s.consul.down = false
		s.consul.mu.Unlock()
		after(2 * time.Second)
		s.want("echo", 0, 2, 9)
		if c := s.now("echo"); c.Err != "" || !c.StaleSince.IsZero() {
			t.Fatalf("%+v", c)
		}
	})
}

// Endpoints on disk that lack the tag that is asked for now are not served.
func TestColdStartHeedsANewTag(t *testing.T) {
	dir := saved(t, func(f *fakeConsul) {
		f.set("echo", "grpc", 1, 2)
		f.change(func() { e := f.services["echo"][1].Service; e.Tags = append(e.Tags, "blue") })
	})
	tell(t, func(s *story) {
		s.consul.kill()
		s.start(Options{Dir: dir, Services: []Service{{Name: "echo", Tag: "blue"}}})
		s.want("echo", 0, 2)
	})
}

// After a start from disk, a Consul that comes up empty is not believed at once either.
func TestColdStartThenEmptyConsul(t *testing.T) {
	dir := saved(t, twoServices)
	tell(t, func(s *story) {
		s.consul.kill()
		s.start(Options{Dir: dir})
		s.want("echo", 0, 1, 2)
		s.consul.mu.Lock()
		s.consul.down = false
		s.consul.mu.Unlock()
		after(2 * time.Second)
		s.want("echo", 2, 1, 2)
		after(time.Minute)
		s.wantGone("echo")
		s.wantGone("meta")
	})
}

// When Consul answers at the start, only its word is emitted, and once; what it no longer names is not held, however much.
func TestReachableConsulOutranksTheDisk(t *testing.T) {
	dir := saved(t, func(f *fakeConsul) {
		twoServices(f)
		f.set("echo", "grpc", 1, 2, 3, 4)
	})
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 7)
		s.consul.set("new", "grpc", 8)
		s.start(Options{Dir: dir})
		after(2 * time.Second)
		s.want("echo", 0, 7)
		s.want("new", 0, 8)
		s.wantGone("meta")
		if s.emitted() != 1 {
			t.Fatalf("%d emits", s.emitted())
		}
	})
}

// When Consul hangs at the start, the disk's word comes after a second.
func TestHangingConsulGivesWayToTheDisk(t *testing.T) {
	dir := saved(t, twoServices)
	tell(t, func(s *story) {
		s.consul.trouble = func(string) int { return hang }
		s.start(Options{Dir: dir})
		after(900 * time.Millisecond)
		if s.emitted() != 0 {
			t.Fatal("too early")
		}
		after(200 * time.Millisecond)
		s.want("echo", 0, 1, 2)
	})
}

// A service that fails at the start delays the first emit of the others by nothing.
func TestFailingServiceDelaysNobody(t *testing.T) {
	tell(t, func(s *story) {
		twoServices(s.consul)
		s.consul.trouble = func(path string) int {
			if strings.HasSuffix(path, "/echo") {
				return 500
			}
			return 0
		}
		s.start(Options{})
		s.want("meta", 0, 3)
		s.want("echo", 0)
		if s.now("echo").Err == "" {
			t.Fatal("it does not say what is wrong")
		}
	})
}

// When one service hangs at the start, it comes from disk and the others from Consul.
func TestHangingServiceComesFromDisk(t *testing.T) {
	dir := saved(t, twoServices)
	tell(t, func(s *story) {
		twoServices(s.consul)
		s.consul.set("echo", "grpc", 1, 2, 3)
		s.consul.set("meta", "grpc", 4)
		s.consul.trouble = func(path string) int {
			if strings.HasSuffix(path, "/echo") {
				return hang
			}
			return 0
		}
		s.start(Options{Dir: dir})
		after(1100 * time.Millisecond)
		s.want("echo", 0, 1, 2)
		s.want("meta", 0, 4)
		if !strings.HasPrefix(s.now("echo").Err, "from disk") || s.now("meta").Err != "" {
			t.Fatalf("%q %q", s.now("echo").Err, s.now("meta").Err)
		}
	})
}

// Without a file and without Consul nothing is emitted: nothing is known.
func TestColdStartWithNothing(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.kill()
		s.start(Options{Dir: filepath.Join(t.TempDir(), "not", "there", "yet")})
		after(time.Minute)
		if s.emitted() != 0 {
			t.Fatal("emitted")
		}
		s.consul.mu.Lock()
		s.consul.down = false
		s.consul.services["echo"] = []*api.ServiceEntry{instance("echo", "grpc", 1)}
		s.consul.mu.Unlock()
		after(3 * time.Second)
		s.want("echo", 0, 1)
	})
}

// A file that is damaged, foreign or from another time is told of, ignored, and replaced.
func TestUnusableFilesAreIgnored(t *testing.T) {
	dir := saved(t, twoServices)
	good, err := os.ReadFile(filepath.Join(dir, "consul.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ content, says string }{
		"a flipped byte":  {strings.Replace(string(good), "10.0.0.1:2", "10.0.0.7:2", 1), "checksum"},
		"cut short":       {string(good[:len(good)/2]), "no saved discovery state"},
		"empty":           {"", "no saved discovery state"},
		"something else":  {`{"hello": "world"}`, "format"},
		"a later version": {strings.Replace(string(good), `"version":1`, `"version":2`, 1), "version is 2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "consul.json")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			tell(t, func(s *story) {
				s.consul.kill()
				s.start(Options{Dir: dir})
				after(10 * time.Second)
				if s.emitted() != 0 || !s.logged(c.says) {
					t.Fatalf("%d emits; log %s", s.emitted(), s.log.String())
				}
				s.consul.mu.Lock()
				s.consul.down = false
				s.consul.services["echo"] = []*api.ServiceEntry{instance("echo", "grpc", 1)}
				s.consul.mu.Unlock()
				after(3 * time.Second)
				s.want("echo", 0, 1)
			})
			if now, err := os.ReadFile(path); err != nil || !bytes.Contains(now, []byte(storeFormat)) || bytes.Equal(now, []byte(c.content)) {
				t.Fatalf("it was not replaced: %s %v", now, err)
			}
		})
	}
	t.Run("another datacenter's", func(t *testing.T) {
		tell(t, func(s *story) {
			s.consul.kill()
			s.start(Options{Dir: dir, Name: "consul", Datacenter: "dc2"})
			after(10 * time.Second)
			if s.emitted() != 0 || !s.logged("another source") {
				t.Fatalf("%d emits; log %s", s.emitted(), s.log.String())
			}
		})
	})
}

// A burst of changes is saved once; its last state is what is on disk, also when the program ends at once.
func TestBurstsAreSavedOnceAndTheLastStateAlways(t *testing.T) {
	dir := t.TempDir()
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 1)
		s.start(Options{Dir: dir})
		after(time.Second)
		s.consul.set("echo", "grpc", 1, 2)
		after(10 * time.Millisecond)
		s.consul.set("echo", "grpc", 1, 2, 3)
		after(10 * time.Millisecond)
		if clusters, _, err := s.source.store.load(); err != nil || len(clusters[0].Endpoints) != 1 {
			t.Fatalf("in the middle of the burst: %v %v", clusters, err)
		}
		after(time.Second)
		if clusters, _, err := s.source.store.load(); err != nil || len(clusters[0].Endpoints) != 3 {
			t.Fatalf("after the burst: %v %v", clusters, err)
		}
		s.consul.set("echo", "grpc", 1, 2, 3, 4)
		after(10 * time.Millisecond)
		s.stop()
		clusters, _, err := s.source.store.load()
		if err != nil || len(clusters) != 1 || len(clusters[0].Endpoints) != 4 {
			t.Fatalf("%v %v", clusters, err)
		}
	})
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Fatalf("left behind: %v", files)
	}
}

// Whatever is in the file, loading it does not crash, and what it yields can be used and saved again.
func FuzzStoreDecode(f *testing.F) {
	st := newStore(Options{Name: "consul", Dir: "/nowhere"})
	good, err := st.encode([]*discovery.Cluster{{Name: "echo", WantReflection: true, Endpoints: []discovery.Endpoint{
		{Address: "10.0.0.1:1", Weight: 1, Tags: []string{"<grpc>"}, Meta: map[string]string{"grpc-services": "a.B"}},
	}}}, time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add([]byte(`{"origin":{"source":"consul"},"savedAt":"2026-01-01T00:00:00Z","clusters":[{"name":"a","endpoints":[{"address":"b:1","weight":1}]}]}`), true)
	f.Add([]byte(`{}`), false)
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign { // past the checksum
			data = envelop(data)
		}
		clusters, at, err := st.decode(data)
		if err != nil {
			return
		}
		again, err := st.encode(clusters, at)
		if err != nil {
			t.Fatal(err)
		}
		clusters2, at2, err := st.decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if third, err := st.encode(clusters2, at2); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%v\n%s\n%s", err, again, third)
		}
		for _, c := range clusters {
			for i, e := range c.Endpoints {
				if e.Weight == 0 || i > 0 && c.Endpoints[i-1].Address >= e.Address {
					t.Fatalf("%+v", c.Endpoints)
				}
			}
		}
	})
}
