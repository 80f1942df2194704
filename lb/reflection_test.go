package lb

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/trunkline/trunkline/discovery"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// names lists services for grpc-go's reflection.
type names []string

func (n names) GetServiceInfo() map[string]grpc.ServiceInfo {
	m := map[string]grpc.ServiceInfo{}
	for _, s := range n {
		m[s] = grpc.ServiceInfo{}
	}
	return m
}

// reflecting starts a grpc-go server that tells by reflection of services in those files, written as text. It answers every
// call with an empty message. stop ends it before the test does.
func reflecting(t *testing.T, addr string, services names, files ...string) (address string, stop func()) {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	for _, text := range files {
		f := new(descriptorpb.FileDescriptorProto)
		if err := prototext.Unmarshal([]byte(text), f); err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, f)
	}
	known, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return s.SendMsg(new(wrapperspb.BytesValue)) }))
	o := reflection.ServerOptions{Services: services, DescriptorResolver: known}
	reflectionv1.RegisterServerReflectionServer(srv, reflection.NewServerV1(o))
	reflectionv1alpha.RegisterServerReflectionServer(srv, reflection.NewServer(o))
	served := make(chan struct{})
	go func() {
		_ = srv.Serve(l)
		close(served)
	}()
	stop = func() {
		srv.Stop()
		<-served
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// asker is one reflection stream through the listener.
type asker struct {
	t      *testing.T
	stream reflectionv1.ServerReflection_ServerReflectionInfoClient
}

func (r *running) asks(options ...grpc.CallOption) *asker {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	r.t.Cleanup(cancel)
	s, err := reflectionv1.NewServerReflectionClient(r.cc).ServerReflectionInfo(ctx, options...)
	if err != nil {
		r.t.Fatal(err)
	}
	return &asker{r.t, s}
}

func (a *asker) ask(q *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
	a.t.Helper()
	if err := a.stream.Send(q); err != nil {
		a.t.Fatal(err)
	}
	r, err := a.stream.Recv()
	if err != nil {
		a.t.Fatal(err)
	}
	if !proto.Equal(r.GetOriginalRequest(), q) || r.GetValidHost() != q.GetHost() {
		a.t.Errorf("it answers another question: %v", r)
	}
	return r
}

func (a *asker) list() string {
	a.t.Helper()
	var all []string
	for _, s := range a.ask(&reflectionv1.ServerReflectionRequest{Host: "x", MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		all = append(all, s.GetName())
	}
	return strings.Join(all, " ")
}

// told writes an answer down: "name.proto(Message Message Service.method)" for each file; or the error.
func (a *asker) told(r *reflectionv1.ServerReflectionResponse) string {
	a.t.Helper()
	if e := r.GetErrorResponse(); e != nil {
		return codes.Code(e.GetErrorCode()).String() + ": " + e.GetErrorMessage()
	}
	var out []string
	for _, b := range r.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(b, f); err != nil {
			a.t.Fatal(err)
		}
		var has []string
		for _, m := range f.GetMessageType() {
			has = append(has, m.GetName())
		}
		for _, s := range f.GetService() {
			for _, m := range s.GetMethod() {
				has = append(has, s.GetName()+"."+m.GetName())
			}
		}
		out = append(out, f.GetName()+"("+strings.Join(has, " ")+")")
	}
	return strings.Join(out, " ")
}

func (a *asker) symbol(name string) string {
	a.t.Helper()
	return a.told(a.ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}}))
}

func (a *asker) file(name string) string {
	a.t.Helper()
	return a.told(a.ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: name}}))
}

const (
	builtinServices = "grpc.health.v1.Health grpc.reflection.v1.ServerReflection grpc.reflection.v1alpha.ServerReflection"

	cartCommon  = `name: "common.proto" package: "cart" message_type { name: "M" }`
	cartFile    = `name: "api.proto" package: "cart" dependency: "common.proto" service { name: "Cart" method { name: "Add" input_type: ".cart.M" output_type: ".cart.M" } }`
	stockCommon = `name: "common.proto" package: "stock" message_type { name: "M" } message_type { name: "N" }`
	stockFile   = `name: "api.proto" package: "stock" dependency: "common.proto" service { name: "Stock" method { name: "Take" input_type: ".stock.M" output_type: ".stock.N" } }`
	teaV1       = `name: "tea.proto" package: "tea" message_type { name: "M" extension_range { start: 100 end: 200 } }
		extension { name: "hot" number: 101 label: LABEL_OPTIONAL type: TYPE_BOOL extendee: ".tea.M" }
		service { name: "Tea" method { name: "Get" input_type: ".tea.M" output_type: ".tea.M" } }`
	teaV2 = `name: "tea.proto" package: "tea" message_type { name: "M" extension_range { start: 100 end: 200 } } message_type { name: "New" }
		extension { name: "hot" number: 101 label: LABEL_OPTIONAL type: TYPE_BOOL extendee: ".tea.M" }
		service { name: "Tea" method { name: "Get" input_type: ".tea.M" output_type: ".tea.M" } method { name: "Suggest" input_type: ".tea.New" output_type: ".tea.M" } }`
)

