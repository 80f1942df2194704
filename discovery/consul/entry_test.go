package consul

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/trunkline/trunkline/discovery"
)

// one builds an entry that would be taken, and lets the test spoil it.
func one(edit func(e *api.ServiceEntry)) *api.ServiceEntry {
	e := instance("echo", "grpc", 7001)
	edit(e)
	return e
}

// Which instances take calls, at which address, with which weight.
func TestInstancesBecomeEndpoints(t *testing.T) {
	status := func(s string) func(*api.ServiceEntry) { return func(e *api.ServiceEntry) { e.Checks[0].Status = s } }
	for _, c := range []struct {
		name string
		o    Options
		edit func(e *api.ServiceEntry)
		want string // address, "" for left out
		w    uint32
	}{
		{"as it is", Options{}, func(*api.ServiceEntry) {}, "10.0.0.1:7001", 1},
		{"the node's address stands in", Options{}, func(e *api.ServiceEntry) { e.Service.Address = "" }, "10.0.0.9:7001", 1},
		{"IPv6", Options{}, func(e *api.ServiceEntry) { e.Service.Address = "fd00::1" }, "[fd00::1]:7001", 1},
		{"no address at all", Options{}, func(e *api.ServiceEntry) { e.Service.Address, e.Node = "", nil }, "", 0},
		{"no port", Options{}, func(e *api.ServiceEntry) { e.Service.Port = 0 }, "", 0},
		{"no service", Options{}, func(e *api.ServiceEntry) { e.Service = nil }, "", 0},
		{"no checks counts as passing", Options{}, func(e *api.ServiceEntry) { e.Checks = nil }, "10.0.0.1:7001", 1},
		{"critical", Options{Warning: true}, status("critical"), "", 0},
		{"maintenance", Options{Warning: true}, func(e *api.ServiceEntry) { e.Checks[0].CheckID = api.NodeMaint }, "", 0},
		{"a status nobody knows", Options{Warning: true}, status("strange"), "", 0},
		{"warning unwanted", Options{}, status("warning"), "", 0},
		{"warning wanted, with its weight", Options{Warning: true}, func(e *api.ServiceEntry) {
			status("warning")(e)
			e.Service.Weights = api.AgentWeights{Passing: 10, Warning: 3}
		}, "10.0.0.1:7001", 3},
		{"warning wanted, of weight 0", Options{Warning: true}, func(e *api.ServiceEntry) {
			status("warning")(e)
			e.Service.Weights = api.AgentWeights{Passing: 10}
		}, "", 0},
		{"weight", Options{}, func(e *api.ServiceEntry) { e.Service.Weights.Passing = 7 }, "10.0.0.1:7001", 7},
		{"no weights at all", Options{}, func(e *api.ServiceEntry) { e.Service.Weights = api.AgentWeights{} }, "10.0.0.1:7001", 1},
		{"negative weight", Options{}, func(e *api.ServiceEntry) { e.Service.Weights.Passing = -1 }, "", 0},
		{"absurd weight", Options{}, func(e *api.ServiceEntry) { e.Service.Weights.Passing = 1 << 40 }, "10.0.0.1:7001", 65535},
		{"tagged address", Options{TaggedAddress: "wan"}, func(e *api.ServiceEntry) {
			e.Service.TaggedAddresses = map[string]api.ServiceAddress{"wan": {Address: "1.2.3.4", Port: 99}}
		}, "1.2.3.4:99", 1},
		{"tagged address without a port", Options{TaggedAddress: "wan"}, func(e *api.ServiceEntry) {
			e.Service.TaggedAddresses = map[string]api.ServiceAddress{"wan": {Address: "1.2.3.4"}}
		}, "1.2.3.4:7001", 1},
		{"tagged address of the node", Options{TaggedAddress: "wan"}, func(e *api.ServiceEntry) {
			e.Service.Address, e.Node.TaggedAddresses = "", map[string]string{"wan": "5.6.7.8"}
		}, "5.6.7.8:7001", 1},
		{"tagged address that is not there", Options{TaggedAddress: "wan"}, func(*api.ServiceEntry) {}, "10.0.0.1:7001", 1},
		{"a sidecar proxy inherits the tag and is none of ours", Options{}, func(e *api.ServiceEntry) { e.Service.Kind = api.ServiceKindConnectProxy }, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, faults := c.o.endpoints([]*api.ServiceEntry{nil, one(c.edit)}, false)
			if c.want == "" {
				if len(got) != 0 {
					t.Fatalf("got %+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Address != c.want || got[0].Weight != c.w || len(faults) > 0 {
				t.Fatalf("got %+v, faults %v", got, faults)
			}
		})
	}
}

// Tags and meta are kept, and an instance that cannot be dialled is told of.
func TestTagsMetaAndFaultsAreKept(t *testing.T) {
	o := Options{}
	got, faults := o.endpoints([]*api.ServiceEntry{
		one(func(e *api.ServiceEntry) {
			e.Service.Tags = []string{"grpc", "v2"}
			e.Service.Meta = map[string]string{"version": "2", "grpc-services": " b.B, a.A,,grpc.health.v1.Health, not a name "}
		}),
		one(func(e *api.ServiceEntry) { e.Service.ID, e.Service.Port = "portless", 0 }),
	}, false)
	want := []discovery.Endpoint{{
		Address: "10.0.0.1:7001", InstanceID: "echo-7001", Weight: 1, Tags: []string{"grpc", "v2"},
		Meta:     map[string]string{"version": "2", "grpc-services": " b.B, a.A,,grpc.health.v1.Health, not a name "},
		Services: map[string][]string{"a.A": nil, "b.B": nil},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if len(faults) != 2 || !strings.Contains(faults[0], "not a name") || !strings.Contains(faults[1], "portless") {
		t.Errorf("faults %q", faults)
	}
}

// Two registrations of one address are one endpoint: the passing one counts, then the first by id.
func TestDuplicatesAreMerged(t *testing.T) {
	o := Options{Warning: true}
	got, _ := o.endpoints([]*api.ServiceEntry{
		one(func(e *api.ServiceEntry) { e.Service.ID, e.Checks[0].Status = "a", "warning" }),
		one(func(e *api.ServiceEntry) { e.Service.ID = "c" }),
		one(func(e *api.ServiceEntry) { e.Service.ID = "b" }),
		one(func(e *api.ServiceEntry) { e.Service.Port = 6999 }),
	}, false)
	if len(got) != 2 || got[0].Address != "10.0.0.1:6999" || got[1].InstanceID != "b" || got[1].Warning {
		t.Fatalf("got %+v", got)
	}
}

// Meta grpc-services describes the cluster: the union is its claim, each instance keeps its own, and reflection is not needed.
func TestMetaClaimsServices(t *testing.T) {
	tell(t, func(s *story) {
		s.consul.set("echo", "grpc", 1, 2, 3)
		s.consul.change(func() {
			for i, list := range []string{"x.A", "x.A,x.B", ""} {
				s.consul.services["echo"][i].Service.Meta = map[string]string{"grpc-services": list}
			}
		})
		s.start(Options{})
		s.want("echo", 0, 1, 2, 3)
		c := s.now("echo")
		if c.Claim != discovery.ClaimMeta || !slices.Equal(c.Services, []string{"x.A", "x.B"}) {
			t.Fatalf("%+v", c)
		}
		if len(c.Endpoints[0].Services) != 1 || len(c.Endpoints[1].Services) != 2 || c.Endpoints[2].Services != nil {
			t.Fatalf("%+v", c.Endpoints)
		}
	})
}

// Whatever stands in the meta, the names that come out are valid, sorted, unique and learnable.
func FuzzParseServices(f *testing.F) {
	for _, s := range []string{"", "a.B", "a.B,c.D", " , ,", "grpc.health.v1.Health,a", "a b,ä", strings.Repeat("a,", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		names, bad := parseServices(list)
		for i, n := range names {
			if !discovery.ValidServiceName(n) || !discovery.Learnable(n) || i > 0 && names[i-1] >= n || !strings.Contains(list, n) {
				t.Fatalf("%q gave %q", list, names)
			}
		}
		for _, b := range bad {
			if discovery.ValidServiceName(b) {
				t.Fatalf("%q is a fine name", b)
			}
		}
	})
}
