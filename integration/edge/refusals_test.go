package edge

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/trunkline/trunkline/integration/harness"
)

// refusal is one that the edge makes, met on purpose.
type refusal struct {
	name   string
	meet   func(t *testing.T) error
	code   codes.Code
	reason string
	words  []string // of the cause, and of what to do
}

// refused is a Trunkline with each rule of the edge, and who calls it.
type refused struct {
	t                *testing.T
	tr               *harness.Trunkline
	ca, people       *authority
	corp             *issuer
	orders           *orders
	plain            *grpc.ClientConn
	tls, mtls        string // addresses
	otherCA          *authority
	lost, strangers  *issuer
	revoked, expired *pair
}

func startRefused(t *testing.T) *refused {
	r := &refused{t: t, ca: newAuthority(t, "edge test CA"), people: newAuthority(t, "people"), otherCA: newAuthority(t, "strangers"),
		corp: startIssuer(t, "k1"), lost: startIssuer(t, "k1"), strangers: startIssuer(t, "k1"), orders: startOrders(t), tls: harness.FreeAddr(t), mtls: harness.FreeAddr(t)}
	r.lost.away.Store(true)
	r.revoked = r.people.issue(nil, "bob")
	r.expired = r.people.issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}, "late")
	crl := write(t, filepath.Join(t.TempDir(), "crl.pem"), r.people.revoke(r.revoked.cert))
	b := startServer(t, "b")
	_, _, external := startDecider(t)
	shown := r.ca.issue(nil, "localhost").yaml()
	r.tr = harness.Start(t, fmt.Sprintf(`
listeners:
  - address: LISTEN
  - { address: '%s', tls: { %s } }
  - { address: '%s', tls: { %s, clientCaFile: %s, crlFile: %s } }
admin: { address: ADMIN }
discovery: { static: { clusters: [ { name: backends, endpoints: [ { address: %s } ], grpcServices: [ grpc.testing.TestService ] }, { name: orders, endpoints: [ { address: %s } ] } ] }, reflection: { interval: 1s } }
limits: { maxHeaderBytes: 8192, maxHeaderFields: 64 }
authentication:
  jwt:
    - { name: corp, issuer: %s, audiences: [ shop ], caFile: %s }
    - { name: lost, issuer: %s, audiences: [ shop ], caFile: %s }
  apiKeys: { file: %s }
  required: [ grpc.testing.TestService/NeedsProof ]
authorization:
  rules:
    - { name: no-deletes, action: deny, methods: [ grpc.testing.TestService/Delete ], message: ask the shop team to delete it }
    - { name: only-ops, action: allow, methods: [ grpc.testing.TestService/Restart ], when: "'ops' in claims.roles", message: ask for the role ops }
externalAuthorization: { address: '%s', timeout: 5s, methods: [ grpc.testing.TestService/Asked ] }
payload:
  - { methods: [ "edge.test.Orders/*" ], validate: { refuseUnknownFields: true, protovalidate: true }, maxInspectedBytes: 65536 }
  - { methods: [ grpc.testing.TestService/UnaryCall ], maxRequestMessageBytes: 1000, maxResponseMessageBytes: 2000 }
  - { methods: [ grpc.testing.TestService/StreamingInputCall ], maxRequestBytes: 1000 }
  - { methods: [ grpc.testing.TestService/CacheableUnaryCall ], validate: { protovalidate: true } }
  - { methods: [ grpc.testing.TestService/UnimplementedCall ], waf: {} }
`, r.tls, shown, r.mtls, shown, r.people.file(), crl, b.Addr, r.orders.address, r.corp.url, r.corp.ca, r.lost.url, r.lost.ca,
		keyFile(t, map[string]string{"batch": "key-of-batch-0123456789"}), external))
	r.plain = harness.Dial(t, r.tr.Listen)
	harness.Eventually(t, limit, "the orders to be routed", func() bool { return r.orders.place(t, r.plain, r.orders.make("tea", 1)) == nil })
	return r
}

