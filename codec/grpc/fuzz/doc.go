// Package fuzz holds those fuzzers of codec/grpc that compare with somebody else's reading (math/big, protobuf); it must not hold
// code that anything imports.
package fuzz
