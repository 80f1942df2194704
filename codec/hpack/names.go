package hpack

import "hash/maphash"

// ID is a header name that somebody switches on. The zero value is any other name.
type ID uint8

// The names with an ID.
const (
	Other ID = iota
	Authority
	Method
	Path
	Scheme
	Status
	Protocol // :protocol, RFC 8441
	ContentType
	ContentLength
	ContentEncoding
	AcceptEncoding
	TE
	UserAgent
	Host
	Cookie
	Authorization
	ProxyAuthorization
	Via
	Expect
	Trailer
	Date
	Server
	RetryAfter
	Forwarded
	XForwardedFor
	XForwardedProto
	XForwardedHost
	XRealIP
	XRequestID
	Connection
	ProxyConnection
	KeepAlive
	TransferEncoding
	Upgrade
	GrpcTimeout
	GrpcStatus
	GrpcMessage
	GrpcStatusDetailsBin
	GrpcEncoding
	GrpcAcceptEncoding
	GrpcPreviousRPCAttempts
	GrpcRetryPushbackMs
	GrpcTraceBin
	GrpcTagsBin
	Traceparent
	Tracestate
	Baggage
	B3
	XB3TraceID
	XB3SpanID
	XB3Sampled
	XB3ParentSpanID
	XB3Flags
	UberTraceID
	XAmznTraceID
	XCloudTraceContext
	numIDs
)

// idNames are the spellings, in lower case as HTTP/2 has them.
var idNames = [numIDs]string{
	Authority: ":authority", Method: ":method", Path: ":path", Scheme: ":scheme", Status: ":status",
	Protocol: ":protocol", ContentType: "content-type", ContentLength: "content-length",
	ContentEncoding: "content-encoding", AcceptEncoding: "accept-encoding", TE: "te", UserAgent: "user-agent",
	Host: "host", Cookie: "cookie", Authorization: "authorization", ProxyAuthorization: "proxy-authorization",
	Via: "via", Expect: "expect", Trailer: "trailer", Date: "date", Server: "server", RetryAfter: "retry-after",
	Forwarded: "forwarded", XForwardedFor: "x-forwarded-for", XForwardedProto: "x-forwarded-proto",
	XForwardedHost: "x-forwarded-host", XRealIP: "x-real-ip", XRequestID: "x-request-id",
	Connection: "connection", ProxyConnection: "proxy-connection", KeepAlive: "keep-alive",
	TransferEncoding: "transfer-encoding", Upgrade: "upgrade",
	GrpcTimeout: "grpc-timeout", GrpcStatus: "grpc-status", GrpcMessage: "grpc-message",
	GrpcStatusDetailsBin: "grpc-status-details-bin", GrpcEncoding: "grpc-encoding",
	GrpcAcceptEncoding: "grpc-accept-encoding", GrpcPreviousRPCAttempts: "grpc-previous-rpc-attempts",
	GrpcRetryPushbackMs: "grpc-retry-pushback-ms", GrpcTraceBin: "grpc-trace-bin", GrpcTagsBin: "grpc-tags-bin",
	Traceparent: "traceparent", Tracestate: "tracestate", Baggage: "baggage", B3: "b3",
	XB3TraceID: "x-b3-traceid", XB3SpanID: "x-b3-spanid", XB3Sampled: "x-b3-sampled",
	XB3ParentSpanID: "x-b3-parentspanid", XB3Flags: "x-b3-flags", UberTraceID: "uber-trace-id",
	XAmznTraceID: "x-amzn-trace-id", XCloudTraceContext: "x-cloud-trace-context",
}

// String returns the header name, or "" for Other.
func (id ID) String() string {
	if id >= numIDs {
		return ""
	}
	return idNames[id]
}

// LookupID returns the ID of a header name, Other if it has none. Names are lower case (RFC 9113 8.2).
func LookupID(name string) ID {
	if n := known[name]; n != nil {
		return n.id
	}
	return Other
}

// indexing says how the encoder treats the values of a name.
type indexing uint8

const (
	indexRepeats indexing = iota // insert values that repeat
	indexName                    // values vary by nature: insert one, for the name's sake
	indexNever                   // credentials: keep them out of a table that clients share (RFC 7541 7.1.3)
)

func indexingOf(id ID) indexing {
	switch id {
	case GrpcTimeout, Traceparent, Tracestate, Baggage, B3, XB3TraceID, XB3SpanID, XB3ParentSpanID, XRequestID,
		GrpcTraceBin, GrpcTagsBin, UberTraceID, XAmznTraceID, XCloudTraceContext, ContentLength:
		return indexName
	case Authorization, ProxyAuthorization, Cookie:
		return indexNever
	}
	return indexRepeats
}

// name is an interned header name. The known ones are read-only globals; the others belong to an Interner.
type name struct {
	s        string
	hash     uint64
	id       ID
	flags    Flags
	indexing indexing
	static   uint8 // first entry of the static table with this name, or 0
	statics  uint8 // number of entries of the static table with this name
	global   bool  // in known: shared by all shards, never written
	sighted  bool  // an encoder has met it: a name worth an entry
	refs     int32 // fields of this name, unless global; guarded by the shard
}

func newName(s string) *name {
	n := &name{s: s, hash: maphash.String(seed, s), flags: nameFlags(s)}
	if n.flags&Pseudo != 0 {
		n.flags |= UnknownPseudo
	}
	return n
}

// seed and known are read-only after the program's start. The seed is random per process, so that a client
// cannot choose fields whose hashes collide.
var (
	seed  = maphash.MakeSeed()
	known = buildKnown()
)

func buildKnown() map[string]*name {
	m := make(map[string]*name, int(numIDs)+len(staticPairs))
	add := func(s string, id ID) *name {
		n := newName(s)
		n.id, n.indexing, n.global, n.sighted = id, indexingOf(id), true, true
		if id != Other {
			n.flags &^= UnknownPseudo
		}
		m[s] = n
		return n
	}
	for id := Other + 1; id < numIDs; id++ {
		add(idNames[id], id)
	}
	for i, p := range staticPairs {
		n := m[p[0]]
		if n == nil {
			n = add(p[0], Other)
		}
		if n.static == 0 {
			n.static = uint8(i + 1)
		}
		n.statics++
	}
	return m
}
