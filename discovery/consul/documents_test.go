package consul

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// shelf is a Documents at work in a story, and what it emitted.
type shelf struct {
	*story
	documents *Documents

	mu    sync.Mutex
	emits []map[string]Document
}

// read starts a Documents against the story's Consul.
func (s *story) read(o Options) *shelf {
	s.Helper()
	o.Address, o.DialContext = "127.0.0.1:8500", s.consul.dial
	o.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.log.Write(p)
	}), nil))
	d, err := NewDocuments(o, DocumentsPrefix)
	if err != nil {
		s.Fatal(err)
	}
	h := &shelf{story: s, documents: d}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- d.Run(ctx, func(m map[string]Document) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.emits = append(h.emits, m)
		})
	}()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("Run: %v", err)
		}
	}
	return h
}

// put stores a value under the prefix; "-" deletes it.
func (f *fakeConsul) put(key, value string) {
	f.change(func() {
		if value == "-" {
			delete(f.kv, key)
			return
		}
		f.kv[key] = &api.KVPair{Key: key, Value: []byte(value), ModifyIndex: f.index}
	})
}

func (h *shelf) emitted() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.emits)
}

// want checks the latest documents, as "cluster document=value", and the number of emits.
func (h *shelf) want(emits int, documents ...string) {
	h.Helper()
	after(0)
	h.mu.Lock()
	defer h.mu.Unlock()
	var got []string
	if len(h.emits) > 0 {
		for key, d := range h.emits[len(h.emits)-1] {
			cluster, document, ok := SplitKey(DocumentsPrefix, key)
			if key != d.Key || !ok || d.Index == 0 {
				h.Errorf("%q: %+v", key, d)
			}
			got = append(got, cluster+" "+document+"="+string(d.Value))
		}
	}
	slices.Sort(got)
	if len(h.emits) != emits || !slices.Equal(got, documents) {
		h.Fatalf("after %d emits: %q, want %d: %q", len(h.emits), got, emits, documents)
	}
}

const echoKey = DocumentsPrefix + "echo/" + LiveDocument

// What is under the prefix is emitted at once, and again at once whenever it changes; what is beside it is not.
func TestDocumentsAreSeenAtOnce(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.put(echoKey, "{}")
		s.consul.put("trunkline/clustersother", "x")
		s.consul.put(DocumentsPrefix, "") // a folder of the UI's
		s.consul.put(DocumentsPrefix+"echo/", "")
		h := s.read(Options{})
		h.want(1, "echo service-config={}")
		after(10 * time.Second)
		s.consul.put(DocumentsPrefix+"team/cart/"+ShadowDocument, "[]")
		h.want(2, "echo service-config={}", "team/cart service-config-shadow=[]")
		after(10 * time.Second)
		s.consul.put(echoKey, `{"a": 1}`)
		h.want(3, `echo service-config={"a": 1}`, "team/cart service-config-shadow=[]")
		after(10 * time.Second)
		s.consul.put(echoKey, "-")
		h.want(4, "team/cart service-config-shadow=[]")
		if r := h.documents.Report(); r.Name != "consul/kv" || r.Err != "" || r.Clusters != 1 || r.Index == 0 || r.LastSuccess.IsZero() {
			t.Errorf("report: %+v", r)
		}
	})
}

// That there are no documents is an answer, and told: who waits for policies may go on.
func TestNoDocumentsAreAnAnswerToo(t *testing.T) {
	tell(t, func(s *story) {
		h := s.read(Options{})
		h.want(1)
		s.consul.put(echoKey, "{}")
		h.want(2, "echo service-config={}")
		s.consul.put(echoKey, "-")
		h.want(3)
	})
}

// Changes elsewhere in Consul, and the end of each wait, emit nothing; nor does a value stored once more as another
// modification go unseen.
func TestNoNewsOfDocumentsIsNotEmitted(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.put(echoKey, "{}")
		h := s.read(Options{Wait: 10 * time.Second})
		h.want(1, "echo service-config={}")
		for range 5 {
			s.consul.change(func() {})
			after(time.Second)
		}
		after(time.Minute)
		h.want(1, "echo service-config={}")
		s.consul.put(echoKey, "{}")
		h.want(2, "echo service-config={}")
	})
}

// While Consul fails, in whatever way, nothing is emitted and the report says so; afterwards what changed meanwhile is.
func TestWhileConsulFailsTheDocumentsHoldOn(t *testing.T) {
	filtered := func(f *fakeConsul, on bool) { f.filtered = on }
	status := func(code int) func(*fakeConsul, bool) {
		return func(f *fakeConsul, on bool) {
			f.trouble = nil
			if on {
				f.trouble = func(string) int { return code }
			}
		}
	}
	for name, trouble := range map[string]func(*fakeConsul, bool){
		"500": status(500), "403": status(403), "404 of another server": status(404), "429": status(429), "hang": status(hang), "ACLs": filtered,
		"no leader": func(f *fakeConsul, on bool) { f.noLeader = on },
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *story) {
				s.consul.put(echoKey, "one")
				h := s.read(Options{Wait: 5 * time.Second, Stale: name == "no leader"})
				h.want(1, "echo service-config=one")
				after(time.Second)
				s.consul.change(func() { trouble(s.consul, true) })
				began := time.Now()
				after(time.Minute)
				s.consul.put(echoKey, "two")
				after(time.Minute)
				h.want(1, "echo service-config=one")
				if r := h.documents.Report(); r.Err == "" || r.LastFailure.Before(began) || r.Clusters != 1 {
					t.Errorf("report: %+v", r)
				}
				if !s.logged("documents known so far hold on") {
					t.Error("nothing in the log")
				}
				s.consul.change(func() { trouble(s.consul, false) })
				after(15 * time.Second)
				h.want(2, "echo service-config=two")
				if r := h.documents.Report(); r.Err != "" {
					t.Errorf("report: %+v", r)
				}
			})
		})
	}
}

