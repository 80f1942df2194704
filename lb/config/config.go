// Package config owns the way from a YAML file to a checked trunkline.config.v1.Config: reading, explaining what is wrong
// with file, line, field and what would be right, filling in defaults, and watching the file; it must not act on a
// config (compiling routes and starting things is its callers').
//
// The steps of Parse, each in a file of its own:
//
//	document.go   bytes -> YAML nodes; syntax, one document, bounded
//	schema.go     nodes against the protobuf descriptor: unknown keys, wrong types; remembers where each path stands
//	(protoyaml)   nodes -> message; it alone decides what a value means
//	policies.go   the service configs, which policy/serviceconfig reads: as mappings, or as text in a scalar
//	rules.go      protovalidate's rules -> problems with a place
//	semantics.go  what spans several fields: duplicates, references, addresses, method names
//	defaults.go   what is absent
//
// Watcher (watch.go) does it again whenever the file changes.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds what Load reads: a larger "config" is a mistake.
const maxFileBytes = 16 << 20

// Problem is one thing that is wrong, or merely suspicious, at one place of a file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0: the file as a whole
	Field        string // "discovery.static.clusters[0].endpoints[1].weight"; "" for the document
	Message      string // what is wrong and what would be right
}

// String is "file:line:column: field: message", as editors jump to.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Warning is a problem that does not keep a config from being used.
type Warning = Problem

// Errors is everything that keeps a config from being used, sorted by line. It is what Load and Parse return for a file
// that could be read.
type Errors []Problem

// Error has one line per problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads and parses the file at path. An unreadable file is an *fs.PathError, a wrong one Errors.
func Load(path string) (*configv1.Config, []Warning, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	return Parse(path, data)
}

// LoadWith is Load, and has look say what else is wrong with a config that is good so far: with what it names. Its errors begin with the key of
// the configuration, and a colon.
func LoadWith(path string, look func(*configv1.Config) []error) (*configv1.Config, []Warning, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	return parse(path, data, maxNodes, look)
}

// readFile reads at most one byte more than Parse accepts.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// Parse makes a config of YAML text; name stands for the file in messages. The config is complete: ApplyDefaults has been
// applied. With an error the config is nil; warnings come either way.
func Parse(name string, data []byte) (*configv1.Config, []Warning, error) {
	return parse(name, data, maxNodes, nil)
}

// parse is Parse; look may be nil.
func parse(name string, data []byte, limit int, look func(*configv1.Config) []error) (*configv1.Config, []Warning, error) {
	r := newReport(name, data, limit)
	cfg := &configv1.Config{}
	if root := r.readDocument(data); root != nil {
		r.decode(root, cfg)
		r.checkPolicies(cfg)
		r.checkRules(cfg)
		r.checkSemantics(cfg)
	}
	if len(r.errors) == 0 {
		ApplyDefaults(cfg)
		if look != nil {
			r.place(look(cfg))
		}
	}
	for _, said := range []Errors{r.errors, r.warnings} {
		for i := range said {
			said[i].Message = Redact(said[i].Message)
		}
	}
	byPlace := func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	}
	slices.SortFunc(r.errors, byPlace)
	slices.SortFunc(r.warnings, byPlace)
	if len(r.errors) > 0 {
		return nil, r.warnings, r.errors
	}
	return cfg, r.warnings, nil
}

// IsProblem reports whether err is about what a file says (Errors), rather than about reading it.
func IsProblem(err error) bool {
	var e Errors
	return errors.As(err, &e)
}

// place is a position in the file, from 1.
type place struct{ line, column int }

// report collects what Parse finds. It lives for one Parse.
type report struct {
	file     string
	data     []byte                // the whole text
	policies map[string]*yaml.Node // what stands under the keys that hold a service config
	at       map[string]place      // where each field path stands; "" is the document
	said     map[string]bool       // paths that have an error already: one is enough
	unread   map[string]bool       // paths whose value is not in the message: nothing more is said about them and what is in them
	errors   Errors
	warnings []Warning
	nodes    int // visited so far, aliases counted each time
	limit    int // of nodes
}

func newReport(name string, data []byte, limit int) *report {
	return &report{
		file: name, data: data, limit: limit,
		at: map[string]place{}, said: map[string]bool{}, unread: map[string]bool{}, policies: map[string]*yaml.Node{},
	}
}

// errorf reports what is wrong at path, unless something was said about it, or it could not be read.
func (r *report) errorf(path, format string, args ...any) {
	for p := path; p != ""; p = parent(p) {
		if r.unread[p] {
			return
		}
	}
	if r.said[path] && path != "" {
		return
	}
	r.said[path] = true
	r.errors = append(r.errors, r.problem(path, fmt.Sprintf(format, args...)))
}

// place reports errors that begin with their path.
func (r *report) place(wrong []error) {
	for _, err := range wrong {
		path, message, _ := strings.Cut(err.Error(), ": ")
		r.errorf(path, "%s", message)
	}
}

// unreadable reports why the value at path is left out of the message.
func (r *report) unreadable(path, format string, args ...any) {
	r.errorf(path, format, args...)
	r.unread[path] = true
}

func (r *report) warnf(path, format string, args ...any) {
	r.warnings = append(r.warnings, r.problem(path, fmt.Sprintf(format, args...)))
}

// problem places a message at path, or at the nearest thing around it that stands in the file.
func (r *report) problem(path, message string) Problem {
	p := path
	for p != "" && r.at[p] == (place{}) {
		p = parent(p)
	}
	return Problem{File: r.file, Line: r.at[p].line, Column: r.at[p].column, Field: path, Message: message}
}

// line is where path stands, for messages that point at a second place.
func (r *report) line(path string) int { return r.problem(path, "").Line }

// parent cuts the last element off a field path: "a.b[1]" -> "a.b" -> "a" -> "".
func parent(path string) string {
	if strings.HasSuffix(path, `"]`) { // meta["any.thing[0]"]: quoted, so the first [" is where the key begins
		return path[:strings.Index(path, `["`)]
	}
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