// calls calls a method that nobody has to have, with metadata in pairs.
func (r *refused) calls(method string, pairs ...string) func(*testing.T) error {
	return func(t *testing.T) error {
		ctx := metadata.AppendToOutgoingContext(harness.Context(t, limit), pairs...)
		return r.plain.Invoke(ctx, "/"+harness.Service+"/"+method, &testpb.SimpleRequest{}, &testpb.SimpleResponse{})
	}
}

// shows calls with a token.
func (r *refused) shows(token string) func(*testing.T) error {
	return r.calls("NeedsProof", bearer(token)...)
}

// places calls Place.
func (r *refused) places(m any, opts ...grpc.CallOption) func(*testing.T) error {
	return func(t *testing.T) error { return r.orders.place(t, r.plain, m, opts...) }
}

// dials calls over TLS.
func (r *refused) dials(address string, show *pair) func(*testing.T) error {
	return func(t *testing.T) error {
		c := secure(r.ca, "localhost")
		if show != nil {
			c = as(c, show)
		}
		return call(t, dial(t, address, c))
	}
}

// framed calls by frames, for what grpc-go does not do by itself, and makes an error of the answer.
func (r *refused) framed(method string, data []byte, more ...string) func(*testing.T) error {
	return func(t *testing.T) error {
		f := harness.DialFrames(t, r.tr.Listen)
		f.Open(t, 1, method, more...)
		if err := f.Framer.WriteData(1, true, data); err != nil {
			t.Fatal(err)
		}
		return answered(t, f)
	}
}

