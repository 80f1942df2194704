package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	codepb "google.golang.org/genproto/googleapis/rpc/code"

	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/config"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// defaultAdmin is where a Trunkline without a config serves its admin API.
const defaultAdmin = "127.0.0.1:9901"

type explainCmd struct {
	Method    string `arg:"" help:"pkg.Service/Method"`
	Config    string `short:"c" placeholder:"FILE" xor:"from" help:"Answer from this config file; what discovery would find is not known then."`
	Admin     string `placeholder:"ADDR" xor:"from" help:"Ask the running Trunkline with this admin address (default: ${admin})."`
	Authority string `placeholder:"NAME" help:"The call's :authority."`
	JSON      bool   `help:"Print the admin API's answer."`
}

func (c *explainCmd) Run(ctx context.Context, env Env) error {
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
	address := c.Admin
	if address == "" {
		address = defaultAdmin
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	api := adminv1connect.NewAdminServiceClient(&http.Client{Transport: transport}, address)
	r, err := api.Explain(ctx, connect.NewRequest(&adminv1.ExplainRequest{Method: method, Authority: c.Authority}))
	if err != nil {
		return nil, fmt.Errorf("no answer from the admin API at %s: %w (is a Trunkline running there? name it with --admin, or a file with -c)", address, err)
	}
	return r.Msg, nil
}

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
	if r.GetStatus() == 0 {
		fmt.Fprintln(w, "\nThe call would be placed.")
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
