package edge

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestAReloadChangesTheEdgeAndCutsNothing(t *testing.T) {
	ca, people := newAuthority(t, "edge test CA"), newAuthority(t, "people")
	one, two := startIssuer(t, "k1"), startIssuer(t, "k1")
	o, b := startOrders(t), startServer(t, "b")
	main, shop := ca.issue(nil, "localhost"), ca.issue(nil, "shop.example.test")
	shopCert, shopKey := shop.files()
	text := func(tls, jwt, rules, payload string) string {
		return fmt.Sprintf(`
listeners: [ { address: LISTEN, tls: { %s, clientCaFile: %s, clientAuth: optional %s } } ]
admin: { address: ADMIN }
discovery: { static: { clusters: [ { name: orders, endpoints: [ { address: %s } ] }, { name: backends, endpoints: [ { address: %s } ] } ] }, reflection: { interval: 1s } }
authentication: { jwt: [ %s ], identityMetadata: x-caller }
authorization: { rules: [ %s ] }
payload: [ %s ]
`, main.yaml(), people.file(), tls, o.address, b.Addr, jwt, rules, payload)
	}
	provider := func(name string, i *issuer) string {
		return "{ name: " + name + ", issuer: '" + i.url + "', audiences: [ shop ], caFile: " + i.ca + " }"
	}
	rule := func(name, when string) string {
		return "{ name: " + name + ", action: deny, methods: [ " + unary + " ], when: \"" + when + "\" }"
	}
	before := text("", provider("one", one), rule("no-reds", "metadata['x-colour'][0] == 'red'"),
		"{ methods: [ 'edge.test.*' ], validate: { protovalidate: true } }, { methods: [ "+unary+" ], maxRequestMessageBytes: 1000 }")
	after := text(", certificates: [ { certFile: "+shopCert+", keyFile: "+shopKey+" } ]", provider("two", two), rule("no-blues", "metadata['x-colour'][0] == 'blue'"),
		"{ methods: [ "+unary+" ], maxRequestMessageBytes: 3000 }")
	tr := harness.Start(t, before)
	cc := dial(t, tr.Listen, secure(ca, "localhost"))
	red, blue := []string{"x-colour", "red"}, []string{"x-colour", "blue"}
	first, second := bearer(one.token("k1", one.claims("alice"))), bearer(two.token("k1", two.claims("alice")))
	harness.Eventually(t, limit, "both services to be routed", func() bool {
		return o.place(t, cc, o.make("tea", 1)) == nil && call(t, cc, append(first, blue...)...) == nil
	})
	each := func(t *testing.T, cc *grpc.ClientConn) grpc.ClientStream {
		t.Helper()
		s, err := cc.NewStream(harness.Context(t, 2*limit), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+each)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	exchange := func(s grpc.ClientStream, m any) error {
		if err := s.SendMsg(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return s.RecvMsg(dynamicpb.NewMessage(o.order))
	}
	finish := hold(t, b.Backend, cc, "reload", first...)
	judged, unjudged := each(t, cc), each(t, cc)
	for _, s := range []grpc.ClientStream{judged, unjudged} {
		if err := exchange(s, o.make("tea", 1)); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(t *testing.T, what string, no, yes []string, good, bad []string, size int32) {
		t.Helper()
		mustSay(t, call(t, cc, append(good, no...)...), codes.PermissionDenied, "DENIED_BY_RULE", what)
		mustCall(t, cc, append(good, yes...)...)
		mustSay(t, call(t, cc, append(bad, yes...)...), codes.Unauthenticated, "TOKEN_ISSUER")
		if err := bigCall(t, cc, size-500, 0, append(good, yes...)...); err != nil {
			t.Error(err)
		}
		mustSay(t, bigCall(t, cc, size+500, 0, append(good, yes...)...), codes.ResourceExhausted, "MESSAGE_TOO_LARGE")
	}
	shows := func(t *testing.T, name string) string {
		t.Helper()
		c := secure(ca, name)
		c.InsecureSkipVerify = true
		return mustCall(t, dial(t, tr.Listen, c), append(second, red...)...).PeerCertificates[0].Subject.CommonName
	}
	holds(t, "no-reds", red, blue, first, second, 1000)

	t.Run("rules, providers, certificates and payload rules change", func(t *testing.T) {
		reload(t, tr, after)
		holds(t, "no-blues", blue, red, second, first, 3000)
		if got := shows(t, "shop.example.test"); got != "shop.example.test" {
			t.Errorf("the certificate that was added is not shown, but %s", got)
		}
		if err := exchange(each(t, cc), o.make("t", 0)); err != nil {
			t.Errorf("a new stream is judged by a rule that is gone: %v", err)
		}
	})
	t.Run("a stream goes on by the rules that it began with", func(t *testing.T) {
		for range 3 {
			if err := exchange(judged, o.make("tea", 1)); err != nil {
				t.Fatal(err)
			}
		}
		mustSay(t, exchange(judged, o.make("t", 0)), codes.InvalidArgument, "INVALID_MESSAGE", "message 5 of ")
	})
	for name, bad := range map[string]struct{ text, says string }{
		"a condition that does not compile":    {text("", provider("two", two), rule("broken", "metadata.colour =="), ""), "authorization.rules"},
		"a certificate that is not there":      {text(", certificates: [ { certFile: /nowhere/tls.crt, keyFile: /nowhere/tls.key } ]", provider("two", two), "", ""), "/nowhere/tls.crt"},
		"a key set that is not there":          {text("", "{ name: x, issuer: https://x.test, audiences: [ shop ], jwksFile: /nowhere/jwks }", "", ""), "/nowhere/jwks"},
		"directives that do not compile":       {text("", provider("two", two), "", "{ waf: { directivesFile: /nowhere/rules.conf } }"), "/nowhere/rules.conf"},
		"a rule for methods that are no names": {text("", provider("two", two), "", "{ methods: [ 'not a method' ], maxRequestBytes: 1 }"), "payload[0].methods"},
	} {
		t.Run(name+" changes nothing", func(t *testing.T) {
			was := tr.Status(t).GetConfig()
			tr.WriteConfig(t, bad.text)
			tr.Signal(t, syscall.SIGHUP)
			harness.Eventually(t, limit, "the admin API to say what is wrong", func() bool {
				return strings.Contains(tr.Status(t).GetConfig().GetLastError(), bad.says)
			})
			if now := tr.Status(t).GetConfig(); now.GetHash() != was.GetHash() {
				t.Errorf("the configuration is %v, was %v", now, was)
			}
			holds(t, "no-blues", blue, red, second, first, 3000)
		})
	}
	t.Run("the next good one is taken", func(t *testing.T) {
		reload(t, tr, before)
		holds(t, "no-reds", red, blue, first, second, 1000)
	})
	t.Run("a stream that began before all of it ends as it should", func(t *testing.T) {
		finish()
		if err := exchange(unjudged, o.make("tea", 1)); err != nil {
			t.Error(err)
		}
		_ = unjudged.CloseSend()
		if err := unjudged.RecvMsg(dynamicpb.NewMessage(o.order)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}
