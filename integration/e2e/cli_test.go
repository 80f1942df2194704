package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestCheckTellsWhatIsWrongByFileLineAndField(t *testing.T) {
	tests := []struct {
		story, config string
		code          int
		want          []string // lines, FILE stands for the file
	}{
		{"a good file", strings.NewReplacer("LISTEN", "127.0.0.1:7443", "ADMIN", "127.0.0.1:9901").Replace(static([]string{"127.0.0.1:7001"})), 0, nil},
		{"a file with three faults", `
listeners:
  - address: 127.0.0.1
discovery:
  static:
    clusters:
      - name: echo
        endpoints: [ { address: "127.0.0.1:7001", weigth: 3 } ]
routes:
  - match: { service: bench.Echo }
    cluster: ehco
`, 1, []string{"FILE:3:5: listeners[0].address: ", "FILE:8:51: discovery.static.clusters[0].endpoints[0].weigth: "}},
		{"a route to a cluster that is not there", `
discovery: { static: { clusters: [ { name: echo, endpoints: [ { address: "127.0.0.1:7001" } ] } ] } }
routes:
  - match: { service: bench.Echo }
    cluster: ehco
`, 1, []string{"FILE:5:5: routes[0].cluster: "}},
		{"no YAML", "listeners: [", 1, []string{"FILE:1:"}},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "trunkline.yaml")
			if err := os.WriteFile(file, []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
			code, out, errs := harness.Run(t, stepLimit, nil, harness.Binary(t), "check", "-c", file)
			if code != tt.code {
				t.Errorf("exit %d, want %d\n%s%s", code, tt.code, out, errs)
			}
			for _, want := range tt.want {
				if want = strings.ReplaceAll(want, "FILE", file); !strings.Contains(out+errs, want) {
					t.Errorf("no line with %q in\n%s%s", want, out, errs)
				}
			}
		})
	}
}

func TestExplainTellsTheWayOfACall(t *testing.T) {
	backend := harness.StartBackend(t, "backend")
	trunkline := harness.Start(t, static([]string{backend.Addr}))
	method := harness.Service + "/UnaryCall"
	for from, flags := range map[string][]string{"a file": {"-c", trunkline.Config}, "a running Trunkline": {"--admin", trunkline.Admin}} {
		t.Run("from "+from, func(t *testing.T) {
			code, out, errs := harness.Run(t, stepLimit, nil, append([]string{harness.Binary(t), "explain", method}, flags...)...)
			if code != 0 {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			for _, want := range []string{method, "backends", backend.Addr} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			code, out, errs = harness.Run(t, stepLimit, nil, append([]string{harness.Binary(t), "explain", "grpc.testing.TestServic/UnaryCall"}, flags...)...)
			if code != 1 || !strings.Contains(out+errs, harness.Service) {
				t.Errorf("a call without a route: exit %d, want 1 and the nearest known name\n%s%s", code, out, errs)
			}
		})
	}
}

func TestTheDemoRunsOnceAndPrintsItsTable(t *testing.T) {
	began := time.Now()
	code, out, errs := harness.Run(t, time.Minute, nil, harness.Binary(t), "demo", "--once")
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	t.Logf("took %v\n%s", time.Since(began), out)
	rows := regexp.MustCompile(`(?m)^\S*trunkline\.demo\.v1\.\S+\s+(\d+)`).FindAllStringSubmatch(out, -1)
	if len(rows) < 4 {
		t.Errorf("%d rows with a method and its calls, want one for each of the four shapes", len(rows))
	}
	for _, row := range rows {
		if row[1] == "0" {
			t.Errorf("no calls: %s", row[0])
		}
	}
}

// The metrics are there by the time that a call has ended, and unknown methods cannot make them grow.
func TestMetricsCountCallsByMethodAndFoldUnknownOnes(t *testing.T) {
	backend := harness.StartBackend(t, "backend")
	trunkline := harness.Start(t, static([]string{backend.Addr}))
	cc := harness.Dial(t, trunkline.Listen)
	const calls = 30
	for range calls {
		if _, err := harness.WhoAnswers(harness.Context(t, stepLimit), cc); err != nil {
			t.Fatal(err)
		}
	}
	for i := range calls {
		err := cc.Invoke(harness.Context(t, stepLimit), fmt.Sprintf("/made.up.Service%d/Method%d", i, i), &testpb.Empty{}, &testpb.Empty{})
		if err == nil {
			t.Fatal("an unknown service answered")
		}
	}
	harness.Eventually(t, stepLimit, "30 calls of the known method in the metrics", func() bool {
		return trunkline.Metric(t, "trunkline_calls_total", `method="`+harness.Service+`/UnaryCall"`, `status="OK"`) == calls
	})
	if got := trunkline.Metric(t, "trunkline_calls_total", `method="_other"`); got != calls {
		t.Errorf("%v calls of _other, want %d", got, calls)
	}
	if strings.Contains(trunkline.Get(t, "/metrics"), "made.up") {
		t.Error("a method that a client invented has a metric of its own")
	}
}
