package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

// Options say who the process is in the mesh.
type Options struct {
	Client  *api.Client // asks the agent; the owner closes its idle connections after Close
	Service string      // the service that this process is
	Log     *slog.Logger
}

// Identity is what the agent says of one service. All methods may be called from any goroutine.
type Identity struct {
	client  *api.Client        // set once in New
	service string             // set once in New
	log     *slog.Logger       // set once in New
	ctx     context.Context    // of all that it does. set once in New
	cancel  context.CancelFunc // set once in New
	running sync.WaitGroup     // its goroutines, but for questions that hang
	slots   chan struct{}      // one for each question about intentions on its way. set once in New

	leaf  atomic.Pointer[leaf]  // atomic; nil: none yet
	roots atomic.Pointer[roots] // atomic; nil: none yet
	ready chan struct{}         // closed when there are both

	intentions intentions

	mu        sync.Mutex
	troubles  [2]trouble   // guarded by mu; of the watches
	answered  [2]time.Time // guarded by mu; when the watches' last good answers came
	announced bool         // guarded by mu; ready is closed
}

// The watches, as Identity.troubles has them.
const (
	ofLeaf = iota
	ofRoots
)

var watched = [2]string{"the certificate", "the authorities"}

// leaf is one certificate. Immutable.
type leaf struct {
	certificate tls.Certificate
	id          id
	serial      string
}

// roots are the authorities. Immutable.
type roots struct {
	pool   *x509.CertPool
	domain string
	ids    []string // sorted
	active string
}

// trouble is how one watch fares.
type trouble struct {
	err   string    // "": none
	since time.Time // zero: none
}

// Status is how an Identity fares at one moment.
type Status struct {
	Service, TrustDomain string
	SPIFFE               string    // "": no certificate yet
	Serial               string    // hexadecimal
	NotBefore, NotAfter  time.Time // of the certificate
	Roots                []string  // ids of the authorities, as Consul has them
	ActiveRoot           string
	StaleSince           time.Time         // when the agent stopped answering for one of both; zero: it answers
	Err                  string            // what it failed with last, "" while it answers
	Leaf                 *x509.Certificate // nil: no certificate yet
	LeafAt, RootsAt      time.Time         // when the agent gave a good certificate and good authorities last, new or as before; zero: never
	LeafErr              string            // as Err, of the certificate only
	LeafErrSince         time.Time
	Intentions           int // pairs of services that are kept
	IntentionsFailing    int // those among them that the agent gave no answer to when it was asked last
}

// New begins to watch. It returns at once: see Ready.
func New(o Options) *Identity {
	i := &Identity{client: o.Client, service: o.Service, log: o.Log, ready: make(chan struct{}), slots: make(chan struct{}, maxInFlight)}
	if i.log == nil {
		i.log = slog.New(slog.DiscardHandler)
	}
	i.log = i.log.With("service", o.Service)
	i.intentions.answers, i.intentions.destinations = map[question]*answer{}, map[string]*destination{}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	agent := o.Client.Agent()
	i.running.Go(func() {
		watch(i, ofLeaf, func(q *api.QueryOptions) (*api.LeafCert, *api.QueryMeta, error) {
			return agent.ConnectCALeaf(o.Service, q)
		}, i.takeLeaf)
	})
	i.running.Go(func() { watch(i, ofRoots, agent.ConnectCARoots, i.takeRoots) })
	return i
}

// Close ends the watches; callbacks that wait are answered with a refusal before it returns. What is known stays known. It must
// not be called where a callback could wait for the caller, as inside a shard.
func (i *Identity) Close() {
	i.close()
	i.cancel()
	i.running.Wait()
}

// Ready is closed when both the certificate and the authorities are there.
func (i *Identity) Ready() <-chan struct{} { return i.ready }

// GetCertificate is for tls.Config. It returns the certificate even if it has expired, so that the client reads that.
func (i *Identity) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l := i.leaf.Load()
	if l == nil {
		return nil, i.absent()
	}
	return &l.certificate, nil
}

// Certificate is the one to show to endpoints. The error says that there is none, or that it has expired.
func (i *Identity) Certificate() (*tls.Certificate, error) {
	l := i.leaf.Load()
	if l == nil {
		return nil, i.absent()
	}
	if end := l.certificate.Leaf.NotAfter; time.Now().After(end) {
		return nil, fmt.Errorf("the mesh's certificate of the service %q expired at %s, and Consul's agent has sent no other%s",
			i.service, end.UTC().Format(time.RFC3339), i.because(ofLeaf))
	}
	return &l.certificate, nil
}

// absent says why there is no certificate yet.
func (i *Identity) absent() error {
	return fmt.Errorf("Consul's agent has given no certificate for the service %q yet%s", i.service, i.because(ofLeaf)) //nolint:staticcheck // a name
}

func (i *Identity) because(watch int) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e := i.troubles[watch].err; e != "" {
		return ": " + e
	}
	return ""
}

