package lb

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/acme"
	"github.com/trunkline/trunkline/lb/certs"
	"github.com/trunkline/trunkline/lb/connect"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/lb/listener"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// edge is what stands between clients, Trunkline and endpoints in one configuration: certificates, identities, rules. What a new
// configuration leaves as it is, is taken over from the old edge. Immutable, but for what its parts do by themselves.
type edge struct {
	cfg      *configv1.Config
	gate     *gate.Gate           // nil: nothing is asked
	payloads *payloads            // nil: no rules
	mesh     *mesh                // nil: none
	doors    []*door              // by listener; nil where connections pass at once
	dials    map[string]*dialling // by cluster, those with TLS
}

// mesh is the process's place in Consul's.
type mesh struct {
	*connect.Identity
	service   string
	closeIdle func()
}

// door is a listener's, with what it is made of.
type door struct {
	listener.Door
	from  *configv1.Listener
	mesh  *mesh
	certs *certs.Server
	acme  *acme.Manager
}

// dialling is TLS towards the endpoints of one cluster.
type dialling struct {
	from  *configv1.UpstreamTLS
	mesh  *mesh
	certs *certs.Client
}

// payloads are the rules on messages, and who uses them: streams outlive the configuration that they began with.
type payloads struct {
	*inspect.Inspector
	rules []*configv1.PayloadRule
	users sync.WaitGroup
}

// newEdge makes the edge of cfg, which has its defaults, with what old has of it (nil: none). After an error nothing is left open.
func (s *Server) newEdge(cfg *configv1.Config, old *edge) (_ *edge, err error) {
	e := &edge{cfg: cfg, dials: map[string]*dialling{}}
	if old == nil {
		old = &edge{cfg: &configv1.Config{}}
	}
	defer func() {
		if err != nil {
			e.closeBut(old)
		}
	}()
	if e.mesh, err = s.newMesh(cfg, old); err != nil {
		return nil, err
	}
	if e.gate, err = old.gate.Next(cfg, s.log); err != nil {
		return nil, err
	}
	if e.payloads, err = s.newPayloads(cfg, old); err != nil {
		return nil, err
	}
	for i, l := range cfg.GetListeners() {
		var d *door
		if i < len(old.doors) && old.doors[i] != nil && proto.Equal(old.doors[i].from, l) && old.doors[i].mesh == e.mesh {
			d = old.doors[i]
		} else if d, err = s.newDoor(i, l, e.mesh); err != nil {
			return nil, err
		}
		e.doors = append(e.doors, d)
	}
	for i, c := range cfg.GetClusters() {
		if c.GetTls() != nil {
			if err = s.addDialling(e, old, c.GetName(), c.GetTls(), nil, fmt.Sprintf("clusters[%d].tls", i)); err != nil {
				return nil, err
			}
		}
	}
	for i, c := range cfg.GetDiscovery().GetConsul().GetServices() {
		if c.GetConnect() && e.mesh != nil {
			if err = s.addDialling(e, old, c.GetName(), nil, e.mesh, fmt.Sprintf("discovery.consul.services[%d].connect", i)); err != nil {
				return nil, err
			}
		}
	}
	return e, nil
}

func (s *Server) newMesh(cfg *configv1.Config, old *edge) (*mesh, error) {
	c := cfg.GetDiscovery().GetConsul()
	if c.GetConnect() == nil {
		return nil, nil
	}
	if old.mesh != nil && proto.Equal(agentOf(old.cfg.GetDiscovery().GetConsul()), agentOf(c)) {
		return old.mesh, nil
	}
	var client *api.Client
	client, closeIdle, err := consul.NewClient(consulOptions(c, s.log))
	if err != nil {
		return nil, fmt.Errorf("discovery.consul.connect: %w", err)
	}
	service := c.GetConnect().GetService()
	return &mesh{Identity: connect.New(connect.Options{Client: client, Service: service, Log: s.log}), service: service, closeIdle: closeIdle}, nil
}

// agentOf is what of a configuration says which agent is asked, and as whom: another mesh identity begins without a certificate.
func agentOf(c *configv1.Consul) *configv1.Consul {
	return &configv1.Consul{Address: c.GetAddress(), Datacenter: c.GetDatacenter(), Namespace: c.GetNamespace(), Token: c.GetToken(), TokenFile: c.GetTokenFile(),
		Tls: c.GetTls(), Connect: &configv1.ConsulConnect{Service: c.GetConnect().GetService()}}
}

