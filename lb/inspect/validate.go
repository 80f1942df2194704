package inspect

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
)

const (
	// maxGrowth bounds the memory of a decoded message, in times of the largest that is inspected; minGrowth, in bytes, what any
	// message may take.
	maxGrowth = 16
	minGrowth = 16 << 20
	// manyElements is from where only the first violation is sought: each one that is found is held.
	manyElements = 2000
	// maxViolations and maxViolation, in bytes, bound what a refusal tells.
	maxViolations = 5
	maxViolation  = 200
)

// check holds a message that was walked against the rules of protovalidate in its descriptors; nil if it is valid. Rules that do
// not compile refuse every message: else a slip in the server's rules would silently turn them off.
func (p *plan) check(body []byte, w *walk, most int64) *authn.Refusal {
	if w.memory > max(minGrowth, maxGrowth*most) {
		no := tooComplex()
		return &no
	}
	p.once.Do(p.compile)
	if p.wrong != nil {
		return p.notUnderstood(p.wrong)
	}
	message := dynamicpb.NewMessage(p.input)
	// AllowPartial: whether proto2's required fields are there is the server's to judge, as languages differ.
	if err := (proto.UnmarshalOptions{AllowPartial: true, Resolver: p.types}).Unmarshal(body, message); err != nil {
		return malformed("does not parse as %s", p.input.FullName()) // the walk saw it first, but for message sets
	}
	var options []protovalidate.ValidationOption
	if w.elements > manyElements {
		options = append(options, protovalidate.WithFailFast())
	}
	err := p.validator.Validate(message, options...)
	var invalid *protovalidate.ValidationError
	var wrong *protovalidate.CompilationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return p.notUnderstood(wrong)
	case errors.As(err, &invalid):
		return &authn.Refusal{Status: grpc.InvalidArgument, Reason: "INVALID_MESSAGE", Message: "is not valid: " + p.violations(invalid.Violations)}
	}
	return &authn.Refusal{Status: grpc.FailedPrecondition, Reason: "RULES_NOT_UNDERSTOOD",
		Message: fmt.Sprintf("cannot be validated: a rule of %s in the server's descriptors cannot be evaluated on it", p.input.FullName())}
}

func (p *plan) notUnderstood(err error) *authn.Refusal {
	return &authn.Refusal{Status: grpc.FailedPrecondition, Reason: "RULES_NOT_UNDERSTOOD", Message: fmt.Sprintf("cannot be validated: "+
		"the rules of %s in the server's descriptors do not compile: %s", p.input.FullName(), brief(strings.Join(strings.Fields(err.Error()), " "), 300))}
}

// compile finds the rules that are in the descriptors' options. protovalidate reads options that came as unknown bytes again; the
// resolver is for predefined rules, which are extensions that the endpoint's own files define.
func (p *plan) compile() {
	p.validator, p.wrong = protovalidate.New(protovalidate.WithMessageDescriptors(p.input), protovalidate.WithDisableLazy(),
		protovalidate.WithExtensionTypeResolver(p.types))
}

func (p *plan) violations(all []*protovalidate.Violation) string {
	var out []string
	for _, v := range all[:min(len(all), maxViolations)] {
		out = append(out, p.violation(v))
	}
	if more := len(all) - maxViolations; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "; ")
}

// violation says one: field and message. A rule that is written in CEL may put a value into its message, so where a field with
// debug_redact is concerned only the rule's id is told.
func (p *plan) violation(v *protovalidate.Violation) string {
	path, last, redacted := p.place(v.Proto.GetField())
	what := v.Proto.GetMessage()
	if what == "" || redacted || p.holdsRedacted(last, map[protoreflect.FullName]bool{}) {
		what = "breaks the rule " + v.Proto.GetRuleId()
	}
	if path != "" {
		what = path + ": " + what
	}
	return brief(what, maxViolation)
}

// place spells a violation's path, and finds the message that its last field is of or, for a rule about a whole message, that
// message; nil for other fields. Of redacted fields nothing that the client chose is spelled.
func (p *plan) place(path *validate.FieldPath) (text string, last protoreflect.MessageDescriptor, redacted bool) {
	last = p.input
	for _, e := range path.GetElements() {
		if text != "" {
			text += "."
		}
		text += e.GetFieldName()
		var fd protoreflect.FieldDescriptor
		if last != nil {
			if fd = last.Fields().ByNumber(protoreflect.FieldNumber(e.GetFieldNumber())); fd == nil {
				if x, err := p.types.FindExtensionByNumber(last.FullName(), protoreflect.FieldNumber(e.GetFieldNumber())); err == nil {
					fd = x.TypeDescriptor()
				}
			}
		}
		last = nil
		if fd != nil {
			redacted = redacted || p.types.redacts(fd)
			if last = fd.Message(); fd.IsMap() {
				last = fd.MapValue().Message()
			}
		}
		if redacted {
			continue
		}
		switch s := e.GetSubscript().(type) {
		case *validate.FieldPathElement_Index:
			text += fmt.Sprintf("[%d]", s.Index)
		case *validate.FieldPathElement_IntKey:
			text += fmt.Sprintf("[%d]", s.IntKey)
		case *validate.FieldPathElement_UintKey:
			text += fmt.Sprintf("[%d]", s.UintKey)
		case *validate.FieldPathElement_BoolKey:
			text += fmt.Sprintf("[%t]", s.BoolKey)
		case *validate.FieldPathElement_StringKey:
			text += fmt.Sprintf("[%q]", brief(s.StringKey, 40))
		}
	}
	return text, last, redacted
}

// holdsRedacted tells whether a message has a field with debug_redact, at any depth.
func (p *plan) holdsRedacted(md protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if md == nil || seen[md.FullName()] {
		return false
	}
	seen[md.FullName()] = true
	for i := range md.Fields().Len() {
		if fd := md.Fields().Get(i); p.types.redacts(fd) || p.holdsRedacted(fd.Message(), seen) {
			return true
		}
	}
	return false
}
