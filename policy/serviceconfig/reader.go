package serviceconfig

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	"go.yaml.in/yaml/v3"
)

// The bounds of a document. What lies beyond is a mistake or an attack.
const (
	maxBytes    = 1 << 20
	maxNodes    = 100_000 // values, an alias counted as what it stands for
	maxProblems = 100     // told; more help nobody
)

// Problem is one thing that is wrong, or merely suspicious (a warning), at one place of a document.
type Problem struct {
	Source       string // a file or a KV key
	Line, Column int    // from 1
	Field        string // "methodConfig[0].retryPolicy.maxAttempts"; "" for the document
	Message      string // what is wrong and what would be right
	Warning      bool   // it does not keep the document from being used
}

// String is "source:line:column: field: message", as editors jump to.
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", p.Source, p.Line, p.Column)
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// reader collects what is wrong with a document. It lives for one Parse.
type reader struct {
	source   string
	problems []Problem
	errors   int // among the problems, those left out included
	left     int // problems that were left out
	nodes    int
}

func (r *reader) problem(at *yaml.Node, path string, warning bool, message string) {
	if !warning {
		r.errors++
	}
	if len(r.problems) >= maxProblems && (warning || r.errors > 1) { // the first error is told whatever came before
		r.left++
		return
	}
	r.problems = append(r.problems, Problem{r.source, max(1, at.Line), max(1, at.Column), path, message, warning})
}

// value is one value of the document, or one that is absent. Its getters report what does not fit, and return the default
// then.
type value struct {
	r    *reader
	n    *yaml.Node // aliases followed; nil: absent
	at   *yaml.Node // where problems are told: the key, or the item of a list; of something absent, what should hold it
	path string
	own  bool // Trunkline's part: its own rules hold for unknown keys, null and durations
}

func (v value) given() bool { return v.n != nil }

func (v value) errorf(format string, args ...any) {
	v.r.problem(v.at, v.path, false, fmt.Sprintf(format, args...))
}

func (v value) warnf(format string, args ...any) {
	v.r.problem(v.at, v.path, true, fmt.Sprintf(format, args...))
}

// child makes the value of a key or an item. Null is absent in gRPC's part, as in its clients, and a mistake in ours.
func (v value) child(at, n *yaml.Node, path string) value {
	c := value{r: v.r, at: at, path: path, own: v.own}
	for depth := 0; n.Kind == yaml.AliasNode && n.Alias != nil && depth < document.MaxDepth; depth++ {
		n = n.Alias
	}
	c.r.nodes++
	switch {
	case c.r.nodes > maxNodes:
		if c.r.nodes == maxNodes+1 {
			c.r.errors, c.r.problems, c.r.left = 0, nil, 0 // the rest does not matter
			c.errorf("the document has more than %d values (an alias counts as what it stands for): too large", maxNodes)
		}
	case document.IsNull(n) && v.own:
		c.errorf("has no value: remove it")
	case document.IsNull(n):
	default:
		c.n = n
	}
	return c
}

// object is a mapping, its keys checked.
type object struct {
	value
	fields map[string]value
}

// object reads a mapping whose keys are among the known ones. ok is false where it is absent or none.
func (v value) object(known ...string) (o object, ok bool) {
	o = object{v, map[string]value{}}
	if !v.given() {
		return o, false
	}
	if v.n.Kind != yaml.MappingNode {
		v.errorf("expected a mapping with keys like %s, got %s", strings.Join(known[:min(3, len(known))], ", "), document.Describe(v.n))
		return o, false
	}
	for i := 0; i+1 < len(v.n.Content); i += 2 {
		k := v.n.Content[i]
		if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" {
			value{v.r, k, k, v.path, v.own}.errorf("a key must be a plain word; merge keys (<<) and complex ones are not supported")
			continue
		}
		key := k.Value
		c := v.child(k, v.n.Content[i+1], join(v.path, key))
		if v.r.nodes > maxNodes {
			break
		}
		if !slices.Contains(known, key) {
			if key = o.unknown(c, key, known); key == "" {
				continue
			}
		}
		if first, twice := o.fields[key]; twice {
			c.errorf("is given twice, first on line %d: remove one", first.at.Line)
			continue
		}
		o.fields[key] = c
	}
	return o, true
}

