package authn

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/trunkline/trunkline/codec/grpc"
)

// MaxToken is the longest token that is looked at, in bytes.
const MaxToken = 16 << 10

// Provider is an issuer whose tokens are believed. Immutable.
type Provider struct {
	Name, Issuer string
	Audiences    []string
	Algorithms   []string // of Algorithms()
	Skew         time.Duration
}

// Token is a JSON Web Token (RFC 7519) as its bearer shows it: nothing of it is proved before Judge says so.
type Token struct {
	Provider *Provider
	KeyID    string // "": it names none

	parsed    *jwt.JSONWebToken
	algorithm string
	claims    map[string]any
	expires   time.Time
	begins    time.Time // zero: at once
}

// ParseToken reads a token, finds whom it is of (by iss, unverified), and checks all that takes no key: the refusals are cheap.
// The text is not kept. A refusal never has a part of the token in it, for messages end up in logs.
func ParseToken(text string, providers []*Provider, now time.Time) (*Token, *Refusal) {
	if len(text) > MaxToken {
		return nil, malformed(fmt.Sprintf("it has %d bytes, more than %d", len(text), MaxToken))
	}
	parsed, err := jwt.ParseSigned(text, asymmetric())
	var other *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &other):
		return nil, wrongAlgorithm(string(other.Got), providers)
	case err != nil:
		return nil, malformed("it is not a signed JSON Web Token in its compact form (three parts with dots between them)")
	case len(parsed.Headers) != 1:
		return nil, malformed("it has not one signature")
	}
	t := &Token{parsed: parsed, KeyID: parsed.Headers[0].KeyID, algorithm: parsed.Headers[0].Algorithm}
	if err := parsed.UnsafeClaimsWithoutVerification(&t.claims); err != nil {
		return nil, malformed("its claims are not a JSON object")
	}
	issuer, ok := t.claims["iss"].(string)
	if !ok {
		return nil, refuse("TOKEN_ISSUER", "the bearer token does not say who issued it (iss): get one from %s", issuers(providers))
	}
	i := slices.IndexFunc(providers, func(p *Provider) bool { return p.Issuer == issuer })
	if i < 0 {
		return nil, refuse("TOKEN_ISSUER", "the bearer token is of an issuer that is not accepted here: get one from %s", issuers(providers))
	}
	t.Provider = providers[i]
	if !slices.Contains(t.Provider.Algorithms, t.algorithm) {
		return nil, wrongAlgorithm(t.algorithm, providers[i:i+1])
	}
	if r := t.readTimes(); r != nil {
		return nil, r
	}
	if r := t.checkAudience(); r != nil {
		return nil, r
	}
	if r := t.checkTime(now); r != nil {
		return nil, r
	}
	return t, nil
}

// Judge verifies the signature: tens of microseconds. Its refusals are TOKEN_KEY_UNKNOWN, where a newer set of keys may help, and
// TOKEN_SIGNATURE.
func (t *Token) Judge(keys *KeySet) (*Principal, *Refusal) {
	candidates := keys.fitting(t.KeyID, t.algorithm)
	if len(candidates) == 0 {
		return nil, refuse("TOKEN_KEY_UNKNOWN", "the token of provider %s is signed with a key that %s does not have (any more): get a new one there",
			t.Provider.Name, t.Provider.Issuer)
	}
	for _, k := range candidates {
		if t.parsed.Claims(k) == nil {
			sub, _ := t.claims["sub"].(string)
			return &Principal{Kind: "jwt", Provider: t.Provider.Name, Name: sub, Claims: t.claims}, nil
		}
	}
	return nil, refuse("TOKEN_SIGNATURE", "the signature of the token of provider %s is not good: send the token as %s issued it, unchanged, or get a new one there",
		t.Provider.Name, t.Provider.Issuer)
}

// Until is when the token ceases to be good, with the skew. From then on it has to be parsed again, to be refused.
func (t *Token) Until() time.Time { return t.expires.Add(t.Provider.Skew) }

