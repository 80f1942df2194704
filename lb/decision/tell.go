package decision

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/retry"
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

// moment is one thing that happened, with its details.
type moment struct {
	at    time.Duration
	lines []string
}

func (t *teller) story() {
	d := t.d
	ms := []moment{{0, []string{"the call arrived"}}}
	for i := range d.Attempts() {
		ms = append(ms, d.placed(i))
		if m := d.ended(i); m.lines != nil {
			ms = append(ms, m)
		}
	}
	if hidden := d.Tried() - len(d.Attempts()); hidden > 0 {
		a := d.Attempts()[MaxAttempts-1]
		ms = append(ms, moment{a.Start, []string{fmt.Sprintf("(%s more before this one, not recorded)", count(hidden, "attempt"))}})
	}
	for i := range d.Notes() {
		n := &d.Notes()[i]
		ms = append(ms, moment{n.At, []string{n.String()}})
	}
	last := moment{d.Took, nil}
	switch {
	case d.Status == grpc.OK:
		last.lines = []string{"the caller had all of the answer, with status OK"}
	case d.Outcome == outcomeGone:
		last.lines = []string{"the client cancelled the call or went away"}
	case d.Local:
		last.lines = []string{"Trunkline ended the call with " + d.Status.String()}
	default:
		last.lines = []string{"the caller had the endpoint's answer, with status " + d.Status.String()}
	}
	for _, m := range ms { // an attempt may be closed a moment after the reply
		last.at = max(last.at, m.at)
	}
	ms = append(ms, last)
	slices.SortStableFunc(ms, func(a, b moment) int { return int(max(-1, min(1, a.at-b.at))) })
	for _, m := range ms {
		for i, s := range m.lines {
			t.lines = append(t.lines, Line{Section: SectionStory, At: m.at, Detail: i > 0, Text: s})
		}
	}
}

// number is how people count attempt i.
func (d *Decision) number(i int) int {
	if i == MaxAttempts-1 {
		return d.Tried()
	}
	return i + 1
}

func (d *Decision) placed(i int) moment {
	a := &d.Attempts()[i]
	m := moment{at: a.Start}
	s, why := fmt.Sprintf("attempt %d", d.number(i)), picked(a.Pick)
	if a.Kind == Hedge && a.Pick == balance.ReasonP2COtherAvoided {
		why = "two were drawn at random, and the other has the call already"
	}
	switch a.Kind {
	case Retry:
		s += ", a retry,"
	case Hedge:
		s += ", a hedge beside the one under way,"
	case Redispatch:
		s += ", a re-dispatch,"
	}
	m.lines = append(m.lines, fmt.Sprintf("%s goes to %s: %s", s, a.Endpoint, why))
	m.lines = append(m.lines, d.candidates(a)...)
	switch {
	case a.PerTry > 0 && a.Given >= a.PerTry:
		m.lines = append(m.lines, "it was given "+span(a.Given)+", its per-try timeout")
	case a.PerTry > 0 && a.Given > 0:
		m.lines = append(m.lines, fmt.Sprintf("it was given %s, which was left of the call's time (its per-try timeout would have been %s)", span(a.Given), span(a.PerTry)))
	case a.Given > 0:
		m.lines = append(m.lines, "it was given "+span(a.Given)+", all that was left of the call's time")
	}
	if wait := a.Sent - a.Start; a.Sent > 0 && wait >= time.Millisecond {
		m.lines = append(m.lines, "it waited "+span(wait)+" for a connection")
	}
	return m
}

func (d *Decision) candidates(a *Attempt) (lines []string) {
	list := a.Candidates()
	if len(list) < 2 {
		return nil
	}
	var wide int
	for _, c := range list {
		name, _ := d.Pool.Member(c.Member)
		wide = max(wide, len(name))
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y Candidate) int { return int(x.Member) - int(y.Member) })
	for _, c := range list {
		name, weight := d.Pool.Member(c.Member)
		var state []string
		if s := balance.StateString(uint32(c.State)); s != "" {
			state = append(state, s)
		}
		if c.Warm > 0 && c.Warm < 1000 {
			state = append(state, fmt.Sprintf("warming up at %d%%", c.Warm/10))
		}
		if c.Closed {
			state = append(state, "kept shut by a breaker or a limit")
		}
		if c.Failed {
			state = append(state, "had failed this call")
		}
		if len(state) == 0 {
			state = append(state, "healthy")
		}
		mark := " "
		if name == a.Endpoint {
			mark = ">"
		}
		lines = append(lines, fmt.Sprintf("%s %-*s  load %d  weight %d  %s", mark, wide, name, max(0, c.Load), weight, strings.Join(state, ", ")))
	}
	if more := int(a.Of) - len(list); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return lines
}

// ended tells how attempt i ended; nothing for the one whose end is that of the call.
func (d *Decision) ended(i int) moment {
	a := &d.Attempts()[i]
	m := moment{at: a.End}
	switch {
	case a.Lost:
		m.lines = []string{fmt.Sprintf("attempt %d was given up: another one won", d.number(i))}
	case a.cut():
		m.lines = []string{fmt.Sprintf("attempt %d was given up after %s: Trunkline ended it", d.number(i), span(a.End-a.Start))}
	case a.Outcome == outcomeGone:
		m.lines = []string{fmt.Sprintf("attempt %d was cancelled after %s: %s %s", d.number(i), span(a.End-a.Start), a.Endpoint, a.failed())}
	case a.bad():
		m.lines = []string{fmt.Sprintf("attempt %d failed after %s: %s %s", d.number(i), span(a.End-a.Start), a.Endpoint, a.failed())}
		if a.Evidence == retry.Ambiguous {
			m.lines = append(m.lines, "whether it executed the call cannot be known")
		}
		if s := d.why(a); s != "" {
			if wait := d.waitAfter(i); wait > 0 {
				s += ", after a wait of " + span(wait)
			}
			m.lines = append(m.lines, s)
		}
	case d.Tried() > 1:
		m.lines = []string{fmt.Sprintf("attempt %d succeeded after %s: %s answered", d.number(i), span(a.End-a.Start), a.Endpoint)}
	}
	return m
}

// why is what was decided after a failed, with its numbers.
func (d *Decision) why(a *Attempt) string {
	if a.Why == retry.RetryStatus {
		return "retried: " + a.Status.String() + " is among the policy's retryableStatusCodes"
	}
	return d.whyNot(a)
}

// waitAfter is how long the retry that followed attempt i was put off.
func (d *Decision) waitAfter(i int) time.Duration {
	for j, a := range d.Attempts()[i+1:] {
		if a.Kind == Retry && a.Start >= d.Attempts()[i].End {
			return d.waitBefore(i + 1 + j)
		}
	}
	return 0
}

// waitBefore is the backoff, or the hedging delay, before attempt i; told from the times if nobody noted it.
func (d *Decision) waitBefore(i int) time.Duration {
	a := &d.Attempts()[i]
	if a.Wait > 0 || i == 0 {
		return a.Wait
	}
	before := &d.Attempts()[i-1]
	switch a.Kind {
	case Retry:
		return max(0, a.Start-before.End)
	case Hedge:
		return max(0, a.Start-before.Start)
	}
	return 0
}

func hedgeWords(why int64) string { return hedge.Why(max(0, min(why, 255))).String() }

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
