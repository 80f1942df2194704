package identity

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
)

const (
	// badFor is how long a token that is not good is refused without being judged again.
	badFor = 5 * time.Second
	// Bytes that remembered tokens may take, by a rough estimate.
	goodBytes = 64 << 20
	badBytes  = 4 << 20
)

// group judges the tokens in one metadata field, of whichever provider that looks there.
type group struct {
	a         *Authenticator
	ctx       context.Context // ends with the Authenticator's Close
	field     string
	providers []*authn.Provider
	keepers   map[*authn.Provider]*keeper // never written after New

	good, bad *cache

	mu       sync.Mutex
	inflight map[sum][]func(*Proof) // guarded by mu; who waits for the token that is being judged
}

type sum = [sha256.Size]byte

func newGroup(ctx context.Context, a *Authenticator, field string) *group {
	return &group{a: a, ctx: ctx, field: field, keepers: map[*authn.Provider]*keeper{},
		good: newCache(goodBytes), bad: newCache(badBytes), inflight: map[sum][]func(*Proof){}}
}

func (g *group) add(k *keeper) {
	g.providers = append(g.providers, k.provider)
	g.keepers[k.provider] = k
}

// token is what the field's value shows, and whether that is ours to judge: authorization may have other schemes (RFC 9110 section
// 11.4), a field of one's own needs none. It is never empty: no token has a space. Of several fields with a token among them the whole is
// judged, and is no token: nobody knows which of them an endpoint reads.
func (g *group) token(value string) (string, bool) {
	if value == "" {
		return "", false
	}
	if bears(value) {
		if len(value) == len(scheme) {
			return " ", true
		}
		if value[len(scheme)] == ' ' {
			if text := strings.Trim(value[len(scheme):], " "); text != "" {
				return text, true
			}
			return " ", true
		}
	}
	if g.field == "authorization" {
		if i := strings.IndexByte(value, ','); i >= 0 {
			for part := range strings.SplitSeq(value[i+1:], ",") {
				if bears(strings.TrimLeft(part, " ")) {
					return value, true
				}
			}
		}
		return "", false
	}
	return value, true
}

const scheme = "bearer"

// bears says whether a value begins with the scheme of tokens.
func bears(value string) bool {
	return len(value) >= len(scheme) && strings.EqualFold(value[:len(scheme)], scheme)
}

// known is what was found of that token before, nil if that was never, or is not true any more.
func (g *group) known(text string, now time.Time) *Proof {
	if len(text) > authn.MaxToken { // even its digest would take the shard some time
		_, refused := authn.ParseToken(text, g.providers, now)
		return &Proof{Refused: refused}
	}
	key := digest(text)
	at := now.UnixNano()
	if e := g.good.get(&key); e != nil && e.holds(at) {
		return e.proof
	}
	if e := g.bad.get(&key); e != nil && e.holds(at) {
		return e.proof
	}
	return nil
}

// digest stands for a token in what is kept, so that no secret lies about in memory. It does not copy the text: that would be one
// allocation of its length for each call, and half of the time.
func digest(text string) sum {
	return sha256.Sum256(unsafe.Slice(unsafe.StringData(text), len(text))) //nolint:gosec // it is only read
}

// entry is what was found of a token.
type entry struct {
	proof  *Proof
	until  int64   // Unix nanoseconds
	keeper *keeper // nil: no keys were asked
	// The keeper's count of sets that lost a key (for what was good), or of all sets (for what was not).
	generation uint64
	cost       int
}

func (e *entry) holds(now int64) bool {
	if now >= e.until {
		return false
	}
	if e.keeper == nil {
		return true
	}
	s := e.keeper.state.Load()
	if e.proof.Refused == nil {
		return s.losses == e.generation
	}
	return s.changes == e.generation
}

// judge calls then from another goroutine, with those of other calls that show the same token.
func (g *group) judge(text string, now time.Time, then func(*Proof)) {
	key := digest(text)
	g.mu.Lock()
	waiting, busy := g.inflight[key]
	g.inflight[key] = append(waiting, then)
	g.mu.Unlock()
	if busy {
		return
	}
	g.a.start(func() {
		e := g.find(text, now)
		e.cost = 1024 + 4*len(text) // decoded claims are some times larger
		switch {
		case e.until == 0: // not to be remembered
		case e.proof.Refused == nil:
			g.good.put(&key, e)
		default:
			g.bad.put(&key, e)
		}
		g.mu.Lock()
		waiting := g.inflight[key]
		delete(g.inflight, key)
		g.mu.Unlock()
		for _, then := range waiting {
			then(e.proof)
		}
	})
}

// find judges a token; where its provider has no fitting key, with keys that are fetched meanwhile.
func (g *group) find(text string, now time.Time) *entry {
	g.a.judging <- struct{}{}
	token, refused := authn.ParseToken(text, g.providers, now)
	<-g.a.judging
	if refused != nil {
		e := &entry{proof: &Proof{Refused: refused}, until: now.Add(badFor).UnixNano()}
		if refused.Reason == "TOKEN_NOT_YET_VALID" {
			e.until = now.Add(time.Second).UnixNano()
		}
		return e
	}
	k := g.keepers[token.Provider]
	if err := k.first(g.ctx); err != nil {
		return &entry{proof: &Proof{Refused: &authn.Refusal{Status: grpc.Unavailable, Reason: "ISSUER_UNAVAILABLE",
			Message: "the token cannot be verified now, since the keys of provider " + k.provider.Name + " (" + k.provider.Issuer + ") could not be fetched: call again later"}}}
	}
	state := k.state.Load()
	e := g.verify(token, k, state, now)
	// Without a key id every key was tried, and a new one may be missing, too.
	if r := e.proof.Refused; r != nil && (r.Reason == "TOKEN_KEY_UNKNOWN" || token.KeyID == "") {
		k.again(g.ctx)
		if newer := k.state.Load(); newer != state {
			e = g.verify(token, k, newer, now)
		}
	}
	return e
}

func (g *group) verify(token *authn.Token, k *keeper, state *state, now time.Time) *entry {
	g.a.judging <- struct{}{}
	who, refused := token.Judge(state.set)
	<-g.a.judging
	if refused != nil {
		return &entry{proof: &Proof{Refused: refused}, until: now.Add(badFor).UnixNano(), keeper: k, generation: state.changes}
	}
	return &entry{proof: k.proof(who, g.a.identityField), until: token.Until().UnixNano(), keeper: k, generation: state.losses}
}
