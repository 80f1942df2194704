package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/trunkline/trunkline/policy/overload"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

const retries = `"retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", 8]}`

// The same policy as a mapping, as JSON pasted as it stands, as JSON in a block scalar, and with Trunkline's part inside or
// beside, is the same policy.
func TestAServiceConfigReadsTheSameHoweverItIsWritten(t *testing.T) {
	for what, text := range map[string]string{
		"mapping": `
serviceConfig:
  methodConfig:
    - name: [ { service: a.A } ]
      timeout: 1.5s
      retryPolicy: { maxAttempts: 3, initialBackoff: 0.1s, maxBackoff: 1s, backoffMultiplier: 2, retryableStatusCodes: [ UNAVAILABLE, 8 ] }
trunkline: { methodPolicy: [ { name: [ { service: a.A } ], perTryTimeout: 250ms } ] }
`,
		"pasted": `
serviceConfig: {
    "methodConfig": [{"name": [{"service": "a.A"}], "timeout": "1.5s", ` + retries + `}],
    "trunkline": {"methodPolicy": [{"name": [{"service": "a.A"}], "perTryTimeout": "0.25s"}]}
  }
`,
		"block": `
serviceConfig: |
    {
    	"methodConfig": [{"name": [{"service": "a.A"}], "timeout": "1.5s", ` + retries + `}]
    }
trunkline: >
    {
      "methodPolicy": [{"name": [{"service": "a.A"}], "perTryTimeout": "250ms"}]
    }
`,
		"aliases": `
shadowServiceConfig:
  methodConfig: &m
    - { name: [ { service: a.A } ], timeout: 1.5s, ` + retries + ` }
serviceConfig:
  methodConfig: *m
  trunkline: { methodPolicy: [ { name: [ { service: a.A } ], perTryTimeout: 250ms } ] }
`,
	} {
		t.Run(what, func(t *testing.T) {
			cfg, warnings, err := Parse("x.yaml", []byte(text))
			if err != nil || len(warnings) > 0 {
				t.Fatal(err, warnings)
			}
			live, shadow, err := ServiceConfig(cfg)
			if err != nil || (shadow != nil) != (what == "aliases") {
				t.Fatal(shadow, err)
			}
			m := live.For("a.A", "M")
			if m.Timeout != 1500*time.Millisecond || m.PerTryTimeout != 250*time.Millisecond || m.Retry == nil ||
				m.Retry.Retryable.String() != "RESOURCE_EXHAUSTED, UNAVAILABLE" {
				t.Errorf("a.A = %+v, retry %+v", m, m.Retry)
			}
		})
	}
}

func TestWithoutAServiceConfigItsDefaultsHold(t *testing.T) {
	live, shadow, err := ServiceConfig(Default())
	if err != nil || shadow != nil || live.For("a.A", "M").Retry != nil || live.Cluster.RetryBudget.Burst != 50 {
		t.Error(live, shadow, err)
	}
	want := overload.Settings{MemoryShare: 0.9, Pushback: time.Second}
	if diff := cmp.Diff(want, OverloadSettings(Default())); diff != "" {
		t.Errorf("overload (-want +got):\n%s", diff)
	}
}

func TestAConfigMadeByCodeBringsItsServiceConfigAsJSON(t *testing.T) {
	cfg := &configv1.Config{
		ServiceConfig:       `{"methodConfig": [{"name": [{}], "timeout": "1s"}]}`,
		Trunkline:           `{"cluster": {"slowStart": "10s"}}`,
		ShadowServiceConfig: `{"trunkline": {"cluster": {"slowStart": "5s"}}}`,
	}
	live, shadow, err := ServiceConfig(cfg)
	if err != nil || live.For("a.A", "M").Timeout != time.Second || live.Cluster.SlowStart != 10*time.Second || shadow.Cluster.SlowStart != 5*time.Second {
		t.Error(live, shadow, err)
	}
	cfg = &configv1.Config{
		ServiceConfig:       "{\n\"methodConfig\": [{\"name\": [{}], \"timeout\": 1}]}",
		ShadowServiceConfig: `{"a": `,
	}
	_, _, err = ServiceConfig(cfg)
	const want = "serviceConfig:2:33: serviceConfig.methodConfig[0].timeout: 1 is not a duration: write seconds, such as \"0.25s\" or \"30s\"\n" +
		"shadowServiceConfig:1:6: shadowServiceConfig: not JSON: unexpected end of JSON input"
	if !IsProblem(err) || err.Error() != want {
		t.Errorf("err = %v", err)
	}
}

func TestTheClusterOfTheFileOutranksTheServiceConfigInBalancing(t *testing.T) {
	cfg, _, err := Parse("x.yaml", []byte(`
clusters: [ { name: a, loadBalancing: least_request }, { name: b } ]
serviceConfig: { loadBalancingConfig: [ { round_robin: {} } ] }
`))
	if err != nil {
		t.Fatal(err)
	}
	live, _, err := ServiceConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for cluster, want := range map[string]string{"a": LeastRequest, "b": RoundRobin, "c": RoundRobin} {
		if got := BalancerFor(cfg, cluster, live); got != want {
			t.Errorf("%s: %s, want %s", cluster, got, want)
		}
		if got := BalancerFor(cfg, cluster, nil); got != LeastRequest {
			t.Errorf("%s without a service config: %s", cluster, got)
		}
	}
}

// A client skips what it does not know, and so do we: but not without bound, since it is kept.
func TestAnUnknownKeyOfGRPCsPartCannotGrowWithoutBound(t *testing.T) {
	var b strings.Builder
	b.WriteString("serviceConfig:\n  newThing:\n    a: &a [1,1,1,1,1,1,1,1,1,1]\n")
	for c := 'b'; c < 'k'; c++ {
		b.WriteString("    " + string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 9) + "*" + string(c-1) + "]\n")
	}
	_, _, err := Parse("bomb.yaml", []byte(b.String()))
	if !IsProblem(err) || !strings.Contains(err.Error(), "too large") {
		t.Errorf("err = %.300v", err)
	}
	_, _, err = Parse("cycle.yaml", []byte("serviceConfig: { newThing: &a [ *a ] }\n"))
	if !IsProblem(err) || !strings.Contains(err.Error(), "too") {
		t.Errorf("err = %.300v", err)
	}
}
