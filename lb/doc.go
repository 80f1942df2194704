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
//	 6 forward.Call.admit                   overload, rate limits, places, queues; else RESOURCE_EXHAUSTED or UNAVAILABLE
//	 7 balance.Picker.Pick                  less what breakers, health and outlier detection hold back; else UNAVAILABLE
//	 8 upstream.Pool.Reserve                a connection with a free place, or a dial
//	 9 forward.Attempt.send                 the request's frames go up, as windows allow
//	10 forward.Attempt.response             the response's frames come down, and are held while it may come to nothing
//	11 forward.Call.goesOn                  an attempt failed, nothing is committed: back to 7, if policies and evidence say so
//	12 session.Conn.SendHeaders             frames go down; session.Conn.SendData between
//	13 forward.Forwarder.afterFlush         one outcome: metrics, spans, one log line, one record of all decisions
//
// When a read batch is consumed, shard.Shard.Leave writes what each touched connection has to say, once, without blocking;
// what the kernel does not take is left to that connection's flusher.
//
// # Policies
//
// What holds for a method is a policies.Rules, found once per method, shard and generation; what policies remember over
// generations lives in a policies.Store. Who watches endpoints (health checks, outliers, slow start) is a health.Keeper.
//
// # Generations
//
// A configuration and a discovery snapshot compile into one immutable forward.Generation (compile.go) behind one atomic
// pointer. A call keeps the generation it began with; a change never cuts a live stream.
package lb
