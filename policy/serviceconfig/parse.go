package serviceconfig

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	"go.yaml.in/yaml/v3"
)

// Parse makes a config of JSON text (or of YAML text with the same keys; what begins with a brace is JSON). source names it
// in problems, a file or a KV key; firstLine is the line of source that text begins on, usually 1. All problems are returned,
// in the text's order (up to 100), warnings among them; the config is nil if one is none.
func Parse(source string, text []byte, firstLine int) (*Config, []Problem) {
	wrong := func(line, column int, message string) (*Config, []Problem) {
		return nil, []Problem{{Source: source, Line: line + firstLine - 1, Column: column, Message: message}}
	}
	if len(text) > maxBytes {
		return wrong(1, 1, fmt.Sprintf("is larger than %d KiB: this cannot be a service config", maxBytes>>10))
	}
	root, err := document.Parse(text)
	if err != nil {
		var e *document.Error
		if errors.As(err, &e) {
			return wrong(e.Line, e.Column, e.Message)
		}
		return wrong(1, 1, "is empty: write {} for the defaults, or remove it")
	}
	if firstLine != 1 {
		document.Move(root, func(line, column int) (int, int) { return line + firstLine - 1, column })
	}
	return ParseNode(source, root)
}

// ParseNode makes a config of a mapping in the middle of a YAML file; the places of problems are those of the nodes. See
// [Parse].
func ParseNode(source string, n *yaml.Node) (*Config, []Problem) {
	r := &reader{source: source}
	top := value{r: r, at: n}
	c := r.document(top.child(n, n, ""))
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	if r.left > 0 {
		last := r.problems[len(r.problems)-1]
		r.problems = append(r.problems, Problem{r.source, last.Line, last.Column, "", fmt.Sprintf("and %d more problems", r.left), last.Warning})
	}
	if r.errors > 0 {
		return nil, r.problems
	}
	return c, r.problems
}

// entry is an item of methodConfig or of trunkline.methodPolicy.
type entry[T any] struct {
	names map[name]value // where each stands
	what  T
}

func (r *reader) document(v value) *Config {
	c := &Config{Source: r.source}
	o, ok := v.object("methodConfig", "retryThrottling", "loadBalancingConfig", "loadBalancingPolicy", "healthCheckConfig", "trunkline")
	if !ok {
		if !v.given() {
			v.errorf("is null: write {} for the defaults, or remove it")
		}
		o.fields = map[string]value{}
	}
	methods := readEntries(o.get("methodConfig"), readMethodConfig)
	c.Throttle = readThrottle(o.get("retryThrottling"))
	c.LoadBalancing = readLoadBalancing(o)
	c.HealthService = readHealthCheckConfig(o.get("healthCheckConfig"))

	t := o.get("trunkline")
	t.own = true
	if f, null := o.fields["trunkline"]; null && !f.given() {
		t.errorf("has no value: remove it, or write {}")
	}
	own, _ := t.object("methodPolicy", "cluster")
	policies := readEntries(own.get("methodPolicy"), readMethodPolicy)
	c.Cluster = readCluster(own.get("cluster"), c.HealthService)

	c.compile(methods, policies)
	return c
}

// readEntries reads a list of entries with names; no name may be there twice, in one or in different entries, as in clients.
func readEntries[T any](v value, read func(object, map[name]value) T) []entry[T] {
	var out []entry[T]
	seen := map[name]value{}
	for _, item := range v.list() {
		known := methodConfigKeys[:]
		if v.own {
			known = methodPolicyKeys[:]
		}
		o, ok := item.object(known...)
		if !ok {
			continue
		}
		names := readNames(o, seen)
		out = append(out, entry[T]{names, read(o, names)})
	}
	return out
}

func readNames(o object, seen map[name]value) map[name]value {
	names := map[name]value{}
	list := o.get("name")
	if o.own && !o.has("name") {
		list.errorf(`is missing: write [{"service": "pkg.Service", "method": "Method"}], or [{}] for every method`)
		return names
	}
	items := list.list()
	if len(items) == 0 && (!list.given() || list.n.Kind == yaml.SequenceNode) {
		list.warnf("names no method, so nothing here holds for any: write [{}] for every method")
	}
	for _, item := range items {
		strict := item
		strict.own = true // a misspelt "service" would make it the entry for every method
		keys, ok := strict.object("service", "method")
		if !ok {
			continue
		}
		before := o.r.errors
		service, method := keys.get("service"), keys.get("method")
		n := name{service.text(""), method.text("")}
		if o.r.errors > before {
			continue
		}
		if n.service == "" && n.method != "" {
			item.errorf("names the method %q without its service: add \"service\": \"pkg.Service\"", n.method)
			continue
		}
		warnUnmatchable(service, n.service)
		warnUnmatchable(method, n.method)
		if first, twice := seen[n]; twice {
			item.errorf("%s is named twice, first on line %d: remove one", n, first.at.Line)
			continue
		}
		seen[n] = item
		names[n] = item
	}
	return names
}

// warnUnmatchable tells about a name that no call can have; clients take it silently.
func warnUnmatchable(v value, s string) {
	if strings.ContainsAny(s, "/* \t\r\n") {
		v.warnf("no call is named %q: write the service as pkg.Service and the method as Method, without slashes and wildcards", document.Shorten(s))
	}
}

// compile joins what both parts say of each name that either has, so that For has one thing to look up.
func (c *Config) compile(configs []entry[methodConfig], policies []entry[methodPolicy]) {
	ofGRPC, own := index(configs), index(policies)
	c.methods = map[name]*Method{}
	add := func(n name) {
		if c.methods[n] == nil {
			m := defaultMethod(n)
			if f := nearestEntry(ofGRPC, n); f != nil {
				f.what.apply(m)
			}
			if p := nearestEntry(own, n); p != nil {
				p.what.apply(m)
			}
			c.methods[n] = m
		}
	}
	add(name{})
	for n := range ofGRPC {
		add(n)
	}
	for n := range own {
		add(n)
	}
	for _, p := range policies {
		for n, at := range p.names {
			p.what.warnings(at, c.methods[n])
		}
	}
}

func index[T any](entries []entry[T]) map[name]*entry[T] {
	out := map[name]*entry[T]{}
	for i := range entries {
		for n := range entries[i].names {
			out[n] = &entries[i]
		}
	}
	return out
}

func nearestEntry[T any](of map[name]*entry[T], n name) *entry[T] {
	for _, n := range [...]name{n, {service: n.service}, {}} {
		if e := of[n]; e != nil {
			return e
		}
	}
	return nil
}

func defaultMethod(n name) *Method {
	return &Method{Name: n.String(), MaxRequestBytes: -1, MaxResponseBytes: -1, HoldResponse: defaultHold, ReplayBytes: -1}
}

// withPercentile is p with what trunkline.methodPolicy.hedging adds.
func withPercentile(p *hedge.Policy, percentile float64) *hedge.Policy {
	if p == nil || percentile == 0 {
		return p
	}
	with := *p
	with.Percentile = percentile
	return &with
}
