package identity

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
)

// Prove says who makes the call with these request header fields (field: "" for none, of several all with commas between; borrowed) on a
// connection with that peer. Every proof that is shown must be good: the first of a token, a key and the certificate names the caller. Nil: then
// is called later, once, from another goroutine. It does not block.
func (a *Authenticator) Prove(field func(name string) string, peer *authn.Peer, now time.Time, then func(*Proof)) *Proof {
	var shown *Proof
	for _, g := range a.groups {
		text, ok := g.token(field(g.field))
		if !ok {
			continue
		}
		p := g.known(text, now)
		if p == nil {
			return a.later(field, now, then)
		}
		shown = both(shown, p)
	}
	if a.apiKeys != nil {
		if p := a.apiKeys.prove(field(a.apiKeys.field)); p != nil {
			shown = both(shown, p)
		}
	}
	if shown != nil {
		return shown
	}
	if peer != nil && peer.Verified {
		return a.certificate(peer)
	}
	return a.nobody
}

// later has the tokens judged that are not known. It is only for calls that show one.
func (a *Authenticator) later(field func(name string) string, now time.Time, then func(*Proof)) *Proof {
	if a.waiting.Add(1) > maxWaiting {
		a.waiting.Add(-1)
		return &Proof{Refused: &authn.Refusal{Status: grpc.ResourceExhausted, Reason: "TOKENS_WAITING",
			Message: "too many calls wait for their tokens to be verified: call again in a moment"}}
	}
	texts := make([]string, len(a.groups))
	proofs := make([]*Proof, len(a.groups)+1)
	var left atomic.Int64
	for i, g := range a.groups {
		if text, ok := g.token(field(g.field)); ok {
			texts[i] = strings.Clone(text)
			left.Add(1)
		}
	}
	if a.apiKeys != nil {
		proofs[len(a.groups)] = a.apiKeys.prove(field(a.apiKeys.field))
	}
	for i, g := range a.groups {
		if texts[i] == "" {
			continue
		}
		g.judge(texts[i], now, func(p *Proof) {
			proofs[i] = p
			if left.Add(-1) > 0 {
				return
			}
			a.waiting.Add(-1)
			var shown *Proof
			for _, p := range proofs {
				if p != nil {
					shown = both(shown, p)
				}
			}
			then(shown)
		})
	}
	return nil
}

// both is what two proofs prove together: that of the first, and the refusal of either.
func both(first, second *Proof) *Proof {
	switch {
	case first == nil || first.Refused == nil && second.Refused != nil:
		return second
	case first.Refused != nil:
		return first
	}
	return &Proof{Principal: first.Principal, Set: merge(second.Set, first.Set), Remove: append(second.Remove[:len(second.Remove):len(second.Remove)], first.Remove...)}
}

// merge is a, without what b sets too, and b.
func merge(a, b [][2]string) [][2]string {
	var out [][2]string
	for _, f := range a {
		replaced := false
		for _, g := range b {
			replaced = replaced || f[0] == g[0]
		}
		if !replaced {
			out = append(out, f)
		}
	}
	return append(out, b...)
}

// certificate makes one allocation.
func (a *Authenticator) certificate(peer *authn.Peer) *Proof {
	p := &struct {
		proof     Proof
		principal authn.Principal
		set       [1][2]string
	}{principal: authn.Principal{Kind: "certificate", Name: peer.Name()}}
	p.proof.Principal = &p.principal
	if a.identityField != "" && authn.ValidValue(p.principal.Name) {
		p.set[0] = [2]string{a.identityField, p.principal.Name}
		p.proof.Set = p.set[:]
	}
	return &p.proof
}
