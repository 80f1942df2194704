package gate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	jose "github.com/go-jose/go-jose/v4"
	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ping = "bench.Echo/Ping"

// issuer signs tokens; its keys are in a file.
type issuer struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	file string
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "one"}}})
	must(t, err)
	return &issuer{t: t, key: key, file: write(t, "jwks.json", string(set))}
}

// token is one that is good for an hour, for the header field authorization.
func (i *issuer) token(claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": "https://id.example.com", "aud": "shop", "sub": "web", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	text, err := json.Marshal(all)
	must(i.t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "one"}}, nil)
	must(i.t, err)
	signed, err := signer.Sign(text)
	must(i.t, err)
	compact, err := signed.CompactSerialize()
	must(i.t, err)
	return "Bearer " + compact
}

// authentication is the configuration that takes its tokens.
func (i *issuer) authentication(more string) string {
	return fmt.Sprintf(`
authentication:
  jwt: [ { name: shop, issuer: "https://id.example.com", audiences: [ shop ], jwksFile: %s, claimsToMetadata: [ { claim: tenant, metadata: x-tenant } ] } ]
%s
`, i.file, more)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func hashed(name, key string) string {
	return fmt.Sprintf("%s sha256:%x\n", name, sha256.Sum256([]byte(key)))
}

// parse reads a configuration as it stands in a file.
func parse(t testing.TB, text string) *configv1.Config {
	t.Helper()
	cfg, _, err := config.Parse("trunkline.yaml", []byte(text))
	must(t, err)
	return cfg
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// open makes a gate, closed at the end.
func open(t testing.TB, text string) *Gate {
	t.Helper()
	g, err := New(parse(t, text), quiet())
	must(t, err)
	if g == nil {
		t.Fatal("the configuration asks nothing")
	}
	t.Cleanup(g.Close)
	return g
}

// call is a request with these header fields, name and value in turn.
func call(fields ...string) *Request {
	return &Request{
		Method: ping, Authority: "shop.example.com", Address: "10.1.2.3", Now: time.Now(),
		Field: func(name string) string {
			for i := 0; i < len(fields); i += 2 {
				if fields[i] == name {
					return fields[i+1]
				}
			}
			return ""
		},
		Each: func(yield func(name, value string) bool) {
			for i := 0; i < len(fields); i += 2 {
				if !yield(fields[i], fields[i+1]) {
					return
				}
			}
		},
	}
}

// with is the call on a connection with that peer.
func (q *Request) with(p *authn.Peer) *Request {
	q.Peer = p
	return q
}

// check waits for the verdict.
func check(t testing.TB, g *Gate, q *Request) *Verdict {
	t.Helper()
	r := g.For(q.Method)
	if r == nil {
		t.Fatalf("nothing is asked of %s", q.Method)
	}
	verdict := make(chan *Verdict, 1)
	if v := r.Check(q, func(v *Verdict) { verdict <- v }); v != nil {
		return v
	}
	select {
	case v := <-verdict:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("no verdict")
		return nil
	}
}

// service is an authorization service.
type service struct {
	auth.UnimplementedAuthorizationServer
	answer func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)
}

func (s *service) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	return s.answer(ctx, r)
}

// serve runs one until the test's end.
func serve(t testing.TB, answer func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, &service{answer: answer})
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) })
	stop = sync.OnceFunc(func() {
		server.Stop()
		served.Wait()
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}
