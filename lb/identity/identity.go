// Package identity owns proving who makes a call: finding its token, key or certificate, fetching and watching the keys that judge
// them, and remembering what was judged; it must not decide what a caller may do, nor judge anything inside of a shard.
//
// A call asks Prove, inside of its shard. What was judged before is found by its SHA-256 and answers at once; the rest is judged in a
// goroutine, which calls back. A proof that was found good holds until its token expires or a key is gone from its issuer's set; one that
// was found bad for a moment, so that a client that repeats it costs little.
package identity

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/methods"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Proof is what a call's metadata and certificate prove. Immutable: calls share it.
type Proof struct {
	Principal *authn.Principal // nil: nobody is named
	Refused   *authn.Refusal   // a proof was shown that is not good
	Set       [][2]string      // request metadata that tells endpoints who calls
	Remove    []string         // request metadata that is not for endpoints
}

// Authenticator proves who makes calls. Its methods may be called at the same time.
type Authenticator struct {
	required, anonymous methods.Set
	adminToo            bool // required names the admin API. set once in New
	protected           []string
	identityField       string         // "": endpoints are not told
	missing, noBearer   *authn.Refusal // noBearer: what was sent in authorization is no token
	certificates        bool           // any listener asks for them. set once in New
	known               string

	groups  []*group // one for each metadata field that holds tokens
	keepers []*keeper
	apiKeys *apiKeys // nil: none are taken
	nobody  *Proof   // for who shows nothing

	waiting atomic.Int64  // calls whose then is still to be called
	judging chan struct{} // holds one for each goroutine that may verify now

	stop    context.CancelFunc
	mu      sync.Mutex
	closed  bool           // guarded by mu
	running sync.WaitGroup // Add under mu, and not when closed
}

// maxWaiting bounds calls that wait for their proof to be judged.
const maxWaiting = 8192

// New begins to fetch and watch the keys that a names; it does not wait for an issuer. a has its defaults, and nil proves nothing but
// certificates; certificates tells whether any listener asks for those. An error is a file that cannot be used, named by its configuration
// key. Close it.
func New(a *configv1.Authentication, certificates bool, log *slog.Logger) (*Authenticator, error) {
	ctx, stop := context.WithCancel(context.Background())
	n := &Authenticator{
		nobody: &Proof{}, stop: stop, certificates: certificates, identityField: strings.ToLower(a.GetIdentityMetadata()),
		judging: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), // the rest is for calls that are known
	}
	if err := n.build(ctx, a, log); err != nil {
		stop()
		return nil, err
	}
	for _, k := range n.keepers {
		n.start(func() { k.run(ctx) })
	}
	if n.apiKeys != nil {
		n.start(func() { n.apiKeys.run(ctx) })
	}
	return n, nil
}

// Check reads the files that a names as New does, and nothing more: what is wrong with them, in the order of their keys. a has its defaults.
func Check(a *configv1.Authentication) (wrong []error) {
	log := slog.New(slog.DiscardHandler)
	for i, p := range a.GetJwt() {
		if _, err := newKeeper(p, fmt.Sprintf("authentication.jwt[%d]", i), log); err != nil {
			wrong = append(wrong, err)
		}
	}
	if k := a.GetApiKeys(); k != nil {
		if _, err := newAPIKeys(k, "", log); err != nil {
			wrong = append(wrong, err)
		}
	}
	return wrong
}

func (a *Authenticator) build(ctx context.Context, cfg *configv1.Authentication, log *slog.Logger) error {
	var err error
	if a.required, err = methods.Compile(cfg.GetRequired()); err != nil {
		return fmt.Errorf("authentication.required: %w", err)
	}
	if a.anonymous, err = methods.Compile(cfg.GetAnonymous()); err != nil {
		return fmt.Errorf("authentication.anonymous: %w", err)
	}
	for i, p := range cfg.GetJwt() {
		k, err := newKeeper(p, fmt.Sprintf("authentication.jwt[%d]", i), log)
		if err != nil {
			return err
		}
		a.keepers = append(a.keepers, k)
		a.group(ctx, strings.ToLower(p.GetMetadata())).add(k)
	}
	if k := cfg.GetApiKeys(); k != nil {
		if a.apiKeys, err = newAPIKeys(k, a.identityField, log); err != nil {
			return err
		}
	}
	a.protected = protected(cfg)
	how := a.how(cfg)
	a.missing = authn.Missing(how)
	a.noBearer = authn.Missing("what was sent as authorization is no bearer token, for it does not begin with Bearer; " + how)
	a.known = a.kinds()
	a.adminToo = slices.ContainsFunc(cfg.GetRequired(), func(pattern string) bool { return strings.HasPrefix(pattern, adminPackage) })
	return nil
}