// readTimes demands exp: a token for ever cannot be taken back.
func (t *Token) readTimes() *Refusal {
	exp, has, ok := t.date("exp")
	if !ok || !has {
		return malformed("its claim exp is missing, or not a time in seconds since 1970")
	}
	nbf, _, ok := t.date("nbf")
	if !ok {
		return malformed("its claim nbf is not a time in seconds since 1970")
	}
	iat, _, ok := t.date("iat")
	if !ok {
		return malformed("its claim iat is not a time in seconds since 1970")
	}
	t.expires, t.begins = exp, nbf
	if iat.After(nbf) {
		t.begins = iat
	}
	return nil
}

// date is a NumericDate (RFC 7519 section 2); ok also where there is none.
func (t *Token) date(name string) (at time.Time, has, ok bool) {
	const latest = 253402300799 // the year 9999
	v, has := t.claims[name]
	if !has {
		return time.Time{}, false, true
	}
	s, ok := v.(float64)
	if !ok || !(s >= 0 && s <= latest) {
		return time.Time{}, true, false
	}
	whole, fraction := math.Modf(s)
	return time.Unix(int64(whole), int64(fraction*1e9)), true, true
}

func (t *Token) checkAudience() *Refusal {
	accepted := func(v any) bool {
		s, ok := v.(string)
		return ok && slices.Contains(t.Provider.Audiences, s)
	}
	aud := t.claims["aud"]
	if list, ok := aud.([]any); ok && slices.ContainsFunc(list, accepted) || accepted(aud) {
		return nil
	}
	return refuse("TOKEN_AUDIENCE", "the token of provider %s is not for this service: get one from %s for the audience %s",
		t.Provider.Name, t.Provider.Issuer, strings.Join(t.Provider.Audiences, " or "))
}

func (t *Token) checkTime(now time.Time) *Refusal {
	p := t.Provider
	if since := now.Sub(t.expires); since >= p.Skew {
		return refuse("TOKEN_EXPIRED", "the token of provider %s expired %s ago: get a new one from %s", p.Name, about(since), p.Issuer)
	}
	if until := t.begins.Sub(now); !t.begins.IsZero() && until > p.Skew {
		return refuse("TOKEN_NOT_YET_VALID", "the token of provider %s is good only in %s (claims nbf and iat): wait, or set the clocks right", p.Name, about(until))
	}
	return nil
}

// about rounds for people.
func about(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than 1s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// Missing is the refusal of a call that must show a token or another proof; how says which ones are taken.
func Missing(how string) *Refusal {
	return refuse("TOKEN_MISSING", "this method is only for callers who prove who they are: %s", how)
}

func wrongAlgorithm(got string, providers []*Provider) *Refusal {
	// A name that is made up would be a part of the token.
	if known := append(Algorithms(), "none", "HS256", "HS384", "HS512"); !slices.Contains(known, got) {
		got = "another"
	}
	var accepted []string
	for _, p := range providers {
		for _, a := range p.Algorithms {
			if !slices.Contains(accepted, a) {
				accepted = append(accepted, a)
			}
		}
	}
	return refuse("TOKEN_ALGORITHM", "the bearer token is signed with the algorithm %s, which is not accepted: let %s sign with %s", got,
		issuers(providers), strings.Join(accepted, " or "))
}

func issuers(providers []*Provider) string {
	names := make([]string, len(providers))
	for i, p := range providers {
		names[i] = p.Issuer
	}
	return strings.Join(names, " or ")
}

func malformed(why string) *Refusal {
	return refuse("TOKEN_MALFORMED", "the bearer token cannot be read: %s; send it as its issuer gave it", why)
}

func refuse(reason, format string, args ...any) *Refusal {
	return &Refusal{Status: grpc.Unauthenticated, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func asymmetric() []jose.SignatureAlgorithm {
	names := Algorithms()
	out := make([]jose.SignatureAlgorithm, len(names))
	for i, n := range names {
		out[i] = jose.SignatureAlgorithm(n)
	}
	return out
}
