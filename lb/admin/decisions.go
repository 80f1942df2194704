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
	for i := range found {
		r.Decisions = append(r.Decisions, s.decision(&found[i]))
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

// decision is a record as the API shows it.
func (s *service) decision(d *decision.Decision) *adminv1.Decision {
	out := &adminv1.Decision{
		Arrived: timestamppb.New(time.Unix(0, d.Arrived)), Took: durationpb.New(d.Took), Method: d.Method, Authority: d.Authority, Peer: d.Peer,
		Route: d.Route, Cluster: d.Cluster, Generation: d.Generation, Policy: d.Policy, PolicySource: d.PolicyFrom, Status: uint32(d.Status), Message: d.Message,
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
	for i := range d.Attempts() {
		out.Attempts = append(out.Attempts, attempt(d, &d.Attempts()[i]))
	}
	for i := range d.Notes() {
		n := &d.Notes()[i]
		out.Notes = append(out.Notes, &adminv1.CallNote{Kind: n.Kind.String(), At: durationpb.New(n.At), Refused: n.Refused})
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

// some is a duration that is absent if it is zero.
func some(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
