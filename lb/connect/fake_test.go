package connect

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "11111111-2222-3333-4444-555555555555.consul"

// spiffe is a service's id in the story's mesh.
func spiffe(service string) string { return "spiffe://" + domain + "/ns/default/dc/dc1/svc/" + service }

const (
	leafPath      = "/v1/agent/connect/ca/leaf/trunkline"
	rootsPath     = "/v1/agent/connect/ca/roots"
	authorizePath = "/v1/agent/connect/authorize"
	entryPath     = "/v1/config/service-intentions/trunkline"
	selfPath      = "/v1/agent/self"
	hang          = -1
)

// authority is a CA of the tests.
type authority struct {
	id   string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t testing.TB, id string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(100), Subject: pkix.Name{CommonName: id}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{id, key, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// leaf is a certificate for the id, "" for none, good for the time.
func (a *authority) leaf(t testing.TB, serial int64, spiffe string, life time.Duration) *api.LeafCert {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if spiffe != "" {
		u, err := url.Parse(spiffe)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &api.LeafCert{
		CertPEM:       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		PrivateKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})),
	}
}

// fakeAgent is Consul's agent in memory, reached over pipes so that it lives inside a synctest bubble.
type fakeAgent struct {
	mu        sync.Mutex
	index     uint64
	leaf      *api.LeafCert
	roots     *api.CARootList
	allow     map[string]string // "target source's id" -> the reason, with "+" before it for yes; else no
	texts     map[string]string // by path: JSON; for others as for the services' intentions there is nothing
	changed   chan struct{}     // closed at each change
	trouble   map[string]int    // by path: an HTTP status, or hang
	denial    string            // what it says of such a status
	asked     map[string]int    // by path
	indexes   map[string][]string
	inFlight  int // questions about intentions
	mostAsked int // at once
	down      bool
	conns     []net.Conn
	accept    chan net.Conn
	release   chan struct{} // closed to let go of what hangs
	gone      chan struct{} // closed when nobody accepts any more
}

// story is one test's world.
type story struct {
	*testing.T
	agent     *fakeAgent
	authority *authority
	identity  *Identity
	sent      Field // the metadata of the calls that are asked about; nil: of any

	mu  sync.Mutex
	log bytes.Buffer
}

// tell runs a story in virtual time, with an agent that knows the service trunkline.
func tell(t *testing.T, script func(s *story)) {
	synctest.Test(t, func(t *testing.T) {
		s := &story{T: t, authority: newAuthority(t, "one")}
		s.agent = &fakeAgent{
			index: 10, leaf: s.authority.leaf(t, 1, spiffe("trunkline"), 72*time.Hour), roots: rootList(s.authority), allow: map[string]string{}, texts: map[string]string{},
			changed: make(chan struct{}), trouble: map[string]int{}, asked: map[string]int{}, indexes: map[string][]string{},
			accept: make(chan net.Conn), release: make(chan struct{}), gone: make(chan struct{}),
		}
		server := &http.Server{Handler: s.agent}
		served := make(chan struct{})
		go func() { server.Serve(pipeListener{s.agent.accept, make(chan struct{})}); close(served) }()
		defer func() {
			if s.identity != nil {
				s.identity.Close()
			}
			close(s.agent.release)
			server.Close()
			<-served
			close(s.agent.gone)
		}()
		script(s)
	})
}

func rootList(authorities ...*authority) *api.CARootList {
	list := &api.CARootList{TrustDomain: domain, ActiveRootID: authorities[0].id}
	for i, a := range authorities {
		list.Roots = append(list.Roots, &api.CARoot{ID: a.id, RootCertPEM: a.pem, Active: i == 0})
	}
	return list
}

// start makes the Identity.
func (s *story) start() *Identity {
	transport := &http.Transport{DialContext: s.agent.dial, DisableKeepAlives: true}
	client, err := api.NewClient(&api.Config{Address: "127.0.0.1:8500", Transport: transport})
	if err != nil {
		s.Fatal(err)
	}
	s.identity = New(Options{Client: client, Service: "trunkline", Log: slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.log.Write(p)
	}), nil))})
	return s.identity
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// after lets d pass, and then everybody come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// logged is how many lines of the log hold text.
func (s *story) logged(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
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

func (f *fakeAgent) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	f.mu.Lock()
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
	case <-f.gone: // nobody accepts any more, and a request that began as late as this is not cancelled
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// kill drops all connections and refuses new ones; revive takes them again.
func (f *fakeAgent) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

func (f *fakeAgent) revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = false
}

// change edits the state under the lock and wakes the blocking queries.
func (f *fakeAgent) change(edit func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	edit()
	close(f.changed)
	f.changed = make(chan struct{})
}

// count is how many questions came so far.
func (f *fakeAgent) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[path]
}

func (f *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var params api.AgentAuthorizeParams
	if r.URL.Path == authorizePath {
		if r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&params) != nil {
			http.Error(w, "bad question", http.StatusBadRequest)
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[r.URL.Path]++
	f.indexes[r.URL.Path] = append(f.indexes[r.URL.Path], r.URL.Query().Get("index"))
	if r.URL.Path == authorizePath {
		f.inFlight++
		f.mostAsked = max(f.mostAsked, f.inFlight)
		defer func() { f.inFlight-- }()
	}
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	index, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	for f.trouble[r.URL.Path] == 0 && index > 0 && index >= f.index && wait > 0 {
		changed := f.changed
		f.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
			wait = 0
		case <-r.Context().Done():
		}
		timer.Stop()
		f.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
	switch code := f.trouble[r.URL.Path]; {
	case code == hang:
		f.mu.Unlock()
		select {
		case <-r.Context().Done():
		case <-f.release:
		}
		f.mu.Lock()
		return
	case code != 0:
		http.Error(w, cmp.Or(f.denial, "Permission denied or worse"), code)
		return
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(f.index, 10))
	var out any
	switch r.URL.Path {
	case leafPath:
		out = f.leaf
	case rootsPath:
		out = f.roots
	case authorizePath:
		reason, yes := strings.CutPrefix(f.allow[params.Target+" "+params.ClientCertURI], "+")
		if reason == "" {
			reason = "Matched L4 intention: default/* => default/* (Precedence: 5, Action: DENY)"
		}
		out = &api.AgentAuthorize{Authorized: yes, Reason: reason}
	default:
		text := f.texts[r.URL.Path]
		if text == "" {
			http.NotFound(w, r)
			return
		}
		out = json.RawMessage(text)
	}
	json.NewEncoder(w).Encode(out)
}
