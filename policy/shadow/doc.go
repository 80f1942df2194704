// Package shadow owns the comparison of what happened to a call with what would have happened under another policy; it
// must not influence calls.
package shadow
