package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/trunkline/trunkline/codec/grpc"
)

func TestAGoodTokenTellsWhoCalls(t *testing.T) {
	keys := jwks(t, testKeys())
	p := provider()
	p.Algorithms = Algorithms()
	for algorithm, private := range testKeys() {
		for _, id := range []string{algorithm, ""} {
			text := sign(t, algorithm, id, private, claims(map[string]any{"aud": []string{"other", "store"}}))
			who, refused := judge(text, keys, start, p)
			if refused != nil {
				t.Errorf("%s, kid %q: %+v", algorithm, id, refused)
				continue
			}
			if who.Kind != "jwt" || who.Provider != "main" || who.Name != "alice" || who.Claims["iss"] != issuer {
				t.Errorf("%s: %+v", algorithm, who)
			}
		}
	}
}

func TestABadTokenIsRefusedWithItsReasonAndWhatToDo(t *testing.T) {
	ec := testKeys()["ES256"].(*ecdsa.PrivateKey)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	keys := jwks(t, map[string]any{"one": ec, "rsa": testKeys()["RS256"]})
	with := func(name string, value any) string {
		return sign(t, "ES256", "one", ec, claims(map[string]any{name: value}))
	}
	good := with("x", "y")
	parts := strings.Split(good, ".")
	for name, c := range map[string]struct {
		text, reason, message string
	}{
		"empty":              {"", "TOKEN_MALFORMED", "it is not a signed JSON Web Token"},
		"words":              {"hunter2", "TOKEN_MALFORMED", "it is not a signed JSON Web Token"},
		"too long":           {strings.Repeat("a", MaxToken+1), "TOKEN_MALFORMED", "it has 16385 bytes, more than 16384"},
		"four parts":         {good + ".x", "TOKEN_MALFORMED", "compact form"},
		"claims not JSON":    {parts[0] + ".aGk." + parts[2], "TOKEN_MALFORMED", "not a JSON object"},
		"no issuer":          {with("iss", nil), "TOKEN_ISSUER", "does not say who issued it (iss): get one from https://issuer.example.com"},
		"issuer a number":    {with("iss", 5), "TOKEN_ISSUER", "does not say who issued it"},
		"other issuer":       {with("iss", "https://evil.example.com"), "TOKEN_ISSUER", "of an issuer that is not accepted here: get one from https://issuer.example.com"},
		"issuer with slash":  {with("iss", issuer+"/"), "TOKEN_ISSUER", "not accepted here"},
		"no audience":        {with("aud", nil), "TOKEN_AUDIENCE", "is not for this service: get one from https://issuer.example.com for the audience shop or store"},
		"other audience":     {with("aud", []string{"bank"}), "TOKEN_AUDIENCE", "is not for this service"},
		"audience an object": {with("aud", map[string]any{"shop": true}), "TOKEN_AUDIENCE", "is not for this service"},
		"expired":            {with("exp", start.Add(-3*time.Minute).Unix()), "TOKEN_EXPIRED", "the token of provider main expired 3m ago: get a new one from https://issuer.example.com"},
		"no expiry":          {with("exp", nil), "TOKEN_MALFORMED", "exp is missing"},
		"expiry a string":    {with("exp", "never"), "TOKEN_MALFORMED", "exp is missing, or not a time"},
		"expiry beyond time": {with("exp", 1e300), "TOKEN_MALFORMED", "exp is missing, or not a time"},
		"expiry negative":    {with("exp", -1), "TOKEN_MALFORMED", "exp is missing, or not a time"},
		"not yet":            {with("nbf", start.Add(10*time.Minute).Unix()), "TOKEN_NOT_YET_VALID", "is good only in 10m"},
		"issued tomorrow":    {with("iat", start.Add(24*time.Hour).Unix()), "TOKEN_NOT_YET_VALID", "is good only in 24h"},
		"nbf a string":       {with("nbf", "now"), "TOKEN_MALFORMED", "nbf is not a time"},
		"unknown key":        {sign(t, "ES256", "two", stranger, claims(nil)), "TOKEN_KEY_UNKNOWN", "signed with a key that https://issuer.example.com does not have"},
		"another's key":      {sign(t, "ES256", "one", stranger, claims(nil)), "TOKEN_SIGNATURE", "the signature of the token of provider main is not good"},
		"no kid, no key":     {sign(t, "ES256", "", stranger, claims(nil)), "TOKEN_SIGNATURE", "is not good"},
		"changed":            {strings.Join([]string{parts[0], strings.Split(with("sub", "root"), ".")[1], parts[2]}, "."), "TOKEN_SIGNATURE", "is not good"},
		"cut off":            {good[:len(good)-8], "TOKEN_SIGNATURE", "is not good"},
		"kid of other type":  {sign(t, "ES256", "rsa", ec, claims(nil)), "TOKEN_KEY_UNKNOWN", "does not have"},
		"kid a path":         {sign(t, "ES256", "../../dev/null", ec, claims(nil)), "TOKEN_KEY_UNKNOWN", "does not have"},
		"algorithm not ours": {sign(t, "ES384", "one", testKeys()["ES384"], claims(nil)), "TOKEN_ALGORITHM", "signed with the algorithm ES384, which is not accepted: let https://issuer.example.com sign with RS256 or ES256 or EdDSA"},
		"none":               {unsigned(`{"alg":"none","kid":"one"}`, parts[1], ""), "TOKEN_ALGORITHM", "the algorithm none,"},
		"nOnE":               {unsigned(`{"alg":"nOnE"}`, parts[1], ""), "TOKEN_ALGORITHM", "the algorithm another,"},
		"no algorithm":       {unsigned(`{"kid":"one"}`, parts[1], parts[2]), "TOKEN_ALGORITHM", "the algorithm another,"},
		"own key inside": {func() string {
			s, err := jose.NewSigner(jose.SigningKey{Algorithm: "ES256", Key: stranger}, &jose.SignerOptions{EmbedJWK: true})
			must(err)
			o, err := s.Sign([]byte(fmt.Sprintf(`{"iss":%q,"aud":"shop","exp":%d}`, issuer, start.Add(time.Hour).Unix())))
			must(err)
			text, err := o.CompactSerialize()
			must(err)
			return text
		}(), "TOKEN_SIGNATURE", "is not good"},
		"unknown critical": {unsigned(`{"alg":"ES256","kid":"one","crit":["x"],"x":1}`, parts[1], parts[2]), "TOKEN_SIGNATURE", "is not good"},
	} {
		who, refused := judge(c.text, keys, start, provider())
		if who != nil || refused == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if refused.Status != grpc.Unauthenticated || refused.Reason != c.reason || !strings.Contains(refused.Message, c.message) {
			t.Errorf("%s: %+v\nwant %s: %s", name, refused, c.reason, c.message)
		}
		for _, part := range strings.Split(c.text, ".") {
			if len(part) > 6 && strings.Contains(refused.Message, part) {
				t.Errorf("%s: the message has a part of the token: %s", name, refused.Message)
			}
		}
	}
}

