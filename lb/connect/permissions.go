package connect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"
)

// Field reads the metadata of a call: all values of that name with commas between, and whether there is any. Pseudo-header fields are
// read so, too. It is borrowed until the Answer returns.
type Field = func(name string) (value string, there bool)

// permissions are an intention's of layer 7, read as Consul has Envoy read them (agent/xds/rbac.go there): from top to bottom, and the
// first that matches decides. Immutable.
type permissions struct {
	pair     string // the caller and whom it calls, in words
	of       string // the intention, as Consul names it
	list     []permission
	fallback fallback // if none matches
}

// permission is one of them. Immutable.
type permission struct {
	allow   bool
	jwt     bool   // it asks for a token, too
	broken  string // why it cannot be judged here; "": it can
	path    func(path string) bool
	regex   bool // path is an expression
	headers []header
	methods []string
	granted string // the sentence that says so
}

// header is what a permission asks of a field. Immutable.
type header struct {
	name, other string // of the field, and by which it goes, too; lower case
	invert      bool
	regex       bool // matches is an expression
	matches     func(value string) bool
}

// maxRegex is how long a text an expression is asked about, in bytes: it takes up to 100 ns for each, and others wait for it. The header table
// lets a client say 256 KiB in a few hundred bytes.
const maxRegex = 8 << 10

const tooLong = "a text of more than 8 KiB would have to be held against its regular expression"

// compile reads permissions once. Nothing of them is left out unseen: what is not known here cannot be judged.
func compile(list []json.RawMessage, pair, of string, last fallback) *permissions {
	p := &permissions{pair: pair, of: of, fallback: last}
	for n, text := range list {
		one := permission{granted: fmt.Sprintf("Consul lets %s: permission %d of the intention %s allows it", pair, n+1, of)}
		if err := one.read(text); err != nil {
			one.broken = err.Error()
		}
		p.list = append(p.list, one)
	}
	return p
}

func (p *permission) read(text []byte) error {
	var from api.IntentionPermission
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&from); err != nil {
		return err
	}
	switch from.Action {
	case api.IntentionActionAllow, api.IntentionActionDeny:
		p.allow = from.Action == api.IntentionActionAllow
	default:
		return fmt.Errorf("its action is %q", from.Action)
	}
	p.jwt = from.JWT != nil && len(from.JWT.Providers) > 0
	if from.HTTP == nil {
		return nil // it matches all calls
	}
	p.methods = from.HTTP.Methods
	if err := p.readPath(from.HTTP); err != nil {
		return err
	}
	for _, h := range from.HTTP.Header {
		read, err := readHeader(&h)
		if err != nil {
			return fmt.Errorf("header %q: %w", h.Name, err)
		}
		p.headers = append(p.headers, read)
	}
	return nil
}

func (p *permission) readPath(from *api.IntentionHTTPPermission) error {
	asked := 0
	if want := from.PathExact; want != "" {
		asked, p.path = asked+1, func(path string) bool { return path == want }
	}
	if want := from.PathPrefix; want != "" {
		asked, p.path = asked+1, func(path string) bool { return strings.HasPrefix(path, want) }
	}
	if from.PathRegex != "" {
		whole, err := wholly(from.PathRegex)
		if err != nil {
			return fmt.Errorf("pathRegex: %w", err)
		}
		asked, p.path, p.regex = asked+1, whole, true
	}
	if asked > 1 {
		return fmt.Errorf("it asks for a path in %d ways", asked)
	}
	return nil
}

func readHeader(from *api.IntentionHTTPHeaderPermission) (header, error) {
	h := header{name: strings.ToLower(from.Name), invert: from.Invert}
	switch h.name { // to Envoy they are one
	case "host":
		h.name, h.other = ":authority", "host"
	case ":authority":
		h.other = "host"
	}
	fold := func(s string) string { return s }
	if from.IgnoreCase {
		fold = lower
	}
	asked := 0
	for _, way := range []struct {
		want string
		is   func(value, want string) bool
	}{
		{from.Exact, func(value, want string) bool { return value == want }},
		{from.Prefix, strings.HasPrefix}, {from.Suffix, strings.HasSuffix}, {from.Contains, strings.Contains},
	} {
		if way.want != "" {
			asked++
			want := fold(way.want)
			h.matches = func(value string) bool { return way.is(fold(value), want) }
		}
	}
	if from.Regex != "" { // to which Envoy's ignore_case means nothing
		whole, err := wholly(from.Regex)
		if err != nil {
			return h, err
		}
		asked, h.matches, h.regex = asked+1, whole, true
	}
	if from.Present {
		asked, h.matches = asked+1, func(string) bool { return true }
	}
	if asked != 1 {
		return h, fmt.Errorf("it asks for a value in %d ways", asked)
	}
	if from.Present && from.Invert {
		h.matches = nil
	}
	return h, nil
}

