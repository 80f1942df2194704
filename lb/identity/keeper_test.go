package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func only(p *configv1.JwtProvider) *configv1.Authentication {
	return &configv1.Authentication{Jwt: []*configv1.JwtProvider{p}}
}

func (i *issuer) want(name string, got *Proof, want string) {
	i.t.Helper()
	if got.says() != want {
		i.t.Errorf("%s: %s (%+v), want %s", name, got.says(), got.Refused, want)
	}
}

func TestANewKeyIsFetchedWhenATokenNamesIt(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, only(i.provider()))
	old := bearer(i.token("one", nil))
	i.want("at first", a.prove(t, old), "jwt alice")
	i.rotate("one", "two")
	a.keepers[0].older()
	i.want("with the new key", a.prove(t, bearer(i.token("two", nil))), "jwt alice")
	if n := i.asked.Load(); n != 2 {
		t.Errorf("the issuer was asked %d times, want 2", n)
	}
	// The set lost no key: what was proved before needs no proof.
	if a.Prove(old.field, nil, time.Now(), nil) == nil {
		t.Error("a token is judged again because a key was added")
	}
}

func TestATokenOfARemovedKeyIsGoodNoMoreThoughItWasRemembered(t *testing.T) {
	i := newIssuer(t, "one", "two")
	p := i.provider()
	p.RefreshInterval = durationpb.New(time.Second)
	a := begin(t, only(p))
	stays, goes := bearer(i.token("one", nil)), bearer(i.token("two", nil))
	i.want("before", a.prove(t, goes), "jwt alice")
	i.want("before", a.prove(t, stays), "jwt alice")
	i.rotate("one")
	eventually(t, "refused", func() bool { return a.prove(t, goes).says() == "TOKEN_KEY_UNKNOWN" })
	i.want("after", a.prove(t, stays), "jwt alice")
}

func TestAKeyThatIsReplacedUnderItsNameProvesNothing(t *testing.T) {
	i := newIssuer(t, "one")
	p := i.provider()
	p.RefreshInterval = durationpb.New(time.Second)
	a := begin(t, only(p))
	c := bearer(i.token("one", nil))
	i.want("before", a.prove(t, c), "jwt alice")
	i.rotate()
	i.rotate("one")
	eventually(t, "refused", func() bool { return a.prove(t, c).says() == "TOKEN_SIGNATURE" })
	i.want("a new token", a.prove(t, bearer(i.token("one", nil))), "jwt alice")
}

// Whoever wants to can make up key ids: they must not become requests to the issuer.
func TestAFloodOfUnknownKeysDoesNotReachTheIssuer(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, only(i.provider()))
	i.want("at first", a.prove(t, bearer(i.token("one", nil))), "jwt alice")
	a.keepers[0].older()
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	began := time.Now()
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for m := range 100 {
				p := a.prove(t, bearer(sign(t, fmt.Sprintf("kid-%d-%d", n, m), stranger, i.claims(nil))))
				if p.says() != "TOKEN_KEY_UNKNOWN" {
					t.Error(p.says())
				}
			}
		})
	}
	wg.Wait()
	if n, most := i.asked.Load(), 3+int64(time.Since(began)/least); n > most {
		t.Errorf("400 tokens with keys of their own made %d requests, want %d at most", n, most)
	}
	i.want("meanwhile", a.prove(t, bearer(i.token("one", map[string]any{"x": 1}))), "jwt alice")
}

func TestASlowIssuerIsNotAPlaceToWaitInForMadeUpKeys(t *testing.T) {
	i := newIssuer(t, "one")
	a := begin(t, only(i.provider()))
	i.want("at first", a.prove(t, bearer(i.token("one", nil))), "jwt alice")
	i.answers(hang)
	k := a.keepers[0]
	k.older()
	k.hopeful.Store(maxHopeful)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	began := time.Now()
	i.want("made up", a.prove(t, bearer(sign(t, "x", stranger, i.claims(nil)))), "TOKEN_KEY_UNKNOWN")
	if took := time.Since(began); took > fetchTime/2 {
		t.Errorf("it took %v", took)
	}
}

