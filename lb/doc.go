// Package lb makes it happen: it owns the wiring of listeners, shards, upstream pools, discovery, telemetry and the admin
// API into one Server; it must not decide what a policy decides, nor parse what a codec parses.
//
// # One call, a straight line
//
// Every step names the function that does it; a test checks that they exist.
//
//	 1 listener.Listener.Accept             a client's connection goes to the shard with the fewest
//	 2 transport.Conn.Serve                 one goroutine per connection: one large read, then all within the shard's lock
//	 3 session.Conn.Recv                    frames in place, stream states, windows, header blocks -> events
//	 4 forward.Forwarder.start              method, authority, grpc-timeout, traceparent of a new call
//	 5 route.Table.Match                    else UNIMPLEMENTED, naming the method and the nearest known one
//	 6 forward.Call.place                   admission stands before it: authorisation, limits, breakers
//	 7 balance.Picker.Pick                  else UNAVAILABLE "no healthy endpoint"
//	 8 upstream.Pool.Reserve                a connection with a free place, or a dial
//	 9 forward.Call.send                    the request's frames go up, as windows allow
//	10 forward.Call.response                the response's frames come down
//	11 forward.Call.upstreamFailed          provably not processed, and nothing committed: back to 7
//	12 session.Conn.SendHeaders             frames go down; session.Conn.SendData between
//	13 forward.Forwarder.afterFlush         one outcome: metrics, spans, one log line
//
// When a read batch is consumed, shard.Shard.Leave writes what each touched connection has to say, once, without blocking;
// what the kernel does not take is left to that connection's flusher.
//
// # Generations
//
// A configuration and a discovery snapshot compile into one immutable forward.Generation (compile.go) behind one atomic
// pointer. A call keeps the generation it began with; a change never cuts a live stream.
package lb
