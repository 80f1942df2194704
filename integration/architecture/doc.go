// Package architecture owns the tests that keep the shape of the tree: the arrows between rooms, the purity of codec and
// policy, and house rules that no linter knows; it must not test behaviour.
//
// The tests parse files in-process. One that shelled out to `go list` would be served from the test cache and stay green.
// Each rule is a function from parsed files to findings and is itself tested on a few lines that break it.
package architecture
