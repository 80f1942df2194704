package lb

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/discovery"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// source is a discovery.Source that says what the test says.
type source struct {
	name string
	said chan []*discovery.Cluster
}

func newSource(name string) *source {
	return &source{name: name, said: make(chan []*discovery.Cluster, 1)}
}

func (s *source) Name() string                       { return s.name }
func (s *source) say(clusters ...*discovery.Cluster) { s.said <- clusters }
func (s *source) Run(ctx context.Context, emit func([]*discovery.Cluster)) error {
	for {
		select {
		case c := <-s.said:
			emit(c)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *source) Report() discovery.SourceReport {
	return discovery.SourceReport{Name: s.name, Index: 42, Err: "the origin is away", LastFailure: time.Unix(1, 0)}
}

// offering is an endpoint that offers those methods.
func offering(addr, service string, methods ...string) discovery.Endpoint {
	return discovery.Endpoint{Address: addr, Weight: 1, Services: map[string][]string{service: methods}}
}

func cluster(name string, services string, endpoints ...discovery.Endpoint) *discovery.Cluster {
	discovery.SortEndpoints(endpoints)
	return &discovery.Cluster{Name: name, Source: "registry", Claim: discovery.ClaimMeta, Services: strings.Fields(services), Endpoints: endpoints}
}

func TestExplainSaysWhatTheEngineDoes(t *testing.T) {
	a, b, gone := backend(t), backend(t), nobody(t)
	src := newSource("registry")
	src.say(
		cluster("shop", "x.Shop", offering(a, "x.Shop", "Get", "List"), offering(b, "x.Shop", "Get")),
		cluster("dead", "x.Dead", discovery.Endpoint{Address: gone, Weight: 1}),
		cluster("empty", "x.Empty"),
		cluster("one", "x.Both", discovery.Endpoint{Address: a, Weight: 1}),
		cluster("two", "x.Both", discovery.Endpoint{Address: b, Weight: 1, Warning: true}),
	)
	cfg := parse(t, echoAt(b))
	cfg.Routes = []*configv1.Route{ // a file could not name the clusters of a source of the test's own
		{Match: &configv1.Match{Method: "x.Shop/Buy"}, Cluster: "one"},
		{Match: &configv1.Match{Prefix: "x.Sh", Authority: "shop.example"}, Cluster: "two"},
		{Match: &configv1.Match{Service: "x.Nowhere"}, Cluster: "nowhere"},
	}
	r := runConfig(t, cfg, src)
	_, _ = r.call("x.Dead/Get", "") // so that it is known to be down
	for _, c := range []struct{ method, authority, route, claim string }{
		{"bench.Echo/Ping", "", "service bench.Echo", "CONFIG"},
		{"x.Shop/Get", "", "method x.Shop/Get", "META"},
		{"x.Shop/List", "", "method x.Shop/List", "META"},
		{"x.Shop/Lists", "", "", ""},
		{"x.Shop/Buy", "", "routes[0]", "ROUTE"},
		{"x.Shop/Buy", "shop.example", "routes[1]", "ROUTE"},
		{"x.Shop/Get", "shop.example:443", "routes[1]", "ROUTE"},
		{"x.Dead/Get", "", "service x.Dead", "META"},
		{"x.Empty/Get", "", "service x.Empty", "META"},
		{"x.Both/Get", "", "", ""},
		{"x.Nowhere/Get", "", "routes[2]", "ROUTE"},
		{"y.Unknown/Get", "", "", ""},
		{"grpc.health.v1.Health/Check", "", "service grpc.health.v1.Health", "UNSPECIFIED"},
	} {
		t.Run(c.method+" at "+c.authority, func(t *testing.T) {
			said := r.Explain("/"+c.method, c.authority)
			if said.GetMethod() != c.method || said.GetRoute().GetName() != c.route || c.route != "" && said.GetRoute().GetClaim().String() != "CLAIM_"+c.claim {
				t.Errorf("route: %v", said.GetRoute())
			}
			chosen := 0
			for _, s := range said.GetSteps() {
				if s.GetChosen() {
					chosen++
					if !proto.Equal(s.GetRoute(), said.GetRoute()) {
						t.Errorf("chosen: %v, route: %v", s, said.GetRoute())
					}
				}
			}
			if want := map[bool]int{true: 1}[c.route != ""]; chosen != want || len(said.GetSteps()) < 5 {
				t.Errorf("%d of %d steps chosen", chosen, len(said.GetSteps()))
			}
			var eligible []string
			for _, e := range said.GetCandidates() {
				if e.GetEligible() != (e.GetReason() == "") {
					t.Errorf("candidate: %v", e)
				}
				if e.GetEligible() {
					eligible = append(eligible, e.GetAddress())
				}
			}
			if (len(eligible) > 0) != (said.GetStatus() == 0) {
				t.Errorf("%d candidates may take it, and status %d", len(eligible), said.GetStatus())
			}
			for range 8 { // the picker draws
				at, err := r.call(c.method, c.authority)
				if st := status.Convert(err); uint32(st.Code()) != said.GetStatus() || st.Message() != said.GetMessage() {
					t.Fatalf("the engine: %v %q\nexplained: %d %q", st.Code(), st.Message(), said.GetStatus(), said.GetMessage())
				}
				if at != "" && !slices.Contains(eligible, at) {
					t.Errorf("%s took it; explained: %v", at, eligible)
				}
			}
		})
	}
	if near := r.Explain("x.Shop/Lists", "").GetNearest(); len(near) != 1 || near[0] != "x.Shop/List" {
		t.Errorf("nearest: %v", near)
	}
	for _, e := range r.Explain("x.Shop/List", "").GetCandidates() {
		if has := e.GetAddress() == a; e.GetHasMethod() != has || e.GetEligible() != has || !has && e.GetReason() != "it does not have the method" {
			t.Errorf("candidate: %v", e)
		}
	}
	if w := r.Explain("x.Shop/Get", "shop.example"); w.GetClusterSource() != "registry" || w.GetBalancer() != "least_request" || w.GetCandidates()[0].GetState() != adminv1.EndpointState_ENDPOINT_STATE_WARNING {
		t.Errorf("%v", w)
	}
}

func TestClustersShowConflictsSourcesAndWhatEndpointsOffer(t *testing.T) {
	src := newSource("registry")
	src.say(
		cluster("one", "x.Both", offering("127.0.0.1:1", "x.Both", "Get", "Put")),
		cluster("two", "x.Both", discovery.Endpoint{Address: "127.0.0.1:2", InstanceID: "two-1", Weight: 5, Tags: []string{"grpc"}, Meta: map[string]string{"zone": "a"}}),
	)
	r := run(t, echoAt("127.0.0.1:3"), src)
	got := r.Clusters()
	if c := got.GetConflicts(); len(c) != 1 || c[0].GetService() != "x.Both" || strings.Join(c[0].GetClusters(), " ") != "one two" {
		t.Errorf("conflicts: %v", c)
	}
	if s := got.GetSources(); len(s) != 2 || s[0].GetName() != "registry" || s[0].GetIndex() != 42 || s[0].GetError() != "the origin is away" || s[0].GetLastFailure() == nil || s[1].GetName() != "static" || s[1].GetClusters() != 1 || s[1].GetLastSuccess() == nil {
		t.Errorf("sources: %v", s)
	}
	c := got.GetClusters()
	if len(c) != 3 || c[0].GetName() != "echo" || c[1].GetName() != "one" || c[2].GetName() != "two" || !strings.Contains(c[1].GetError(), "x.Both") {
		t.Fatalf("clusters: %v", c)
	}
	if s := c[1].GetEndpoints()[0].GetServices(); len(s) != 1 || s[0].GetName() != "x.Both" || strings.Join(s[0].GetMethods(), " ") != "Get Put" {
		t.Errorf("services: %v", s)
	}
	if e := c[2].GetEndpoints()[0]; e.GetInstanceId() != "two-1" || e.GetWeight() != 5 || e.GetTags()[0] != "grpc" || e.GetMeta()["zone"] != "a" || len(e.GetServices()) != 0 {
		t.Errorf("endpoint: %v", e)
	}
	for _, route := range r.Routes() {
		if route.GetPattern() == "x.Both" {
			t.Errorf("a service in conflict is routed: %v", route)
		}
	}
}

// What can be known without asking anybody is explained offline as by the running Server.
func TestExplainOfAFileAgreesWithTheServerThatServesIt(t *testing.T) {
	a, b := backend(t), backend(t)
	yaml := echoAt(a, b) + `
clusters: [ { name: echo, loadBalancing: round_robin } ]
routes:
  - match: { method: x.Shop/Buy, authority: "*.example.com" }
    cluster: echo
  - match: { prefix: "x.Sh" }
    cluster: echo
`
	r := run(t, yaml)
	for _, method := range []string{"bench.Echo/Ping", "x.Shop/Buy", "x.Other/Get", "bench.Ecko/Ping", "grpc.health.v1.Health/Check", "odd"} {
		for _, authority := range []string{"", "api.example.com:443"} {
			offline, err := Explain(parse(t, yaml), method, authority)
			if err != nil {
				t.Fatal(err)
			}
			if live := r.Explain(method, authority); !proto.Equal(offline, live) {
				t.Errorf("%s at %q\noffline %v\nlive    %v", method, authority, offline, live)
			}
		}
	}
}

func TestExplainOfAFileSaysWhoWasNotAsked(t *testing.T) {
	const unasked = "discovery: { static: { clusters: [ { name: shop, endpoints: [ { address: 127.0.0.1:1 } ] } ] } }\n"
	for _, c := range []struct {
		name, yaml, method string
		status             uint32
		says               string
	}{
		{"a cluster without grpcServices", unasked, "x.Shop/Get", 12, "it may be known to the endpoints of cluster shop (by reflection)"},
		{"Consul", "discovery: { consul: {} }\n", "x.Shop/Get", 12, "it may be known to Consul"},
		{"a cluster that Consul may have", "discovery: { consul: {} }\nroutes: [ { match: { service: x.Shop }, cluster: shop } ]\n", "x.Shop/Get", 14, "no source has found cluster shop yet (offline, nobody was asked: it may be known to Consul)"},
		{"a default", unasked + "routes: [ { match: {}, cluster: shop } ]\n", "x.Shop/Get", 0, "unless the service is known to the endpoints of cluster shop"},
		{"nobody: all is written down", echoAt("127.0.0.1:1"), "x.Shop/Get", 12, ""},
		{"nobody: a route decides", unasked + "routes: [ { match: { service: x.Shop }, cluster: shop } ]\n", "x.Shop/Get", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Explain(parse(t, c.yaml), c.method, "")
			if err != nil {
				t.Fatal(err)
			}
			said := r.GetMessage()
			for _, s := range r.GetSteps() {
				if s.GetChosen() {
					said += s.GetReason()
				}
			}
			if r.GetStatus() != c.status || !strings.Contains(said, c.says) || c.says == "" && strings.Contains(said, "offline") {
				t.Errorf("status %d, want %d; want %q in %q", r.GetStatus(), c.status, c.says, said)
			}
		})
	}
}

func TestExplainNamesWhatACallWouldBeAskedAndWhatRefusesIt(t *testing.T) {
	for _, c := range []struct {
		name, rule string
		status     uint32
		asked      int
		says       string
	}{
		{"a condition", "{ name: night, action: deny, when: 'authority == \"night\"' }", 0, 1, ""},
		{"everybody", "{ name: closed, action: deny }", 7, 0, "rule closed denies bench.Echo/Ping, whoever calls"},
		{"nothing", "{ name: open, action: allow }", 0, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			yaml := echoAt(backend(t)) + "authorization: { rules: [ " + c.rule + " ] }\n"
			offline, err := Explain(parse(t, yaml), "bench.Echo/Ping", "")
			if err != nil {
				t.Fatal(err)
			}
			if live := run(t, yaml).Explain("bench.Echo/Ping", ""); !proto.Equal(offline, live) {
				t.Errorf("offline %v\nlive    %v", offline, live)
			}
			if offline.GetStatus() != c.status || len(offline.GetAsked()) != c.asked || !strings.HasPrefix(offline.GetMessage(), c.says) {
				t.Errorf("%v", offline)
			}
		})
	}
}

