package identity

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/lb/files"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

const (
	// least is the time between two fetches, whatever asks for them: tokens with made-up key ids must not become requests.
	least = 5 * time.Second
	// After a failure the next attempt comes sooner than the interval: first after soonest, then twice as long each time up to latest.
	soonest = time.Second
	latest  = 30 * time.Second
	// maxHopeful bounds the tokens that wait for a key which the issuer may have or not.
	maxHopeful = 256
)

// keeper keeps the keys of one provider: of a file, or fetched.
type keeper struct {
	provider *authn.Provider
	claims   []*configv1.ClaimToMetadata
	strip    []string // the field to take away, if any
	place    place
	interval time.Duration
	log      *slog.Logger

	state   atomic.Pointer[state] // never nil
	hopeful atomic.Int64

	mu      sync.Mutex
	busy    bool          // guarded by mu, as all that follow: an attempt is under way
	began   time.Time     // the last attempt
	round   chan struct{} // closed when the attempt that is under way, or else the next, has ended
	problem error         // of the last attempt
	poke    chan struct{} // set once in newKeeper; capacity 1: someone asks for an attempt
}

// place is where keys come from. Equal places have equal keys.
type place struct {
	issuer, file, url, caFile string
}

func (p place) String() string {
	switch {
	case p.file != "":
		return p.file
	case p.url != "":
		return shown(p.url)
	}
	return shown(discovery(p.issuer))
}

// state is one set of keys. Immutable.
type state struct {
	set     *authn.KeySet // nil: none yet
	text    []byte        // that it was read from
	since   time.Time
	changes uint64 // sets so far
	losses  uint64 // of which lacked a key of the one before
}

func newKeeper(p *configv1.JwtProvider, path string, log *slog.Logger) (*keeper, error) {
	k := &keeper{
		provider: &authn.Provider{Name: p.GetName(), Issuer: p.GetIssuer(), Audiences: p.GetAudiences(), Algorithms: p.GetAlgorithms(),
			Skew: p.GetClockSkew().AsDuration()},
		claims: p.GetClaimsToMetadata(), interval: p.GetRefreshInterval().AsDuration(), log: log,
		place: place{issuer: p.GetIssuer(), file: p.GetJwksFile(), url: p.GetJwksUrl(), caFile: p.GetCaFile()},
		busy:  true, // run is about to begin
		round: make(chan struct{}), poke: make(chan struct{}, 1),
	}
	if p.GetStrip() {
		k.strip = []string{strings.ToLower(p.GetMetadata())}
	}
	k.state.Store(&state{})
	if k.place.file != "" {
		text, err := files.Read(k.place.file, maxKeySet)
		if err == nil {
			err = k.take(text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s.jwksFile: %w", path, err)
		}
	}
	if k.place.caFile != "" {
		if _, err := authorities(k.place.caFile); err != nil {
			return nil, fmt.Errorf("%s.caFile: %w", path, err)
		}
	}
	return k, nil
}

// run keeps the keys new until ctx ends.
func (k *keeper) run(ctx context.Context) {
	if k.place.file != "" {
		k.end(nil)
		follow(ctx, k.place.file, maxKeySet, k.log, func(text []byte, err error) {
			if err == nil {
				err = k.take(text)
			}
			if err != nil {
				k.log.Error("JWT provider "+k.provider.Name+": the changed file of keys cannot be used; the keys before it stay in force", "err", err)
			}
			k.mu.Lock()
			k.problem = err
			k.mu.Unlock()
		})
		return
	}
	f := &fetcher{place: k.place}
	backoff := soonest
	for {
		k.begin()
		text, err := f.fetch(ctx)
		if err == nil && text != nil {
			err = k.take(text)
			if err != nil {
				f.forget() // what cannot be used must not be called unchanged
			}
		}
		if ctx.Err() != nil {
			k.end(ctx.Err())
			return
		}
		k.end(err)
		wait := k.interval
		if err == nil {
			backoff = soonest
		} else {
			wait = min(backoff, k.interval)
			backoff = min(2*backoff, latest)
			k.tell(err, wait)
		}
		if !k.pause(ctx, wait*9/10+rand.N(wait/5+1)) {
			return
		}
	}
}

// pause waits for the next attempt; false when ctx has ended.
func (k *keeper) pause(ctx context.Context, wait time.Duration) bool {
	until := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-k.poke:
			k.mu.Lock()
			asked := k.began.Add(least)
			k.mu.Unlock()
			if asked.Before(until) {
				until = asked
				timer.Reset(time.Until(until))
			}
		}
	}
}

