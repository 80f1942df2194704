// Package document owns the way from the text of a policy or a config to YAML nodes that know their places, and the guess
// which word was meant; it must not know what any key means.
//
// YAML goes through go.yaml.in/yaml/v3. A text that begins with a brace is JSON, as strict as JSON is: what a gRPC client
// would refuse as no JSON is refused here, and what YAML cannot read of JSON (surrogate pairs) is read.
package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Error is why a text is no document. Line and Column count from 1; columns count characters.
type Error struct {
	Line, Column int
	Message      string
}

// Error is "line:column: message".
func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message) }

// ErrEmpty is returned by YAML for a text without any value.
var ErrEmpty = errors.New("empty")

// Parse returns the root of text: JSON if it begins with a brace, else YAML. The error is an *Error, or ErrEmpty.
func Parse(text []byte) (*yaml.Node, error) {
	if LooksLikeJSON(text) {
		return JSON(text)
	}
	return YAML(text)
}

// Move gives every node below n, n included, the place that it has elsewhere, in a file that holds the text it came from.
func Move(n *yaml.Node, to func(line, column int) (int, int)) { move(n, to, 0) }

func move(n *yaml.Node, to func(line, column int) (int, int), depth int) {
	if depth > 10*MaxDepth {
		return // nobody reads that deep
	}
	n.Line, n.Column = to(n.Line, n.Column)
	for _, c := range n.Content { // what an alias stands for is in the Content of another
		move(c, to, depth+1)
	}
}

// YAML returns the root of the one YAML document in text. The error is an *Error, or ErrEmpty.
func YAML(text []byte) (*yaml.Node, error) {
	if err := checkUTF8(text); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, ErrEmpty
		}
		return nil, yamlError(err)
	}
	if err := dec.Decode(&second); err == nil {
		return nil, &Error{second.Line, 1, "a second document begins: there must be one, remove the \"---\" and what follows"}
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlError(err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || IsNull(doc.Content[0]) {
		return nil, ErrEmpty
	}
	return doc.Content[0], nil
}

// yamlError takes the line out of the parser's message.
func yamlError(err error) *Error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if num, text, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(num); err == nil {
				line, msg = n, text
			}
		}
	}
	return &Error{line, 1, "not YAML: " + msg}
}

func checkUTF8(text []byte) error {
	for i := 0; i < len(text); {
		c, n := utf8.DecodeRune(text[i:])
		if c == utf8.RuneError && n == 1 {
			return &Error{1 + bytes.Count(text[:i], []byte("\n")), 1, "not UTF-8 text: save it as UTF-8"}
		}
		i += n
	}
	return nil
}

// IsNull says whether n is YAML's or JSON's null, or nothing at all ("key:").
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// Describe says what n is, for "expected ..., got ...".
func Describe(n *yaml.Node) string {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if IsNull(n) {
		return "nothing"
	}
	if n.ShortTag() != "!!str" {
		return Shorten(n.Value)
	}
	return fmt.Sprintf("%q", Shorten(n.Value))
}

// Shorten cuts what is too long for a message.
func Shorten(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return s
}
