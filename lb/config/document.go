package config

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds the work that aliases can multiply; a config with 100,000 endpoints has a third of it.
const maxNodes = 1 << 20

// readDocument returns the root of the one YAML document in data, or nil where the reason has been reported.
func (r *report) readDocument(data []byte) *yaml.Node {
	if len(data) > maxFileBytes {
		r.errorf("", "is larger than %d MiB: this cannot be a config", maxFileBytes>>20)
		return nil
	}
	if i := invalidUTF8(data); i >= 0 {
		r.syntaxError(1+bytes.Count(data[:i], []byte("\n")), "not UTF-8 text: save the file as UTF-8")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			r.empty()
		} else {
			r.yamlError(err)
		}
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		r.syntaxError(second.Line, "a second document begins: a config is one document, remove the \"---\" and what follows")
		return nil
	} else if !errors.Is(err, io.EOF) {
		r.yamlError(err)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || isNull(doc.Content[0]) {
		r.empty()
		return nil
	}
	return doc.Content[0]
}

// empty is an error and not the defaults: a file read between truncation and writing, or made by a template that failed,
// must not replace the config that runs.
func (r *report) empty() {
	r.syntaxError(1, "the file is empty: write {} for the defaults, or run without a file")
}

// yamlError reports the parser's error at the line that it names.
func (r *report) yamlError(err error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if num, text, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(num); err == nil {
				line, msg = n, text
			}
		}
	}
	r.syntaxError(line, "not YAML: "+msg)
}

func (r *report) syntaxError(line int, message string) {
	r.errors = append(r.errors, Problem{File: r.file, Line: line, Column: 1, Message: message})
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		c, n := utf8.DecodeRune(data[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }
