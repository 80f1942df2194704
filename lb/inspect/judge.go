package inspect

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/policy/authn"
)

// court is the judging of one message. It is owned by its worker.
type court struct {
	rules   *Rules
	message *Message
	verdict Verdict
}

// charge is a part of a rule that may find fault.
type charge struct {
	name   string // "payload[0].validate"
	shadow bool   // it only watches
}

func (c *court) validates() (charge, bool) {
	v := c.rules.rule.validate
	return charge{c.rules.Why + ".validate", v.GetShadow()}, v != nil
}

func (c *court) searches() (charge, bool) {
	w := c.rules.rule.wall
	return charge{c.rules.Why + ".waf", w != nil && !w.block}, w != nil
}

// find records a fault; true: the message is refused, and nothing more is to be asked.
func (c *court) find(by charge, no authn.Refusal) bool {
	no.Message = fmt.Sprintf("message %d of %s %s", c.message.Index, brief(c.message.Method, 256), no.Message)
	c.verdict.Notes = append(c.verdict.Notes, gate.Note{Name: by.name, Text: no.Message, Refused: true, Shadow: by.shadow})
	if !by.shadow {
		c.verdict.Refused, c.verdict.Refusal = true, no
	}
	return !by.shadow
}

// unable records that the message could not be judged at all: that is a fault for whichever part of the rule refuses things.
func (c *court) unable(no authn.Refusal) bool {
	validate, validates := c.validates()
	search, searches := c.searches()
	if searches && (!validates || validate.shadow && !search.shadow) {
		return c.find(search, no)
	}
	return c.find(validate, no)
}

func (c *court) judge() {
	body, no := c.unpack()
	if no != nil {
		c.unable(*no)
		return
	}
	plan := c.plan()
	if c.rules.rule.validate != nil && plan == nil {
		if by, _ := c.validates(); c.find(by, noDescriptors(by)) {
			return
		}
	}
	search, searches := c.searches()
	w := walk{texts: searches}
	if plan != nil {
		w.types = plan.types
		err := w.top(body, plan.input)
		switch {
		case err != nil && (c.unable(err.refusal()) || !searches):
			return
		case err != nil: // it is only watched: what can be seen of it is
			plan = nil
		case c.rules.rule.validate != nil && c.validate(plan, body, &w):
			return
		}
	}
	if !searches {
		return
	}
	if plan == nil {
		w = walk{texts: true}
		if err := w.blindly(body); err != nil && c.find(search, err.refusal()) {
			return
		}
	}
	c.search(search, &w)
}

// noDescriptors fails closed: a message that cannot be checked is not one that was. It is not UNAVAILABLE, for trying again does
// not help: reflection is asked before a service's calls are routed by it, so descriptors are missing for a lasting reason.
func noDescriptors(by charge) authn.Refusal {
	return authn.Refusal{Status: grpc.FailedPrecondition, Reason: "NO_DESCRIPTORS",
		Message: fmt.Sprintf("cannot be validated (%s): no endpoint of the method told its descriptors; register gRPC server reflection in the server, "+
			"and do not list grpcServices for its cluster (nor set Consul's meta grpc-services), for such a cluster is not asked", by.name)}
}

// validate holds the message against its descriptor and the rules there; true: refused.
func (c *court) validate(plan *plan, body []byte, w *walk) bool {
	by, _ := c.validates()
	if c.rules.rule.validate.GetRefuseUnknownFields() && len(w.unknown) > 0 {
		if c.find(by, authn.Refusal{Status: grpc.InvalidArgument, Reason: "UNKNOWN_FIELDS",
			Message: fmt.Sprintf("has fields that the server's descriptors do not know (%s): %s; remove them, or deploy the server that knows them first", by.name, w.unknownText())}) {
			return true
		}
	}
	if !c.rules.rule.validate.GetProtovalidate() {
		return false
	}
	no := plan.check(body, w, c.rules.MaxInspected)
	if no == nil {
		return false
	}
	no.Message += fmt.Sprintf(" (%s)", by.name)
	return c.find(by, *no)
}

// plan is how messages of this method are read; nil where no descriptors are known.
func (c *court) plan() *plan {
	if c.rules.describe == nil {
		return nil
	}
	md := c.rules.describe()
	if md == nil || md.Input() == nil || md.Input().IsPlaceholder() {
		return nil
	}
	return c.rules.inspector.plans.of(md)
}

// unknownText names messages and field numbers.
func (w *walk) unknownText() string {
	var parts []string
	for _, u := range w.unknown {
		var numbers []string
		for _, n := range u.numbers {
			numbers = append(numbers, fmt.Sprint(n))
		}
		if u.more {
			numbers = append(numbers, "...")
		}
		word := "field"
		if len(numbers) > 1 {
			word = "fields"
		}
		parts = append(parts, fmt.Sprintf("%s %s of %s", word, strings.Join(numbers, ", "), u.message))
	}
	if w.unknownMore {
		parts = append(parts, "and more")
	}
	return strings.Join(parts, "; ")
}

// unknown is the unknown fields of one message type.
type unknown struct {
	message protoreflect.FullName
	numbers []protoreflect.FieldNumber
	more    bool
}

const (
	maxUnknownTypes   = 4
	maxUnknownNumbers = 8
)

// note takes an unknown field down, bounded.
func (w *walk) note(message protoreflect.FullName, number protoreflect.FieldNumber) {
	i := slices.IndexFunc(w.unknown, func(u unknown) bool { return u.message == message })
	if i < 0 {
		if len(w.unknown) == maxUnknownTypes {
			w.unknownMore = true
			return
		}
		w.unknown = append(w.unknown, unknown{message: message})
		i = len(w.unknown) - 1
	}
	switch u := &w.unknown[i]; {
	case slices.Contains(u.numbers, number):
	case len(u.numbers) == maxUnknownNumbers:
		u.more = true
	default:
		u.numbers = append(u.numbers, number)
	}
}

// brief is at most n bytes of s, at a character's end.
func brief(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