func (r *refused) list() []refusal {
	good := func(sub string, more ...any) map[string]any { return r.corp.claims(sub, more...) }
	unknown := r.orders.make("tea", 1)
	unknown.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 7))
	token := r.corp.token("k1", good("alice"))
	parts := strings.Split(r.corp.token("k1", good("mallory")), ".")
	altered := strings.Join([]string{parts[0], parts[1], strings.Split(token, ".")[2]}, ".")
	elsewhere := r.corp.claims("alice")
	elsewhere["iss"] = "https://elsewhere.test"
	soon, late := time.Now().Add(10*time.Minute).Unix(), time.Now().Add(-10*time.Minute).Unix()
	var many []string
	for i := range 80 {
		many = append(many, "x-"+strconv.Itoa(i), "1")
	}
	big := strings.Repeat("tea ", 50_000)
	none := codes.Unauthenticated
	return []refusal{
		{"h2c on a TLS listener", func(t *testing.T) error { return call(t, harness.Dial(t, r.tls)) }, codes.Unavailable, "TLS_REQUIRED", []string{"TLS only", "give the client transport credentials"}},
		{"no client certificate", r.dials(r.mtls, nil), none, "CLIENT_CERTIFICATE_REQUIRED", []string{"showed none", "issued by CN=people"}},
		{"one of another authority", r.dials(r.mtls, r.otherCA.issue(nil, "eve")), none, "CLIENT_CERTIFICATE_INVALID", []string{"was issued by CN=strangers", "show one issued by CN=people"}},
		{"one that has expired", r.dials(r.mtls, r.expired), none, "CLIENT_CERTIFICATE_EXPIRED", []string{"CN=late", "renew it"}},
		{"one that was revoked", r.dials(r.mtls, r.revoked), none, "CLIENT_CERTIFICATE_REVOKED", []string{"CN=bob", "get a new one"}},
		{"no token", r.calls("NeedsProof"), none, "TOKEN_MISSING", []string{"only for callers who prove who they are", "send a token of " + r.corp.url, "Bearer <token>", "x-api-key"}},
		{"a token that is none", r.shows("not-a-token"), none, "TOKEN_MALFORMED", []string{"cannot be read", "send it as its issuer gave it"}},
		{"an expired token", r.shows(r.corp.token("k1", good("alice", "exp", late))), none, "TOKEN_EXPIRED", []string{"expired 10m ago", "get a new one from " + r.corp.url}},
		{"a token of the future", r.shows(r.corp.token("k1", good("alice", "nbf", soon))), none, "TOKEN_NOT_YET_VALID", []string{"good only in", "set the clocks right"}},
		{"a token of an unknown issuer", r.shows(r.corp.token("k1", elsewhere)), none, "TOKEN_ISSUER", []string{"issuer that is not accepted", "get one from " + r.corp.url}},
		{"a token for another audience", r.shows(r.corp.token("k1", good("alice", "aud", "billing"))), none, "TOKEN_AUDIENCE", []string{"not for this service", "for the audience shop"}},
		{"a token with another's signature", r.shows(altered), none, "TOKEN_SIGNATURE", []string{"signature", "is not good", "get a new one there"}},
		{"a token with a symmetric signature", r.shows(signed(r.t, jose.HS256, []byte("0123456789abcdef0123456789abcdef"), "k1", good("alice"))), none, "TOKEN_ALGORITHM", []string{"HS256", "let " + r.corp.url, "sign with RS256"}},
		{"a token with an unknown key", r.shows(r.strangers.tokenAs("k1", "k9", good("alice"))), none, "TOKEN_KEY_UNKNOWN", []string{"signed with a key that", "get a new one there"}},
		{"an API key that nobody has", r.calls("NeedsProof", "x-api-key", "guess"), none, "API_KEY_UNKNOWN", []string{"x-api-key is not known", "ask whoever runs this service for a new one"}},
		{"an issuer that is away", r.shows(r.lost.token("k1", r.lost.claims("alice"))), codes.Unavailable, "ISSUER_UNAVAILABLE", []string{"keys of provider lost", "could not be fetched", "call again later"}},
		{"a deny rule", r.calls("Delete"), codes.PermissionDenied, "DENIED_BY_RULE", []string{"rule no-deletes denies", "ask the shop team"}},
		{"no allow rule that matches", r.calls("Restart", bearer(token)...), codes.PermissionDenied, "NOT_ALLOWED_BY_RULE", []string{"to alice", "only-ops would have to", "ask for the role ops"}},
		{"the authorization service says no", r.calls("Asked", "x-ask", "deny"), codes.PermissionDenied, "DENIED_BY_SERVICE", []string{"authorization service denies", "upgrade it at"}},
		{"the authorization service fails", r.calls("Asked", "x-ask", "fail"), codes.Unavailable, "AUTHORIZATION_SERVICE", []string{"does not answer", "try again, or tell whoever runs this balancer"}},
		{"too many metadata fields", r.calls("UnaryCall", many...), codes.ResourceExhausted, "METADATA_TOO_LARGE", []string{"or 64 fields", "limits.maxHeaderFields", "send fewer"}},
		{"too many bytes of metadata", r.framed("UnaryCall", []byte{0, 0, 0, 0, 0}, "x-long", strings.Repeat("x", 9000)), codes.ResourceExhausted, "METADATA_TOO_LARGE", []string{"8192 bytes", "limits.maxHeaderBytes", "send fewer or shorter ones"}},
		{"a request message that is too large", func(t *testing.T) error { return bigCall(t, r.plain, 2000, 0) }, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", []string{"a request message", "1000", "payload[1].maxRequestMessageBytes", "send"}},
		{"a response message that is too large", func(t *testing.T) error { return bigCall(t, r.plain, 0, 3000) }, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", []string{"a response message", "2000", "payload[1].maxResponseMessageBytes", "ask for less"}},
		{"a call that is too large", func(t *testing.T) error {
			s, err := testpb.NewTestServiceClient(r.plain).StreamingInputCall(harness.Context(t, limit))
			if err != nil {
				return err
			}
			for range 3 {
				_ = s.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 500)}})
			}
			_, err = s.CloseAndRecv()
			return err
		}, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", []string{"all request messages together", "1000", "payload[2].maxRequestBytes", "send"}},
		{"a message too large to inspect", r.places(r.orders.make(big, 1)), codes.ResourceExhausted, "MESSAGE_TOO_LARGE_TO_INSPECT", []string{"65536 bytes", "payload[0].maxInspectedBytes", "send smaller messages"}},
		{"one that is so once it is unpacked", r.places(r.orders.make(big, 1), grpc.UseCompressor(gzip.Name)), codes.ResourceExhausted, "MESSAGE_TOO_LARGE_TO_INSPECT", []string{"65536 bytes", "payload[0].maxInspectedBytes", "send smaller messages"}},
		{"a message that does not parse", r.places([]byte{10, 200, 1, 'x'}, grpc.ForceCodec(bytesAsTheyAre{})), codes.InvalidArgument, "MESSAGE_MALFORMED", []string{"message 1 of " + place, "does not parse", "edge.test.Order", "same .proto files"}},
		{"unknown fields", r.places(unknown), codes.InvalidArgument, "UNKNOWN_FIELDS", []string{"field 99 of edge.test.Order", "remove"}},
		{"an invalid message", r.places(r.orders.make("x", 1)), codes.InvalidArgument, "INVALID_MESSAGE", []string{"title: ", "at least 3 characters"}},
		{"an encoding that is not inspected", r.places(r.orders.make("tea", 1), grpc.UseCompressor("snail")), codes.Unimplemented, "ENCODING_NOT_INSPECTED", []string{`"snail"`, "send it with gzip"}},
		{"a method without descriptors", r.calls("CacheableUnaryCall"), codes.FailedPrecondition, "NO_DESCRIPTORS", []string{"told its descriptors", "register gRPC server reflection"}},
		{"an attack", func(t *testing.T) error {
			return r.plain.Invoke(harness.Context(t, limit), "/"+harness.Service+"/UnimplementedCall", &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Message: "42' OR '1'='1' -- "}}, &testpb.SimpleResponse{})
		}, codes.PermissionDenied, "WAF_BLOCKED", []string{"looks like an attack", "rule 942100", "payload[4].waf", "ask whoever runs this balancer"}},
		{"a message with a wrong flag", r.framed("CacheableUnaryCall", []byte{7, 0, 0, 0, 0}), codes.Internal, "MESSAGE_FRAMING", []string{"begins with the flag 7", "the client"}},
		{"half a message", r.framed("CacheableUnaryCall", []byte{0, 0, 0, 0, 9, 1}), codes.Internal, "MESSAGE_FRAMING", []string{"ended amid message 1", "the client"}},
	}
}

