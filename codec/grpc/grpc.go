// Package grpc owns the gRPC words that ride on HTTP/2: paths, timeouts, statuses, messages and their details; it must
// not know frames, connections, time or routes.
//
// Everything here is a pure function over bytes (or a few words of state, [MessageCounter]), allocates nothing on the way
// of a call that goes well, and takes any input: bad bytes give ok == false or an error, never a panic. The source is
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md ("the spec" below); where it leaves a choice, grpc-go's
// is taken, and where this package differs from grpc-go, the identifier says so.
package grpc
