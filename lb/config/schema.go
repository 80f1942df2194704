package config

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"buf.build/go/protoyaml"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDuration keeps every duration far from where time.Duration overflows.
const maxDuration = 10 * 365 * 24 * time.Hour

// decode fills m from the document. What does not fit the schema is reported and left out, so that the later steps can
// judge the rest. What does fit is handed to protoyaml as JSON (a subset of YAML): that takes aliases, line breaks of
// four kinds and other YAML surprises out of its way.
func (r *report) decode(root *yaml.Node, m proto.Message) {
	tree := r.message(root, "", m.ProtoReflect().Descriptor())
	if tree == nil {
		return
	}
	if r.nodes >= r.limit {
		r.errorf("", "has more than %d values (an alias counts as what it stands for): too large", r.limit)
		return
	}
	text, err := json.Marshal(tree)
	if err != nil {
		r.errorf("", "cannot be read: %v", err)
		return
	}
	if err := (protoyaml.UnmarshalOptions{Path: r.file}).Unmarshal(text, m); err != nil {
		r.errorf("", "cannot be read: %v", err)
	}
}

// visit follows an alias, notes where path stands and counts.
func (r *report) visit(n *yaml.Node, path string) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if _, ok := r.at[path]; !ok {
		r.at[path] = place{n.Line, n.Column}
	}
	r.nodes++
	return n
}

// message returns the JSON object for a mapping node, nil if it is none.
func (r *report) message(n *yaml.Node, path string, desc protoreflect.MessageDescriptor) map[string]any {
	n = r.visit(n, path)
	if n.Kind != yaml.MappingNode {
		r.unreadable(path, "expected a mapping with keys like %s, got %s", someKeys(desc), document.Describe(n))
		return nil
	}
	out := map[string]any{}
	for key, value := range r.entries(n, path, func(key string) string { return join(path, key) }) {
		field := desc.Fields().ByJSONName(key)
		if field == nil {
			r.unknownKey(path, key, desc)
			continue
		}
		if v := r.field(value, join(path, key), field); v != nil {
			out[key] = v
		}
	}
	return out
}

// entries yields the keys and values of a mapping, less those that are no plain strings or come twice.
func (r *report) entries(n *yaml.Node, path string, pathOf func(key string) string) func(func(string, *yaml.Node) bool) {
	return func(yield func(string, *yaml.Node) bool) {
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content) && r.nodes < r.limit; i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if k.Kind != yaml.ScalarNode {
				r.errorAt(k, path, "a key must be a plain word, got %s", document.Describe(k))
				continue
			}
			if k.ShortTag() == "!!merge" {
				r.errorAt(k, path, "merge keys (<<) are not supported: repeat the keys, or give the whole value by an alias")
				r.unread[path] = true // what it would have brought is not missed
				continue
			}
			if seen[k.Value] {
				r.errorAt(k, pathOf(k.Value), "is given twice, first on line %d: remove one", r.at[pathOf(k.Value)].line)
				continue
			}
			seen[k.Value] = true
			r.at[pathOf(k.Value)] = place{k.Line, k.Column}
			if !yield(k.Value, v) {
				return
			}
		}
	}
}

// errorAt reports at a node's own position; for things that path does not lead to.
func (r *report) errorAt(n *yaml.Node, path, format string, args ...any) {
	r.errors = append(r.errors, Problem{File: r.file, Line: n.Line, Column: n.Column, Field: path, Message: fmt.Sprintf(format, args...)})
}

func (r *report) unknownKey(path, key string, desc protoreflect.MessageDescriptor) {
	full := join(path, key)
	if desc.ReservedNames().Has(protoreflect.Name(snake(key))) {
		r.unreadable(full, "is not supported by this version of Trunkline (the name is kept for a later one): remove it")
		return
	}
	known := keys(desc)
	if guess := document.Nearest(key, known); guess != "" {
		r.unreadable(full, "unknown key; did you mean %q?", guess)
		r.said[join(path, guess)] = true // that it is missing needs no second message
		return
	}
	slices.Sort(known)
	r.unreadable(full, "unknown key; known here: %s", strings.Join(known, ", "))
}

// field returns the JSON value of one field, nil where it was reported.
func (r *report) field(n *yaml.Node, path string, field protoreflect.FieldDescriptor) any {
	here := r.at[path]
	n = r.visit(n, path)
	r.at[path] = here // the key's place, not the value's
	switch {
	case document.IsNull(n):
		r.unreadable(path, "has no value: remove the key, or write %s", emptyValue(field))
		return nil
	case field.IsMap():
		return r.stringMap(n, path)
	case field.IsList():
		if n.Kind != yaml.SequenceNode {
			r.unreadable(path, "expected a list (\"- ...\" lines, or [a, b]), got %s", document.Describe(n))
			return nil
		}
		list := []any{}
		for i, item := range n.Content {
			if r.nodes >= r.limit {
				break
			}
			if v := r.single(item, fmt.Sprintf("%s[%d]", path, i), field); v != nil {
				list = append(list, v)
			} else {
				list = append(list, placeholder(field)) // so that the indexes of the others stay right
			}
		}
		return list
	}
	return r.single(n, path, field)
}

