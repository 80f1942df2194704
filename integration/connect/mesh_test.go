// Package connect owns the proofs that Trunkline is a member of Consul's service mesh, against a real Consul: certificates,
// authorities that rotate, intentions. It must not use Trunkline's own code for the other members.
package connect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// mesh is a Consul whose intentions let nobody call anybody, but for what the test says.
type mesh struct {
	*harness.Consul
	t *testing.T
}

func startMesh(t *testing.T, more ...string) *mesh {
	t.Helper()
	m := &mesh{harness.StartConsul(t, more...), t}
	harness.Eventually(t, 30*time.Second, "Consul's certificate authority", func() bool {
		_, err := m.roots()
		return err == nil
	})
	m.intend("*", map[string]api.IntentionAction{"*": api.IntentionActionDeny})
	return m
}

// intend says who may call a service.
func (m *mesh) intend(destination string, sources map[string]api.IntentionAction) {
	m.t.Helper()
	entry := &api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: destination}
	for name, action := range sources {
		entry.Sources = append(entry.Sources, &api.SourceIntention{Name: name, Action: action})
	}
	m.write(entry)
}

func (m *mesh) write(entry api.ConfigEntry) {
	m.t.Helper()
	harness.Eventually(m.t, 20*time.Second, "Consul to take "+entry.GetKind()+" "+entry.GetName(), func() bool {
		ok, _, err := m.API.ConfigEntries().Set(entry, nil) // a new Consul takes none yet
		return err == nil && ok
	})
}

// roots are the authorities as any member asks for them.
func (m *mesh) roots() (*x509.CertPool, error) {
	list, _, err := m.API.Agent().ConnectCARoots(nil)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, r := range list.Roots {
		pool.AppendCertsFromPEM([]byte(r.RootCertPEM))
	}
	if len(list.Roots) == 0 {
		return nil, errors.New("no authority yet")
	}
	return pool, nil
}

// activeRoot is the id of the authority that signs now.
func (m *mesh) activeRoot() string {
	m.t.Helper()
	list, _, err := m.API.Agent().ConnectCARoots(nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return list.ActiveRootID
}

// leaf is a service's certificate, as its instance asks its agent for it.
func (m *mesh) leaf(service string) (*tls.Certificate, error) {
	made, _, err := m.API.Agent().ConnectCALeaf(service, nil)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(made.CertPEM), []byte(made.PrivateKeyPEM))
	return &pair, err
}

// spiffe is the id in a certificate.
func spiffe(c *x509.Certificate) string {
	if len(c.URIs) == 0 {
		return ""
	}
	return c.URIs[0].String()
}

// verify checks a chain against the mesh's authorities of this moment, and that it is the service's, "" for any.
func (m *mesh) verify(chain []*x509.Certificate, service string) error {
	if len(chain) == 0 {
		return errors.New("no certificate")
	}
	roots, err := m.roots()
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return err
	}
	if service != "" && !strings.HasSuffix(spiffe(chain[0]), "/svc/"+service) {
		return fmt.Errorf("the certificate is %s's, not %s's", spiffe(chain[0]), service)
	}
	return nil
}

// member is how an instance of a service takes part: as a client of the service callee, or as a server (callee is ""). It asks the
// agent at each handshake.
func (m *mesh) member(service, callee string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // certificates of the mesh bear no host names: VerifyConnection judges them
		ClientAuth:             tls.RequireAnyClientCert,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.leaf(service) },
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.leaf(service) },
		VerifyConnection:       func(s tls.ConnectionState) error { return m.verify(s.PeerCertificates, callee) },
	}
}

// native is a grpc-go server that is native to the mesh, and who called it.
type native struct {
	*harness.Backend
	mu      sync.Mutex
	callers []string // SPIFFE ids, each once
}

// startNative starts an instance of a service and registers it.
func (m *mesh) startNative(service, name string) *native {
	m.t.Helper()
	n := &native{}
	saw := func(ctx context.Context) {
		p, _ := peer.FromContext(ctx)
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		if !ok {
			m.t.Error("a call without TLS")
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if id := spiffe(info.State.PeerCertificates[0]); !slices.Contains(n.callers, id) {
			n.callers = append(n.callers, id)
		}
	}
	config := m.member(service, "")
	config.VerifyConnection = func(s tls.ConnectionState) error { // as a native service must, it asks for itself who may call
		if err := m.verify(s.PeerCertificates, ""); err != nil {
			return err
		}
		said, err := m.API.Agent().ConnectAuthorize(&api.AgentAuthorizeParams{Target: service, ClientCertURI: spiffe(s.PeerCertificates[0]), ClientCertSerial: "01"})
		if err == nil && !said.Authorized {
			err = errors.New(said.Reason)
		}
		return err
	}
	n.Backend = harness.StartBackend(m.t, name, grpc.Creds(credentials.NewTLS(config)),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			saw(ctx)
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			saw(s.Context())
			return next(srv, s)
		}))
	m.Register(m.t, service, n.Backend, func(r *api.AgentServiceRegistration) {
		r.Connect = &api.AgentServiceConnect{Native: true}
		r.Check = &api.AgentServiceCheck{TCP: n.Addr, Interval: "1s", Timeout: "1s", Status: api.HealthPassing}
	})
	return n
}

// seen is who called.
func (n *native) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.callers)
}

// dial connects a stock grpc-go client that is a service of the mesh to the service callee at the address.
func (m *mesh) dial(service, callee, address string) *grpc.ClientConn {
	m.t.Helper()
	return harness.Dial(m.t, address, grpc.WithTransportCredentials(credentials.NewTLS(m.member(service, callee))))
}

// rotate gives the mesh another authority.
func (m *mesh) rotate() {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	now, _, err := m.API.Connect().CAGetConfig(nil)
	if err != nil {
		m.t.Fatal(err)
	}
	before := m.activeRoot()
	now.Config["PrivateKey"] = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	now.State = nil
	if _, err := m.API.Connect().CASetConfig(now, nil); err != nil {
		m.t.Fatalf("rotate the authority: %v", err)
	}
	harness.Eventually(m.t, 20*time.Second, "the agent to name another active authority", func() bool { return m.activeRoot() != before })
}

// shake makes one handshake and returns what either side said.
func shake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		if err := s.Handshake(); err != nil {
			done <- err
			return
		}
		_, err = s.Write([]byte("x")) // with TLS 1.3 the client knows only now
		done <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := tls.Client(conn, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	conn.Close()
	return clientErr, <-done
}
