package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/trunkline/trunkline/policy/overload"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The keys that hold a service config, or a part of one.
const (
	liveKey   = "serviceConfig"
	ownKey    = "trunkline"
	shadowKey = "shadowServiceConfig"
)

// holdsPolicy says whether a field is a service config, whose schema is not the descriptor's.
func holdsPolicy(field protoreflect.FieldDescriptor) bool {
	if field.Parent().FullName() != "trunkline.config.v1.Config" {
		return false
	}
	name := field.JSONName()
	return name == liveKey || name == ownKey || name == shadowKey
}

// ServiceConfig returns the service config that holds for every cluster without its own, and the one that is only evaluated
// beside it (nil: none). A config that Parse returned has no error here; of one that was made by code, the error is Errors,
// whose File is the field's name.
func ServiceConfig(cfg *configv1.Config) (live, shadow *serviceconfig.Config, err error) {
	r := newReport("", nil, maxNodes)
	node := func(key, text string) *yaml.Node {
		if text == "" {
			return nil
		}
		root, err := document.Parse([]byte(text))
		if err != nil {
			r.policySyntax(key, place{1, 1}, err, nil)
		}
		return root
	}
	r.file = liveKey
	live = r.live(node(liveKey, cfg.GetServiceConfig()), node(ownKey, cfg.GetTrunkline()))
	r.file = shadowKey
	if root := node(shadowKey, cfg.GetShadowServiceConfig()); root != nil {
		shadow = r.policy(root, under(shadowKey))
	}
	if len(r.errors) > 0 {
		return nil, nil, r.errors
	}
	return live, shadow, nil
}

// checkPolicies reads the service configs that decode came across, and puts them into cfg as JSON.
func (r *report) checkPolicies(cfg *configv1.Config) {
	live, own, shadow := r.policyNode(liveKey), r.policyNode(ownKey), r.policyNode(shadowKey)
	r.live(live, own)
	if shadow != nil {
		r.policy(shadow, under(shadowKey))
	}
	cfg.ServiceConfig, cfg.Trunkline, cfg.ShadowServiceConfig = r.json(liveKey, live), r.json(ownKey, own), r.json(shadowKey, shadow)
}

// live reads gRPC's part and Trunkline's part, wherever that stands, as the one document that they are. Either may be nil.
func (r *report) live(config, own *yaml.Node) *serviceconfig.Config {
	root := config
	if own != nil {
		root = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: own.Line, Column: own.Column}
		if config = followed(config); config != nil {
			if config.Kind != yaml.MappingNode {
				r.policy(config, under(liveKey)) // says so; what it holds is not missed
				config = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: config.Line, Column: config.Column}
			}
			for i := 0; i+1 < len(config.Content); i += 2 {
				if config.Content[i].Value == ownKey {
					r.errorf(ownKey, "stands beside %s.%s (line %d): keep one", liveKey, ownKey, config.Content[i].Line)
					return nil
				}
			}
			root.Content = append(root.Content, config.Content...)
			root.Line, root.Column = config.Line, config.Column
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: ownKey, Line: own.Line, Column: own.Column}
		if p, ok := r.at[ownKey]; ok {
			key.Line, key.Column = p.line, p.column
		}
		root.Content = append(root.Content, key, own)
	}
	if root == nil {
		return serviceconfig.Default()
	}
	return r.policy(root, func(path string) string {
		if own != nil && (path == ownKey || strings.HasPrefix(path, ownKey+".")) {
			return path
		}
		return under(liveKey)(path)
	})
}

// under is where a document's paths are if it stands under key.
func under(key string) func(path string) string {
	return func(path string) string {
		if path == "" {
			return key
		}
		return key + "." + path
	}
}

// policy reads one document; nil where that was reported. pathOf is where its paths are in this file.
func (r *report) policy(root *yaml.Node, pathOf func(string) string) *serviceconfig.Config {
	c, problems := serviceconfig.ParseNode(r.file, root)
	for _, p := range problems {
		said := Problem{File: r.file, Line: p.Line, Column: p.Column, Field: pathOf(p.Field), Message: p.Message}
		if p.Warning {
			r.warnings = append(r.warnings, said)
		} else {
			r.errors = append(r.errors, said)
		}
	}
	return c
}