// Met by a stock grpc-go client each refusal has its status, its reason, and a sentence that tells its user what to do.
func TestEachRefusalSaysWhatToDo(t *testing.T) {
	r := startRefused(t)
	var table strings.Builder
	for _, x := range r.list() {
		t.Run(x.name, func(t *testing.T) {
			err := x.meet(t)
			mustSay(t, err, x.code, x.reason, x.words...)
			fmt.Fprintf(&table, "%-38s %-18s %-29s %s\n", x.name, status.Code(err), reason(err), status.Convert(err).Message())
		})
	}
	t.Run("no allow rule, where the default is to deny", func(t *testing.T) {
		b := startServer(t, "b")
		tr := harness.Start(t, config([]string{plain}, b.Addr, "authorization: { default: deny }"))
		err := call(t, harness.Dial(t, tr.Listen))
		mustSay(t, err, codes.PermissionDenied, "NOT_ALLOWED_BY_DEFAULT", "no rule is about "+unary, "ask for an allow rule")
		fmt.Fprintf(&table, "%-38s %-18s %-29s %s\n", "no rule at all", status.Code(err), reason(err), status.Convert(err).Message())
	})
	t.Logf("the refusals of the edge:\n%s", &table)
}

// bigCall makes a call with so many bytes each way.
func bigCall(t *testing.T, cc *grpc.ClientConn, request, response int32, pairs ...string) error {
	t.Helper()
	_, err := testpb.NewTestServiceClient(cc).UnaryCall(metadata.AppendToOutgoingContext(harness.Context(t, limit), pairs...), &testpb.SimpleRequest{ResponseSize: response, Payload: &testpb.Payload{Body: make([]byte, request)}})
	return err
}