func TestTheLastGoodKeysHoldWhileTheIssuerIsAway(t *testing.T) {
	i := newIssuer(t, "one")
	p := i.provider()
	p.RefreshInterval = durationpb.New(time.Second)
	var log lines
	a := beginWith(t, only(p), slog.New(slog.NewTextHandler(&log, nil)))
	i.want("at first", a.prove(t, bearer(i.token("one", nil))), "jwt alice")
	for name, answer := range map[string]http.HandlerFunc{"down": broken, "empty": func(http.ResponseWriter, *http.Request) {}, "endless": endless,
		"no keys": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"keys":[]}`)) }} {
		i.answers(answer)
		before := i.asked.Load()
		eventually(t, "asked twice more", func() bool { return i.asked.Load() >= before+2 })
		i.want(name, a.prove(t, bearer(i.token("one", map[string]any{"jti": name}))), "jwt alice")
	}
	if s := a.Status()[0]; s.Keys != 1 || s.Problem == "" || s.Provider != "main" {
		t.Errorf("%+v", s)
	}
	i.answers(nil)
	eventually(t, "well again", func() bool { return a.Status()[0].Problem == "" })
	if text := log.String(); !strings.Contains(text, "the last ones stay in force") || !strings.Contains(text, "503 Service Unavailable, not 200") {
		t.Errorf("the log does not say it:\n%s", text)
	}
}

func TestAnIssuerThatIsAwayAtTheStartMakesItsTokensUnavailableUntilItIsBack(t *testing.T) {
	i := newIssuer(t, "one")
	i.answers(broken)
	a := begin(t, only(i.provider()))
	p := a.prove(t, bearer(i.token("one", nil)))
	want := "the token cannot be verified now, since the keys of provider main (" + i.server.URL + ") could not be fetched: call again later"
	if p.Refused == nil || p.Refused.Status != grpc.Unavailable || p.Refused.Reason != "ISSUER_UNAVAILABLE" || p.Refused.Message != want {
		t.Fatalf("%+v", p.Refused)
	}
	// What needs no key is told at once.
	i.want("expired", a.prove(t, bearer(i.token("one", map[string]any{"exp": 1}))), "TOKEN_EXPIRED")
	i.answers(nil)
	eventually(t, "taken", func() bool { return a.prove(t, bearer(i.token("one", nil))).says() == "jwt alice" })
}

func TestFirstCallsWaitForTheFirstKeys(t *testing.T) {
	i := newIssuer(t, "one")
	release := make(chan struct{})
	i.answers(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		i.mu.Lock()
		defer i.mu.Unlock()
		w.Write(i.set())
	})
	a := begin(t, only(i.provider()))
	later := make(chan *Proof, 1)
	if a.Prove(bearer(i.token("one", nil)).field, nil, time.Now(), func(p *Proof) { later <- p }) != nil {
		t.Fatal("answered without a key")
	}
	close(release)
	i.want("then", <-later, "jwt alice")
}

func TestAReloadWhileTheIssuerIsAwayKeepsItsKeys(t *testing.T) {
	i := newIssuer(t, "one")
	old := begin(t, only(i.provider()))
	i.want("before", old.prove(t, bearer(i.token("one", nil))), "jwt alice")
	i.answers(broken)
	p := i.provider()
	p.Audiences = append(p.Audiences, "store")
	a := begin(t, only(p))
	a.Adopt(old)
	old.Close()
	i.want("after", a.prove(t, bearer(i.token("one", map[string]any{"aud": "store"}))), "jwt alice")
	// Another issuer's keys are nobody's.
	q := i.provider()
	q.JwksUrl += "?other"
	b := begin(t, only(q))
	b.Adopt(a)
	i.want("another place", b.prove(t, bearer(i.token("one", nil))), "ISSUER_UNAVAILABLE")
}

func TestClosingAnswersWhoWaits(t *testing.T) {
	i := newIssuer(t, "one")
	i.answers(hang)
	a := begin(t, only(i.provider()))
	later := make(chan *Proof, 1)
	a.Prove(bearer(i.token("one", nil)).field, nil, time.Now(), func(p *Proof) { later <- p })
	a.Close()
	select {
	case p := <-later:
		i.want("closed", p, "ISSUER_UNAVAILABLE")
	default:
		t.Error("Close returned before the call had its answer")
	}
	i.want("afterwards", a.prove(t, bearer(i.token("one", nil))), "ISSUER_UNAVAILABLE")
}

func TestAnUnchangedSetIsNotSentAgain(t *testing.T) {
	i := newIssuer(t, "one")
	p := i.provider()
	p.RefreshInterval = durationpb.New(time.Second)
	a := begin(t, only(p))
	eventually(t, "asked with its etag", func() bool { return i.unchanged.Load() > 0 })
	i.want("afterwards", a.prove(t, bearer(i.token("one", nil))), "jwt alice")
}

func TestKeysAreFoundByDiscovery(t *testing.T) {
	i := newIssuer(t, "one")
	p := i.provider()
	p.JwksUrl = ""
	a := begin(t, only(p))
	i.want("discovered", a.prove(t, bearer(i.token("one", nil))), "jwt alice")
	if i.discovered.Load() != 1 {
		t.Error("not by discovery")
	}
}

func TestWhatIsFoundElsewhereIsNotBelieved(t *testing.T) {
	i := newIssuer(t, "one")
	for name, c := range map[string]struct {
		change func(p *configv1.JwtProvider)
		want   string
	}{
		"another's document": {func(p *configv1.JwtProvider) { p.JwksUrl, p.Issuer = "", i.server.URL+"/wrong" }, "is of the issuer"},
		"keys without TLS":   {func(p *configv1.JwtProvider) { p.JwksUrl, p.Issuer = "", i.server.URL+"/plain" }, "jwks_uri that is no https URL"},
		"no document":        {func(p *configv1.JwtProvider) { p.JwksUrl, p.Issuer = "", i.server.URL+"/none" }, "the answer is 404 Not Found, not 200"},
		"a stranger":         {func(p *configv1.JwtProvider) { p.CaFile = "" }, "caFile names authorities to trust"},
		"circles":            {func(p *configv1.JwtProvider) { p.JwksUrl = i.server.URL + "/loop" }, "more than 3 redirects"},
		"down to http":       {func(p *configv1.JwtProvider) { p.JwksUrl = i.server.URL + "/down" }, "an https address redirects to one that is not"},
		"nobody":             {func(p *configv1.JwtProvider) { p.JwksUrl = "https://127.0.0.1:1/keys" }, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			p := i.provider()
			c.change(p)
			a := begin(t, only(p))
			i.want("its token", a.prove(t, bearer(i.token("one", map[string]any{"iss": p.Issuer}))), "ISSUER_UNAVAILABLE")
			if got := a.Status()[0].Problem; !strings.Contains(got, c.want) {
				t.Errorf("the problem is told as %q, want %q", got, c.want)
			}
		})
	}
	p := i.provider()
	p.JwksUrl = i.server.URL + "/moved"
	i.want("moved", begin(t, only(p)).prove(t, bearer(i.token("one", nil))), "jwt alice")
}

func TestNoSecretOfAnAddressIsLogged(t *testing.T) {
	i := newIssuer(t, "one")
	i.answers(broken)
	p := i.provider()
	p.JwksUrl = strings.Replace(p.JwksUrl, "https://", "https://user:hunter2@", 1) + "?key=hunter2"
	var log lines
	a := beginWith(t, only(p), slog.New(slog.NewTextHandler(&log, nil)))
	c := bearer(i.token("one", nil))
	proof := a.prove(t, c)
	s := a.Status()[0]
	if all := log.String() + fmt.Sprint(s, proof.Refused); strings.Contains(all, "hunter2") || strings.Contains(all, c["authorization"][10:30]) || s.Problem == "" {
		t.Errorf("%s", all)
	}
}

func TestKeysOfAFileAreReadAgainWhenItChanges(t *testing.T) {
	i := newIssuer(t, "one")
	p := i.provider()
	p.JwksUrl, p.JwksFile = "", filepath.Join(t.TempDir(), "jwks.json")
	write := func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		save(t, p.JwksFile, i.set())
	}
	write()
	var log lines
	a := beginWith(t, only(p), slog.New(slog.NewTextHandler(&log, nil)))
	one := bearer(i.token("one", nil))
	i.want("at first", a.prove(t, one), "jwt alice")
	save(t, p.JwksFile, []byte("{"))
	eventually(t, "told", func() bool { return strings.Contains(log.String(), "the keys before it stay in force") })
	i.want("while the file is broken", a.prove(t, one), "jwt alice")
	i.rotate("two")
	write()
	eventually(t, "taken", func() bool { return a.prove(t, bearer(i.token("two", nil))).says() == "jwt alice" })
	i.want("the old key's", a.prove(t, one), "TOKEN_KEY_UNKNOWN")
}

func TestAKeyThatIsTakenOutOfTheFileIsGoodNoMore(t *testing.T) {
	path := keyFile(t, hashed("shop", "k1"), hashed("bank", "k2"))
	var log lines
	a := beginWith(t, &configv1.Authentication{ApiKeys: &configv1.ApiKeys{File: path}}, slog.New(slog.NewTextHandler(&log, nil)))
	save(t, path, []byte(hashed("shop", "k1")))
	eventually(t, "gone", func() bool { return a.prove(t, call{"x-api-key": "k2"}).says() == "API_KEY_UNKNOWN" })
	save(t, path, []byte("shop hunter2"))
	eventually(t, "told", func() bool { return strings.Contains(log.String(), "the keys before it stay in force") })
	if p := a.prove(t, call{"x-api-key": "k1"}); p.says() != "api_key shop" || strings.Contains(log.String(), "hunter2") {
		t.Errorf("%s\n%s", p.says(), &log)
	}
}

func TestAFileThatCannotBeUsedIsNamedAtTheStart(t *testing.T) {
	i := newIssuer(t, "one")
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	save(t, bad, []byte("hunter2"))
	for _, c := range []struct {
		cfg  *configv1.Authentication
		want string
	}{
		{only(&configv1.JwtProvider{Issuer: i.server.URL, JwksFile: filepath.Join(dir, "none")}), "authentication.jwt[0].jwksFile: open " + dir + "/none: no such file or directory"},
		{only(&configv1.JwtProvider{Issuer: i.server.URL, JwksFile: bad}), "authentication.jwt[0].jwksFile: " + bad + " is not JSON (at byte 1): a key set looks like {\"keys\": [...]}"},
		{only(&configv1.JwtProvider{Issuer: i.server.URL, CaFile: bad}), "authentication.jwt[0].caFile: " + bad + " has no certificate in PEM: -----BEGIN CERTIFICATE-----"},
		{&configv1.Authentication{ApiKeys: &configv1.ApiKeys{File: bad}}, "authentication.apiKeys.file: " + bad + ": line 1 has 1 words: write <name> sha256:<64 hexadecimal digits>"},
		{&configv1.Authentication{Required: []string{"x"}}, "authentication.required: \"x\" names neither a method nor a package"},
	} {
		if _, err := New(defaulted(c.cfg), true, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v\nwant %s", err, c.want)
		}
	}
}

// lines is a log that tests read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
