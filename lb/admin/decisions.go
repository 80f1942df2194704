package admin

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/policy/balance"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// Limits of ExplainCall, as admin.proto promises them.
const (
	defaultDecisions = 20
	maxDecisions     = 500
	maxExplained     = 50 // different methods of one answer whose rules are told
)

func (s *service) GetPolicies(context.Context, *connect.Request[adminv1.GetPoliciesRequest]) (*connect.Response[adminv1.GetPoliciesResponse], error) {
	return connect.NewResponse(s.source.Policies()), nil
}

func (s *service) ExplainCall(_ context.Context, req *connect.Request[adminv1.ExplainCallRequest]) (*connect.Response[adminv1.ExplainCallResponse], error) {
	q, err := query(req.Msg)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	books := s.source.Decisions()
	found := books.Ask(q)
	r := &adminv1.ExplainCallResponse{}
	around := decision.Around{Now: time.Now()}
	rules := map[[2]string][]decision.Rule{}
	for i := range found {
		d := &found[i]
		call := [2]string{d.Method, d.Authority}
		if _, ok := rules[call]; !ok && len(rules) < maxExplained {
			rules[call] = s.rules(d.Method, d.Authority)
		}
		around.Rules = rules[call]
		r.Decisions = append(r.Decisions, describe(d, d.Tell(around)))
	}
	if len(found) == 0 {
		r.Note = none(books, q)
	}
	return connect.NewResponse(r), nil
}

// query is what a request asks for.
func query(m *adminv1.ExplainCallRequest) (q decision.Query, err error) {
	q = decision.Query{Limit: defaultDecisions, Method: strings.TrimPrefix(m.GetMethod(), "/")}
	n := uint32(0)
	switch m.GetWhich().(type) {
	case *adminv1.ExplainCallRequest_TraceId:
		if q.TraceID, err = ParseTraceID(m.GetTraceId()); err != nil {
			return q, err
		}
		q.Limit = maxDecisions
	case *adminv1.ExplainCallRequest_Last:
		n = m.GetLast()
	default:
		q.Errors, n = true, m.GetLastErrors()
	}
	if n > 0 {
		q.Limit = int(min(n, maxDecisions))
	}
	return q, nil
}

// ParseTraceID takes a trace's id as people have it: 32 hex digits, of either case, or a whole traceparent. The error is one
// sentence that shows the right form.
func ParseTraceID(s string) (id [16]byte, err error) {
	text := strings.TrimSpace(s)
	if len(text) == 55 && text[2] == '-' {
		text = text[3:35]
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", "")) // some tools show it as a UUID
	if err != nil || len(b) != len(id) || [16]byte(b) == id {
		return id, fmt.Errorf("%q is not a trace id: write its 32 hex digits, as in 4bf92f3577b34da6a3ce929d0e0e4736", s)
	}
	return [16]byte(b), nil
}

// none says why nothing was found.
func none(books decision.Books, q decision.Query) string {
	well, failed := books.Kept()
	switch {
	case well+failed == 0:
		return "This Trunkline keeps no records of calls."
	case q.TraceID != [16]byte{}:
		return fmt.Sprintf("No call of this trace is among the last %d calls that went well and the last %d others of this Trunkline: "+
			"it may be older, still under way, have gone through another one, or have come without a traceparent header.", well, failed)
	case q.Errors:
		return "No call has failed or been slow, as far as is remembered."
	}
	return "No call has ended yet, as far as is remembered."
}

// rules are what the routing table in force says to a call of the method. Rules that Trunkline learned for other services are
// left out: nobody wrote them, and nobody takes them for meant.
func (s *service) rules(method, authority string) (out []decision.Rule) {
	method, err := ParseMethod(method)
	if err != nil {
		return nil
	}
	for _, step := range s.source.Explain(method, authority).GetSteps() {
		r := step.GetRoute()
		if !step.GetMatched() && r.GetClaim() != adminv1.Claim_CLAIM_ROUTE {
			continue
		}
		match := strings.ToLower(strings.TrimPrefix(r.GetKind().String(), "ROUTE_KIND_"))
		if r.GetPattern() != "" {
			match += " " + r.GetPattern()
		}
		if r.GetAuthority() != "" {
			match += " at " + r.GetAuthority()
		}
		out = append(out, decision.Rule{Match: match, Name: r.GetName(), Cluster: r.GetCluster(), Chosen: step.GetChosen(), Why: step.GetReason()})
	}
	return out
}

// describe is a record, and its story, as the API shows them.
func describe(d *decision.Decision, story []decision.Line) *adminv1.Decision {
	out := &adminv1.Decision{
		Arrived: timestamppb.New(time.Unix(0, d.Arrived)), Took: durationpb.New(d.Took), Method: valid(d.Method), Authority: valid(d.Authority), Peer: d.Peer,
		Route: d.Route, Cluster: d.Cluster, Generation: d.Generation, Policy: d.Policy, PolicySource: d.PolicyFrom, Status: uint32(d.Status), Message: valid(d.Message),
		Local: d.Local, Outcome: d.Outcome.String(), Reason: d.Reason, AttemptsTotal: uint32(d.Tried()),
		Deadline: &adminv1.DeadlineBudget{Policy: some(d.Timeout), Limit: some(d.Limit), SpentHere: durationpb.New(d.Own)},
	}
	if d.HasTrace {
		out.TraceId = hex.EncodeToString(d.TraceID[:])
	}
	if d.HasReceived {
		out.Deadline.Received = durationpb.New(d.Received)
	}
	if d.Limit > 0 {
		out.Deadline.Left = durationpb.New(d.Limit - d.Took)
	}
	for _, l := range story {
		told := &adminv1.Told{Section: adminv1.Section(l.Section), Detail: l.Detail, Text: valid(l.Text)}
		if l.Section == decision.SectionStory {
			told.At = durationpb.New(l.At)
		}
		out.Told = append(out.Told, told)
	}
	for i := range d.Attempts() {
		out.Attempts = append(out.Attempts, attempt(d, &d.Attempts()[i]))
	}
	for i := range d.Notes() {
		n := &d.Notes()[i]
		out.Notes = append(out.Notes, &adminv1.CallNote{Kind: n.Kind.String(), At: durationpb.New(n.At), Text: valid(n.String()), Refused: n.Refused})
	}
	return out
}

func attempt(d *decision.Decision, a *decision.Attempt) *adminv1.CallAttempt {
	out := &adminv1.CallAttempt{
		Endpoint: a.Endpoint, Kind: a.Kind.String(), PickReason: a.Pick.String(), PickedAt: durationpb.New(a.Start), SentAt: some(a.Sent), EndedAt: durationpb.New(a.End),
		Waited: some(a.Wait), Given: some(a.Given), Status: uint32(a.Status), Outcome: a.Outcome.String(), Evidence: a.Evidence.String(), Decided: a.Why.Code(),
		CandidatesTotal: uint32(a.Of),
	}
	for _, c := range a.Candidates() {
		name, weight := d.Pool.Member(c.Member)
		one := &adminv1.CallCandidate{Endpoint: name, Load: uint32(max(0, c.Load)), Weight: weight, State: balance.StateString(uint32(c.State)), Warm: 1,
			Closed: c.Closed, Failed: c.Failed, Picked: name == a.Endpoint}
		if c.Warm > 0 {
			one.Warm = float64(c.Warm) / 1000
		}
		out.Candidates = append(out.Candidates, one)
	}
	return out
}

// valid replaces what is not UTF-8, which a message may not hold: methods and messages come from outside.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// some is a duration that is absent if it is zero.
func some(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