// reflected is a cluster whose endpoints are to be asked.
func reflected(name string, addrs ...string) *discovery.Cluster {
	c := &discovery.Cluster{Name: name, Source: "registry", WantReflection: true}
	slices.Sort(addrs)
	for _, a := range addrs {
		c.Endpoints = append(c.Endpoints, discovery.Endpoint{Address: a, Weight: 1})
	}
	return c
}

func TestReflectionListsWhatIsRouted(t *testing.T) {
	cart, _ := reflecting(t, "127.0.0.1:0", names{"cart.Cart"}, cartCommon, cartFile)
	stock, _ := reflecting(t, "127.0.0.1:0", names{"stock.Stock"}, stockCommon, stockFile)
	teaA, _ := reflecting(t, "127.0.0.1:0", names{"tea.Tea"}, teaV1)
	teaB, _ := reflecting(t, "127.0.0.1:0", names{"tea.Tea"}, teaV1)
	src := newSource("registry")
	src.say(reflected("cart", cart), reflected("stock", stock), reflected("tea-a", teaA), reflected("tea-b", teaB))
	cfg := parse(t, echoAt(nobody(t)))
	cfg.Routes = []*configv1.Route{
		{Match: &configv1.Match{Method: "x.Given/Get"}, Cluster: "echo"},
		{Match: &configv1.Match{Service: "x.Inside", Authority: "inside.example"}, Cluster: "echo"},
		{Match: &configv1.Match{}, Cluster: "cart"}, // a default lists nothing that its cluster does not have
	}
	r := runConfig(t, cfg, src)
	a := r.asks()
	if got, want := a.list(), "bench.Echo cart.Cart "+builtinServices+" stock.Stock x.Given"; got != want {
		t.Errorf("listed\n%s, want\n%s", got, want)
	}
	if got := r.asks(grpc.CallAuthority("inside.example:443")).list(); !strings.HasSuffix(got, "x.Given x.Inside") {
		t.Errorf("under its authority: %s", got)
	}
	for symbol, want := range map[string]string{
		"cart.Cart":             "api.proto(Cart.Add) common.proto(M)",
		"stock.Stock.Take":      "api.proto(Stock.Take) common.proto(M N)",
		"bench.Echo":            "NotFound: Trunkline: no descriptor of bench.Echo: the services of cluster echo are written down (grpcServices), so its endpoints are not asked; use the .proto files",
		"tea.Tea":               "NotFound: Trunkline: tea.Tea is claimed by the clusters tea-a, tea-b and so routed to none; a route in the configuration decides",
		"tea.Tea.Get":           "NotFound: Trunkline: tea.Tea is claimed by the clusters tea-a, tea-b and so routed to none; a route in the configuration decides",
		"tea.M":                 "NotFound: Trunkline: symbol tea.M is in no descriptor of a cluster that serves a routed service",
		"cart.Cart.No":          "NotFound: Trunkline: no descriptor of cart.Cart.No: no endpoint of cluster cart has it",
		"grpc.health.v1.Nobody": "NotFound: Trunkline: symbol grpc.health.v1.Nobody is in no descriptor of a cluster that serves a routed service",
		"grpc.health.v1.Health": "grpc/health/v1/health.proto(HealthCheckRequest HealthCheckResponse HealthListRequest HealthListResponse Health.Check Health.List Health.Watch)",
	} {
		if got := r.asks().symbol(symbol); got != want {
			t.Errorf("%s:\n%s, want\n%s", symbol, got, want)
		}
	}
	// v1alpha says the same.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := reflectionv1alpha.NewServerReflectionClient(r.cc).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	q := &reflectionv1alpha.ServerReflectionRequest{MessageRequest: &reflectionv1alpha.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "cart.Cart"}} //nolint:staticcheck // old clients do send it
	if err := s.Send(q); err != nil {
		t.Fatal(err)
	}
	if old, err := s.Recv(); err != nil || len(old.GetFileDescriptorResponse().GetFileDescriptorProto()) != 2 || !proto.Equal(old.GetOriginalRequest(), q) { //nolint:staticcheck // as above
		t.Errorf("v1alpha: %v %v", old, err)
	}
	// A request without a question ends the stream, as grpc-go's own does.
	if err := a.stream.Send(&reflectionv1.ServerReflectionRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no question: %v", err)
	}
}

