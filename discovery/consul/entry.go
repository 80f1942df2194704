package consul

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/trunkline/trunkline/discovery"
)

// metaServices is the service meta key that lists the protobuf services of an instance: "pkg.A,pkg.B".
const metaServices = "grpc-services"

// maxWeight is Consul's own limit on a service's weight.
const maxWeight = 65535

// endpoints turns a health answer into endpoints: those that may take calls, sorted, without duplicates. The faults are
// for people: instances that could not be used as they are registered. mesh says that the question was about who takes calls in
// Consul's mesh.
func (o *Options) endpoints(entries []*api.ServiceEntry, mesh bool) (out []discovery.Endpoint, faults []string) {
	for _, entry := range entries {
		if entry == nil || entry.Service == nil {
			continue
		}
		switch kind := entry.Service.Kind; {
		case kind == api.ServiceKindTypical, mesh && kind == api.ServiceKindConnectProxy:
		case mesh: // a terminating gateway: it goes by the name that is asked for (SNI), not by a certificate of its own
			faults = append(faults, fmt.Sprintf("instance %q is a %s: services behind one cannot be reached through the mesh", entry.Service.ID, kind))
			continue
		default: // sidecars and gateways inherit the tags, but speak mTLS
			continue
		}
		e := discovery.Endpoint{InstanceID: entry.Service.ID, Tags: entry.Service.Tags, Meta: entry.Service.Meta}
		switch entry.Checks.AggregatedStatus() {
		case api.HealthPassing:
		case api.HealthWarning:
			if !o.Warning {
				continue
			}
			e.Warning = true
		default:
			continue
		}
		if e.Weight = weight(entry.Service.Weights, e.Warning); e.Weight == 0 {
			continue
		}
		host, port := o.address(entry)
		if host == "" || port < 1 || port > 65535 {
			faults = append(faults, fmt.Sprintf("instance %q has no address and port to dial (%q, %d)", e.InstanceID, host, port))
			continue
		}
		e.Address = net.JoinHostPort(host, strconv.Itoa(port))
		if list, ok := e.Meta[metaServices]; ok {
			_, bad := parseServices(list)
			for _, b := range bad {
				faults = append(faults, fmt.Sprintf("instance %q: %s names %q, which is no protobuf service", e.InstanceID, metaServices, b))
			}
			e.Services = offered(e.Meta)
		}
		out = append(out, e)
	}
	// Of several registrations of one address the healthiest counts, then the first by id.
	slices.SortStableFunc(out, func(a, b discovery.Endpoint) int {
		if c := strings.Compare(a.Address, b.Address); c != 0 {
			return c
		}
		if a.Warning != b.Warning {
			if a.Warning {
				return 1
			}
			return -1
		}
		return strings.Compare(a.InstanceID, b.InstanceID)
	})
	out = slices.CompactFunc(out, func(a, b discovery.Endpoint) bool { return a.Address == b.Address })
	slices.Sort(faults)
	return out, slices.Compact(faults)
}

// weight is what Consul's DNS would use. Weights that are absent altogether count as 1; a weight of 0 takes no calls.
func weight(w api.AgentWeights, warning bool) uint32 {
	if w == (api.AgentWeights{}) {
		return 1
	}
	n := w.Passing
	if warning {
		n = w.Warning
	}
	return uint32(min(max(n, 0), maxWeight))
}

func (o *Options) address(entry *api.ServiceEntry) (host string, port int) {
	port = entry.Service.DefaultPort()
	if o.TaggedAddress != "" {
		if t, ok := entry.Service.TaggedAddresses[o.TaggedAddress]; ok && t.Address != "" {
			if t.Port != 0 {
				port = t.Port
			}
			return t.Address, port
		}
		if entry.Service.Address == "" && entry.Node != nil {
			if a := entry.Node.TaggedAddresses[o.TaggedAddress]; a != "" {
				return a, port
			}
		}
	}
	if entry.Service.Address != "" {
		return entry.Service.Address, port
	}
	if entry.Node != nil {
		return entry.Node.Address, port
	}
	return "", port
}

// offered is Endpoint.Services by the instance's meta; nil where that names none.
func offered(meta map[string]string) map[string][]string {
	names, _ := parseServices(meta[metaServices])
	if len(names) == 0 {
		return nil
	}
	services := make(map[string][]string, len(names))
	for _, n := range names {
		services[n] = nil
	}
	return services
}

// parseServices reads "pkg.A, pkg.B": the learnable names, sorted, each once, and what is no name. Health and reflection
// services are passed over in silence.
func parseServices(list string) (names, bad []string) {
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		switch {
		case part == "":
		case !discovery.ValidServiceName(part):
			bad = append(bad, part)
		case discovery.Learnable(part):
			names = append(names, part)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), bad
}
