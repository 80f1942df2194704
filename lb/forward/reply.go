package forward

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/telemetry"
)

// refusal is a reply that Trunkline makes itself.
type refusal struct {
	status  grpc.Status
	outcome telemetry.Outcome
	reason  string // of google.rpc.ErrorInfo: UPPER_SNAKE
	message string // names cause and phase
}

// domain is who says so, in google.rpc.ErrorInfo.
const domain = "trunkline"

// refuse ends the call towards the client: with a Trailers-Only reply if nothing was said yet, else with trailers. Any
// attempt has been given up before.
func (c *Call) refuse(r refusal) {
	c.status, c.message, c.outcome, c.local, c.complete = r.status, r.message, r.outcome, true, true
	if c.down == nil {
		c.settle()
		return
	}
	in := c.f.shard.Env.Interner
	details := grpc.Details{Reason: r.reason, Domain: domain}
	if c.e != nil {
		details.Metadata = append(details.Metadata, [2]string{"cluster", c.e.target.Cluster}, [2]string{"route", c.e.route.Rule.Name})
	}
	if n := len(c.tries); n > 0 {
		details.Metadata = append(details.Metadata, [2]string{"endpoint", c.tries[n-1].ep.Address}, [2]string{"attempts", strconv.Itoa(n)})
	}
	f := c.f
	f.scratch = f.scratch[:0]
	if !c.started {
		f.scratch = append(f.scratch, f.statusOK, f.contentType)
	}
	for _, kv := range [...][2]string{
		{"grpc-status", strconv.Itoa(int(r.status))},
		{"grpc-message", string(grpc.AppendMessage(nil, r.message))},
		{"grpc-status-details-bin", string(grpc.AppendStatusDetailsBin(nil, r.status, r.message, details))},
	} {
		h := in.Intern(kv[0], kv[1])
		f.made = append(f.made, h)
		f.scratch = append(f.scratch, h)
	}
	s, id := c.down, c.down.ID
	if s.Held() > 0 && r.status == grpc.DeadlineExceeded {
		// The client does not read: the reply would wait behind what it does not take, and the deadline is now.
		f.releaseMade()
		c.d.Sess.Reset(s, h2.Cancel)
		return
	}
	c.d.Sess.SendHeaders(s, f.scratch, true)
	f.releaseMade()
	if c.down == s && s.ID == id && !s.RecvClosed() {
		// The client is still sending; it need not (RFC 9113 section 8.1).
		c.d.Sess.ResetAfter(s, h2.NoError)
	}
}

// noRoute is the refusal of a call that no route takes.
func (c *Call) noRoute(b *session.Block) refusal {
	r := refusal{status: grpc.Unimplemented, outcome: telemetry.OutcomeNoRoute, reason: "NO_ROUTE"}
	if c.path == nil || b.Method.Value == "CONNECT" {
		r.message = fmt.Sprintf("Trunkline carries calls to methods; this is a %s", b.Method.Value)
		return r
	}
	path := c.path.Value
	if len(path) > 256 {
		path = path[:256] + "..."
	}
	service, _, ok := grpc.SplitPath(path)
	if !ok {
		r.message = fmt.Sprintf("the path %q is not /package.Service/Method", path)
		return r
	}
	r.message = fmt.Sprintf("no route for method %s", strings.TrimPrefix(path, "/"))
	if claims := c.gen.Conflicts[service]; len(claims) > 0 {
		r.reason = "CONFLICTING_CLAIMS"
		r.message += fmt.Sprintf(": the clusters %s all claim %s; a route in the configuration decides", strings.Join(claims, " and "), service)
	} else if f := c.f; f.suggested != f.shard.Round() {
		// A search costs as much as thousands of calls: one in a batch, so that nobody can make it our main work.
		f.suggested = f.shard.Round()
		if near := c.gen.Table.Nearest(c.path.Value); near != "" {
			r.message += "; the nearest known one is " + near
		}
	}
	return r
}

// noEndpoint is the refusal of a call for which no endpoint is up.
func (c *Call) noEndpoint() refusal {
	t := c.e.target
	r := refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeNoHealthyUpstream, reason: "NO_HEALTHY_ENDPOINT"}
	switch n := len(t.Endpoints); {
	case n == 0 && t.Why != "":
		r.message = "no healthy endpoint: " + t.Why
	case n == 0:
		r.message = "no healthy endpoint: cluster " + t.Cluster + " has none"
	default:
		last := t.Endpoints[0].LastError()
		if k := len(c.tries); k > 0 {
			r.outcome, last = telemetry.OutcomeUpstreamConnectFailure, c.tries[k-1].ep.LastError()
		}
		r.message = fmt.Sprintf("no healthy endpoint: cluster %s has %d, none is up; last error: %s", t.Cluster, n, last)
	}
	return r
}

// exhausted is the refusal of a call that was turned away too often.
func (c *Call) exhausted() refusal {
	return refusal{status: grpc.Unavailable, outcome: telemetry.OutcomeRetryLimit, reason: "NOT_PLACED",
		message: fmt.Sprintf("cluster %s: %d endpoints in a row did not take the call; last: %s", c.e.target.Cluster, len(c.tries), c.message)}
}
