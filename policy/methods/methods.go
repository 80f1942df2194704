// Package methods owns the patterns that name gRPC methods in configuration: compiling them and matching a method against them; it
// must not know what is asked of the methods that match.
package methods

import (
	"fmt"
	"strings"
)

// Set is what some patterns name. The zero value names nothing. Immutable.
type Set struct {
	all      bool
	methods  map[string]struct{} // "pkg.Service/Method"
	services map[string]struct{} // "pkg.Service"
	packages map[string]struct{} // "pkg"
}

// Compile reads patterns: "pkg.Service/Method" is one method, "pkg.Service/*" all of a service, "pkg.*" all services of a package
// and of those inside of it, "*" every method. Its error is a PatternError: of the first pattern that is none of these.
func Compile(patterns []string) (Set, error) {
	s := Set{methods: map[string]struct{}{}, services: map[string]struct{}{}, packages: map[string]struct{}{}}
	for i, p := range patterns {
		if why := wrong(p); why != "" {
			return Set{}, &PatternError{Index: i, Pattern: p, Why: why}
		}
		service, method, slash := strings.Cut(p, "/")
		switch {
		case p == "*":
			s.all = true
		case slash && method == "*":
			s.services[service] = struct{}{}
		case slash:
			s.methods[p] = struct{}{}
		default:
			s.packages[strings.TrimSuffix(p, ".*")] = struct{}{}
		}
	}
	return s, nil
}

// Match tells whether a pattern names method, "pkg.Service/Method" as route.Table has it, without a slash before it.
func (s Set) Match(method string) bool {
	if s.all {
		return true
	}
	if _, ok := s.methods[method]; ok {
		return true
	}
	service, _, ok := strings.Cut(method, "/")
	if !ok {
		return false
	}
	if _, ok := s.services[service]; ok {
		return true
	}
	if len(s.packages) == 0 {
		return false
	}
	for i := range len(service) {
		if service[i] != '.' {
			continue
		}
		if _, ok := s.packages[service[:i]]; ok {
			return true
		}
	}
	return false
}

// Empty tells that no method matches.
func (s Set) Empty() bool {
	return !s.all && len(s.methods) == 0 && len(s.services) == 0 && len(s.packages) == 0
}

// PatternError says what is wrong with a pattern, and what is right.
type PatternError struct {
	Index   int // in the list that Compile was given
	Pattern string
	Why     string // a sentence without its subject, such as "is empty: write ..."
}

func (e *PatternError) Error() string { return fmt.Sprintf("%q %s", e.Pattern, e.Why) }

const forms = `write "pkg.Service/Method", "pkg.Service/*", "pkg.*" or "*"`

// wrong is what is wrong with p, "" if nothing is.
func wrong(p string) string {
	if p == "*" {
		return ""
	}
	if p == "" {
		return "is empty: " + forms
	}
	if rest, ok := strings.CutPrefix(p, "/"); ok && wrong(rest) == "" {
		return fmt.Sprintf("has a slash before it: write %q", rest)
	}
	if p == "*/*" || p == "*.*" || p == "**" {
		return `names every method in a form that is not known: write "*"`
	}
	service, method, slash := strings.Cut(p, "/")
	switch {
	case slash && name(service) && method == "*", slash && name(service) && identifier(method):
		return ""
	case slash && name(service) && method == "":
		return fmt.Sprintf("names no method: write %q for all of the service", p+"*")
	case slash && strings.HasSuffix(service, ".*") && method == "*" && name(strings.TrimSuffix(service, ".*")):
		return fmt.Sprintf("has two wildcards: write %q for all services of the package", service)
	case !slash && strings.HasSuffix(p, ".*") && name(strings.TrimSuffix(p, ".*")):
		return ""
	case !slash && name(p):
		return fmt.Sprintf("names neither a method nor a package: write %q for all methods of a service, %q for a package", p+"/*", p+".*")
	case strings.Contains(strings.TrimSuffix(p, "*"), "*"):
		return "has a wildcard before its end: " + forms
	}
	return "does not name methods: " + forms
}

// name tells whether s is identifiers with dots between them.
func name(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if !identifier(part) {
			return false
		}
	}
	return true
}

// identifier is more than protobuf's: other languages' services may be named with a hyphen.
func identifier(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case i > 0 && (c >= '0' && c <= '9' || c == '-'):
		default:
			return false
		}
	}
	return s != ""
}
