// Package forward owns the product: a Call carries one stream from a downstream connection to an endpoint and back, trying
// again elsewhere what was provably not processed; it must not open sockets or read configuration.
//
// Everything here runs inside a shard: one lock covers both ends of each call. A call has two ends, down (the client's
// stream) and up (the stream of its current attempt, if any). What comes on one is said on the other at once, as far as the
// other's windows allow; what they do not allow waits on the session's stream, and its bytes are credited to the sender
// when they are handed over.
//
// # Commit
//
// Until the first response header block, a call keeps its request (fields by reference, data by copy, bounded) so that it can
// be placed again. The first response block commits: the copy is dropped, and the response belongs to that attempt. The
// decision stands in one place, Call.upstreamFailed; retry policies will be asked there and in Call.response.
//
// # Who ends what
//
// A call is finished when neither end is left. The session tells of each end once, by HandleClosed, after which the stream
// is recycled: Call.down and Call.up are nil from then on. An attempt that we give up is reset and forgotten at once
// (its stream's Owner is cleared before), so that nothing it still says can touch the call.
package forward
