// Package transparency plays one script of calls twice, direct and through Trunkline, and demands that client and server
// see the same; it must not know how Trunkline does it.
package transparency

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestTheScriptLooksTheSameDirectAndThroughTrunkline(t *testing.T) {
	direct := runScript(t, theScript(), asItIs)
	through := runScript(t, theScript(), func(server string) string { return startTrunkline(t, server).Listen })
	compare(t, direct, through)
}

// The control: a case that differs between two direct runs could not accuse Trunkline.
func TestTheScriptLooksTheSameTwiceDirect(t *testing.T) {
	compare(t, runScript(t, theScript(), asItIs), runScript(t, theScript(), asItIs))
}

func asItIs(server string) string { return server }

func startTrunkline(t *testing.T, backend string) *harness.Trunkline {
	t.Helper()
	return harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - name: script
        endpoints: [ { address: %s } ]
        grpcServices: [ transparency.Script ]
routes:
  - match: { service: transparency.Script }
    cluster: script
limits: { maxHeaderBytes: 1048576 } # the script has big metadata
`, backend))
}

func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	for _, c := range theScript() {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(want[c.name], got[c.name]); diff != "" {
				t.Errorf("direct (-), the other path (+):\n%s", diff)
			}
		})
	}
}