// wholly has a text match from its beginning to its end, as Envoy's safe_regex does.
func wholly(expression string) (func(string) bool, error) {
	if _, err := regexp.Compile(expression); err != nil { // a parenthesis of its own would undo ours
		return nil, err
	}
	r, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	if err != nil {
		return nil, err
	}
	return r.MatchString, nil
}

// lower knows ASCII only, as Envoy's ignore_case.
func lower(s string) string {
	upper := func(b byte) bool { return 'A' <= b && b <= 'Z' }
	for i := range len(s) {
		if upper(s[i]) {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if upper(b[j]) {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// judge is the permissions' Answer.
func (p *permissions) judge(field Field) (allowed bool, why string) {
	if field == nil {
		return true, fmt.Sprintf("Consul lets %s by the permissions of the intention %s", p.pair, p.of)
	}
	full, _ := field(":path")
	path := full
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if !plain(path) {
		return false, p.refuse(full, "its path has escapes, or segments that are empty or dots, which servers read in different ways; call the method by its plain name")
	}
	for n := range p.list {
		one := &p.list[n]
		match, why := false, one.broken
		if why == "" {
			match, why = one.matches(path, field)
		}
		switch {
		case why != "":
			return false, p.refuse(full, fmt.Sprintf("permission %d cannot be judged here: %s", n+1, why))
		case !match:
			continue
		case one.jwt:
			return false, p.refuse(full, fmt.Sprintf("permission %d asks for a JWT, which cannot be judged here: give the permission none, and Trunkline authentication of its own", n+1))
		case one.allow:
			return true, one.granted
		}
		return false, p.refuse(full, fmt.Sprintf("permission %d denies it; ask for one that allows it", n+1))
	}
	if p.fallback.allowed {
		return true, p.fallback.why
	}
	return false, p.refuse(full, "no permission matches, and "+p.fallback.why)
}

// plain says whether all servers take a path for the same.
func plain(path string) bool {
	segments, absolute := strings.CutPrefix(path, "/")
	if !absolute || strings.ContainsAny(path, `%\`) {
		return false
	}
	for s := range strings.SplitSeq(segments, "/") {
		if s == "" || s == "." || s == ".." {
			return false
		}
	}
	return true
}

// refuse is the sentence for the caller.
func (p *permissions) refuse(path, why string) string {
	return fmt.Sprintf("Consul's intentions do not let %s with the path %q: the intention %s: %s", p.pair, path[:min(len(path), 256)], p.of, why)
}

// matches says whether a permission is for such a call, or why that cannot be told.
func (p *permission) matches(path string, field Field) (match bool, why string) {
	if p.regex && len(path) > maxRegex {
		return false, tooLong
	}
	if p.path != nil && !p.path(path) {
		return false, ""
	}
	for i := range p.headers {
		if match, why = p.headers[i].match(field); !match {
			return false, why
		}
	}
	if len(p.methods) == 0 {
		return true, ""
	}
	verb, _ := field(":method")
	return slices.Contains(p.methods, verb), ""
}

// match is as in Envoy: of what is not there, no value matches, be it inverted or not
// (treat_missing_header_as_empty of config.route.v3.HeaderMatcher is not set).
func (h *header) match(field Field) (match bool, why string) {
	value, there := field(h.name)
	if !there && h.other != "" {
		value, there = field(h.other)
	}
	if h.matches == nil { // it must not be there
		return !there, ""
	}
	if h.regex && len(value) > maxRegex {
		return false, tooLong
	}
	return there && h.matches(value) != h.invert, ""
}
