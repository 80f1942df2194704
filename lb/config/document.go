package config

import (
	"errors"
	"regexp"

	"github.com/trunkline/trunkline/policy/serviceconfig/document"
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
	root, err := document.YAML(data)
	var wrong *document.Error
	switch {
	case errors.As(err, &wrong):
		r.errors = append(r.errors, Problem{File: r.file, Line: wrong.Line, Column: wrong.Column, Message: unquoted(wrong.Message)})
	case err != nil:
		r.empty()
	}
	return root
}

// empty is an error and not the defaults: a file read between truncation and writing, or made by a template that failed,
// must not replace the config that runs.
func (r *report) empty() {
	r.errors = append(r.errors, Problem{File: r.file, Line: 1, Column: 1, Message: "the file is empty: write {} for the defaults, or run without a file"})
}

var unknownAnchor = regexp.MustCompile(`unknown anchor '.*' referenced`)

// unquoted leaves out the name of an alias that leads nowhere: it may be a token that begins with a star, without quotes.
func unquoted(message string) string {
	return unknownAnchor.ReplaceAllString(message, "an alias (*) to nowhere: put quotes around a value that begins with a star")
}