func unsigned(header, payload, signature string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + payload + "." + signature
}

// CVE-2015-9235 and its kin: who knows the public key, which everybody does, uses it as the secret of an HMAC.
func TestAPublicKeyIsNeverASecret(t *testing.T) {
	public := &testKeys()["RS256"].(*rsa.PrivateKey).PublicKey
	der, err := x509.MarshalPKIXPublicKey(public)
	must(err)
	keys := jwks(t, map[string]any{"rsa": testKeys()["RS256"]})
	for _, secret := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), public.N.Bytes()} {
		for _, algorithm := range []string{"HS256", "HS384", "HS512"} {
			_, refused := judge(sign(t, algorithm, "rsa", secret, claims(nil)), keys, start, provider())
			if refused == nil || refused.Reason != "TOKEN_ALGORITHM" {
				t.Errorf("%s: %+v", algorithm, refused)
			}
		}
	}
}

func TestClocksMayDifferByTheSkewAndNoMore(t *testing.T) {
	private := testKeys()["ES256"]
	keys := jwks(t, map[string]any{"one": private})
	text := sign(t, "ES256", "one", private, claims(map[string]any{"nbf": start.Unix(), "exp": start.Add(time.Minute).Unix()}))
	for _, c := range []struct {
		at     time.Duration
		reason string
	}{
		{-31 * time.Second, "TOKEN_NOT_YET_VALID"}, {-30 * time.Second, ""}, {0, ""},
		{89 * time.Second, ""}, {90 * time.Second, "TOKEN_EXPIRED"}, {time.Hour, "TOKEN_EXPIRED"},
	} {
		_, refused := judge(text, keys, start.Add(c.at), provider())
		if got := reason(refused); got != c.reason {
			t.Errorf("%v: %s, want %q", c.at, got, c.reason)
		}
	}
	token, refused := ParseToken(text, []*Provider{provider()}, start)
	if refused != nil || !token.Until().Equal(start.Add(90*time.Second)) {
		t.Errorf("until %v, %v", token.Until(), refused)
	}
}

