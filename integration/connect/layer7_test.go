package connect

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// permit says which calls web may make to a service.
func (m *mesh) permit(destination string, more []*api.SourceIntention, list ...*api.IntentionPermission) {
	m.t.Helper()
	m.write(&api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: destination,
		Sources: append([]*api.SourceIntention{{Name: "web", Permissions: list}}, more...)})
}

// permission is one for a method of the test service, "" for all calls, with such headers.
func permission(action api.IntentionAction, method string, headers ...api.IntentionHTTPHeaderPermission) *api.IntentionPermission {
	p := &api.IntentionPermission{Action: action, HTTP: &api.IntentionHTTPPermission{PathExact: "/" + harness.Service + "/" + method, Header: headers}}
	if method == "" {
		p.HTTP = &api.IntentionHTTPPermission{PathPrefix: "/", Header: headers}
	}
	return p
}

func emptyCall(t *testing.T, cc *grpc.ClientConn, kv ...string) error {
	ctx := metadata.AppendToOutgoingContext(harness.Context(t, stepLimit), kv...)
	_, err := testpb.NewTestServiceClient(cc).EmptyCall(ctx, &testpb.Empty{})
	return err
}

func streamingCall(t *testing.T, cc *grpc.ClientConn, kv ...string) error {
	ctx := metadata.AppendToOutgoingContext(harness.Context(t, stepLimit), kv...)
	stream, err := testpb.NewTestServiceClient(cc).StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}}})
	if err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Intentions with permissions are obeyed for each call of a stock client, as the sidecars of the mesh would; changes of them hold within
// ten seconds, and no call fails that all of them allow.
func TestIntentionsOfLayer7AreObeyed(t *testing.T) {
	m := startMesh(t)
	m.write(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "trunkline", Protocol: "grpc"})
	m.intend("trunkline", map[string]api.IntentionAction{"web": allow})
	m.intend("echo", map[string]api.IntentionAction{"trunkline": allow})
	n := m.startNative("echo", "echo-1")
	trunkline := m.startTrunkline(false, []string{"echo"}, "routes: [ { match: { service: "+harness.Service+" }, cluster: echo } ]")
	cc := m.dial("web", "trunkline", trunkline.Listen)
	load := harness.StartLoad(t, 2, m.dial("web", "trunkline", trunkline.Listen)) // of UnaryCall
	load.Await(t, 20)

	evil := []*api.SourceIntention{{Name: "evil", Action: deny}}
	admin := api.IntentionHTTPHeaderPermission{Name: "x-role", Exact: "admin"}
	m.permit("trunkline", evil, permission(deny, "EmptyCall"), permission(allow, "UnaryCall"), permission(allow, "StreamingOutputCall", admin), permission(deny, ""))
	harness.Eventually(t, 10*time.Second, "the permissions to hold", func() bool { return emptyCall(t, cc) != nil })
	load.Await(t, 100)
	before := n.Calls()
	const pair = `do not let "web" call "trunkline" with the path "/` + harness.Service
	refused(t, emptyCall(t, cc), codes.PermissionDenied, pair+`/EmptyCall"`, "default/web => default/trunkline", "permission 1 denies it")
	refused(t, emptyCall(t, cc, "x-role", "admin"), codes.PermissionDenied, "permission 1 denies it")
	refused(t, streamingCall(t, cc), codes.PermissionDenied, pair+`/StreamingOutputCall"`, "permission 4 denies it")
	refused(t, streamingCall(t, cc, "x-role", "guest"), codes.PermissionDenied, "permission 4 denies it")
	refused(t, streamingCall(t, cc, "x-role", "guest", "x-role", "admin"), codes.PermissionDenied, "permission 4 denies it")
	if err := streamingCall(t, cc, "x-role", "admin"); err != nil {
		t.Error(err)
	}
	if _, err := harness.WhoAnswers(harness.Context(t, stepLimit), cc); err != nil {
		t.Error(err)
	}
	if n.Calls() == before {
		t.Error("the backend saw no call")
	}
	err := call(t, func() *grpc.ClientConn { return m.dial("evil", "trunkline", trunkline.Listen) })
	refused(t, err, codes.PermissionDenied, `"evil"`, "default/evil => default/trunkline", "DENY")

	// Other permissions, and then those of an agent that allows what no permission matches.
	m.permit("trunkline", evil, permission(allow, "EmptyCall"), permission(allow, "UnaryCall"), permission(deny, ""))
	began := time.Now()
	harness.Eventually(t, 10*time.Second, "the changed permissions to hold", func() bool { return emptyCall(t, cc) == nil && streamingCall(t, cc, "x-role", "admin") != nil })
	t.Logf("they held after %v", time.Since(began))
	m.permit("trunkline", evil, permission(deny, "EmptyCall"))
	harness.Eventually(t, 10*time.Second, "the default to hold", func() bool {
		return status.Code(emptyCall(t, cc)) == codes.PermissionDenied && streamingCall(t, cc) == nil
	})

	// A token cannot be judged here.
	m.write(&api.JWTProviderConfigEntry{Kind: api.JWTProvider, Name: "okta", Issuer: "okta",
		JSONWebKeySet: &api.JSONWebKeySet{Local: &api.LocalJWKS{JWKS: "eyJrZXlzIjpbXX0="}}})
	asks := permission(allow, "EmptyCall")
	asks.JWT = &api.IntentionJWTRequirement{Providers: []*api.IntentionJWTProvider{{Name: "okta"}}}
	m.permit("trunkline", evil, permission(allow, "UnaryCall"), permission(deny, "StreamingOutputCall"), asks)
	harness.Eventually(t, 10*time.Second, "the changed permissions to hold", func() bool { return streamingCall(t, cc) != nil })
	refused(t, emptyCall(t, cc), codes.PermissionDenied, "permission 3 asks for a JWT, which cannot be judged here")

	// While the agent is away permissions are as they were.
	load.Await(t, 20)
	m.Kill()
	load.Await(t, 1000)
	refused(t, streamingCall(t, cc), codes.PermissionDenied, "permission 2 denies it")
	m.Start(t)
	load.Await(t, 100)
	load.MustNotHaveFailed(t)
}