// A Consul that is not there at the start emits nothing, not even emptiness, until it answers.
func TestWithoutConsulAtTheStartNothingIsEmitted(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.put(echoKey, "{}")
		s.consul.kill()
		h := s.read(Options{})
		after(10 * time.Minute)
		h.want(0)
		if n := s.consul.dialled(); n > 2000 || n < 100 {
			t.Errorf("%d dials in ten minutes", n)
		}
		s.consul.mu.Lock()
		s.consul.down = false
		s.consul.mu.Unlock()
		after(2 * time.Second)
		h.want(1, "echo service-config={}")
	})
}

// When Consul's index goes backwards, as after a restore, the watch starts anew and sees changes at once again.
func TestDocumentsStartAnewWhenTheIndexGoesBackwards(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.put(echoKey, "one")
		h := s.read(Options{Wait: 10 * time.Second})
		h.want(1, "echo service-config=one")
		s.consul.mu.Lock()
		s.consul.index = 3 // nobody is woken
		s.consul.mu.Unlock()
		s.consul.put(echoKey, "two")
		after(15 * time.Second)
		h.want(2, "echo service-config=two")
		s.consul.mu.Lock()
		if got := s.consul.indexes["/v1/kv/"+DocumentsPrefix]; !slices.Equal(got, []string{"", "101", "", "4"}) {
			t.Errorf("it asked with the indexes %q", got)
		}
		s.consul.mu.Unlock()
		s.consul.put(echoKey, "three")
		h.want(3, "echo service-config=three")
	})
}

// Documents that change all the time are asked for a bounded number of times, and the latest arrives.
func TestTheRateOfDocumentsIsBounded(t *testing.T) {
	tell(t, func(s *story) {
		h := s.read(Options{})
		h.want(1)
		for i := range 1000 { // ten seconds of it
			s.consul.put(echoKey, strings.Repeat("x", i+1))
			time.Sleep(10 * time.Millisecond)
		}
		if n := s.consul.count("/v1/kv/" + DocumentsPrefix); n > 60 {
			t.Errorf("%d questions in ten seconds", n)
		}
		after(time.Second)
		h.want(h.emitted(), "echo service-config="+strings.Repeat("x", 1000))
	})
}

// The token comes from its file, again when that changes, and the namespace and the datacenter are asked as the options say.
func TestDocumentsAreAskedForWithTokenAndPlace(t *testing.T) {
	tell(t, func(s *story) {
		file := filepath.Join(t.TempDir(), "token")
		write := func(token string) {
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("old")
		s.consul.token = "secret"
		s.consul.put(echoKey, "{}")
		h := s.read(Options{TokenFile: file, Datacenter: "east", Namespace: "team", Partition: "p"})
		after(10 * time.Second)
		h.want(0)
		write("secret")
		after(5 * time.Second)
		h.want(1, "echo service-config={}")
		s.consul.mu.Lock()
		q := maps.Clone(s.consul.query)
		s.consul.mu.Unlock()
		if q["dc"][0] != "east" || q["ns"][0] != "team" || q["partition"][0] != "p" {
			t.Errorf("asked with %v", q)
		}
		if h.documents.Name() != "consul/east/kv" {
			t.Error(h.documents.Name())
		}
	})
}

func TestAPrefixEndsWithASlash(t *testing.T) {
	for _, prefix := range []string{"", "/", "/trunkline/", "trunkline"} {
		if _, err := NewDocuments(Options{Address: "127.0.0.1:8500"}, prefix); err == nil {
			t.Errorf("%q is taken", prefix)
		}
	}
	for key, want := range map[string][2]string{
		"trunkline/clusters/echo/service-config": {"echo", "service-config"},
		"trunkline/clusters/a/b/service-config":  {"a/b", "service-config"},
		"trunkline/clusters/service-config":      {},
		"trunkline/clusters//service-config":     {},
		"trunkline/clusters/echo/":               {},
		"trunkline/echo/service-config":          {},
	} {
		cluster, document, ok := SplitKey(DocumentsPrefix, key)
		if cluster != want[0] || document != want[1] || ok != (want[0] != "") {
			t.Errorf("%q: %q, %q, %v", key, cluster, document, ok)
		}
	}
}

// A server that answers every question with a 404, which from Consul would mean that there is no document, is not believed.
func TestAnotherServersNotFoundIsNoAnswer(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.trouble = func(string) int { return http.StatusNotFound }
		h := s.read(Options{})
		after(time.Minute)
		h.want(0)
	})
}
