// Package fuzz holds the fuzzers of codec/session: any bytes from a peer, and conversations of two sessions, with
// golang.org/x/net/http2 as the reader of what is sent; it must not hold code that anything imports.
package fuzz