func (k *keeper) tell(err error, wait time.Duration) {
	args := []any{"err", err, "next", wait}
	if s := k.state.Load(); s.set == nil {
		k.log.Error("JWT provider "+k.provider.Name+": no keys could be fetched; its tokens are refused, UNAVAILABLE", args...)
	} else {
		k.log.Warn("JWT provider "+k.provider.Name+": its keys could not be fetched again; the last ones stay in force",
			append(args, "keys", s.set.Len(), "since", s.since)...)
	}
}

func (k *keeper) begin() {
	k.mu.Lock()
	k.busy, k.began = true, time.Now()
	k.mu.Unlock()
	select {
	case <-k.poke: // whoever asked is served by this attempt
	default:
	}
}

func (k *keeper) end(err error) {
	k.mu.Lock()
	k.busy, k.problem = false, err
	close(k.round)
	k.round = make(chan struct{})
	k.mu.Unlock()
}

// first waits for the first attempt. Its error says that there are no keys.
func (k *keeper) first(ctx context.Context) error {
	if k.state.Load().set != nil {
		return nil
	}
	k.mu.Lock()
	round, wait := k.round, k.busy && k.problem == nil
	k.mu.Unlock()
	if wait {
		select {
		case <-round:
		case <-ctx.Done():
		}
	}
	if k.state.Load().set == nil {
		return cmp.Or(ctx.Err(), errNoKeys)
	}
	return nil
}

var errNoKeys = errors.New("no keys")

// again waits for an attempt, if one may be made: else it comes as soon as it may, and the token that asks is refused until then.
func (k *keeper) again(ctx context.Context) {
	if k.place.file != "" {
		return
	}
	k.mu.Lock()
	round, soon := k.round, k.busy || time.Since(k.began) >= least
	if !k.busy {
		select {
		case k.poke <- struct{}{}:
		default:
		}
	}
	k.mu.Unlock()
	// Tokens that anyone can make up, and a slow issuer, must not take all places of those who wait.
	if k.hopeful.Add(1) <= maxHopeful && soon {
		select {
		case <-round:
		case <-ctx.Done():
		}
	}
	k.hopeful.Add(-1)
}

// take puts a new set in force; an error leaves the one before.
func (k *keeper) take(text []byte) error {
	was := k.state.Load()
	if was.set != nil && bytes.Equal(text, was.text) {
		return nil
	}
	set, err := authn.ParseKeys(text)
	if err != nil {
		return fmt.Errorf("%s %w", k.place, err)
	}
	now := &state{set: set, text: text, since: time.Now(), changes: was.changes + 1, losses: was.losses}
	if was.set != nil && !set.Has(was.set) {
		now.losses++
	}
	k.state.Store(now)
	for _, why := range set.Skipped {
		k.log.Warn("JWT provider " + k.provider.Name + ": " + k.place.String() + ": " + why + ": it is not used")
	}
	k.log.Info("JWT provider "+k.provider.Name+": keys in force", "keys", set.Len(), "source", k.place.String())
	return nil
}

// adopt takes another's keys, if there are none yet.
func (k *keeper) adopt(s *state) bool {
	mine := k.state.Load()
	if s.set == nil || mine.set != nil {
		return false
	}
	return k.state.CompareAndSwap(mine, &state{set: s.set, text: s.text, since: s.since, changes: 1})
}

func (k *keeper) status() Status {
	s := k.state.Load()
	out := Status{Provider: k.provider.Name, Source: k.place.String(), Since: s.since}
	if s.set != nil {
		out.Keys = s.set.Len()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.problem != nil {
		out.Problem = k.problem.Error()
	}
	return out
}

// proof is what endpoints are told of a caller.
func (k *keeper) proof(who *authn.Principal, identityField string) *Proof {
	p := &Proof{Principal: who, Remove: k.strip}
	for _, c := range k.claims {
		claim, _ := authn.Claim(who.Claims, c.GetClaim())
		if v, ok := authn.Value(claim); ok {
			p.Set = append(p.Set, [2]string{strings.ToLower(c.GetMetadata()), v})
		}
	}
	if identityField != "" && authn.ValidValue(who.Name) {
		p.Set = append(p.Set, [2]string{identityField, who.Name})
	}
	return p
}
