package waf

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// A stock client sends a SQL injection in a string field: it reads why it is refused, and the backend never saw the call. What
// is harmless passes, on the same connection.
func TestAnInjectionIsRefusedBeforeTheBackendSeesIt(t *testing.T) {
	b := harness.StartBackend(t, "b1")
	tr := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery: { static: { clusters: [ { name: test, endpoints: [ { address: %s } ] } ] }, reflection: { interval: 1s } }
payload: [ { methods: [ "grpc.testing.*" ], validate: { refuseUnknownFields: true, protovalidate: true }, waf: {} } ]
`, b.Addr))
	client := testpb.NewTestServiceClient(harness.Dial(t, tr.Listen))
	call := func(text string) error {
		ctx := metadata.AppendToOutgoingContext(harness.Context(t, 10*time.Second), "x-who", "alice")
		_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Message: text}})
		return err
	}
	harness.Eventually(t, 20*time.Second, "the service to be routed", func() bool { return status.Code(call("hello")) == codes.OK })
	before := b.Calls()

	err := call("42' OR '1'='1' -- ")
	s := status.Convert(err)
	for _, want := range []string{"message 1 of grpc.testing.TestService/UnaryCall looks like an attack", "field response_status.message", "rule 942100", "payload[0].waf"} {
		if s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), want) {
			t.Errorf("%s: %s; want PERMISSION_DENIED and %q", s.Code(), s.Message(), want)
		}
	}
	if strings.Contains(s.Message(), "OR '1'") {
		t.Errorf("the refusal shows what matched: %s", s.Message())
	}
	reason := ""
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	if reason != "WAF_BLOCKED" {
		t.Errorf("reason %q", reason)
	}
	if after := b.Calls(); after != before {
		t.Errorf("the backend saw %d calls of the attack", after-before)
	}
	if err := call("Conor O'Brien, please select one of the union's tables"); err != nil {
		t.Error(err)
	}
	if got := b.Calls() - before; got != 1 {
		t.Errorf("the backend saw %d calls, want the harmless one", got)
	}
	if strings.Contains(tr.Output(), "OR '1'") {
		t.Error("the log shows what matched")
	}
}
