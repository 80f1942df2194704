package decision

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
)

// Section is the part of a story to which a [Line] belongs. The numbers are those of the admin API.
type Section uint8

// The sections, in the order in which they are told.
const (
	SectionCall     Section = iota + 1 // which call, and how it ended
	SectionSummary                     // the same in a sentence or two, with the cause
	SectionWhere                       // route, cluster, policy
	SectionStory                       // what happened, in the order of time
	SectionDeadline                    // how the time was used
	SectionAdvice                      // what to look at, or to change
)

// Line is one line of a story.
type Line struct {
	Section Section
	At      time.Duration // since the call's arrival, in SectionStory
	Detail  bool          // belongs to the line before it
	Text    string
}

// Around is what a record does not know by itself.
type Around struct {
	Now  time.Time      // for "12 s ago"; zero: not said
	Zone *time.Location // nil: UTC
	// Rules are the rules of the table in force now with what they say to such a call, in the order in which they are considered.
	Rules []Rule
}

// Rule is one rule of the routing table.
type Rule struct {
	Match, Name, Cluster string // "service pkg.S", "routes[0]", "shop"
	Chosen               bool
	Why                  string // "another service"
}

// Tell tells the record in words.
func (d *Decision) Tell(o Around) []Line {
	end := d.ending()
	t := &teller{d: d}
	t.call(o)
	t.line(SectionSummary, "%s", end.summary)
	t.where(o)
	t.story()
	t.deadline()
	if len(end.advice) == 0 {
		end.advice = []string{"Nothing."}
	}
	for _, a := range end.advice {
		t.line(SectionAdvice, "%s", a)
	}
	return t.lines
}

type teller struct {
	d     *Decision
	lines []Line
}

func (t *teller) line(s Section, format string, args ...any) {
	t.lines = append(t.lines, Line{Section: s, Text: fmt.Sprintf(format, args...)})
}

func (t *teller) detail(format string, args ...any) {
	last := t.lines[len(t.lines)-1]
	t.lines = append(t.lines, Line{Section: last.Section, At: last.At, Detail: true, Text: fmt.Sprintf(format, args...)})
}

func (t *teller) call(o Around) {
	d := t.d
	status := d.Status.String()
	if d.Status != grpc.OK {
		if d.Outcome == outcomeGone {
			status += ", by the client,"
		} else if d.Local {
			status += ", said by Trunkline,"
		} else {
			status += ", said by the endpoint,"
		}
	}
	t.line(SectionCall, "%s ended %s after %s", d.name(), status, span(d.Took))
	zone := o.Zone
	if zone == nil {
		zone = time.UTC
	}
	at := time.Unix(0, d.Arrived).In(zone)
	parts := []string{"arrived " + at.Format("2006-01-02 15:04:05.000 MST")}
	if !o.Now.IsZero() {
		parts[0] += " (" + ago(max(0, o.Now.Sub(at))) + " ago)"
	}
	if d.Peer != "" {
		parts = append(parts, "from "+d.Peer)
	}
	if d.Caller != "" {
		parts = append(parts, "by "+d.Caller)
	}
	if d.Authority != "" {
		parts = append(parts, "to "+d.Authority)
	}
	t.detail("%s", strings.Join(parts, ", "))
	if d.HasTrace {
		t.detail("trace %s", hex.EncodeToString(d.TraceID[:]))
	}
	if d.Status != grpc.OK && d.Message != "" {
		t.detail("the caller read: %q", d.Message)
	}
}

// name is the method, or what stands in its place.
func (d *Decision) name() string {
	if d.Method == "" {
		return "A call without a method"
	}
	return d.Method
}