// ready says whether what handshakes need is there. It stays so.
func (e *edge) ready() bool {
	if e.mesh == nil {
		return true
	}
	select {
	case <-e.mesh.Ready():
		return true
	default:
		return false
	}
}

// newPayloads takes the old rules over unless their files have changed, too. A bad file is a bad configuration: what is in force stays so.
func (s *Server) newPayloads(cfg *configv1.Config, old *edge) (*payloads, error) {
	if old.payloads != nil && proto.Equal(&configv1.Config{Payload: old.payloads.rules}, &configv1.Config{Payload: cfg.GetPayload()}) {
		file := old.payloads.Changed()
		if file == "" {
			return old.payloads, nil
		}
		s.log.Info("a file of the payload rules has changed and is read again", "file", file)
	}
	i, err := inspect.New(cfg, s.log)
	if i == nil || err != nil {
		return nil, err
	}
	return &payloads{Inspector: i, rules: cfg.GetPayload()}, nil
}

// newDoor is nil for a listener whose connections pass at once.
func (s *Server) newDoor(i int, l *configv1.Listener, m *mesh) (_ *door, err error) {
	if l.GetTls() == nil && l.GetProxyProtocol() == nil {
		return nil, nil
	}
	d := &door{from: l, mesh: m}
	for _, t := range l.GetProxyProtocol().GetTrusted() {
		p, err := network(t)
		if err != nil {
			return nil, fmt.Errorf("listeners[%d].proxyProtocol.trusted: %w", i, err)
		}
		d.Trusted = append(d.Trusted, p)
	}
	d.ProxyOptional = l.GetProxyProtocol().GetOptional()
	t := l.GetTls()
	if t == nil {
		return d, nil
	}
	d.Plaintext = t.GetPlaintext()
	path := fmt.Sprintf("listeners[%d].tls", i)
	o := certs.ServerOptions{TLS: t, Path: path, Log: s.log}
	if a := t.GetAcme(); a != nil {
		if d.acme, err = acme.New(s.ctx, acme.Options{Acme: a, Path: path + ".acme", Log: s.log}); err != nil {
			return nil, err
		}
		o.ACME = d.acme
	}
	if t.GetConnect() {
		if t.GetClientCaFile() != "" {
			// That authority could vouch for names of the mesh.
			return nil, fmt.Errorf("%s.connect: stands beside clientCaFile, whose clients are not the mesh's: give these a listener of their own", path)
		}
		if m == nil {
			return nil, fmt.Errorf("%s.connect: needs discovery.consul.connect", path)
		}
		o.Connect, o.Roots = m, m
	}
	if d.certs, err = certs.NewServer(o); err != nil {
		d.close()
		return nil, err
	}
	d.TLS = d.certs
	if t.GetConnect() {
		d.TLS = meshed{d.certs}
		d.Bare = &authn.Peer{Mesh: true} // no intention allows who shows no certificate
	}
	return d, nil
}

// meshed is the TLS of a listener in the mesh: intentions are asked about its clients.
type meshed struct{ *certs.Server }

// Peer implements listener.TLS.
func (m meshed) Peer(cs *tls.ConnectionState) *authn.Peer {
	p := *m.Server.Peer(cs)
	p.Mesh = true
	return &p
}