func TestExplainNamesTheRateLimitServiceAndWhatMessagesAreHeldAgainst(t *testing.T) {
	const service = "The rate limit service 127.0.0.1:1 would be asked, and may refuse it; without an answer within 20ms it passes (trunkline.cluster.rateLimitService)."
	yaml := echoAt(backend(t)) + `
trunkline:
  methodPolicy: [ { name: [ { service: bench.Echo } ], rateLimits: [ { requestsPerSecond: 5, clientAddress: true }, { requestsPerSecond: 9, shared: true } ] } ]
  cluster: { rateLimitService: { address: 127.0.0.1:1, descriptors: [ [ { key: m, method: true } ] ] } }
payload: [ { methods: [ bench.Echo/Ping ], maxRequestMessageBytes: 10 }, { maxResponseMessageBytes: 20 } ]
authorization: { rules: [ { name: closed, action: deny, methods: [ bench.Echo/Closed ] }, { name: night, action: deny, methods: [ bench.Echo/Ping ], when: 'authority == "night"' } ] }
`
	r := run(t, yaml)
	for method, want := range map[string][]string{
		"bench.Echo/Ping": {"It would be refused if it meets the condition of rule night (authorization.rules[1]).", service,
			"Each of its request messages may have up to 10 bytes (payload[0].maxRequestMessageBytes)."},
		"bench.Echo/Other":            {service, "Each of its response messages may have up to 20 bytes (payload[1].maxResponseMessageBytes)."},
		"bench.Echo/Closed":           nil, // it is refused before
		"x.Nobody/Get":                nil, // it goes nowhere
		"grpc.health.v1.Health/Check": nil, // Trunkline answers itself
	} {
		offline, err := Explain(parse(t, yaml), method, "")
		if err != nil {
			t.Fatal(err)
		}
		for who, said := range map[string]*adminv1.ExplainResponse{"offline": offline, "live": r.Explain(method, "")} {
			if !slices.Equal(said.GetAsked(), want) {
				t.Errorf("%s, %s: %q", method, who, said.GetAsked())
			}
			if strings.HasPrefix(method, "bench.") && strings.Join(said.GetPolicy().GetWords(), "; ") != "5 calls per second for each client address, 5 at a time (trunkline.methodPolicy[].rateLimits); "+
				"9 calls per second, all methods of bench.Echo together, 9 at a time (trunkline.methodPolicy[].rateLimits)" {
				t.Errorf("%s, %s: %q", method, who, said.GetPolicy())
			}
		}
	}
}
