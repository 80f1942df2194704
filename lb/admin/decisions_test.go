package admin

import (
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/retry"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// book has n calls to a.S/Get that failed, and as many to b.T/Get that went well; the ith belongs to the trace of that number.
func book(n int) *decision.Book {
	b := decision.NewBook(1000, 1000, 0, new(sync.Mutex))
	for i := range 2 * n {
		d := b.Next()
		d.Arrived, d.Took, d.Method, d.Cluster, d.Route, d.Match = int64(i), time.Second, "b.T/Get", "a", "routes[0]", "service a.S"
		d.TraceID, d.HasTrace = [16]byte{1, byte(i), byte(i >> 8)}, true
		d.Pool = &decision.Pool{Names: []string{"127.0.0.1:1", "127.0.0.1:2"}, Weights: []uint32{1, 3}}
		a := decision.Attempt{Endpoint: "127.0.0.1:2", Start: time.Millisecond, Sent: 2 * time.Millisecond, End: time.Second, Pick: balance.ReasonP2CLessLoaded, Of: 2}
		a.Consider(decision.Candidate{Member: 0, Load: 4, State: uint8(balance.Down | balance.Ejected)})
		a.Consider(decision.Candidate{Member: 1, Warm: 250})
		if i%2 == 0 {
			d.Method, d.Status, d.Message = "a.S/Get", grpc.Unavailable, "broken \xff"
			a.Status, a.Evidence, a.Why = grpc.Unavailable, retry.ByStatus, retry.NoBudget
			*d.AddNote() = decision.Note{Kind: decision.NoteBudget, Name: "a", A: 500, At: time.Second, Refused: true}
		}
		*d.AddAttempt() = a
		b.Done(d)
	}
	return b
}

func TestCallsThatEndedAreExplained(t *testing.T) {
	f := newFake()
	f.books = decision.Books{book(600)}
	api := adminv1connect.NewAdminServiceClient(httpClient(t, false), "http://"+serve(t, f))
	ask := func(req *adminv1.ExplainCallRequest) *adminv1.ExplainCallResponse {
		t.Helper()
		r, err := api.ExplainCall(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg
	}
	id := [16]byte{1, 1198 & 255, 1198 >> 8}
	byTrace := &adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_TraceId{TraceId: strings.ToUpper(hex.EncodeToString(id[:]))}}
	for _, c := range []struct {
		story string
		req   *adminv1.ExplainCallRequest
		want  int
	}{
		{"nothing said: the last errors", &adminv1.ExplainCallRequest{}, 20},
		{"a number of errors", &adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_LastErrors{LastErrors: 7}}, 7},
		{"too many errors", &adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_LastErrors{LastErrors: 4_000_000_000}}, 500},
		{"a number of calls", &adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_Last{Last: 30}}, 30},
		{"calls, without a number", &adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_Last{}}, 20},
		{"errors of a method that has none", &adminv1.ExplainCallRequest{Method: "b.T/Get"}, 0},
		{"calls of a service", &adminv1.ExplainCallRequest{Method: "/b.T", Which: &adminv1.ExplainCallRequest_Last{Last: 3}}, 3},
		{"a trace", byTrace, 1},
	} {
		r := ask(c.req)
		if len(r.GetDecisions()) != c.want || (r.GetNote() == "") != (c.want > 0) {
			t.Errorf("%s: %d calls, want %d; note %q", c.story, len(r.GetDecisions()), c.want, r.GetNote())
		}
	}
	d := ask(byTrace).GetDecisions()[0]
	if d.GetTraceId() != hex.EncodeToString(id[:]) || d.GetStatus() != 14 || d.GetMessage() != "broken \uFFFD" || d.GetTook().AsDuration() != time.Second {
		t.Errorf("the call is %v", d)
	}
	a := d.GetAttempts()[0]
	c := a.GetCandidates()
	if a.GetEvidence() != "status" || a.GetDecided() != "budget_exhausted" || a.GetPickReason() != "p2c_less_loaded" || len(c) != 2 ||
		c[0].GetState() != "down, ejected" || c[0].GetLoad() != 4 || c[0].GetPicked() || !c[1].GetPicked() || c[1].GetWeight() != 3 || c[1].GetWarm() != 0.25 {
		t.Errorf("the attempt is %v", a)
	}
	if n := d.GetNotes(); len(n) != 1 || n[0].GetKind() != "retry_budget" || !strings.Contains(n[0].GetText(), "0.5 retries left") {
		t.Errorf("the notes are %v", n)
	}
	told := ""
	for _, l := range d.GetTold() {
		told += l.GetText() + "\n"
	}
	for _, want := range []string{"retry budget of cluster a is spent", "127.0.0.1:2 answered UNAVAILABLE", "trunkline.cluster.retryBudget", "service a.S (routes[0])"} {
		if !strings.Contains(told, want) {
			t.Errorf("the story lacks %q:\n%s", want, told)
		}
	}
}

func TestATraceIDIsTakenInTheFormsThatPeopleHave(t *testing.T) {
	want := "4bf92f3577b34da6a3ce929d0e0e4736"
	for _, s := range []string{want, strings.ToUpper(want), " " + want + "\n", "00-" + want + "-00f067aa0ba902b7-01", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"} {
		if id, err := ParseTraceID(s); err != nil || hex.EncodeToString(id[:]) != want {
			t.Errorf("%q: %x, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "4bf9", want + "00", strings.Repeat("0", 32), strings.Repeat("g", 32)} {
		if _, err := ParseTraceID(s); err == nil || !strings.Contains(err.Error(), "32 hex digits") {
			t.Errorf("%q: %v", s, err)
		}
	}
	api := adminv1connect.NewAdminServiceClient(httpClient(t, false), "http://"+serve(t, newFake()))
	_, err := api.ExplainCall(t.Context(), connect.NewRequest(&adminv1.ExplainCallRequest{Which: &adminv1.ExplainCallRequest_TraceId{TraceId: "x"}}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a trace id that is none: %v", err)
	}
}

func TestWhyNothingIsFoundIsSaid(t *testing.T) {
	f := newFake()
	api := adminv1connect.NewAdminServiceClient(httpClient(t, false), "http://"+serve(t, f))
	note := func(req *adminv1.ExplainCallRequest) string {
		r, err := api.ExplainCall(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.GetNote()
	}
	if s := note(&adminv1.ExplainCallRequest{}); !strings.Contains(s, "keeps no records") {
		t.Error(s)
	}
	f.books = decision.Books{book(0)}
	for want, req := range map[string]*adminv1.ExplainCallRequest{
		"No call has failed":      {},
		"No call has ended yet":   {Which: &adminv1.ExplainCallRequest_Last{}},
		"may be older, still und": {Which: &adminv1.ExplainCallRequest_TraceId{TraceId: "4bf92f3577b34da6a3ce929d0e0e4736"}},
	} {
		if s := note(req); !strings.Contains(s, want) {
			t.Errorf("%q lacks %q", s, want)
		}
	}
}

func TestPoliciesAreShown(t *testing.T) {
	api := adminv1connect.NewAdminServiceClient(httpClient(t, false), "http://"+serve(t, newFake()), connect.WithHTTPGet())
	r, err := api.GetPolicies(t.Context(), connect.NewRequest(&adminv1.GetPoliciesRequest{}))
	if err != nil || r.Msg.GetClusters()[0].GetBreakers()[0].GetState() != adminv1.BreakerState_BREAKER_STATE_OPEN {
		t.Errorf("%v, %v", r, err)
	}
}