// network reads an address or a prefix.
func network(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (d *door) close() {
	if d.certs != nil {
		d.certs.Close()
	}
	if d.acme != nil {
		d.acme.Close()
	}
}

func (s *Server) addDialling(e, old *edge, cluster string, t *configv1.UpstreamTLS, m *mesh, path string) error {
	if d := old.dials[cluster]; d != nil && d.mesh == m && proto.Equal(d.from, t) {
		e.dials[cluster] = d
		return nil
	}
	o := certs.ClientOptions{TLS: t, Path: path, Log: s.log}
	if m != nil {
		o.Connect = &certs.ClientConnect{Certificate: m.Certificate, Roots: m.ClientCAs, Match: m.Match(cluster)}
	}
	c, err := certs.NewClient(o)
	if err != nil {
		return err
	}
	e.dials[cluster] = &dialling{from: t, mesh: m, certs: c}
	return nil
}

// closeBut closes what next does not use, too. It waits for answers that are on their way, and for streams whose messages are still
// to be looked at: call it in a goroutine while streams live, outside of the shards, and when they have left e.
func (e *edge) closeBut(next *edge) {
	for _, d := range e.doors {
		if d != nil && !slices.Contains(next.doors, d) {
			d.close()
		}
	}
	for cluster, d := range e.dials {
		if next.dials[cluster] != d {
			d.certs.Close()
		}
	}
	if e.gate != nil {
		e.gate.Close() // shares by itself
	}
	if m := e.mesh; m != nil && next.mesh != m {
		m.Close()
		m.closeIdle()
	}
	if p := e.payloads; p != nil && next.payloads != p {
		p.users.Wait()
		p.Close()
	}
}

// use puts e in force for new connections; generations bring it to calls. s.mu is held. What the old edge had is closed when the
// shards have left it.
func (s *Server) use(e *edge) {
	old := s.edge.Swap(e)
	if m := e.mesh; m != nil && (old == nil || old.mesh != m) {
		s.closing.Go(func() {
			select {
			case <-m.Ready():
				s.mu.Lock()
				s.becomeReady()
				s.mu.Unlock()
			case <-s.ctx.Done():
			}
		})
	}
	for i, d := range e.doors {
		for len(s.doors) <= i {
			s.doors = append(s.doors, new(atomic.Pointer[listener.Door]))
		}
		if d == nil {
			s.doors[i].Store(nil)
		} else {
			s.doors[i].Store(&d.Door)
		}
	}
	if old == nil || old == e {
		return
	}
	s.closing.Go(func() {
		for _, sh := range s.shards {
			sh.Lock()
			_ = sh.ID // whoever asked the old gate has left the shard
			sh.Unlock()
		}
		old.closeBut(e)
	})
}

// discard closes an edge that did not come in force.
func (s *Server) discard(e, inForce *edge) { s.closing.Go(func() { e.closeBut(inForce) }) }

// gateOf is what the calls of a generation are asked.
func (e *edge) gateOf() (ask func(string) forward.Gate, protected map[string]bool) {
	if e.gate == nil {
		return nil, nil
	}
	protected = map[string]bool{}
	for _, name := range e.gate.Protected() {
		protected[name] = true
	}
	return func(method string) forward.Gate {
		if r := e.gate.For(method); r != nil {
			return r
		}
		return nil
	}, protected
}

// meshOf is what Consul's mesh says of calls to a cluster.
func (e *edge) meshOf() func(cluster string) forward.Mesh {
	if e.mesh == nil {
		return nil
	}
	m, clusters := e.mesh, e.cfg.GetDiscovery().GetConsul().GetConnect().GetCheckDestinations()
	return func(cluster string) forward.Mesh {
		if !clusters || cluster == builtinName {
			return func(spiffe, serial string, then func(forward.Leave)) forward.Leave {
				return m.Authorize(m.service, spiffe, serial, then)
			}
		}
		return func(spiffe, serial string, then func(forward.Leave)) forward.Leave {
			// next asks about the cluster, too, but only for whom own does not refuse every call.
			next := func(own forward.Leave) forward.Leave {
				if allowed, _ := own(nil); !allowed {
					return own
				}
				other := m.Authorize(cluster, spiffe, serial, func(other forward.Leave) { then(both(own, other)) })
				if other == nil {
					return nil
				}
				return both(own, other)
			}
			own := m.Authorize(m.service, spiffe, serial, func(own forward.Leave) {
				if leave := next(own); leave != nil {
					then(leave)
				}
			})
			if own == nil {
				return nil
			}
			return next(own)
		}
	}
}

// both is the leave of two who are asked in their order.
func both(first, second forward.Leave) forward.Leave {
	return func(field func(string) (string, bool)) (bool, string) {
		if allowed, why := first(field); !allowed {
			return false, why
		}
		return second(field)
	}
}

// authorizeAdmin asks the gate about a call of the admin API.
func (s *Server) authorizeAdmin(reply http.Header, r *http.Request, method string, peer *authn.Peer) *authn.Refusal {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	if strings.HasPrefix(method, "grpc.reflection.") {
		method = "trunkline.admin.v1.AdminService/ServerReflectionInfo" // that of the admin API, not of what is balanced
	}
	v := s.edge.Load().gate.CheckHTTP(method, r.Header, peer, address, time.Now())
	if v == nil {
		return nil
	}
	v.Tell(reply)
	if v.Refused {
		return &v.Refusal
	}
	return nil
}