func TestReflectionKeepsToTheClusterOfTheServiceAskedFor(t *testing.T) {
	cart, _ := reflecting(t, "127.0.0.1:0", names{"cart.Cart"}, cartCommon, cartFile)
	stock, _ := reflecting(t, "127.0.0.1:0", names{"stock.Stock"}, stockCommon, stockFile)
	tea, _ := reflecting(t, "127.0.0.1:0", names{"tea.Tea"}, teaV1)
	src := newSource("registry")
	src.say(reflected("cart", cart), reflected("stock", stock), reflected("tea", tea))
	r := runConfig(t, parse(t, "discovery: { reflection: { interval: 600s } }\n"), src)
	a := r.asks()
	for _, step := range []struct{ got, want string }{
		{a.symbol("stock.Stock"), "api.proto(Stock.Take) common.proto(M N)"},
		{a.file("common.proto"), "common.proto(M N)"},
		{a.file("api.proto"), "api.proto(Stock.Take)"}, // its import was sent
		{a.symbol("cart.M"), "common.proto(M)"},
		{a.file("api.proto"), "api.proto(Cart.Add)"},
		{a.symbol("stock.N"), "common.proto(M N)"},
		{a.file("api.proto"), "api.proto(Stock.Take)"},
		{a.file("tea.proto"), "tea.proto(M Tea.Get)"},
		{a.file("no.proto"), "NotFound: Trunkline: file no.proto is in no descriptor of a cluster that serves a routed service"},
	} {
		if step.got != step.want {
			t.Errorf("told %s, want %s", step.got, step.want)
		}
	}
	ext := func(of string, n int32) string {
		return a.told(a.ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingExtension{
			FileContainingExtension: &reflectionv1.ExtensionRequest{ContainingType: of, ExtensionNumber: n}}}))
	}
	if got := ext("tea.M", 101); got != "tea.proto(M Tea.Get)" {
		t.Errorf("the extension is in %s", got)
	}
	if got := ext("tea.M", 102); !strings.HasPrefix(got, "NotFound: Trunkline: extension 102 of tea.M ") {
		t.Errorf("no extension is in %s", got)
	}
	all := func(of string) *reflectionv1.ServerReflectionResponse {
		return a.ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_AllExtensionNumbersOfType{AllExtensionNumbersOfType: of}})
	}
	if got := all("tea.M").GetAllExtensionNumbersResponse(); got.GetBaseTypeName() != "tea.M" || !slices.Equal(got.GetExtensionNumber(), []int32{101}) {
		t.Errorf("extensions of tea.M: %v", got)
	}
	if got := all("stock.M").GetAllExtensionNumbersResponse(); got == nil || len(got.GetExtensionNumber()) != 0 {
		t.Errorf("extensions of stock.M: %v", got)
	}
	if got := all("no.M").GetErrorResponse().GetErrorCode(); codes.Code(got) != codes.NotFound {
		t.Errorf("extensions of no.M: code %d", got)
	}
}

