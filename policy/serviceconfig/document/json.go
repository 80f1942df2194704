package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxDepth is how deep a JSON text may nest; deeper is a mistake or an attack.
const MaxDepth = 64

// LooksLikeJSON says whether text is to be read as JSON: its first visible character is a brace.
func LooksLikeJSON(text []byte) bool {
	text = bytes.TrimLeft(text, " \t\r\n")
	return len(text) > 0 && text[0] == '{'
}

// JSON returns the root of the one JSON value in text, as YAML nodes with their places. The error is an *Error. Keys that
// come twice are left to the reader of the nodes.
func JSON(text []byte) (*yaml.Node, error) {
	if err := checkUTF8(text); err != nil {
		return nil, err
	}
	r := jsonReader{text: text, line: 1, column: 1}
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		var syntax *json.SyntaxError
		if !errors.As(err, &syntax) {
			return nil, &Error{1, 1, "not JSON: " + err.Error()}
		}
		r.advance(int(syntax.Offset) - 1) // the offset is behind the byte that was wrong
		return nil, &Error{r.line, r.column, "not JSON: " + syntax.Error()}
	}
	r.dec = json.NewDecoder(bytes.NewReader(text))
	r.dec.UseNumber()
	return r.value(0)
}

// jsonReader walks the tokens of a text that is known to be JSON.
type jsonReader struct {
	text         []byte
	dec          *json.Decoder
	at           int // how far line and column have come
	line, column int
}

// advance moves line and column to an offset at or behind where they are.
func (r *jsonReader) advance(to int) {
	to = max(r.at, min(to, len(r.text)))
	for r.at < to {
		c, n := utf8.DecodeRune(r.text[r.at:])
		r.column++
		if c == '\n' {
			r.line, r.column = r.line+1, 1
		}
		r.at += n
	}
}

func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	start := int(r.dec.InputOffset())
	for start < len(r.text) && strings.IndexByte(" \t\r\n,:", r.text[start]) >= 0 {
		start++
	}
	r.advance(start)
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: r.line, Column: r.column}
	if depth > MaxDepth {
		return nil, &Error{r.line, r.column, "is nested too deep"}
	}
	token, err := r.dec.Token()
	if err != nil {
		return nil, &Error{r.line, r.column, "not JSON: " + err.Error()}
	}
	switch v := token.(type) {
	case json.Delim:
		n.Kind = yaml.SequenceNode
		n.Tag = "!!seq"
		if v == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for r.dec.More() {
			item, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
			if n.Kind == yaml.MappingNode {
				value, err := r.value(depth + 1)
				if err != nil {
					return nil, err
				}
				n.Content = append(n.Content, value)
			}
		}
		if _, err := r.dec.Token(); err != nil { // the closing one
			return nil, &Error{r.line, r.column, "not JSON: " + err.Error()}
		}
	case string:
		n.Tag, n.Value, n.Style = "!!str", v, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", v.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", "false"
		if v {
			n.Value = "true"
		}
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}
