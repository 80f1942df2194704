package policies

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/trunkline/trunkline/integration/harness"
	"github.com/trunkline/trunkline/integration/rogue"
)

// traced makes a call that belongs to a trace which nobody samples.
func traced(client testpb.TestServiceClient, trace int, id, plan string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	traceID := fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", trace)
	ctx = metadata.AppendToOutgoingContext(steer(ctx, id, plan), "traceparent", "00-"+traceID+"-00f067aa0ba902b7-00")
	_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
	return traceID, err
}

// explain asks the CLI, as a person would.
func explain(t *testing.T, tr *harness.Trunkline, args ...string) (out string, exit int) {
	t.Helper()
	exit, out, errs := harness.Run(t, stepLimit, nil, append([]string{harness.Binary(t), "explain", "--admin", tr.Admin}, args...)...)
	return out + errs, exit
}

// tells fails the story unless the text has all the words, in any case.
func tells(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			t.Errorf("no %q in\n%s", w, text)
			return
		}
	}
}

func TestExplainTellsOfARetriedCallABrokenOneAndALateOneWhereWhyAndWhatToChange(t *testing.T) {
	t.Parallel()
	one, two, ledger := pair(t, rogue.Options{})
	calm := start(t, policies{method: retries + `, "timeout": "5s"`, cluster: freely}, one.Addr, two.Addr)
	client := testpb.NewTestServiceClient(harness.Dial(t, calm.Listen))
	ask := func(tr *harness.Trunkline, trace string) (out string) {
		t.Helper()
		harness.Eventually(t, stepLimit, "the record of "+trace, func() bool {
			var exit int
			out, exit = explain(t, tr, "--trace", trace)
			return exit == 0 && strings.Contains(out, unary)
		})
		return out
	}

	retried, err := traced(client, 1, "retried", "trailers:14|ok", stepLimit)
	must(t, "the retried call", err, codes.OK)
	out := ask(calm, retried)
	tells(t, out, unary, "backends", one.Addr, two.Addr, "unavailable", "retr", "ok")
	t.Logf("a retried call:\n%s", out)
	if names := servers(ledger.Attempts("retried")); len(names) != 2 {
		t.Errorf("attempts on %v", names)
	}

	// A client in frames, which does not watch its own deadline: one that does cancels the call in the same moment.
	const late = "4bf92f3577b34da6a3ce929d0e0e0002"
	c := harness.DialFrames(t, calm.Listen)
	c.Open(t, 1, "UnaryCall", "grpc-timeout", "300m", rogue.PlanKey, "silent", "traceparent", "00-"+late+"-00f067aa0ba902b7-00")
	c.Send(t, 1, &testpb.SimpleRequest{}, true)
	if fields, ending := c.Await(t, 1, stepLimit); fields["grpc-status"] != "4" {
		t.Errorf("the late call: %v %s", fields, ending)
	}
	out = ask(calm, late)
	tells(t, out, unary, "deadline_exceeded", "300 ms", "what to change", "the caller must give it more than 300 ms")
	t.Logf("a call that met its deadline:\n%s", out)

	bad := newPatient(t, "bad", nil)
	broken := start(t, policies{own: `"breaker": {"consecutive": 3, "openFor": "60s"}`}, bad.Addr)
	client = testpb.NewTestServiceClient(harness.Dial(t, broken.Listen))
	for i := range 3 {
		_, err := traced(client, 10+i, "", "", stepLimit)
		must(t, "before the breaker opens", err, codes.Internal)
	}
	refused, err := traced(client, 20, "", "", stepLimit)
	must(t, "the refused call", err, codes.Unavailable)
	out = ask(broken, refused)
	tells(t, out, unary, bad.Addr, "breaker", "openFor")
	t.Logf("a call that a breaker refused:\n%s", out)

	out, exit := explain(t, broken, "--last-errors")
	if exit != 0 || strings.Count(out, unary) < 4 {
		t.Errorf("--last-errors: exit %d\n%s", exit, out)
	}
	tells(t, out, "breaker", "internal")

	out, exit = explain(t, broken, "--trace", "4bf92f3577b34da6a3ce929d0e0effff")
	if exit == 0 {
		t.Errorf("a trace that nobody knows: exit 0\n%s", out)
	}
}

func TestTheAdminAPIShowsBreakersEjectionsAndBudgets(t *testing.T) {
	t.Parallel()
	ledger := rogue.NewLedger()
	bad := newPatient(t, "bad", ledger)
	good, fine := rogue.Start(t, "good", rogue.Options{Ledger: ledger}), rogue.Start(t, "fine", rogue.Options{Ledger: ledger})
	tr := harness.Start(t, config(policies{method: retries, own: `"breaker": {"consecutive": 4, "openFor": "60s"}`,
		cluster: `"outlierDetection": {"consecutive": 4, "interval": "0.1s"}`}.String(), []string{bad.Addr, good.Addr, fine.Addr}, strictly))
	cc := harness.Dial(t, tr.Listen)
	crowd(1, 60, func(int) error { _, err := call(t, cc, "", ""); return err })
	harness.Eventually(t, stepLimit, "the breaker and the ejection to be shown", func() bool {
		s := stateOf(t, tr, "backends")
		open := false
		for _, b := range s.GetBreakers() {
			open = open || b.GetEndpoint() == bad.Addr && b.GetMethod() == unary && b.GetReason() != "" && b.GetNextProbe() != nil
		}
		ejected := false
		for _, e := range s.GetEndpoints() {
			ejected = ejected || e.GetAddress() == bad.Addr && strings.Contains(e.GetState(), "ejected") && e.GetWhy() != "" && e.GetEjectedUntil() != nil
		}
		return open && ejected
	})
	s := stateOf(t, tr, "backends")
	if len(s.GetBudgets()) == 0 || s.GetConfig().GetSource() == "" || len(s.GetConfig().GetMethods()) == 0 {
		t.Errorf("budgets %v, config %v", s.GetBudgets(), s.GetConfig())
	}
}
