package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/alecthomas/kong"
	"google.golang.org/protobuf/encoding/protojson"

	codepb "google.golang.org/genproto/googleapis/rpc/code"

	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/config"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// defaultAdmin is where a Trunkline without a config serves its admin API.
const defaultAdmin = "127.0.0.1:9901"

type explainCmd struct {
	Method     string `arg:"" optional:"" help:"pkg.Service/Method: where would a call go now? With --last or --last-errors: only its calls (or those of pkg.Service)."`
	Config     string `short:"c" placeholder:"FILE" xor:"from" help:"Answer from this config file; what discovery would find is not known then."`
	adminFlags `embed:""`
	Authority  string  `placeholder:"NAME" help:"The call's :authority."`
	Trace      string  `placeholder:"ID" xor:"call" help:"Tell what happened to the calls of this trace: its 32 hex digits, or a traceparent."`
	LastErrors howMany `placeholder:"[N]" xor:"call" help:"Tell the last N calls that failed or were slow (20)."`
	Last       howMany `placeholder:"[N]" xor:"call" help:"Tell the last N calls of any kind (20)."`
	Full       bool    `help:"With --last or --last-errors: tell each call in full, not only its end."`
	JSON       bool    `help:"Print the admin API's answer."`
}

// howMany is a flag's number that may be left out; 0: the flag is absent.
type howMany uint32

// Decode implements kong.MapperValue.
func (n *howMany) Decode(ctx *kong.DecodeContext) error {
	*n = defaultCalls
	next := ctx.Scan.Peek()
	if next.Type == kong.EOLToken {
		return nil
	}
	v, err := strconv.ParseUint(fmt.Sprint(next.Value), 10, 32)
	switch {
	case err == nil && v > 0:
		ctx.Scan.Pop()
		*n = howMany(v)
	case next.Type == kong.FlagValueToken: // --last=many
		return fmt.Errorf("%v is not a number of calls", next.Value)
	}
	return nil
}

// defaultCalls are told if no number is given.
const defaultCalls = 20

func (c *explainCmd) Run(ctx context.Context, env Env) error {
	if c.Trace != "" || c.LastErrors > 0 || c.Last > 0 {
		return c.runCalls(ctx, env)
	}
	if c.Method == "" {
		return errors.New("explain what? Name a method (pkg.Service/Method), or calls that have ended: --trace ID, --last-errors or --last")
	}
	method, err := admin.ParseMethod(c.Method)
	if err != nil {
		return err
	}
	answer, err := c.ask(ctx, env, method)
	if err != nil {
		return err
	}
	if c.JSON {
		fmt.Fprintln(env.Out, protojson.Format(answer))
	} else {
		explain(env.Out, answer)
	}
	if answer.GetStatus() != 0 {
		return errSilent
	}
	return nil
}

func (c *explainCmd) ask(ctx context.Context, env Env, method string) (*adminv1.ExplainResponse, error) {
	if c.Config != "" {
		cfg, _, err := config.Load(c.Config)
		if err != nil {
			return nil, complain(env.Err, err)
		}
		return env.Explain(cfg, method, c.Authority)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	api, address, err := c.api()
	if err != nil {
		return nil, err
	}
	r, err := api.Explain(ctx, connect.NewRequest(&adminv1.ExplainRequest{Method: method, Authority: c.Authority}))
	if err != nil {
		return nil, noAnswer(address, err)
	}
	return r.Msg, nil
}

const askTimeout = 10 * time.Second

// explain prints the answer as a story: rules, cluster, endpoints, end.
func explain(w io.Writer, r *adminv1.ExplainResponse) {
	call := r.GetMethod()
	if r.GetAuthority() != "" {
		call += " at " + r.GetAuthority()
	}
	fmt.Fprintln(w, call)
	others := 0
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range r.GetSteps() {
		// What other services' rules say is noise, except for rules that could have been meant.
		if !s.GetMatched() && s.GetRoute().GetClaim() != adminv1.Claim_CLAIM_ROUTE {
			others++
			continue
		}
		mark := " "
		if s.GetChosen() {
			mark = ">"
		}
		fmt.Fprintf(tw, "%s %s\t-> %s\t%s\t(%s)\n", mark, match(s.GetRoute()), s.GetRoute().GetCluster(), s.GetReason(), because(s.GetRoute()))
	}
	_ = tw.Flush()
	if others > 0 {
		fmt.Fprintf(w, "  %s did not match\n", count(others, "learned or built-in rule"))
	}
	if r.GetCluster() != "" {
		cluster(w, r)
	}
	if p := r.GetPolicy(); p != nil {
		fmt.Fprintf(w, "\npolicy %q of %s\n", p.GetName(), r.GetPolicySource())
		for _, s := range p.GetWords() {
			fmt.Fprintf(w, "  %s\n", s)
		}
	}
	end := "The call would be placed."
	if asked := r.GetAsked(); len(asked) > 0 {
		fmt.Fprintln(w, "\nwhat it would meet")
		for _, s := range asked {
			fmt.Fprintf(w, "  %s\n", s)
		}
		end = "The call would be placed, unless one of these refuses it."
	}
	if r.GetStatus() == 0 {
		fmt.Fprintln(w, "\n"+end)
		return
	}
	fmt.Fprintf(w, "\nThe call would end %v: %s\n", codepb.Code(r.GetStatus()), r.GetMessage())
	if near := r.GetNearest(); len(near) > 0 {
		fmt.Fprintf(w, "Nearest known: %s\n", strings.Join(near, ", "))
	}
}

func cluster(w io.Writer, r *adminv1.ExplainResponse) {
	title := "\ncluster " + r.GetCluster()
	if r.GetClusterSource() != "" {
		title += ", from " + r.GetClusterSource()
	}
	if r.GetBalancer() != "" {
		title += ", picked by " + r.GetBalancer()
	}
	fmt.Fprintln(w, title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range r.GetCandidates() {
		verdict := "takes calls"
		if !e.GetEligible() {
			verdict = "takes none: " + e.GetReason()
		}
		fmt.Fprintf(tw, "  %s\t%s\tweight %d\tload %d\t%s\n", e.GetAddress(), strings.ToLower(strings.TrimPrefix(e.GetState().String(), "ENDPOINT_STATE_")), e.GetWeight(), e.GetLoad(), verdict)
	}
	_ = tw.Flush()
}

// match says what a route matches: "service bench.Echo at api.example.com".
func match(r *adminv1.Route) string {
	out := strings.ToLower(strings.TrimPrefix(r.GetKind().String(), "ROUTE_KIND_"))
	if r.GetPattern() != "" {
		out += " " + r.GetPattern()
	}
	if r.GetAuthority() != "" {
		out += " at " + r.GetAuthority()
	}
	return out
}

// because says how Trunkline came to have a route.
func because(r *adminv1.Route) string {
	switch r.GetClaim() {
	case adminv1.Claim_CLAIM_CONFIG:
		return "grpcServices of the cluster"
	case adminv1.Claim_CLAIM_META:
		return "service meta grpc-services"
	case adminv1.Claim_CLAIM_REFLECTION:
		return "server reflection"
	}
	return r.GetName()
}
