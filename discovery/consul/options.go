package consul

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// Options say what to watch and how; the zero value watches services with the tag "grpc" at CONSUL_HTTP_ADDR or
// 127.0.0.1:8500.
type Options struct {
	// Name of the source, as Cluster.Source says it; "": "consul", or "consul/<datacenter>".
	Name string
	// Address of the agent: host:port, http://..., https://... or unix://...; "": CONSUL_HTTP_ADDR or 127.0.0.1:8500.
	Address string
	// Tag of the services to watch, and of their instances to use; "": "grpc".
	Tag string
	// NoTag turns the watch by tag off, so that only Services are watched.
	NoTag bool
	// Services to watch whether or not they bear Tag.
	Services []Service

	// Warning takes instances whose checks say "warning" too, with Service.Weights.Warning.
	Warning bool
	// TaggedAddress is the key of Service.TaggedAddresses (then Node.TaggedAddresses) to dial, such as "wan"; an instance
	// without it is dialled at its Service.Address, else its Node.Address. "": always the latter two.
	TaggedAddress string

	Datacenter, Namespace, Partition string // "": the agent's own, or CONSUL_NAMESPACE and CONSUL_PARTITION

	Token     string // ACL token; "": CONSUL_HTTP_TOKEN
	TokenFile string // a file with the ACL token, read again when it changes and after each 403; it outranks Token
	TLS       TLS

	Stale      bool // any server may answer, not only the leader
	Consistent bool // the leader must confirm its leadership before it answers

	Wait      time.Duration // the longest that Consul holds a query, jittered; 0: 60 s; at most 10 min
	FirstWait time.Duration // how long the first emit waits for Consul before it falls back on what there is; 0: 1 s

	HoldShare float64       // the share of its endpoints that a service must lose at once for the guard to hold; 0: 0.5
	HoldFor   time.Duration // how long the guard holds; 0: 60 s; negative: it does not

	// Dir is where the last good state is kept for a cold start, in one file per source; "": nowhere.
	Dir string

	Logger *slog.Logger // nil: silence

	// DialContext makes the connections to the agent; nil: TCP.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Service is one Consul service to watch by name.
type Service struct {
	Name string
	Tag  string // of the instances to use; "": all of them
	// Connect asks for those who take calls to the service in Consul's mesh, over mutual TLS: its sidecar proxies, and instances that
	// are native to the mesh. Tag is then one of theirs.
	Connect bool
}

// TLS is how to reach an agent over HTTPS; CONSUL_CACERT and its kind fill in what is empty.
type TLS struct {
	CAFile, CAPath     string
	CertFile, KeyFile  string
	ServerName         string
	InsecureSkipVerify bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Tag == "" {
		o.Tag = "grpc"
	}
	if o.NoTag {
		o.Tag = ""
		if len(o.Services) == 0 {
			return o, fmt.Errorf("consul: neither a tag nor a service to watch")
		}
	}
	if o.Name == "" {
		o.Name = "consul"
		if o.Datacenter != "" {
			o.Name += "/" + o.Datacenter
		}
	}
	byName := map[string]Service{}
	for _, sv := range o.Services {
		first, twice := byName[sv.Name]
		if twice && first.Tag != sv.Tag {
			return o, fmt.Errorf("%s: the service %s is to be watched with the tag %q and with %q; it can be one cluster only", o.Name, sv.Name, first.Tag, sv.Tag)
		}
		if twice && first.Connect != sv.Connect {
			return o, fmt.Errorf("%s: the service %s is to be reached through the mesh (connect) and without it; it can be one cluster only", o.Name, sv.Name)
		}
		byName[sv.Name] = sv
	}
	if o.Stale && o.Consistent {
		return o, fmt.Errorf("%s: stale and consistent reads exclude each other", o.Name)
	}
	if o.Wait <= 0 {
		o.Wait = time.Minute
	}
	o.Wait = min(max(o.Wait, time.Second), 10*time.Minute)
	if o.FirstWait <= 0 {
		o.FirstWait = time.Second
	}
	if o.HoldShare == 0 {
		o.HoldShare = 0.5
	}
	if o.HoldShare < 0 || o.HoldShare > 1 {
		return o, fmt.Errorf("%s: the share of a mass disappearance must be between 0 and 1, it is %v", o.Name, o.HoldShare)
	}
	if o.HoldFor == 0 {
		o.HoldFor = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// tagFor is the tag of the instances to use of a service; "": all of them.
func (o *Options) tagFor(service string) string {
	if i := slices.IndexFunc(o.Services, func(sv Service) bool { return sv.Name == service }); i >= 0 {
		return o.Services[i].Tag
	}
	return o.Tag
}

// throughMesh says whether a service is watched as Service.Connect says.
func (o *Options) throughMesh(service string) bool {
	return slices.ContainsFunc(o.Services, func(sv Service) bool { return sv.Name == service && sv.Connect })
}

// client makes the API client. The token file is not given to it: it would read it only once.
func (o Options) client() (*api.Client, *http.Client, error) {
	config := api.DefaultConfig()
	config.TokenFile = ""
	if o.Address != "" {
		config.Address = o.Address
	}
	if o.Token != "" {
		config.Token = o.Token
	}
	config.Datacenter = o.Datacenter
	if o.Namespace != "" {
		config.Namespace = o.Namespace
	}
	if o.Partition != "" {
		config.Partition = o.Partition
	}
	t := &config.TLSConfig
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&t.CAFile, o.TLS.CAFile}, {&t.CAPath, o.TLS.CAPath}, {&t.CertFile, o.TLS.CertFile},
		{&t.KeyFile, o.TLS.KeyFile}, {&t.Address, o.TLS.ServerName},
	} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	t.InsecureSkipVerify = t.InsecureSkipVerify || o.TLS.InsecureSkipVerify
	// A connection is held by each query; after a burst of answers they should not all be made anew.
	config.Transport.MaxIdleConnsPerHost = 64
	if o.DialContext != nil {
		config.Transport.DialContext = o.DialContext
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.Name, err)
	}
	return client, config.HttpClient, nil
}