func followed(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

// policyNode is the root of what stands under key, nil where there is nothing or nothing readable. A text is read, and its
// nodes get the places that they have in the file.
func (r *report) policyNode(key string) *yaml.Node {
	n := r.policies[key]
	if n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return n
	}
	to := r.placeOfText(n)
	root, err := document.Parse([]byte(n.Value))
	if err != nil {
		r.policySyntax(key, place{n.Line, n.Column}, err, to)
		return nil
	}
	document.Move(root, to)
	return root
}

// policySyntax reports why a text under key is no document; to may be nil.
func (r *report) policySyntax(key string, at place, err error, to func(line, column int) (int, int)) {
	message := "is empty: write {} for the defaults, or remove it"
	var wrong *document.Error
	if errors.As(err, &wrong) {
		message = wrong.Message
		at = place{wrong.Line, wrong.Column}
		if to != nil {
			at.line, at.column = to(wrong.Line, wrong.Column)
		}
	}
	r.errors = append(r.errors, Problem{File: r.file, Line: at.line, Column: at.column, Field: key, Message: message})
}

// placeOfText maps places in a scalar's text to places in the file: exactly for block scalars and for text on one line, else
// to where the scalar begins.
func (r *report) placeOfText(n *yaml.Node) func(line, column int) (int, int) {
	file := strings.Split(string(r.data), "\n")
	text := strings.Split(strings.TrimRight(n.Value, "\n"), "\n")
	first := n.Line // index of the line behind the "|"
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		first = n.Line - 1
	}
	before := make([]int, len(text)) // characters before the text on each line
	for i, line := range text {
		if first < 0 || first+i >= len(file) {
			return func(int, int) (int, int) { return n.Line, n.Column }
		}
		there := strings.TrimRight(file[first+i], "\r")
		at := strings.LastIndex(there, line)
		if at < 0 {
			return func(int, int) (int, int) { return n.Line, n.Column }
		}
		before[i] = utf8.RuneCountInString(there[:at])
	}
	return func(line, column int) (int, int) {
		i := min(max(line-1, 0), len(before)-1)
		return first + 1 + i, before[i] + column
	}
}

// json is what stands under key as JSON text, "" where there is nothing.
func (r *report) json(key string, n *yaml.Node) string {
	if n == nil || len(r.errors) > 0 {
		return ""
	}
	w := jsonWriter{limit: r.limit}
	w.value(n, 0)
	if w.limit < 0 || w.out.Len() > maxFileBytes {
		r.errorf(key, "is too large or nested too deep (an alias counts as what it stands for)")
		return ""
	}
	return w.out.String()
}

// jsonWriter writes YAML nodes as JSON; what JSON has no word for becomes a string.
type jsonWriter struct {
	out   bytes.Buffer
	limit int // values that may follow
}

func (w *jsonWriter) value(n *yaml.Node, depth int) {
	n = followed(n)
	w.limit--
	if w.limit < 0 || depth > document.MaxDepth || w.out.Len() > maxFileBytes {
		w.limit = -1
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		w.out.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				w.out.WriteByte(',')
			}
			w.text(n.Content[i].Value)
			w.out.WriteByte(':')
			w.value(n.Content[i+1], depth+1)
		}
		w.out.WriteByte('}')
	case yaml.SequenceNode:
		w.out.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				w.out.WriteByte(',')
			}
			w.value(item, depth+1)
		}
		w.out.WriteByte(']')
	default:
		switch tag := n.ShortTag(); {
		case tag == "!!null":
			w.out.WriteString("null")
		case tag != "!!str" && json.Valid([]byte(n.Value)): // numbers, true and false
			w.out.WriteString(n.Value)
		default:
			w.text(n.Value)
		}
	}
}

func (w *jsonWriter) text(s string) {
	quoted, err := json.Marshal(s)
	if err != nil { // a string never fails
		quoted = []byte(fmt.Sprintf("%q", s))
	}
	w.out.Write(quoted)
}

// OverloadSettings is the settings of cfg, which must have its defaults. MemoryBytes 0 stands for "find out": MemoryShare 0
// means that memory is not looked at.
func OverloadSettings(cfg *configv1.Config) overload.Settings {
	o := cfg.GetOverload()
	return overload.Settings{
		MemoryBytes: o.GetMemoryBytes(),
		MemoryShare: o.GetMemoryShare(),
		CPUShare:    o.GetCpuShare(),
		QueueDelay:  o.GetQueueDelay().AsDuration(),
		Pushback:    o.GetPushback().AsDuration(),
	}
}
