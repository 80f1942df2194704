package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/decision"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// runCalls tells what happened to calls that have ended.
func (c *explainCmd) runCalls(ctx context.Context, env Env) error {
	if c.Config != "" {
		return errors.New("what happened to calls only the running Trunkline knows: leave --config out, name it with --admin")
	}
	req := &adminv1.ExplainCallRequest{Method: c.Method}
	switch {
	case c.Trace != "":
		if _, err := admin.ParseTraceID(c.Trace); err != nil {
			return err
		}
		req.Which = &adminv1.ExplainCallRequest_TraceId{TraceId: c.Trace}
	case c.Last > 0:
		req.Which = &adminv1.ExplainCallRequest_Last{Last: uint32(c.Last)}
	default:
		req.Which = &adminv1.ExplainCallRequest_LastErrors{LastErrors: uint32(c.LastErrors)}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	api, address, err := c.api()
	if err != nil {
		return err
	}
	r, err := api.ExplainCall(ctx, connect.NewRequest(req))
	if err != nil {
		return noAnswer(address, err)
	}
	switch {
	case c.JSON:
		fmt.Fprintln(env.Out, protojson.Format(r.Msg))
	case len(r.Msg.GetDecisions()) == 0:
		fmt.Fprintln(env.Out, r.Msg.GetNote())
	default:
		tell(env.Out, r.Msg.GetDecisions(), c.Full || c.Trace != "")
	}
	if len(r.Msg.GetDecisions()) == 0 {
		return errSilent
	}
	return nil
}

// tell prints calls, the latest first: in full, or how each ended and what to change.
func tell(w io.Writer, calls []*adminv1.Decision, full bool) {
	full = full || len(calls) == 1
	for i, d := range calls {
		if i > 0 {
			fmt.Fprintln(w)
		}
		var lines []decision.Line
		for _, l := range d.GetTold() {
			switch l.GetSection() {
			case adminv1.Section_SECTION_WHERE, adminv1.Section_SECTION_STORY, adminv1.Section_SECTION_DEADLINE:
				if !full {
					continue
				}
			}
			lines = append(lines, decision.Line{Section: decision.Section(l.GetSection()), At: l.GetAt().AsDuration(), Detail: l.GetDetail(), Text: l.GetText()})
		}
		decision.Print(w, lines)
	}
	if !full {
		fmt.Fprintln(w, "\nThe whole story of one of them: --trace and its trace's id; of all: --full.")
	}
}
