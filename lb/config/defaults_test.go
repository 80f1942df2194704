package config

import (
	"os"
	"strings"
	"testing"
	"time"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// absent lists the fields that are not set anywhere below m; in a list it is enough that one item sets them.
func absent(m protoreflect.Message, path string) []string {
	var out []string
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		at := join(path, f.JSONName())
		switch {
		case !m.Has(f):
			out = append(out, at)
		case f.Message() == nil || f.IsMap() || f.Message().FullName() == "google.protobuf.Duration":
		case f.IsList():
			missing := map[string]int{}
			items := m.Get(f).List()
			for j := range items.Len() {
				for _, field := range absent(items.Get(j).Message(), at+"[]") {
					if missing[field]++; missing[field] == items.Len() {
						out = append(out, field)
					}
				}
			}
		default:
			out = append(out, absent(m.Get(f).Message(), at)...)
		}
	}
	return out
}

func noEnv(string) string { return "" }

func TestWithoutAFileConsulIsAskedOnTheUsualPorts(t *testing.T) {
	cfg := &configv1.Config{}
	applyDefaults(cfg, noEnv)
	if cfg.Listeners[0].Address != ":7443" || cfg.Admin.Address != "127.0.0.1:9901" {
		t.Errorf("listens on %v, admin on %v", cfg.Listeners, cfg.Admin)
	}
	c := cfg.Discovery.Consul
	if c.GetAddress() != "http://127.0.0.1:8500" || c.GetTag() != "grpc" || c.GetSnapshotDir() != "-" {
		t.Errorf("consul = %v", c)
	}
}

func TestTheConsulEnvironmentFillsWhatIsAbsent(t *testing.T) {
	env := map[string]string{
		"CONSUL_HTTP_ADDR": "consul.example.com:8501", "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_SSL_VERIFY": "false",
		"CONSUL_HTTP_TOKEN": "secret", "CONSUL_NAMESPACE": "team", "CONSUL_CACERT": "ca.pem",
		"CONSUL_CLIENT_CERT": "cert.pem", "CONSUL_CLIENT_KEY": "key.pem", "CONSUL_TLS_SERVER_NAME": "consul",
		"STATE_DIRECTORY": "/var/lib/trunkline:/var/lib/more",
	}
	get := func(name string) string { return env[name] }
	cfg := &configv1.Config{}
	applyDefaults(cfg, get)
	want := &configv1.Consul{
		Address: "https://consul.example.com:8501", Tag: "grpc", Namespace: "team", Token: "secret",
		Tls: &configv1.ConsulTLS{CaFile: "ca.pem", CertFile: "cert.pem", KeyFile: "key.pem", ServerName: "consul", InsecureSkipVerify: true},

		SnapshotDir:       "/var/lib/trunkline",
		MassDisappearance: &configv1.MassDisappearance{Share: proto.Float64(0.5), HoldFor: durationpb.New(time.Minute)},
	}
	if !proto.Equal(cfg.Discovery.Consul, want) {
		t.Errorf("consul = %v\nwant %v", cfg.Discovery.Consul, want)
	}

	env["CONSUL_HTTP_TOKEN_FILE"] = "/token"
	cfg = &configv1.Config{Discovery: &configv1.Discovery{Consul: &configv1.Consul{Address: "http://other:8500", Namespace: "mine"}}}
	applyDefaults(cfg, get)
	if c := cfg.Discovery.Consul; c.Address != "http://other:8500" || c.Namespace != "mine" || c.TokenFile != "/token" || c.Token != "" || c.Tls != nil {
		t.Errorf("consul = %v; what the file says must win, and a token file outranks a token", c)
	}
}

func TestAFileWithOnlyStaticClustersAsksNoConsul(t *testing.T) {
	cfg := &configv1.Config{Discovery: &configv1.Discovery{Static: &configv1.Static{}}}
	applyDefaults(cfg, noEnv)
	if cfg.Discovery.Consul != nil {
		t.Errorf("consul = %v", cfg.Discovery.Consul)
	}
}

func TestAClusterOverridesUpstreamFieldByField(t *testing.T) {
	cfg := &configv1.Config{
		Upstream: &configv1.Upstream{ConnectTimeout: durationpb.New(1500 * time.Millisecond)},
		Clusters: []*configv1.Cluster{{Name: "echo", LoadBalancing: RoundRobin, Upstream: &configv1.Upstream{
			ConnectTimeout: durationpb.New(2 * time.Second), IdleTimeout: durationpb.New(0), MaxStreamsPerConnection: proto.Uint32(7),
		}}},
	}
	applyDefaults(cfg, noEnv)
	u := UpstreamFor(cfg, "echo")
	if u.ConnectTimeout.AsDuration() != 2*time.Second || u.IdleTimeout.AsDuration() != 0 || u.GetMaxStreamsPerConnection() != 7 {
		t.Errorf("overridden fields: %v", u)
	}
	if u.KeepaliveTimeout.AsDuration() != 10*time.Second {
		t.Errorf("inherited fields: %v", u)
	}
	if other := UpstreamFor(cfg, "other"); !proto.Equal(other, cfg.Upstream) {
		t.Errorf("other cluster: %v", other)
	}
	if BalancerFor(cfg, "echo", nil) != RoundRobin || BalancerFor(cfg, "other", nil) != LeastRequest {
		t.Error("load balancing is not the cluster's own")
	}
}

// The comments in config.proto are what users read.
func TestEveryDefaultIsDocumented(t *testing.T) {
	source, err := os.ReadFile("../../proto/trunkline/config/v1/config.proto")
	if err != nil {
		t.Fatal(err)
	}
	comment, seen := "", 0
	for line := range strings.Lines(string(source)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "//"):
			comment += line
		case strings.HasPrefix(line, "optional ") || strings.HasPrefix(line, "google.protobuf.Duration "):
			seen++
			if !strings.Contains(comment, "Default:") {
				t.Errorf("no \"Default: \" above: %s", line)
			}
			comment = ""
		default:
			comment = ""
		}
	}
	if seen < 20 {
		t.Errorf("only %d fields with presence found: is the file laid out differently?", seen)
	}
}