func reason(r *Refusal) string {
	if r == nil {
		return ""
	}
	return r.Reason
}

func TestATokenIsJudgedByItsIssuersProvider(t *testing.T) {
	a, b := provider(), provider()
	b.Name, b.Issuer, b.Algorithms, b.Audiences = "other", "https://other.example.com", []string{"EdDSA"}, []string{"bank"}
	private := testKeys()["EdDSA"]
	keys := jwks(t, map[string]any{"one": private})
	text := sign(t, "EdDSA", "one", private, claims(map[string]any{"iss": b.Issuer, "aud": "bank"}))
	who, refused := judge(text, keys, start, a, b)
	if refused != nil || who.Provider != "other" {
		t.Errorf("%+v, %+v", who, refused)
	}
	// Neither the audience nor the algorithms of one provider count for the other.
	if _, refused := judge(sign(t, "EdDSA", "one", private, claims(map[string]any{"iss": b.Issuer})), keys, start, a, b); reason(refused) != "TOKEN_AUDIENCE" {
		t.Errorf("%+v", refused)
	}
	if _, refused := judge(sign(t, "ES256", "one", testKeys()["ES256"], claims(map[string]any{"iss": b.Issuer, "aud": "bank"})), keys, start, a, b); reason(refused) != "TOKEN_ALGORITHM" {
		t.Errorf("%+v", refused)
	}
}

func TestDurationsAreRoundedForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Millisecond: "less than 1s", 90 * time.Second: "90s", 3*time.Minute + 20*time.Second: "3m", 26 * time.Hour: "26h", 80 * time.Hour: "3 days",
	} {
		if got := about(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	private := testKeys()["ES256"]
	keys := jwks(f, map[string]any{"one": private})
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	f.Add(sign(f, "ES256", "one", stranger, claims(nil)))
	f.Add(sign(f, "ES256", "", stranger, claims(map[string]any{"aud": []string{"a", "shop"}, "nbf": 1.5})))
	f.Add(unsigned(`{"alg":"none"}`, "e30", ""))
	f.Add(unsigned(`{"alg":"ES256","crit":["b64"],"b64":false}`, "e30", "AAAA"))
	f.Fuzz(func(t *testing.T, text string) {
		who, refused := judge(text, keys, start, provider())
		switch { // nothing that the fuzzer makes has been signed with the key
		case who != nil || refused == nil:
			t.Error("a token that nobody signed is taken")
		case refused.Status != grpc.Unauthenticated || refused.Reason == "" || refused.Message == "":
			t.Errorf("%+v", refused)
		}
	})
}
