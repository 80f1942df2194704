package connect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	entryFor    = 2 * time.Second // a destination's intentions serve all who ask for so long
	fallbackFor = time.Minute     // as the word on what no permission matches; only the agent's restart changes it
)

// destination is what Consul's configuration says of the calls to one service: its entry service-intentions. The endpoint
// /v1/connect/intentions/match says the same, but api.Intention leaves out that a token is asked for.
type destination struct {
	turn  chan struct{}         // held while it is asked for, so that all who want it wait for one question. set once
	asked time.Time             // guarded by turn; when it was asked for last
	last  atomic.Pointer[entry] // atomic; nil: never read
	err   error                 // guarded by turn; of the last question
}

// entry is as Consul has it. Immutable.
type entry struct {
	Sources []source
	JWT     *api.IntentionJWTRequirement
}

// source is an intention. Immutable.
type source struct {
	Name, Namespace, Partition, Peer, SamenessGroup, Type string

	Precedence  int
	Action      api.IntentionAction
	Permissions []json.RawMessage
}

// fallback is what becomes of a call that no permission matches. Immutable.
type fallback struct {
	allowed bool
	why     string // its end of a sentence
	asked   time.Time
}

// errEntry says that what failed was a question about the destination, not about the pair.
var errEntry = errors.New("its intentions cannot be read")

// read gives the destination's intentions, those of a moment ago unless anew. With an error it gives those that were read last, if any were.
func (d *destination) read(ctx context.Context, client *api.Client, name string, anew bool) (*entry, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit/2) // then those that were read last may serve
	defer cancel()
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return d.last.Load(), ctx.Err()
	}
	if !anew && time.Since(d.asked) < entryFor {
		return d.last.Load(), d.err
	}
	var e entry
	_, err := client.Raw().Query("/v1/config/"+api.ServiceIntentions+"/"+name, &e, (&api.QueryOptions{}).WithContext(ctx))
	var code api.StatusError
	if errors.As(err, &code) && code.Code == http.StatusNotFound {
		e, err = entry{}, nil
	}
	if d.asked = time.Now(); err != nil {
		d.err = fmt.Errorf("%w: %w", errEntry, err)
		return d.last.Load(), d.err
	}
	slices.SortStableFunc(e.Sources, func(a, b source) int { return cmp.Compare(b.Precedence, a.Precedence) })
	d.last.Store(&e)
	d.err = nil
	return &e, nil
}

// choose is the intention that applies to the caller, nil if none does. The error says why that cannot be told.
func (e *entry) choose(caller *id) (*source, error) {
	for i := range e.Sources {
		s := &e.Sources[i]
		switch {
		case s.Name != "*" && s.Name != caller.service:
		case s.Peer != "": // whose services are of another trust domain, and so was refused who is one of them
		case s.SamenessGroup != "":
			return nil, fmt.Errorf("that of the sameness group %q may come before all others, and cannot be judged here", s.SamenessGroup)
		case s.Type != "" && s.Type != string(api.IntentionSourceConsul):
			return nil, fmt.Errorf("that for sources of the type %q cannot be judged here", s.Type)
		case cmp.Or(s.Partition, "default") != caller.partition:
		case s.Namespace != "*" && cmp.Or(s.Namespace, "default") != caller.namespace:
		default:
			return s, nil
		}
	}
	return nil, nil
}

// destination is the one of that name: there are as many as configurations have named.
func (i *Identity) destination(name string) *destination {
	n := &i.intentions
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.destinations[name]
	if d == nil {
		d = &destination{turn: make(chan struct{}, 1)}
		n.destinations[strings.Clone(name)] = d
	}
	return d
}

// errChanged: the two answers do not fit. Usually the intention changed between them.
var errChanged = errors.New("what the agent says of the pair is not what the destination's intentions say")

