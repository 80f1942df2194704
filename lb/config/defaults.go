package config

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/trunkline/trunkline/policy/serviceconfig"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Default is the config of a run without a file: h2c on :7443, admin on 127.0.0.1:9901, the Consul agent that the
// environment names, services by tag and reflection.
func Default() *configv1.Config {
	cfg := &configv1.Config{}
	ApplyDefaults(cfg)
	return cfg
}

// ApplyDefaults fills in what is absent, from the CONSUL_* environment where config.proto says so. The tracing fields that
// the OTEL_* environment decides stay absent: lb/telemetry reads that. Applying it twice changes nothing.
func ApplyDefaults(cfg *configv1.Config) { applyDefaults(cfg, os.Getenv) }

func applyDefaults(cfg *configv1.Config, env func(string) string) {
	if len(cfg.Listeners) == 0 {
		cfg.Listeners = []*configv1.Listener{{Address: ":7443"}}
	}
	set(&cfg.Admin)
	str(&cfg.Admin.Address, "127.0.0.1:9901")

	if cfg.Discovery == nil {
		cfg.Discovery = &configv1.Discovery{Consul: &configv1.Consul{}}
	}
	if cfg.Discovery.Consul != nil {
		consulDefaults(cfg.Discovery.Consul, env)
	}
	set(&cfg.Discovery.Static)
	for _, c := range cfg.Discovery.Static.Clusters {
		for _, e := range c.Endpoints {
			opt(&e.Weight, 1)
		}
	}
	set(&cfg.Discovery.Reflection)
	dur(&cfg.Discovery.Reflection.Interval, 30*time.Second)
	dur(&cfg.Discovery.Reflection.Timeout, 5*time.Second)

	set(&cfg.Upstream)
	upstreamDefaults(cfg.Upstream)

	set(&cfg.Limits)
	opt(&cfg.Limits.MaxHeaderBytes, 256<<10)
	opt(&cfg.Limits.MaxConcurrentStreams, 1000)
	opt(&cfg.Limits.BufferBytesPerConnection, 32<<20)
	opt(&cfg.Limits.ReplayBytesPerCall, 64<<10)
	opt(&cfg.Limits.ReplayBytesTotal, 64<<20)
	opt(&cfg.Limits.StreamWindowBytes, 1<<20)
	opt(&cfg.Limits.MaxHeaderFields, 512)
	opt(&cfg.Limits.BufferBytesTotal, 1<<30)
	opt(&cfg.Limits.MaxConnections, 65536)
	opt(&cfg.Limits.MaxConnectionsPerAddress, 16384)
	dur(&cfg.Limits.PrefaceTimeout, 10*time.Second)
	dur(&cfg.Limits.FrameTimeout, 30*time.Second)
	dur(&cfg.Limits.StallTimeout, 5*time.Minute)
	set(&cfg.Limits.Abuse)
	opt(&cfg.Limits.Abuse.ResetsPerSecond, 100)
	opt(&cfg.Limits.Abuse.IdleFramesPerSecond, 500)
	opt(&cfg.Limits.Abuse.RefusedPerSecond, 1000)
	opt(&cfg.Limits.Abuse.UnusedConnectionsPerSecond, 200)
	securityDefaults(cfg, env)

	set(&cfg.Overload)
	opt(&cfg.Overload.MemoryShare, 0.9)
	opt(&cfg.Overload.CpuShare, 0)
	dur(&cfg.Overload.QueueDelay, 0)
	dur(&cfg.Overload.Pushback, time.Second)
	set(&cfg.Decisions)
	opt(&cfg.Decisions.Keep, 1000)
	opt(&cfg.Decisions.KeepFailed, 1000)

	set(&cfg.Drain)
	dur(&cfg.Drain.Timeout, 30*time.Second)
	dur(&cfg.Drain.Delay, 0)

	set(&cfg.Tracing)
	set(&cfg.Metrics)
	opt(&cfg.Metrics.MaxMethods, 2000)
	set(&cfg.AccessLog)
	str(&cfg.AccessLog.Mode, "failures")
	dur(&cfg.AccessLog.SlowThreshold, time.Second)
	str(&cfg.AccessLog.Path, "-")
	set(&cfg.Log)
	str(&cfg.Log.Level, "info")
	str(&cfg.Log.Format, "text")
}

// The values of clusters[].loadBalancing.
const (
	LeastRequest = "least_request"
	RoundRobin   = "round_robin"
)

