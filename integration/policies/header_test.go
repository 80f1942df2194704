package policies

import (
	"fmt"
	"strings"
	"testing"
	"time"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// What a client says of deadlines and attempts is not trusted blindly: nonsense is refused or taken as nothing, and neither
// the server nor Trunkline falls over it.
func TestMalformedHugeAndDoubledRequestHeadersAreAnsweredOrTakenAsNothing(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	tr := start(t, policies{method: retries + `, "timeout": "5s"`, cluster: freely}, one.Addr, two.Addr)
	const good, internal = "0", "13"
	tests := []struct {
		story    string
		fields   []string
		status   string
		attempts int
	}{
		{"the longest timeout there is", []string{"grpc-timeout", "99999999H"}, good, 2},
		{"a timeout of nine digits", []string{"grpc-timeout", "999999999S"}, internal, 0},
		{"a timeout without a unit", []string{"grpc-timeout", "5"}, internal, 0},
		{"a timeout of letters", []string{"grpc-timeout", "soon"}, internal, 0},
		{"a negative timeout", []string{"grpc-timeout", "-1S"}, internal, 0},
		{"attempts of letters count as none", []string{"grpc-previous-rpc-attempts", "many"}, good, 2},
		{"negative attempts count as none", []string{"grpc-previous-rpc-attempts", "-3"}, good, 2},
		{"a huge number of attempts leaves one", []string{"grpc-previous-rpc-attempts", strings.Repeat("9", 5000)}, "14", 1},
	}
	for i, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			c := harness.DialFrames(t, tr.Listen)
			id := fmt.Sprint(i)
			c.Open(t, 1, "UnaryCall", append([]string{rogue.CallKey, id, rogue.PlanKey, "only:14|ok"}, tt.fields...)...)
			c.Send(t, 1, &testpb.SimpleRequest{}, true)
			fields, ending := c.Await(t, 1, stepLimit)
			if fields["grpc-status"] != tt.status || fields[":status"] == "" && tt.status == internal {
				t.Errorf("%v %s, want status %s", fields, ending, tt.status)
			}
			attempts := ledger.Attempts(id)
			if len(attempts) != tt.attempts {
				t.Errorf("%d attempts, want %d", len(attempts), tt.attempts)
			}
			for _, a := range attempts {
				if d := timeout(a); d <= 0 || d > 5*time.Second {
					t.Errorf("an attempt was given %q", a.Get("grpc-timeout"))
				}
			}
		})
	}
	// Twice the same field: whichever counts, the call ends and is given no more than the policy's time.
	c := harness.DialFrames(t, tr.Listen)
	c.Open(t, 1, "UnaryCall", rogue.CallKey, "twice", "grpc-timeout", "1S", "grpc-timeout", "2S")
	c.Send(t, 1, &testpb.SimpleRequest{}, true)
	if fields, ending := c.Await(t, 1, stepLimit); fields["grpc-status"] == "" {
		t.Errorf("two timeouts: %v %s", fields, ending)
	}
	for _, a := range ledger.Attempts("twice") {
		if d := timeout(a); d <= 0 || d > 2*time.Second {
			t.Errorf("two timeouts of 1 s and 2 s became %q", a.Get("grpc-timeout"))
		}
	}
}
