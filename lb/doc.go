// Package lb makes it happen: it owns the wiring of listeners, shards, upstream pools, discovery, telemetry and the admin
// API into one Server; it must not decide what a policy decides, nor parse what a codec parses.
//
// # One call, a straight line
//
// Every step names the function that does it; a test checks that they exist.
//
//	 1 listener.Listener.Accept             a client's connection, if there is room; it goes to the shard with the fewest
//	 2 listener.Listener.greet              before HTTP/2, in a goroutine: the PROXY header, the TLS handshake, the client's certificate
//	 3 transport.Conn.Serve                 one goroutine per connection: one large read, then all within the shard's lock
//	 4 session.Conn.Recv                    frames in place, stream states, windows, header blocks, budgets against abuse -> events
//	 5 forward.Forwarder.start              method, authority, grpc-timeout, traceparent of a new call; what only we may set is taken away
//	 6 route.Table.Match                    else UNIMPLEMENTED, naming the method and the nearest known one
//	 7 forward.Call.knock                   who calls, and may they: the gate and the mesh, answered at once or later; else UNAUTHENTICATED
//	                                        or PERMISSION_DENIED. With rules on payloads the first message is judged before it goes on
//	 8 forward.Call.admit                   overload, rate limits, places, queues; else RESOURCE_EXHAUSTED or UNAVAILABLE
//	 9 balance.Picker.Pick                  less what breakers, health and outlier detection hold back; else UNAVAILABLE
//	10 upstream.Pool.Reserve                a connection with a free place, or a dial, with TLS where the cluster has it
//	11 forward.Attempt.send                 the request's frames go up, as windows allow
//	12 forward.Attempt.response             the response's frames come down, and are held while it may come to nothing
//	13 forward.Call.goesOn                  an attempt failed, nothing is committed: back to 9, if policies and evidence say so
//	14 session.Conn.SendHeaders             frames go down; session.Conn.SendData between
//	15 forward.Forwarder.afterFlush         one outcome: metrics, spans, one log line, one record of all decisions
//
// When a read batch is consumed, shard.Shard.Leave writes what each touched connection has to say, once, without blocking;
// what the kernel does not take is left to that connection's flusher.
//
// # Policies
//
// What holds for a method is a policies.Rules, found once per method, shard and generation; what policies remember over
// generations lives in a policies.Store. Who watches endpoints (health checks, outliers, slow start) is a health.Keeper.
//
// # The edge
//
// Certificates, identities, rules, the mesh and payload rules of one configuration are an edge (edge.go). A new configuration takes over
// what stays the same. Nothing of it blocks a shard: what takes time is done in goroutines, which enter the shard with the answer.
//
// # Generations
//
// A configuration and a discovery snapshot compile into one immutable forward.Generation (compile.go) behind one atomic
// pointer. A call keeps the generation it began with; a change never cuts a live stream.
package lb
