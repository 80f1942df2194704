package config

import (
	"testing"
	"time"
)

func TestTheFixedKeysOfTheFirstIssueParse(t *testing.T) {
	cfg, warnings, err := Load("testdata/first.yaml")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	cluster := cfg.Discovery.Static.Clusters[0]
	if cluster.Name != "echo" || cluster.Endpoints[0].Meta["version"] != "v1" || cluster.Endpoints[1].GetWeight() != 1 {
		t.Errorf("cluster = %v", cluster)
	}
	if got := cfg.Routes[0].GetMatch().GetService(); got != "bench.Echo" {
		t.Errorf("route matches %q", got)
	}
	if got := cfg.Upstream.ConnectTimeout.AsDuration(); got != 5*time.Second {
		t.Errorf("connectTimeout = %v, want its default", got)
	}
}
