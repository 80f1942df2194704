// Package session owns one HTTP/2 connection without its I/O: stream states, both windows on both levels, SETTINGS, PING and
// GOAWAY (RFC 9113); it must not touch a socket, a clock or another connection.
//
// Bytes go in through Recv, facts come out through the Handler, and what must be said to the peer gathers in the output
// buffer (Output, Advance). Everything is guarded by the shard: one lock covers a connection and all that its handler calls.
//
// # Windows
//
// What the peer may send us: connection-level credit is given back on receipt, so that one stalled stream never stalls the
// others of its connection; stream-level credit is given back by Credit, when the bytes were handed over to the other side.
// The memory that a stream can make us hold is thus its window. A stream that drains gets a larger window (grow), within the
// Budget of the client that it belongs to.
//
// What we may send: SendData writes what the two windows and the output buffer allow and keeps the rest on the stream;
// the rest leaves, a frame of each waiting stream in turn, when a window opens or the socket takes more.
//
// # Abuse
//
// A peer that makes us work for nothing pays for it from a purse for each kind of waste (Abuse), which its useful work fills; a peer
// that lets things wait is asked for the time (Expired); what it makes us hold is in its Budget. Who exceeds one of them gets a
// GOAWAY with ENHANCE_YOUR_CALM and a sentence with the limit's key. The stories are in testdata/abuse; the clients that must never meet
// this are in abuse_test.go.
//
// # Ownership
//
// A header field's reference belongs to who holds it: the session releases the fields of a block after HandleHeaders unless
// the handler set Block.Taken. Data passed to HandleData is borrowed: valid until it returns. A Stream is recycled after
// HandleClosed: who holds a pointer to it drops it there.
package session