// look puts what the destination's intentions say beside the agent's word, which knows neither permissions nor tokens.
func (i *Identity) look(ctx context.Context, a *answer, said *api.AgentAuthorize) (*verdict, error) {
	layer7 := strings.HasPrefix(said.Reason, "Matched L7")
	a.layer7.Store(layer7)
	if !layer7 && (!said.Authorized || !strings.HasPrefix(said.Reason, "Matched L4")) {
		return a.judge(said), nil
	}
	d := i.destination(a.target)
	for _, anew := range []bool{false, true} {
		e, err := d.read(ctx, i.client, a.target, anew)
		if err != nil && (layer7 || e == nil) {
			return nil, err
		}
		s, err := e.choose(&a.caller)
		switch {
		case err != nil:
			return a.refuse(said, err.Error()), nil
		case s == nil && !layer7:
			return a.judge(said), nil // it is the intention of all destinations
		case s == nil || layer7 != (len(s.Permissions) > 0) || !layer7 && s.Action != api.IntentionActionAllow:
			continue
		case e.JWT != nil && len(e.JWT.Providers) > 0:
			return a.refuse(said, "it asks for a JWT, which cannot be judged here: take that out, and give Trunkline authentication of its own"), nil
		case !layer7:
			return a.judge(said), nil
		}
		return a.permit(s.Permissions, said, i.fallback(ctx)), nil
	}
	return nil, fmt.Errorf("%w: %w", errEntry, errChanged)
}

// refuse is the verdict on all calls of a pair, though the agent's was another or none.
func (a *answer) refuse(said *api.AgentAuthorize, why string) *verdict {
	return newVerdict(false, true, fmt.Sprintf("Consul's intentions do not let %q call %q: %s: %s", a.caller.service, a.target, said.Reason, why))
}

// permit is the verdict by permissions. Those that are as before are not compiled again.
func (a *answer) permit(list []json.RawMessage, said *api.AgentAuthorize, f fallback) *verdict {
	_, of, _ := strings.Cut(said.Reason, ": ")
	v := a.verdict.Load()
	if v != nil && v.permissions != nil && v.permissions.of == of && v.permissions.fallback.same(f) && slices.EqualFunc(v.raw, list, slices.Equal[json.RawMessage]) {
		return v
	}
	p := compile(list, fmt.Sprintf("%q call %q", a.caller.service, a.target), of, f)
	return &verdict{answer: p.judge, asked: true, permissions: p, raw: list}
}

func (f fallback) same(g fallback) bool { return f.allowed == g.allowed && f.why == g.why }

// fallback asks what becomes of a call that no permission matches: what the agent's Envoys do, which is in no answer but this one.
func (i *Identity) fallback(ctx context.Context) fallback {
	last := i.intentions.fallback.Load()
	if last != nil && time.Since(last.asked) < fallbackFor {
		return *last
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit/2) // without it the permissions hold all the same
	defer cancel()
	var self struct {
		DebugConfig struct {
			DefaultIntentionPolicy string
			ACLResolverSettings    struct{ ACLDefaultPolicy string }
		}
	}
	_, err := i.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
	var code api.StatusError
	denied := errors.As(err, &code) && code.Code == http.StatusForbidden
	f := fallback{asked: time.Now()}
	switch policy := cmp.Or(self.DebugConfig.DefaultIntentionPolicy, self.DebugConfig.ACLResolverSettings.ACLDefaultPolicy); {
	case denied:
		f.why = "whether Consul allows or denies by default is not known: Trunkline's ACL token needs agent:read to learn it, or the intention a last permission that matches all the rest"
	case err != nil && last != nil:
		return *last
	case err != nil:
		return fallback{why: "whether Consul allows or denies by default is not known: its agent cannot be asked; try again later"}
	case policy == "allow":
		f.allowed, f.why = true, "no permission matches, and Consul's default is to allow"
	case policy == "deny":
		f.why = "Consul's default is to deny; ask for a permission that allows it"
	default:
		f.why = "whether Consul allows or denies by default is not known: its agent does not say; give the intention a last permission that matches all the rest"
	}
	i.intentions.fallback.Store(&f)
	return f
}
