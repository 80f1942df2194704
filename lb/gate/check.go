package gate

import (
	"strings"
	"sync/atomic"

	"github.com/trunkline/trunkline/lb/extauthz"
	"github.com/trunkline/trunkline/lb/identity"
	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/authz"
)

// Rules are what is asked of one method's calls. They may be used by many shards.
type Rules struct {
	gate     *Gate
	method   string
	required bool             // a proof of who calls
	authz    *authz.Rules     // nil: no rules
	service  *extauthz.Client // nil: not asked
	shadow   bool             // the service's answer is only noted
}

// For is what is asked of calls of a method, "pkg.Service/Method"; nil: nothing, but for Refused. It is for whoever keeps it with the method: it
// takes a microsecond or some.
func (g *Gate) For(method string) *Rules {
	if g == nil {
		return nil
	}
	r := &Rules{gate: g, authz: g.rules.For(method), required: g.who.value.Required(method)}
	if g.service != nil && g.asked.Match(method) && !g.except.Match(method) {
		r.service, r.shadow = g.service.value, g.external.GetShadow()
	}
	// A proof that is shown must be good whatever the method.
	if r.authz == nil && r.service == nil && g.authentication == nil {
		return nil
	}
	r.method = strings.Clone(method)
	return r
}

// Check asks whether a call may be admitted. Nil: then is called later, once, from another goroutine. It never blocks.
func (r *Rules) Check(q *Request, then func(*Verdict)) *Verdict {
	if v := Refused(q.Peer); v != nil {
		return v
	}
	w, _ := r.gate.waits.Get().(*wait)
	w.rules, w.then = r, then
	proof := r.gate.who.value.Prove(q.Field, q.Peer, q.Now, w.proved)
	held := false
	if proof == nil {
		w.q, w.held = r.clone(q), r.gate.hold()
		if !w.second() {
			return nil // w is the other's now
		}
		proof, held = w.proof, w.held // it came while the request was cloned
	}
	w.free()
	v := r.judge(q, proof, then, held)
	if v != nil && held {
		r.gate.release()
	}
	return v
}

// wait is a call whose proof is being judged: two come together on it, Check when it has cloned what is borrowed, and the proof. Who comes
// second goes on.
type wait struct {
	rules  *Rules
	then   func(*Verdict)
	held   bool
	q      *Request
	proof  *identity.Proof
	came   atomic.Int32
	proved func(*identity.Proof) // made once: it is wanted by every call, and called for few
}

func newWait() *wait {
	w := &wait{}
	w.proved = func(p *identity.Proof) {
		w.proof = p
		if !w.second() {
			return
		}
		r, q, then, held := w.rules, w.q, w.then, w.held
		w.free()
		if v := r.judge(q, p, then, held); v != nil {
			then(v)
			if held {
				r.gate.release()
			}
		}
	}
	return w
}

func (w *wait) second() bool { return w.came.Add(1) == 2 }

func (w *wait) free() {
	g := w.rules.gate
	w.rules, w.then, w.q, w.proof, w.held = nil, nil, nil, nil, false
	w.came.Store(0)
	g.waits.Put(w)
}

// judge goes on when it is known who calls; held: the gate is. Nil: then is called later, and the gate is let go after it.
func (r *Rules) judge(q *Request, p *identity.Proof, then func(*Verdict), held bool) *Verdict {
	if p.Refused != nil {
		return refuse(SourceAuthentication, p.Refused)
	}
	if p.Principal == nil && r.required {
		return refuse(SourceAuthentication, r.gate.who.value.Missing(q.Field))
	}
	v := &Verdict{Principal: p.Principal, Set: p.Set, Remove: p.Remove}
	if r.authz != nil {
		d := r.authz.Decide(&authz.Facts{Authority: q.Authority, Address: q.Address, Peer: q.Peer, Principal: p.Principal, Now: q.Now,
			Each: q.Each, Hidden: r.gate.hide})
		v.Notes = d.Notes
		if d.Denied {
			r.deny(v, &d)
			return v
		}
	}
	if r.service == nil {
		return v
	}
	held = held || r.gate.hold()
	r.service.Ask(&extauthz.Question{Method: r.method, Authority: q.Authority, Address: q.Address, Peer: q.Peer, Principal: p.Principal,
		Now: q.Now, Each: r.gate.shown(q.Each), Set: p.Set}, func(x *extauthz.Verdict) {
		r.heard(v, x)
		then(v)
		if held {
			r.gate.release()
		}
	})
	return nil
}

// hides tells of what only Trunkline may set: a client that sends it must not be believed.
func (g *Gate) hides(name string) bool {
	return g.hidden[name] || strings.HasPrefix(name, "x-trunkline-")
}

// shown is each without what is hidden.
func (g *Gate) shown(each func(func(name, value string) bool)) func(func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		if each != nil {
			each(func(name, value string) bool { return g.hides(name) || yield(name, value) })
		}
	}
}

// clone is what later steps want of a request, with nothing borrowed.
func (r *Rules) clone(q *Request) *Request {
	c := &Request{Method: r.method, Authority: strings.Clone(q.Authority), Address: strings.Clone(q.Address), Peer: q.Peer, Now: q.Now}
	if q.Each == nil || r.service == nil && (r.authz == nil || !r.authz.Metadata) {
		return c
	}
	var fields [][2]string
	q.Each(func(name, value string) bool {
		fields = append(fields, [2]string{strings.Clone(name), strings.Clone(value)})
		return true
	})
	c.Each = func(yield func(name, value string) bool) {
		for _, f := range fields {
			if !yield(f[0], f[1]) {
				return
			}
		}
	}
	return c
}

func refuse(by Source, why *authn.Refusal) *Verdict {
	return &Verdict{Refused: true, Source: by, Refusal: *why, Notes: []Note{{Name: by.String(), Text: why.Message, Refused: true}}}
}
