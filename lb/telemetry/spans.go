package telemetry

import (
	"context"
	"net"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// take handles one record in the span lane's goroutine. When shutdown's time is over it only counts.
func (tc *tracing) take(rec *CallRecord) {
	if tc.limit.Err() != nil {
		tc.failed.Add(uint64(1 + len(rec.Attempts)))
		return
	}
	tc.build(rec)
}

// build makes the SERVER span of a call and the CLIENT spans of its attempts, with the ids that Trace gave them.
func (tc *tracing) build(rec *CallRecord) {
	tr := rec.Trace
	ctx := context.Background()
	if tr.parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, tr.parent)
	}
	method := clip(rec.fullMethod())
	rpc := make([]attribute.KeyValue, 0, 8)
	rpc = append(rpc, semconv.RPCSystemNameGRPC, attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", clip(rec.Service)))
	name := method
	if rec.Unknown {
		// Names that clients invent are no span names (semantic conventions, "RPC spans", Name).
		name = "grpc"
		rpc = append(rpc, semconv.RPCMethod("_OTHER"), semconv.RPCMethodOriginal(method))
	} else {
		rpc = append(rpc, semconv.RPCMethod(method))
	}
	ctx, server := tc.tracer.Start(context.WithValue(ctx, idsKey{}, ids{tr.traceID, tr.span}), name,
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(rec.Start),
		trace.WithAttributes(rpc...), trace.WithAttributes(serverAttributes(rec)...))
	for i := range rec.Events {
		e := &rec.Events[i]
		list := clipAll(e.Attrs)
		if e.Attempt >= 0 {
			list = append(list, attribute.Int("trunkline.attempt", e.Attempt))
		}
		server.AddEvent(e.Name, trace.WithTimestamp(e.At), trace.WithAttributes(list...))
	}
	finishSpan(server, rec.Status, rec.StatusMessage, serverFault(rec.Status))
	for i := range rec.Attempts {
		a := &rec.Attempts[i]
		id := newSpanID()
		if i < len(tr.attempts) {
			id = tr.attempts[i]
		}
		_, client := tc.tracer.Start(context.WithValue(ctx, idsKey{}, ids{tr.traceID, id}), name,
			trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(a.Start),
			trace.WithAttributes(rpc...), trace.WithAttributes(clientAttributes(rec, a, i)...))
		finishSpan(client, a.Status, a.StatusMessage, a.Status != 0)
		client.End(trace.WithTimestamp(a.End))
	}
	server.End(trace.WithTimestamp(rec.End))
}

func serverAttributes(rec *CallRecord) []attribute.KeyValue {
	list := address(make([]attribute.KeyValue, 0, 24), semconv.ServerAddressKey, semconv.ServerPortKey, rec.Authority)
	list = address(list, semconv.ClientAddressKey, semconv.ClientPortKey, rec.Peer)
	list = address(list, semconv.NetworkPeerAddressKey, semconv.NetworkPeerPortKey, rec.Peer)
	list = text(list, semconv.UserAgentOriginalKey, rec.UserAgent)
	list = text(list, "enduser.id", rec.Caller)
	list = text(list, "trunkline.route", rec.Route)
	list = text(list, "trunkline.cluster", rec.Cluster)
	if n := len(rec.Attempts); n > 0 {
		list = text(list, "trunkline.endpoint", rec.Attempts[n-1].Endpoint)
	}
	return append(list,
		attribute.Int64("trunkline.generation", int64(rec.Generation)),
		attribute.String("trunkline.outcome", rec.Outcome.String()),
		attribute.String("trunkline.origin", origin(rec.Local)),
		attribute.Int("trunkline.attempts", len(rec.Attempts)),
		attribute.Int64("trunkline.messages.request", int64(rec.MessagesIn)),
		attribute.Int64("trunkline.messages.response", int64(rec.MessagesOut)),
		attribute.Int64("trunkline.bytes.request", int64(rec.BytesIn)),
		attribute.Int64("trunkline.bytes.response", int64(rec.BytesOut)),
		attribute.Int64("trunkline.upstream_ns", int64(rec.Upstream)),
		attribute.Int64("trunkline.added_ns", int64(rec.Own)),
	)
}

func clientAttributes(rec *CallRecord, a *AttemptRecord, index int) []attribute.KeyValue {
	list := address(make([]attribute.KeyValue, 0, 12), semconv.ServerAddressKey, semconv.ServerPortKey, a.Endpoint)
	list = address(list, semconv.NetworkPeerAddressKey, semconv.NetworkPeerPortKey, a.Endpoint)
	list = text(list, "trunkline.route", rec.Route)
	list = text(list, "trunkline.cluster", rec.Cluster)
	list = text(list, "trunkline.endpoint", a.Endpoint)
	list = text(list, "trunkline.pick.reason", a.PickReason)
	list = text(list, "trunkline.attempt.evidence", a.Evidence)
	list = text(list, "trunkline.attempt.kind", a.Kind)
	list = text(list, "trunkline.attempt.decision", a.Why)
	return append(list,
		attribute.Int("trunkline.attempt", index),
		attribute.String("trunkline.outcome", a.Outcome.String()))
}

// clipAll is text for attributes that somebody else made.
func clipAll(in []attribute.KeyValue) []attribute.KeyValue {
	list := make([]attribute.KeyValue, 0, len(in)+1)
	for _, kv := range in {
		if kv.Value.Type() == attribute.STRING {
			kv = kv.Key.String(clip(kv.Value.AsString()))
		}
		list = append(list, kv)
	}
	return list
}

// finishSpan sets status and error by the conventions: what is not an error leaves the span's status unset.
func finishSpan(span trace.Span, status uint32, message string, failed bool) {
	name := statusName(status)
	span.SetAttributes(semconv.RPCResponseStatusCode(name), attribute.Int64("rpc.grpc.status_code", int64(status)))
	if failed {
		span.SetAttributes(semconv.ErrorTypeKey.String(name))
		span.SetStatus(codes.Error, clip(message))
	}
}

// serverFault says which statuses are errors of a SERVER span: those that are not the caller's fault (semantic conventions,
// "gRPC", Status).
func serverFault(status uint32) bool {
	switch status {
	case 2, 4, 12, 13, 14, 15: // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
		return true
	}
	return status > 16
}

func text(list []attribute.KeyValue, key attribute.Key, value string) []attribute.KeyValue {
	if value == "" {
		return list
	}
	return append(list, key.String(clip(value)))
}

// address splits host:port; what has no port is all host.
func address(list []attribute.KeyValue, host, port attribute.Key, value string) []attribute.KeyValue {
	h, p, err := net.SplitHostPort(value)
	if err != nil {
		return text(list, host, value)
	}
	list = text(list, host, h)
	if n, err := strconv.ParseUint(p, 10, 16); err == nil {
		list = append(list, port.Int64(int64(n)))
	}
	return list
}