func (t *teller) where(o Around) {
	d := t.d
	switch d.Route {
	case "":
		t.line(SectionWhere, "route: none matched")
	case d.Match: // a learned one is called by what it matches
		t.line(SectionWhere, "route: %s, of routing table %d", d.Match, d.Generation)
	default:
		t.line(SectionWhere, "route: %s (%s), of routing table %d", d.Match, d.Route, d.Generation)
	}
	others := 0
	for _, r := range o.Rules {
		switch {
		case r.Chosen && r.Name == d.Route:
		case r.Chosen:
			t.detail("by the table in force now it would match %s (%s), to cluster %s", r.Match, r.Name, r.Cluster)
		case others < maxRules:
			others++
			t.detail("passed over: %s (%s, to cluster %s): %s", r.Match, r.Name, r.Cluster, r.Why)
		default:
			others++
		}
	}
	if others > maxRules {
		t.detail("and %s more that did not match", count(others-maxRules, "rule"))
	}
	if d.Cluster == "" {
		return
	}
	s := "cluster: " + d.Cluster
	if d.Pool != nil {
		s += ", " + count(len(d.Pool.Names), "endpoint") + " with the method"
	}
	if d.Balancer != "" {
		s += ", balanced by " + d.Balancer
	}
	t.line(SectionWhere, "%s", s)
	var has []string
	add := func(yes bool, what string) {
		if yes {
			has = append(has, what)
		}
	}
	if d.Settings != nil {
		has = d.Settings.Words()
	}
	if d.PolicyFrom == "" && d.Timeout == 0 && !d.Retries && !d.Hedges && len(has) == 0 {
		t.line(SectionWhere, "policy: none holds for the method")
		return
	}
	if d.Settings == nil {
		add(d.Timeout > 0, "timeout "+span(d.Timeout))
		add(d.Retries, "retries")
		add(d.Hedges, "hedging")
		add(d.Idempotent, "idempotent")
	}
	s = "policy: " + d.policy()
	if len(has) > 0 {
		s += ": " + strings.Join(has, "; ")
	}
	t.line(SectionWhere, "%s", s)
	if d.IdempotentWhy != "" && (d.Retries || d.Hedges) {
		t.detail("may it be executed twice? %s", d.IdempotentWhy)
	}
}

// maxRules bounds the rules that are named for not matching.
const maxRules = 8

// policy names the policy in force, for a sentence.
func (d *Decision) policy() string {
	if d.Policy == "" || d.PolicyFrom == "" {
		return "the service config"
	}
	s := "\"" + d.Policy + "\""
	if d.PolicyFrom != "" {
		s += " of " + d.PolicyFrom
	}
	return s
}

func (t *teller) deadline() {
	d := t.d
	switch {
	case d.Limit <= 0:
		t.line(SectionDeadline, "no limit: the caller sent no grpc-timeout, and no policy sets one")
	case d.HasReceived && d.Timeout > 0 && d.Limit < d.Received:
		t.line(SectionDeadline, "limit %s: the policy's timeout, shorter than the %s that the caller gave", span(d.Limit), span(d.Received))
	case d.HasReceived && d.Timeout > 0:
		t.line(SectionDeadline, "limit %s: what the caller gave, within the policy's timeout of %s", span(d.Limit), span(d.Timeout))
	case d.HasReceived:
		t.line(SectionDeadline, "limit %s: what the caller gave (grpc-timeout)", span(d.Limit))
	default:
		t.line(SectionDeadline, "limit %s: the policy's timeout, for the caller gave none", span(d.Limit))
	}
	own := min(d.Own, d.Took)
	s := fmt.Sprintf("used %s: %s in Trunkline", span(d.Took), span(own))
	if waited := d.waited(); waited > 0 {
		s += fmt.Sprintf(" (of these %s waiting before retries)", span(waited))
	}
	if d.Tried() > 0 && !d.neverSent() {
		s += ", " + span(d.Took-own) + " with endpoints"
	}
	t.line(SectionDeadline, "%s", s)
	for i := range d.Attempts() {
		a := &d.Attempts()[i]
		given := ""
		if a.Given > 0 {
			given = " of " + span(a.Given) + " given"
		}
		if d.Tried() > 1 || given != "" {
			t.detail("attempt %d on %s: %s%s", d.number(i), a.Endpoint, span(a.End-a.Start), given)
		}
	}
	if d.Limit > 0 {
		if left := d.Limit - d.Took; left > 0 {
			t.line(SectionDeadline, "left %s", span(left))
		} else {
			t.line(SectionDeadline, "left nothing")
		}
	}
}

func (d *Decision) waited() (sum time.Duration) {
	for i := range d.Attempts() {
		if d.Attempts()[i].Kind == Retry {
			sum += d.waitBefore(i)
		}
	}
	return sum
}