// group is the one that looks at that field.
func (a *Authenticator) group(ctx context.Context, field string) *group {
	i := slices.IndexFunc(a.groups, func(g *group) bool { return g.field == field })
	if i < 0 {
		i = len(a.groups)
		a.groups = append(a.groups, newGroup(ctx, a, field))
	}
	return a.groups[i]
}

func protected(cfg *configv1.Authentication) []string {
	var names []string
	add := func(name string) {
		if name != "" {
			names = append(names, strings.ToLower(name))
		}
	}
	for _, n := range cfg.GetProtectedMetadata() {
		add(n)
	}
	for _, p := range cfg.GetJwt() {
		for _, c := range p.GetClaimsToMetadata() {
			add(c.GetMetadata())
		}
	}
	add(cfg.GetIdentityMetadata())
	slices.Sort(names)
	return slices.Compact(names)
}

// how says what a caller can do who has proved nothing.
func (a *Authenticator) how(cfg *configv1.Authentication) string {
	var ways []string
	for _, p := range cfg.GetJwt() {
		ways = append(ways, fmt.Sprintf("send a token of %s as the metadata %s: Bearer <token>", p.GetIssuer(), strings.ToLower(p.GetMetadata())))
	}
	if a.apiKeys != nil {
		ways = append(ways, "send a key as the metadata "+a.apiKeys.field)
	}
	if a.certificates {
		ways = append(ways, "show a client certificate")
	}
	switch {
	case len(ways) == 0:
		return "no way to do so is configured here, ask whoever runs this balancer"
	case len(ways) > 4:
		ways = append(ways[:3], "show another proof that is configured here")
	}
	return strings.Join(ways, ", or ")
}

// kinds are the kinds of proofs that are taken.
func (a *Authenticator) kinds() string {
	var kinds []string
	if len(a.keepers) > 0 {
		kinds = append(kinds, "a token")
	}
	if a.apiKeys != nil {
		kinds = append(kinds, "a key")
	}
	if a.certificates {
		kinds = append(kinds, "a client certificate")
	}
	if n := len(kinds); n > 2 {
		kinds = []string{kinds[0] + ", " + kinds[1], kinds[2]}
	}
	return strings.Join(kinds, " or ")
}

// Required tells that calls of method ("pkg.Service/Method") must have proved who makes them.
func (a *Authenticator) Required(method string) bool {
	return a.required.Match(method) && !a.anonymous.Match(method) && (a.adminToo || !strings.HasPrefix(method, adminPackage))
}

// adminPackage has the admin API: its address asks for proofs of its own (admin.tokenFile, admin.tls), so that "*" does not mean it.
const adminPackage = "trunkline.admin."

// Missing is the refusal of a call whose method is Required and whose Proof has no Principal. It says how to prove oneself. field is Prove's; nil:
// not known.
func (a *Authenticator) Missing(field func(name string) string) *authn.Refusal {
	const authorization = "authorization"
	if field != nil && field(authorization) != "" && slices.ContainsFunc(a.groups, func(g *group) bool { return g.field == authorization }) {
		return a.noBearer
	}
	return a.missing
}

// Known is by what callers are known here: "a token, a key or a client certificate"; "" if by nothing.
func (a *Authenticator) Known() string { return a.known }

// Protected are the names of request metadata that clients may not set, in lower case, sorted: those of protectedMetadata, and what
// proofs set.
func (a *Authenticator) Protected() []string { return a.protected }

// Adopt takes over the keys of those of old's providers that are fetched from the same places, as far as there are none yet: so a reload
// while an issuer is away refuses nobody. Call it before the first Prove.
func (a *Authenticator) Adopt(old *Authenticator) {
	if old == nil {
		return
	}
	for _, k := range a.keepers {
		for _, was := range old.keepers {
			if k.place == was.place && k.adopt(was.state.Load()) {
				break
			}
		}
	}
}

// Status is how the keys of each provider are, in the configuration's order, for people.
func (a *Authenticator) Status() []Status {
	out := make([]Status, len(a.keepers))
	for i, k := range a.keepers {
		out[i] = k.status()
	}
	return out
}

// Status is how a provider's keys are.
type Status struct {
	Provider string
	Source   string    // a file, or an address without secrets
	Keys     int       // 0: none yet, and tokens are refused
	Since    time.Time // when these keys were read first; zero: none yet
	Problem  string    // why the last attempt to read them failed; "" if it did not
}

// Close ends fetching and watching, and returns when every call that asked before has its answer. Prove goes on with the last keys.
func (a *Authenticator) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.stop()
	a.running.Wait()
}

// start runs f in a goroutine that Close waits for, unless it was called already.
func (a *Authenticator) start(f func()) {
	a.mu.Lock()
	wait := !a.closed
	if wait {
		a.running.Add(1)
	}
	a.mu.Unlock()
	go func() {
		if wait {
			defer a.running.Done()
		}
		f()
	}()
}