func TestReflectionTellsOfTheNewestOfARollingDeploy(t *testing.T) {
	first, stopFirst := reflecting(t, "127.0.0.1:0", names{"tea.Tea"}, teaV1)
	second, stop := reflecting(t, "127.0.0.1:0", names{"tea.Tea"}, teaV1)
	if first > second { // so that the one to be asked last gets the new version
		first, second, stop = second, first, stopFirst
	}
	src := newSource("registry")
	src.say(reflected("tea", first, second))
	r := runConfig(t, parse(t, "discovery: { reflection: { interval: 600s } }\n"), src)
	a := r.asks()
	if got, want := a.symbol("tea.Tea"), "tea.proto(M Tea.Get)"; got != want {
		t.Fatalf("told %s, want %s", got, want)
	}
	if err := r.cc.Invoke(t.Context(), "/tea.Tea/Suggest", new(wrapperspb.BytesValue), new(wrapperspb.BytesValue)); status.Code(err) != codes.Unimplemented {
		t.Errorf("an unknown method: %v", err)
	}
	// One instance comes back with a new version, at the same address. Nobody announces it: the calls' connections do.
	stop()
	reflecting(t, second, names{"tea.Tea"}, teaV2)
	r.until("the new version's method is told of, on the same stream", func() bool {
		_ = r.cc.Invoke(t.Context(), "/tea.Tea/Get", new(wrapperspb.BytesValue), new(wrapperspb.BytesValue))
		return a.symbol("tea.Tea.Suggest") == "tea.proto(M New Tea.Get Tea.Suggest)"
	})
	if got, want := a.symbol("tea.Tea"), "tea.proto(M New Tea.Get Tea.Suggest)"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
	suggest := func() error {
		return r.cc.Invoke(t.Context(), "/tea.Tea/Suggest", new(wrapperspb.BytesValue), new(wrapperspb.BytesValue))
	}
	// Descriptors are told of as soon as the endpoint told them; its routes wait for discovery's next snapshot.
	r.until("the new version's method is routed", func() bool { return status.Code(suggest()) != codes.Unimplemented })
	for range 20 { // only one of the two has it
		if err := suggest(); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.asks().symbol("tea.New"); got != "tea.proto(M New Tea.Get Tea.Suggest)" {
		t.Errorf("told %s", got)
	}
}

func TestARouteForReflectionOutranksTheBuiltIn(t *testing.T) {
	cart, _ := reflecting(t, "127.0.0.1:0", names{"cart.Cart"}, cartCommon, cartFile)
	stock, _ := reflecting(t, "127.0.0.1:0", names{"stock.Stock"}, stockCommon, stockFile)
	r := run(t, `
discovery: { static: { clusters: [
  { name: cart, endpoints: [ { address: "`+cart+`" } ] },
  { name: stock, endpoints: [ { address: "`+stock+`" } ] } ] } }
routes: [ { match: { service: grpc.reflection.v1.ServerReflection }, cluster: stock } ]
`)
	if got := r.asks().list(); got != "stock.Stock" {
		t.Errorf("listed %s", got)
	}
	if got := r.asks().symbol("cart.Cart"); !strings.HasPrefix(got, "NotFound: ") || strings.Contains(got, "Trunkline") {
		t.Errorf("told %s", got)
	}
}

func TestReflectionSaysWhyNothingIsTold(t *testing.T) {
	mute := backend(t) // a server without reflection
	cart, _ := reflecting(t, "127.0.0.1:0", names{"cart.Cart"}, cartCommon, cartFile)
	src := newSource("registry")
	meta := cluster("meta", "x.Meta", discovery.Endpoint{Address: cart, Weight: 1, Services: map[string][]string{"x.Meta": nil}})
	src.say(meta, reflected("mute", mute), cluster("bare", ""))
	cfg := parse(t, "discovery: { reflection: { interval: 600s } }\n")
	cfg.Routes = []*configv1.Route{
		{Match: &configv1.Match{Service: "x.Mute"}, Cluster: "mute"},
		{Match: &configv1.Match{Service: "x.Nowhere"}, Cluster: "nowhere"},
	}
	r := runConfig(t, cfg, src)
	if got, want := r.asks().list(), builtinServices+" x.Meta x.Mute x.Nowhere"; got != want {
		t.Errorf("listed %s, want %s", got, want)
	}
	for symbol, want := range map[string]string{
		"x.Meta":    "cluster meta are in its meta (grpc-services), so its endpoints are not asked",
		"x.Mute":    "no endpoint of cluster mute has told: reflection on " + mute,
		"x.Nowhere": "no source has found cluster nowhere",
	} {
		if got := r.asks().symbol(symbol); !strings.HasPrefix(got, "NotFound: Trunkline: ") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", symbol, got)
		}
	}
}

func TestReflectionAnswersFitIntoWhatClientsTake(t *testing.T) {
	long := strings.Repeat("x", 1900<<10)
	addr, _ := reflecting(t, "127.0.0.1:0", names{"big.Big"},
		`name: "one.proto" message_type { name: "One`+long+`" }`, `name: "two.proto" message_type { name: "Two`+long+`" }`,
		`name: "big.proto" package: "big" dependency: "one.proto" dependency: "two.proto" message_type { name: "M" }
			service { name: "Big" method { name: "Get" input_type: ".big.M" output_type: ".big.M" } }`)
	src := newSource("registry")
	src.say(reflected("big", addr))
	r := runConfig(t, parse(t, "discovery: { reflection: { interval: 600s } }\n"), src)
	a := r.asks()
	if got := a.symbol("big.Big"); got != "big.proto(M Big.Get) one.proto(One"+long+")" {
		t.Errorf("told %d bytes: %.60s", len(got), got)
	}
	if got := a.file("two.proto"); got != "two.proto(Two"+long+")" { // which the client misses, and asks for
		t.Errorf("told %d bytes: %.60s", len(got), got)
	}
}
