package authz

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
)

// explain makes one message of CEL's first issue.
func explain(source string, issues *cel.Issues) error {
	var first *common.Error
	for _, e := range issues.Errors() {
		if first == nil || e.Location.Line() < first.Location.Line() ||
			e.Location.Line() == first.Location.Line() && e.Location.Column() < first.Location.Column() {
			first = e
		}
	}
	if first == nil {
		return &ExpressionError{Line: 1, Column: 1, Message: issues.Err().Error()}
	}
	x := &ExpressionError{Line: max(first.Location.Line(), 1), Column: max(first.Location.Column()+1, 1)}
	if lines := strings.Split(source, "\n"); x.Line <= len(lines) {
		if line := []rune(lines[x.Line-1]); x.Column <= len(line) {
			x.Snippet = word(string(line[x.Column-1:]))
		}
	}
	x.Message = plain(first.Message, strings.HasPrefix(x.Snippet, "("))
	return x
}

// plain is CEL's message in words for those who write rules; call: it is about a function.
func plain(msg string, call bool) string {
	msg = strings.TrimSuffix(msg, " (in container '')")
	if name, ok := quoted(msg, "undeclared reference to '"); ok {
		if call {
			return "there is no function " + name
		}
		msg = fmt.Sprintf("there is no %s", name)
		if guess := document.Nearest(name, Variables()); guess != "" {
			return msg + fmt.Sprintf("; did you mean %s?", guess)
		}
		return msg + "; there are " + strings.Join(Variables(), ", ")
	}
	if name, ok := quoted(msg, "undefined field '"); ok {
		for _, kind := range []string{peerType, identityType} {
			names := fieldNames(kind)
			if guess := document.Nearest(name, names); guess != "" {
				return fmt.Sprintf("there is no field %s; did you mean %s?", name, guess)
			}
		}
		return fmt.Sprintf("there is no field %s; peer has %s, and identity has %s", name,
			strings.Join(fieldNames(peerType), ", "), strings.Join(fieldNames(identityType), ", "))
	}
	if rest, ok := strings.CutPrefix(msg, "Syntax error: "); ok {
		rest, _, _ = strings.Cut(rest, " expecting {") // thirty tokens
		return "does not parse: " + strings.ReplaceAll(rest, "'<EOF>'", "the end")
	}
	if strings.HasPrefix(msg, "invalid cidr argument: ") || strings.HasPrefix(msg, "invalid ip argument: ") {
		head, _, _ := strings.Cut(msg, ": ")
		return head + msg[strings.LastIndex(msg, ": "):] // without how the Go library came to it
	}
	// Operators are functions to CEL: _==_, @in, !_.
	msg = regexp.MustCompile(`'[_@]?(\S+?)_?' applied`).ReplaceAllString(msg, "'$1' applied")
	if strings.Contains(msg, "(list(string), string)") { // who has not heard that metadata may come twice
		msg += `; the values of metadata are lists: write metadata["x-tenant"][0], or "acme" in metadata["x-tenant"]`
	}
	return strings.ReplaceAll(msg, "found no matching overload for", "cannot compare or call so:")
}

// quoted is what stands between prefix and the next '.
func quoted(msg, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(msg, prefix)
	if !ok {
		return "", false
	}
	name, _, ok := strings.Cut(rest, "'")
	return name, ok
}

func fieldNames(kind string) []string {
	var names []string
	for _, f := range fieldsOf(kind) {
		names = append(names, f.name)
	}
	return names
}

// word is the beginning of a line, as much as shows what is meant.
func word(line string) string {
	const most = 24
	line = strings.TrimSpace(line)
	if r := []rune(line); len(r) > most {
		return string(r[:most]) + "..."
	}
	return line
}