// An action beside which the mesh asks for a token does not let calls pass here without one.
func TestAnActionThatAsksForATokenRefuses(t *testing.T) {
	m := startMesh(t)
	i := m.join("trunkline")
	m.write(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "trunkline", Protocol: "grpc"})
	m.write(&api.JWTProviderConfigEntry{Kind: api.JWTProvider, Name: "okta", Issuer: "okta",
		JSONWebKeySet: &api.JSONWebKeySet{Local: &api.LocalJWKS{JWKS: "eyJrZXlzIjpbXX0="}}})
	m.write(&api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: "trunkline", Sources: []*api.SourceIntention{{Name: "web", Action: allow}},
		JWT: &api.IntentionJWTRequirement{Providers: []*api.IntentionJWTProvider{{Name: "okta"}}}})
	web := "spiffe://" + i.TrustDomain() + "/ns/default/dc/dc1/svc/web"
	harness.Eventually(t, 10*time.Second, "the token to be asked for", func() bool {
		yes, why := authorize(t, i, "trunkline", web)
		t.Log(why)
		return !yes && why == `Consul's intentions do not let "web" call "trunkline": Matched L4 intention: default/web => default/trunkline (Precedence: 9, Action: ALLOW): `+
			"it asks for a JWT, which cannot be judged here: take that out, and give Trunkline authentication of its own"
	})
}

// With checkDestinations the permissions of the service that a call is for hold, too.
func TestPermissionsOfDestinationsAreCheckedToo(t *testing.T) {
	m := startMesh(t)
	for _, service := range []string{"trunkline", "echo"} {
		m.write(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: service, Protocol: "grpc"})
	}
	m.permit("trunkline", nil, permission(deny, "EmptyCall"), permission(allow, ""))
	m.permit("echo", []*api.SourceIntention{{Name: "trunkline", Action: allow}},
		permission(deny, "StreamingOutputCall", api.IntentionHTTPHeaderPermission{Name: "x-role", Present: true, Invert: true}), permission(allow, ""))
	m.startNative("echo", "echo-1")
	trunkline := m.startTrunkline(true, []string{"echo"}, "routes: [ { match: { service: "+harness.Service+" }, cluster: echo } ]")
	cc := m.dial("web", "trunkline", trunkline.Listen)
	harness.Eventually(t, stepLimit, "a call that both allow", func() bool {
		_, err := harness.WhoAnswers(harness.Context(t, stepLimit), cc)
		return err == nil
	})
	refused(t, emptyCall(t, cc), codes.PermissionDenied, `call "trunkline"`, "permission 1 denies it")
	refused(t, streamingCall(t, cc), codes.PermissionDenied, `call "echo"`, "permission 1 denies it")
	if err := streamingCall(t, cc, "x-role", ""); err != nil {
		t.Error(err)
	}
}

// The right to be the service is enough to read its intentions; who was not left it, and who may not learn the agent's default, reads
// what is missing.
func TestRightsThatIntentionsOfLayer7Need(t *testing.T) {
	const root = "11111111-2222-3333-4444-555555555555"
	t.Setenv("CONSUL_HTTP_TOKEN", root) // the test's own
	m := startMesh(t, `-hcl=acl { enabled = true, default_policy = "deny", tokens { initial_management = "`+root+`", agent = "`+root+`" } }`)
	m.write(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "trunkline", Protocol: "grpc"})
	m.permit("trunkline", nil, &api.IntentionPermission{Action: allow, HTTP: &api.IntentionHTTPPermission{PathExact: "/pkg.Shop/Get"}})
	for _, c := range []struct{ rules, list, get string }{
		{`service "trunkline" { policy = "write" }`, "Trunkline's ACL token needs agent:read to learn it", "permission 1 of the intention"},
		{`service "trunkline" { policy = "write" } agent_prefix "" { policy = "read" }`, "no permission matches, and Consul's default is to deny", "permission 1 of the intention"},
		{`service "trunkline" { policy = "write", intentions = "deny" }`, `its ACL token needs intentions:read for "trunkline"`, `its ACL token needs intentions:read for "trunkline"`},
	} {
		policy, _, err := m.API.ACL().PolicyCreate(&api.ACLPolicy{Name: "p" + strconv.Itoa(len(c.rules)), Rules: c.rules}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := m.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		i := m.joinWith("trunkline", token.SecretID)
		web := "spiffe://" + i.TrustDomain() + "/ns/default/dc/dc1/svc/web"
		authorize(t, i, "trunkline", web)
		answer := i.Authorize("trunkline", web, "01", nil)
		for path, says := range map[string]string{"/pkg.Shop/Get": c.get, "/pkg.Shop/List": c.list} {
			yes, why := answer(func(name string) (string, bool) { return path, name == ":path" })
			if !strings.Contains(why, says) || yes != strings.HasPrefix(says, "permission 1") {
				t.Errorf("%s, %s: %v, %s", c.rules, path, yes, why)
			}
		}
	}
}