// GOAWAYs tell why a connection ends; grpc-go shows their text in the status of the calls that the connection carried.
func TestAConnectionThatIsEndedSaysWhy(t *testing.T) {
	b := startServer(t, "b")
	t.Run("too many connections of an address", func(t *testing.T) {
		tr := harness.Start(t, config([]string{plain}, b.Addr, "limits: { maxConnectionsPerAddress: 2 }"))
		for range 2 {
			mustCall(t, harness.Dial(t, tr.Listen))
		}
		err := call(t, harness.Dial(t, tr.Listen))
		t.Log(err)
		mustSay(t, err, codes.Unavailable, "TOO_MANY_CONNECTIONS", "your address has 2 connections already", "limits.maxConnectionsPerAddress", "carry more calls on each")
	})
	t.Run("too many connections of an address, over TLS", func(t *testing.T) {
		ca := newAuthority(t, "edge test CA")
		tr := harness.Start(t, config([]string{"{ address: LISTEN, tls: { " + ca.issue(nil, "localhost").yaml() + " } }"}, b.Addr, "limits: { maxConnectionsPerAddress: 2 }"))
		for range 2 {
			mustCall(t, dial(t, tr.Listen, secure(ca, "localhost")))
		}
		err := call(t, dial(t, tr.Listen, secure(ca, "localhost")))
		t.Log(err)
		mustSay(t, err, codes.Unavailable, "TOO_MANY_CONNECTIONS", "your address has 2 connections already", "limits.maxConnectionsPerAddress", "carry more calls on each")
	})
	t.Run("connections that are made and not used, over and over", func(t *testing.T) {
		tr := harness.Start(t, config([]string{plain}, b.Addr, "limits: { abuse: { unusedConnectionsPerSecond: 1 } }"))
		for range 2 + 5 { // two are free, five may wait; a second may pass meanwhile
			nc, err := net.Dial("tcp", tr.Listen)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
		}
		var err error
		for range 5 {
			if err = call(t, harness.Dial(t, tr.Listen)); err != nil {
				break
			}
		}
		t.Log(err)
		mustSay(t, err, codes.Unavailable, "TOO_MANY_CONNECTIONS", "your address makes more than 1 connections per second of which no call is answered", "limits.abuse.unusedConnectionsPerSecond", "keep connections, and use them")
	})
	t.Run("calls that are given up at once, over and over", func(t *testing.T) {
		tr := harness.Start(t, config([]string{plain}, b.Addr, "limits: { abuse: { resetsPerSecond: 1 } }"))
		cc := harness.Dial(t, tr.Listen)
		ctx := metadata.AppendToOutgoingContext(harness.Context(t, limit), harness.GateKey, "never")
		s, err := testpb.NewTestServiceClient(cc).StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{ResponseParameters: make([]*testpb.ResponseParameters, 2)})
		if err == nil {
			_, err = s.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 1500 {
			ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), harness.SleepKey, "20s"))
			c, err := testpb.NewTestServiceClient(cc).FullDuplexCall(ctx)
			if err != nil {
				cancel()
				break
			}
			_ = c.Send(&testpb.StreamingOutputCallRequest{})
			cancel()
		}
		_, err = s.Recv()
		t.Log(err)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
		says(t, err.Error(), "resets per second", "limits.abuse.resetsPerSecond")
		mustCall(t, harness.Dial(t, tr.Listen))
	})
}