func (r *report) stringMap(n *yaml.Node, path string) any {
	if n.Kind != yaml.MappingNode {
		got := "a list"
		if n.Kind == yaml.ScalarNode {
			got = "a single value" // not which: it may be a secret, such as OTEL_EXPORTER_OTLP_HEADERS has it
		}
		r.unreadable(path, "expected a mapping of strings like { key: value }, got %s", got)
		return nil
	}
	out := map[string]any{}
	sub := func(key string) string { return fmt.Sprintf("%s[%q]", path, key) }
	for key, value := range r.entries(n, path, sub) {
		if v, ok := r.scalar(r.visit(value, sub(key)), sub(key)); ok {
			out[key] = v
		}
	}
	return out
}

// single returns the JSON value of a field that is neither list nor map, or of one item of a list.
func (r *report) single(n *yaml.Node, path string, field protoreflect.FieldDescriptor) any {
	if holdsPolicy(field) {
		r.policies[path] = n // checkPolicies reads it
		return nil
	}
	if field.Message() != nil && field.Message().FullName() != "google.protobuf.Duration" {
		if m := r.message(n, path, field.Message()); m != nil {
			return m
		}
		return nil
	}
	text, ok := r.scalar(r.visit(n, path), path)
	if !ok {
		return nil
	}
	switch field.Kind() {
	case protoreflect.StringKind:
		return text
	case protoreflect.BoolKind:
		if text == "true" || text == "false" {
			return json.RawMessage(text)
		}
		r.unreadable(path, "expected true or false, got %q", text)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		bits := 32
		if field.Kind() == protoreflect.Uint64Kind {
			bits = 64
		}
		v, err := strconv.ParseUint(text, 10, bits)
		if err == nil {
			return json.RawMessage(strconv.FormatUint(v, 10))
		}
		r.unreadable(path, "expected a whole number from 0 to %d, got %q", uint64(math.MaxUint64)>>(64-bits), text)
	case protoreflect.DoubleKind:
		v, err := strconv.ParseFloat(text, 64)
		if err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			return json.RawMessage(strconv.FormatFloat(v, 'g', -1, 64))
		}
		r.unreadable(path, "expected a number such as 0.5, got %q", text)
	case protoreflect.MessageKind: // Duration
		return r.duration(text, path)
	default:
		r.unreadable(path, "is of a kind (%v) that this reader does not know", field.Kind())
	}
	return nil
}

func (r *report) duration(text, path string) any {
	d, err := protoyaml.ParseDuration(text)
	if err != nil || text == "0" {
		r.unreadable(path, "%q is not a duration: write a number with its unit, such as \"250ms\", \"10s\" or \"5m\"", text)
		return nil
	}
	if v := d.AsDuration(); v > maxDuration || v < -maxDuration || !d.IsValid() {
		r.unreadable(path, "%q is too long: at most %v", text, maxDuration)
		return nil
	}
	canonical, err := protojson.Marshal(d)
	if err != nil {
		r.unreadable(path, "%q is not a duration: %v", text, err)
		return nil
	}
	return json.RawMessage(canonical)
}

// scalar returns the text of a scalar node.
func (r *report) scalar(n *yaml.Node, path string) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		r.unreadable(path, "expected a single value, got %s", document.Describe(n))
	case document.IsNull(n):
		r.unreadable(path, "has no value: remove it, or write \"\"")
	case strings.ContainsFunc(n.Value, unicode.IsControl):
		r.unreadable(path, "contains a control character: write it on one line, without line breaks and tabs") // not its value: it may be a secret
	default:
		return n.Value, true
	}
	return "", false
}

func placeholder(field protoreflect.FieldDescriptor) any {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return map[string]any{}
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return 0
	}
	return ""
}

func emptyValue(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return "{}"
	case field.IsList():
		return "[]"
	case field.Message() != nil && field.Message().FullName() != "google.protobuf.Duration", holdsPolicy(field):
		return "{} for its defaults"
	}
	return "one"
}

func keys(desc protoreflect.MessageDescriptor) []string {
	var out []string
	for i := range desc.Fields().Len() {
		out = append(out, desc.Fields().Get(i).JSONName())
	}
	return out
}

func someKeys(desc protoreflect.MessageDescriptor) string {
	k := keys(desc)
	return strings.Join(k[:min(3, len(k))], ", ")
}
