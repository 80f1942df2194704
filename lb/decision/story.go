package decision

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/retry"
)

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
