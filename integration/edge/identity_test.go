package edge

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/trunkline/trunkline/integration/harness"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

func TestCallersProveWhoTheyAreAndRulesSayWhatTheyMay(t *testing.T) {
	ca, people := newAuthority(t, "edge test CA"), newAuthority(t, "people")
	corp := startIssuer(t, "k1")
	b := startServer(t, "b")
	log := filepath.Join(t.TempDir(), "access.log")
	tr := harness.Start(t, config([]string{"{ address: LISTEN, tls: { " + ca.issue(nil, "localhost").yaml() + ", clientCaFile: " + people.file() + ", clientAuth: optional } }"}, b.Addr,
		fmt.Sprintf(`
authentication:
  jwt:
    - name: corp
      issuer: %s
      audiences: [ shop ]
      caFile: %s
      claimsToMetadata: [ { claim: team, metadata: x-team }, { claim: org.name, metadata: x-org }, { claim: roles, metadata: x-roles } ]
      strip: true
  apiKeys: { file: %s }
  required: [ "grpc.testing.*", "grpc.reflection.*" ]
  anonymous: [ grpc.testing.TestService/EmptyCall ]
  identityMetadata: x-caller
authorization:
  rules:
    - { name: no-interns, action: deny, methods: [ grpc.testing.TestService/UnaryCall ], when: "identity.kind == 'jwt' && 'intern' in claims.roles", message: ask your lead }
    - { name: streams-for-ops, action: allow, methods: [ grpc.testing.TestService/StreamingOutputCall ], when: "identity.kind == 'jwt' && 'ops' in claims.roles" }
    - { name: streams-for-mesh, action: allow, methods: [ grpc.testing.TestService/StreamingOutputCall ], when: "peer.verified && peer.spiffe.startsWith('spiffe://example.test/')" }
    - { name: reflect-for-alice, action: allow, methods: [ "grpc.reflection.*" ], when: "identity.name == 'alice'" }
    - { name: admin-for-alice, action: allow, methods: [ "trunkline.admin.*" ], when: "identity.name == 'alice'" }
    - { name: not-at-night, action: deny, shadow: true, methods: [ grpc.testing.TestService/UnaryCall ], when: "metadata['x-night'][0] == 'yes'" }
accessLog: { mode: all, path: %s }`, corp.url, corp.ca, keyFile(t, map[string]string{"batch": "key-of-batch-0123456789"}), log)))
	cc := dial(t, tr.Listen, secure(ca, "localhost"))
	alice := corp.token("k1", corp.claims("alice", "team", "blue", "org", map[string]any{"name": "Ink Ltd"}, "roles", []string{"ops", "dev"}))
	stream := func(cc *grpc.ClientConn, pairs ...string) error {
		s, err := testpb.NewTestServiceClient(cc).StreamingOutputCall(metadata.AppendToOutgoingContext(harness.Context(t, limit), pairs...), &testpb.StreamingOutputCallRequest{})
		if err == nil {
			if _, err = s.Recv(); err != nil && err.Error() == "EOF" {
				return nil
			}
		}
		return err
	}

	t.Run("a token names its bearer to endpoints, which do not see it", func(t *testing.T) {
		mustCall(t, cc, append(bearer(alice), "x-team", "red", "x-org", "Other", "x-caller", "root", "x-roles", "root")...)
		b.mustHaveSeen(t, "x-team", "blue")
		b.mustHaveSeen(t, "x-org", "Ink Ltd")
		b.mustHaveSeen(t, "x-roles", "ops,dev")
		b.mustHaveSeen(t, "x-caller", "alice")
		b.mustHaveSeen(t, "authorization")
	})
	t.Run("a key names its bearer, and is not sent on", func(t *testing.T) {
		mustCall(t, cc, "x-api-key", "key-of-batch-0123456789")
		b.mustHaveSeen(t, "x-caller", "batch")
		b.mustHaveSeen(t, "x-api-key")
	})
	t.Run("a certificate is a proof, too", func(t *testing.T) {
		mustCall(t, dial(t, tr.Listen, as(secure(ca, "localhost"), people.issue(nil, "spiffe://example.test/cron"))))
		b.mustHaveSeen(t, "x-caller", "spiffe://example.test/cron")
	})
	t.Run("who proves nothing is told how to, where a proof is required", func(t *testing.T) {
		mustSay(t, call(t, cc), codes.Unauthenticated, "TOKEN_MISSING", "send a token of "+corp.url, "authorization: Bearer", "x-api-key", "client certificate")
	})
	t.Run("anonymous methods ask for none, but one that is shown must be good", func(t *testing.T) {
		c := testpb.NewTestServiceClient(cc)
		if _, err := c.EmptyCall(harness.Context(t, limit), &testpb.Empty{}); err != nil {
			t.Error(err)
		}
		_, err := c.EmptyCall(metadata.AppendToOutgoingContext(harness.Context(t, limit), "x-api-key", "wrong"), &testpb.Empty{})
		mustSay(t, err, codes.Unauthenticated, "API_KEY_UNKNOWN", "x-api-key")
	})
	t.Run("rules over claims and peers, by method", func(t *testing.T) {
		intern := corp.token("k1", corp.claims("ian", "roles", []string{"intern"}))
		mustSay(t, call(t, cc, bearer(intern)...), codes.PermissionDenied, "DENIED_BY_RULE", "rule no-interns denies "+unary+" to ian", "ask your lead")
		mustSay(t, stream(cc, bearer(intern)...), codes.PermissionDenied, "NOT_ALLOWED_BY_RULE", "streams-for-ops", "streams-for-mesh")
		if err := stream(cc, bearer(alice)...); err != nil {
			t.Error(err)
		}
		if err := stream(dial(t, tr.Listen, as(secure(ca, "localhost"), people.issue(nil, "spiffe://example.test/cron")))); err != nil {
			t.Error(err)
		}
		mustSay(t, stream(dial(t, tr.Listen, as(secure(ca, "localhost"), people.issue(nil, "spiffe://elsewhere.test/cron")))), codes.PermissionDenied, "NOT_ALLOWED_BY_RULE", "spiffe://elsewhere.test/cron")
	})
	t.Run("a shadow rule refuses nobody, and is told of", func(t *testing.T) {
		mustCall(t, cc, append(bearer(alice), "x-night", "yes")...)
		api := connect.NewRequest(&adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_Last{Last: 1}})
		api.Header().Set("Authorization", "Bearer "+alice)
		r, err := tr.API().ExplainCall(harness.Context(t, limit), api)
		if err != nil {
			t.Fatal(err)
		}
		says(t, fmt.Sprint(r.Msg), "not-at-night", "would deny it")
	})
	t.Run("the admin API asks the same rules", func(t *testing.T) {
		_, err := tr.API().GetStatus(harness.Context(t, limit), connect.NewRequest(&adminv1.GetStatusRequest{}))
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("got %v", err)
		}
		says(t, err.Error(), "admin-for-alice", "trunkline.admin.v1.AdminService/GetStatus")
		r := connect.NewRequest(&adminv1.GetStatusRequest{})
		r.Header().Set("Authorization", "Bearer "+alice)
		if _, err := tr.API().GetStatus(harness.Context(t, limit), r); err != nil {
			t.Error(err)
		}
	})
	t.Run("so does reflection through the balancer", func(t *testing.T) {
		list := func(pairs ...string) (string, error) {
			s, err := reflectpb.NewServerReflectionClient(cc).ServerReflectionInfo(metadata.AppendToOutgoingContext(harness.Context(t, limit), pairs...))
			if err != nil {
				return "", err
			}
			_ = s.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}})
			r, err := s.Recv()
			return r.String(), err
		}
		_, err := list()
		mustSay(t, err, codes.Unauthenticated, "TOKEN_MISSING")
		_, err = list("x-api-key", "key-of-batch-0123456789")
		mustSay(t, err, codes.PermissionDenied, "NOT_ALLOWED_BY_RULE", "reflect-for-alice", "batch")
		if text, err := list(bearer(alice)...); err != nil || !strings.Contains(text, harness.Service) {
			t.Errorf("%q %v", text, err)
		}
	})
	t.Run("a stream that began with a good token lives on when its key is taken away", func(t *testing.T) {
		finish := hold(t, b.Backend, cc, "rotation", bearer(alice)...)
		asked := corp.asked.Load()
		corp.rotate("k2")
		// A token with a new key has the keys fetched, once the last fetch is some seconds ago.
		bob := corp.token("k2", corp.claims("bob", "roles", []string{}))
		harness.Eventually(t, limit, "the new key to be believed", func() bool { return call(t, cc, bearer(bob)...) == nil })
		if n := corp.asked.Load() - asked; n > 3 {
			t.Errorf("the issuer was asked %d times for one key", n)
		}
		mustSay(t, call(t, cc, bearer(alice)...), codes.Unauthenticated, "TOKEN_KEY_UNKNOWN", "get a new one")
		finish()
		corp.away.Store(true)
		mustCall(t, cc, bearer(corp.token("k2", corp.claims("carol", "roles", []string{})))...)
	})
	t.Run("no secret is in any log", func(t *testing.T) {
		text := tr.Output()
		for _, l := range lines(t, log) {
			text += fmt.Sprint(l)
		}
		for _, secret := range []string{alice, strings.Split(alice, ".")[2], "key-of-batch"} {
			if strings.Contains(text, secret) {
				t.Errorf("a log has %.20s...", secret)
			}
		}
	})
}
