package gate

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/trunkline/trunkline/lb/certs"
	"github.com/trunkline/trunkline/lb/extauthz"
	"github.com/trunkline/trunkline/lb/identity"
	"github.com/trunkline/trunkline/policy/authz"
	"github.com/trunkline/trunkline/policy/methods"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"google.golang.org/protobuf/proto"
)

// Gate is what one configuration asks of calls. Its methods may be called at the same time.
type Gate struct {
	authentication *configv1.Authentication        // set once in Next
	external       *configv1.ExternalAuthorization // set once in Next
	certificates   bool                            // any listener asks for them. set once in Next
	who            *part[*identity.Authenticator]  // set once in Next
	rules          *authz.Policy                   // nil: none. set once in Next
	service        *part[*extauthz.Client]         // nil: none. set once in Next
	always         map[string]bool                 // names of the deny rules without a condition. set once in Next
	asked, except  methods.Set                     // of the service. set once in Next
	protected      []string                        // set once in Next
	hidden         map[string]bool                 // protected, for rules and the service. set once in Next
	hide           func(name string) bool          // hides, made once. set once in Next
	waits          sync.Pool                       // of *wait

	holders atomic.Int64  // calls that wait for an answer, and one until Close; at 0 it is over. atomic
	gone    chan struct{} // closed when holders is 0
	closed  atomic.Bool   // atomic
}

// New makes the gate of a configuration that has its defaults. Nil, and no error, if the configuration asks nothing of calls. Close it.
func New(cfg *configv1.Config, log *slog.Logger) (*Gate, error) { return (*Gate)(nil).Next(cfg, log) }

// Next is New at a reload: what the new configuration has in common with that of g (nil: none) is shared, with the keys and proofs that it
// knows and its connections. Both are to be closed, in any order.
func (g *Gate) Next(cfg *configv1.Config, log *slog.Logger) (*Gate, error) {
	a, z, x := cfg.GetAuthentication(), cfg.GetAuthorization(), cfg.GetExternalAuthorization()
	if a == nil && x == nil && len(z.GetRules()) == 0 && z.GetDefault() != "deny" {
		return nil, nil //nolint:nilnil // said above
	}
	n := &Gate{authentication: a, external: x, certificates: TakesCertificates(cfg), always: map[string]bool{}, gone: make(chan struct{}), hidden: map[string]bool{"x-forwarded-client-cert": true}}
	n.hide = n.hides
	n.waits.New = func() any { return newWait() }
	n.holders.Store(1)
	if err := n.build(g, z, log); err != nil {
		n.Close()
		return nil, err
	}
	n.protected = n.who.value.Protected()
	for _, name := range n.protected {
		n.hidden[name] = true
	}
	return n, nil
}

func (g *Gate) build(old *Gate, z *configv1.Authorization, log *slog.Logger) (err error) {
	if g.rules, err = Policy(z); err != nil {
		return err
	}
	for _, r := range z.GetRules() {
		if r.GetAction() == "deny" && strings.TrimSpace(r.GetWhen()) == "" {
			g.always[r.GetName()] = true
		}
	}
	if x := g.external; x != nil {
		if g.asked, err = methods.Compile(x.GetMethods()); err != nil {
			return fmt.Errorf("externalAuthorization.methods: %w", err)
		}
		if g.except, err = methods.Compile(x.GetExcept()); err != nil {
			return fmt.Errorf("externalAuthorization.except: %w", err)
		}
		if old != nil && proto.Equal(x, old.external) {
			g.service = old.service.keep()
		}
		if g.service == nil {
			if g.service, err = newService(x, log); err != nil {
				return err
			}
		}
	}
	if old != nil && g.certificates == old.certificates && proto.Equal(g.authentication, old.authentication) {
		g.who = old.who.keep()
	}
	if g.who != nil {
		return nil
	}
	who, err := identity.New(g.authentication, g.certificates, log)
	if err != nil {
		return err
	}
	if old != nil {
		who.Adopt(old.who.value)
	}
	g.who = newPart(who, who.Close)
	return nil
}

// Policy compiles the rules of a configuration; nil if there are none and the default is to allow.
func Policy(z *configv1.Authorization) (*authz.Policy, error) {
	if len(z.GetRules()) == 0 && z.GetDefault() != "deny" {
		return nil, nil //nolint:nilnil // said above
	}
	rules := make([]authz.Rule, 0, len(z.GetRules()))
	for _, r := range z.GetRules() {
		rules = append(rules, authz.Rule{Name: r.GetName(), Methods: r.GetMethods(), When: r.GetWhen(), Deny: r.GetAction() == "deny",
			Shadow: r.GetShadow(), Message: strings.TrimSpace(r.GetMessage())})
	}
	p, err := authz.Compile(rules, z.GetDefault() == "deny")
	if err != nil {
		return nil, fmt.Errorf("authorization.rules: %w", err)
	}
	return p, nil
}

func newService(x *configv1.ExternalAuthorization, log *slog.Logger) (*part[*extauthz.Client], error) {
	o := extauthz.Options{Address: x.GetAddress(), Timeout: x.GetTimeout().AsDuration(), FailOpen: x.GetFailOpen(), Metadata: x.GetMetadata(), Log: log}
	forget := func() {}
	if x.GetTls() != nil {
		tls, err := certs.NewClient(certs.ClientOptions{TLS: x.GetTls(), Path: "externalAuthorization.tls", Log: log})
		if err != nil {
			return nil, err
		}
		forget = tls.Close
		o.Credentials = extauthz.Credentials(tls, o.Address)
	}
	c, err := extauthz.New(o)
	if err != nil {
		forget()
		return nil, err
	}
	return newPart(c, func() {
		c.Close()
		forget()
	}), nil
}

// Close returns when the calls that wait have their answers, each within the time that its proof and the service may take, and lets go of what no
// other gate shares. It must not be called inside a shard, nor before each shard has another gate and has left the last Check of this one.
func (g *Gate) Close() {
	if g == nil {
		return
	}
	if g.closed.CompareAndSwap(false, true) {
		g.release()
		<-g.gone
		g.service.drop()
		g.who.drop()
	}
	<-g.gone
}

// hold enters one more call that waits, unless all have left for good. Without a lock: Check is called inside a shard.
func (g *Gate) hold() bool {
	for n := g.holders.Load(); n > 0; n = g.holders.Load() {
		if g.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (g *Gate) release() {
	if g.holders.Add(-1) == 0 {
		close(g.gone)
	}
}

// Protected are the names of request metadata that clients may not set, in lower case, beside x-forwarded-client-cert and x-trunkline-*.
func (g *Gate) Protected() []string {
	if g == nil {
		return nil
	}
	return g.protected
}

// Identity is who judges proofs, for status pages; nil without a gate.
func (g *Gate) Identity() *identity.Authenticator {
	if g == nil {
		return nil
	}
	return g.who.value
}

// External counts the questions to the external service; false: there is none.
func (g *Gate) External() (extauthz.Stats, bool) {
	if g == nil || g.service == nil {
		return extauthz.Stats{}, false
	}
	return g.service.value.Stats(), true
}