func upstreamDefaults(u *configv1.Upstream) {
	opt(&u.MaxStreamsPerConnection, 500)
	dur(&u.ConnectTimeout, 5*time.Second)
	dur(&u.IdleTimeout, 5*time.Minute)
	dur(&u.KeepaliveInterval, 30*time.Second)
	dur(&u.KeepaliveTimeout, 10*time.Second)
	opt(&u.MaxPendingPerEndpoint, 1024)
	opt(&u.StreamWindowBytes, 1<<20)
	dur(&u.MinBackoff, 100*time.Millisecond)
	dur(&u.MaxBackoff, 10*time.Second)
}

// consulDefaults reads the variables that Consul's own API client and command read.
func consulDefaults(c *configv1.Consul, env func(string) string) {
	str(&c.Address, env("CONSUL_HTTP_ADDR"))
	str(&c.Address, "127.0.0.1:8500")
	if !strings.Contains(c.Address, "://") {
		scheme := "http://"
		if s := strings.ToLower(env("CONSUL_HTTP_SSL")); s == "true" || s == "1" {
			scheme = "https://"
		}
		c.Address = scheme + c.Address
	}
	str(&c.Tag, "grpc")
	str(&c.Namespace, env("CONSUL_NAMESPACE"))
	if c.Token == "" && c.TokenFile == "" {
		c.TokenFile = env("CONSUL_HTTP_TOKEN_FILE")
		if c.TokenFile == "" {
			c.Token = env("CONSUL_HTTP_TOKEN")
		}
	}
	if strings.HasPrefix(c.Address, "https://") {
		set(&c.Tls)
		str(&c.Tls.CaFile, env("CONSUL_CACERT"))
		if c.Tls.CertFile == "" && c.Tls.KeyFile == "" {
			c.Tls.CertFile, c.Tls.KeyFile = env("CONSUL_CLIENT_CERT"), env("CONSUL_CLIENT_KEY")
		}
		str(&c.Tls.ServerName, env("CONSUL_TLS_SERVER_NAME"))
		if v := strings.ToLower(env("CONSUL_HTTP_SSL_VERIFY")); v == "false" || v == "0" {
			c.Tls.InsecureSkipVerify = true
		}
	}
	str(&c.SnapshotDir, snapshotDir(env))
	set(&c.MassDisappearance)
	opt(&c.MassDisappearance.Share, 0.5)
	dur(&c.MassDisappearance.HoldFor, 60*time.Second)
}

// snapshotDir is systemd's StateDirectory=, else the user's cache; "-" where there is neither (no HOME).
func snapshotDir(env func(string) string) string {
	if dir := env("STATE_DIRECTORY"); dir != "" {
		first, _, _ := strings.Cut(dir, ":") // systemd lists several, colon-separated
		return first
	}
	cache := env("XDG_CACHE_HOME")
	if home := env("HOME"); cache == "" && home != "" {
		cache = filepath.Join(home, ".cache")
	}
	if cache == "" {
		return "-"
	}
	return filepath.Join(cache, "trunkline")
}

// UpstreamFor is what holds for one cluster: the top-level upstream, overridden by clusters[].upstream field by field.
// cfg must have its defaults; the result is the caller's own.
func UpstreamFor(cfg *configv1.Config, cluster string) *configv1.Upstream {
	u := proto.CloneOf(cfg.GetUpstream())
	for _, c := range cfg.GetClusters() {
		if c.GetName() == cluster && c.GetUpstream() != nil {
			// Not proto.Merge: that would add up the seconds of one Duration with the nanoseconds of the other.
			c.GetUpstream().ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
				u.ProtoReflect().Set(f, v)
				return true
			})
		}
	}
	return u
}

// BalancerFor is one cluster's balancer, LeastRequest or RoundRobin: what clusters[].loadBalancing says, else the
// loadBalancingConfig of the service config that holds for the cluster (nil: none), else LeastRequest.
func BalancerFor(cfg *configv1.Config, cluster string, sc *serviceconfig.Config) string {
	said := ""
	for _, c := range cfg.GetClusters() {
		if c.GetName() == cluster {
			said = c.GetLoadBalancing()
		}
	}
	if said == "" && sc != nil {
		said = sc.LoadBalancing
	}
	return cmp.Or(said, LeastRequest)
}

func set[T any](p **T) {
	if *p == nil {
		*p = new(T)
	}
}

func opt[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func str(p *string, v string) {
	if *p == "" {
		*p = v
	}
}

func dur(p **durationpb.Duration, v time.Duration) {
	if *p == nil {
		*p = durationpb.New(v)
	}
}
