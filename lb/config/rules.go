package config

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// checkRules reports what breaks the rules written in config.proto.
func (r *report) checkRules(m proto.Message) {
	err := protovalidate.Validate(m)
	var invalid *protovalidate.ValidationError
	switch {
	case err == nil:
	case errors.As(err, &invalid):
		for _, v := range invalid.Violations {
			path := fieldPath(v.Proto.GetField())
			r.errorf(path, "%s", ruleMessage(v))
		}
	default:
		r.errorf("", "cannot be validated: %v", err)
	}
}

// fieldPath spells a violation's path as the file does: "a.grpcServices[1]", `meta["k"]`.
func fieldPath(p *validate.FieldPath) string {
	path := ""
	for _, e := range p.GetElements() {
		path = join(path, camel(e.GetFieldName()))
		switch e.GetSubscript().(type) {
		case *validate.FieldPathElement_Index:
			path += fmt.Sprintf("[%d]", e.GetIndex())
		case *validate.FieldPathElement_StringKey:
			path += fmt.Sprintf("[%q]", e.GetStringKey())
		}
	}
	return path
}

// ruleMessage says what is wrong and what would be right.
func ruleMessage(v *protovalidate.Violation) string {
	switch id := v.Proto.GetRuleId(); id {
	case "required", "repeated.min_items":
		return "is missing: " + wanted(v.FieldDescriptor)
	case "string.in":
		var allowed []string
		if v.RuleValue.IsValid() {
			if list, ok := v.RuleValue.Interface().(protoreflect.List); ok {
				for i := range list.Len() {
					allowed = append(allowed, list.Get(i).String())
				}
			}
		}
		got := v.FieldValue.String()
		if got == "" {
			return "is missing: write one of " + strings.Join(allowed, ", ")
		}
		msg := fmt.Sprintf("%q is not one of %s", got, strings.Join(allowed, ", "))
		if guess := document.Nearest(got, allowed); guess != "" {
			msg += fmt.Sprintf("; did you mean %q?", guess)
		}
		return msg
	case "repeated.unique":
		return "has an item twice: remove one"
	}
	msg := strings.TrimPrefix(v.Proto.GetMessage(), "value ")
	if v.FieldValue.IsValid() && v.FieldDescriptor != nil && !v.FieldDescriptor.IsList() && !v.FieldDescriptor.IsMap() {
		switch v.FieldDescriptor.Kind() {
		case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.DoubleKind:
			return fmt.Sprintf("is %v, but %s", v.FieldValue.Interface(), msg)
		case protoreflect.MessageKind:
			if d, ok := v.FieldValue.Message().Interface().(*durationpb.Duration); ok {
				return fmt.Sprintf("is %v, but %s", d.AsDuration(), msg)
			}
		}
	}
	return msg
}

// wanted is an example of a field that must be there.
func wanted(field protoreflect.FieldDescriptor) string {
	if field == nil {
		return "it must be given"
	}
	switch field.FullName() {
	case "trunkline.config.v1.Listener.address":
		return "write host:port or :port, such as 127.0.0.1:7443"
	case "trunkline.config.v1.Endpoint.address":
		return "write host:port, such as 10.0.0.7:7001"
	case "trunkline.config.v1.StaticCluster.endpoints":
		return "a cluster needs at least one, such as [ { address: 10.0.0.7:7001 } ]"
	case "trunkline.config.v1.Route.match":
		return "write { service: pkg.Service }, { method: pkg.Service/Method }, { prefix: pkg. } or {} for every call"
	case "trunkline.config.v1.Route.cluster":
		return "write the name of the cluster that takes these calls"
	case "trunkline.config.v1.JwtProvider.issuer":
		return "write what the tokens' claim iss is, such as https://login.example.com"
	case "trunkline.config.v1.JwtProvider.audiences":
		return "write whom the tokens are for (their claim aud), such as [ shop ]"
	case "trunkline.config.v1.ProxyProtocol.trusted":
		return "write the addresses of the proxies that are believed, such as [ 10.0.0.0/8 ]"
	case "trunkline.config.v1.AuthorizationRule.name":
		return "write a name, which refused callers are told"
	}
	return "write the " + field.JSONName()
}
