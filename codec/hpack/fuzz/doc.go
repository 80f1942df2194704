// Package fuzz holds the fuzzers and differential tests of codec/hpack, with golang.org/x/net/http2/hpack as
// the oracle; it must not hold code that anything imports.
package fuzz