// unknown reports a key, and returns the one that it stands for if it is meant to be read all the same.
func (o object) unknown(c value, key string, known []string) string {
	if i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, key) }); i >= 0 && !o.own {
		c.warnf("is taken as %s, as grpc-go does; clients in other languages skip it: write %s", known[i], known[i])
		return known[i]
	}
	guess := document.Nearest(key, known)
	say := c.errorf
	if !o.own {
		say = c.warnf // a newer gRPC may know it
	}
	skipped := "unknown key"
	if !o.own {
		skipped = "unknown key, skipped"
	}
	if guess != "" {
		say("%s; did you mean %q?", skipped, guess)
		return ""
	}
	sorted := slices.Sorted(slices.Values(known))
	say("%s; known here: %s", skipped, strings.Join(sorted, ", "))
	return ""
}

// get is the value of a key; an absent one is told about at the object.
func (o object) get(key string) value {
	if f, ok := o.fields[key]; ok {
		return f
	}
	return value{r: o.r, at: o.at, path: join(o.path, key), own: o.own}
}

// has says whether the key stands there, null included.
func (o object) has(key string) bool {
	_, ok := o.fields[key]
	return ok
}

// list is the items of a sequence; none where it is absent or no list.
func (v value) list() []value {
	if !v.given() {
		return nil
	}
	if v.n.Kind != yaml.SequenceNode {
		v.errorf("expected a list ([a, b]), got %s", document.Describe(v.n))
		return nil
	}
	var out []value
	for i, n := range v.n.Content {
		c := v.child(n, n, fmt.Sprintf("%s[%d]", v.path, i))
		if v.r.nodes > maxNodes {
			break
		}
		if c.n == nil && !v.own {
			c.errorf("is null: remove it")
		}
		if c.n != nil {
			out = append(out, c)
		}
	}
	return out
}

func (v value) text(otherwise string) string {
	switch {
	case !v.given():
	case v.n.Kind == yaml.ScalarNode && v.n.ShortTag() == "!!str":
		return v.n.Value
	default:
		v.errorf("expected a string in quotes, got %s", document.Describe(v.n))
	}
	return otherwise
}

func (v value) boolean(otherwise bool) bool {
	if !v.given() {
		return otherwise
	}
	if v.n.Kind == yaml.ScalarNode && v.n.ShortTag() == "!!bool" && (v.n.Value == "true" || v.n.Value == "false") {
		return v.n.Value == "true"
	}
	v.errorf("expected true or false, got %s", document.Describe(v.n))
	return otherwise
}

// integer is a whole number from low to high.
func (v value) integer(otherwise, low, high int64) int64 {
	if !v.given() {
		return otherwise
	}
	if n, err := strconv.ParseInt(v.n.Value, 10, 64); err == nil && v.n.Kind == yaml.ScalarNode && v.n.ShortTag() == "!!int" &&
		n >= low && n <= high && v.n.Value[0] != '+' {
		return n
	}
	wanted := fmt.Sprintf("from %d to %d", low, high)
	if high >= maxCount {
		wanted = fmt.Sprintf("from %d", low)
	}
	v.errorf("expected a whole number %s, got %s", wanted, document.Describe(v.n))
	return otherwise
}

func (v value) count(otherwise, low int) int {
	return int(v.integer(int64(otherwise), int64(low), maxCount))
}

// number is what valid accepts; wanted says what that is.
func (v value) number(otherwise float64, wanted string, valid func(float64) bool) float64 {
	if !v.given() {
		return otherwise
	}
	tag := v.n.ShortTag()
	if f, err := strconv.ParseFloat(v.n.Value, 64); err == nil && v.n.Kind == yaml.ScalarNode && (tag == "!!int" || tag == "!!float") && valid(f) {
		return f
	}
	v.errorf("expected a number %s, got %s", wanted, document.Describe(v.n))
	return otherwise
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