// ClientCAs are the mesh's authorities, for clients and for servers; nil before the agent has told. That must not come to crypto/tls or
// crypto/x509, to which it means the system's. The pool is not to be changed; it is another only if the authorities are.
func (i *Identity) ClientCAs() *x509.CertPool {
	if r := i.roots.Load(); r != nil {
		return r.pool
	}
	return nil
}

// TrustDomain is the mesh's, "" before the agent has told.
func (i *Identity) TrustDomain() string {
	if r := i.roots.Load(); r != nil {
		return r.domain
	}
	return ""
}

// Status is for people and metrics.
func (i *Identity) Status() Status {
	s := Status{Service: i.service}
	if l := i.leaf.Load(); l != nil {
		s.SPIFFE, s.Serial, s.NotBefore, s.NotAfter = l.id.text, l.serial, l.certificate.Leaf.NotBefore, l.certificate.Leaf.NotAfter
		s.Leaf = l.certificate.Leaf
	}
	if r := i.roots.Load(); r != nil {
		s.TrustDomain, s.Roots, s.ActiveRoot = r.domain, slices.Clone(r.ids), r.active
	}
	s.Intentions, s.IntentionsFailing = i.intentions.count()
	i.mu.Lock()
	defer i.mu.Unlock()
	s.LeafAt, s.RootsAt = i.answered[ofLeaf], i.answered[ofRoots]
	s.LeafErr, s.LeafErrSince = i.troubles[ofLeaf].err, i.troubles[ofLeaf].since
	for w, t := range i.troubles {
		if t.err != "" && (s.StaleSince.IsZero() || t.since.Before(s.StaleSince)) {
			s.StaleSince, s.Err = t.since, watched[w]+": "+t.err
		}
	}
	return s
}

// takeLeaf puts a certificate in place.
func (i *Identity) takeLeaf(c *api.LeafCert) error {
	pair, err := tls.X509KeyPair([]byte(c.CertPEM), []byte(c.PrivateKeyPEM))
	if err != nil { // its texts do not show the key
		return fmt.Errorf("the agent's certificate cannot be used: %w", err)
	}
	l := &leaf{certificate: pair, serial: hexadecimal(pair.Leaf.SerialNumber)}
	for _, u := range pair.Leaf.URIs {
		if l.id, err = parseID(u.String()); err == nil {
			break
		}
	}
	switch {
	case len(pair.Leaf.URIs) == 0:
		return errors.New("the agent's certificate cannot be used: it names no SPIFFE id")
	case err != nil:
		return fmt.Errorf("the agent's certificate cannot be used: %w", err)
	case l.id.service != i.service:
		return fmt.Errorf("the agent's certificate cannot be used: it is for the service %q, not %q", l.id.service, i.service)
	}
	if was := i.leaf.Swap(l); was == nil || was.serial != l.serial {
		i.log.Info("the mesh's certificate is in place", "spiffe", l.id.text, "serial", l.serial, "not after", pair.Leaf.NotAfter)
	}
	return nil
}

// takeRoots puts the authorities in place. One that cannot be read does not keep the others out.
func (i *Identity) takeRoots(list *api.CARootList) error {
	r := &roots{pool: x509.NewCertPool(), domain: list.TrustDomain, active: list.ActiveRootID}
	for _, root := range list.Roots {
		if root == nil {
			continue
		}
		if !r.pool.AppendCertsFromPEM([]byte(root.RootCertPEM)) {
			i.log.Warn("an authority of the mesh cannot be read; it is not trusted", "id", root.ID, "name", root.Name)
			continue
		}
		r.ids = append(r.ids, root.ID)
	}
	if len(r.ids) == 0 || r.domain == "" {
		return fmt.Errorf("the agent names %d authorities that can be used, and the trust domain %q", len(r.ids), r.domain)
	}
	slices.Sort(r.ids)
	was := i.roots.Load()
	if was != nil && was.pool.Equal(r.pool) {
		r.pool = was.pool // by which others remember what it was found to say
	}
	i.roots.Store(r)
	if was == nil || !slices.Equal(was.ids, r.ids) || was.active != r.active {
		i.log.Info("the mesh's authorities are in place", "trust domain", r.domain, "authorities", len(r.ids), "active", r.active)
	}
	return nil
}

// note keeps how a watch fares, and logs when that changes.
func (i *Identity) note(watch int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	t := &i.troubles[watch]
	if err == nil {
		if t.err != "" {
			i.log.Info("Consul's agent answers again for the mesh", "about", watched[watch])
		}
		*t, i.answered[watch] = trouble{}, time.Now()
		if !i.announced && i.leaf.Load() != nil && i.roots.Load() != nil {
			i.announced = true
			close(i.ready)
		}
		return
	}
	if t.err == "" {
		t.since = time.Now()
		i.log.Warn("Consul's agent does not answer for the mesh; what it said last holds on", "about", watched[watch], "err", err)
	}
	t.err = err.Error()
}
