// Package fuzz holds the fuzzers of codec/h2, with golang.org/x/net/http2's Framer as the oracle; it must not hold code that
// anything imports.
package fuzz
