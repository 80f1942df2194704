package telemetry

import (
	"context"
	"log/slog"
	"time"
)

// writeLine writes the access-log line of a call. Its time is the call's end. What is empty is left out.
func writeLine(h slog.Handler, rec *CallRecord) {
	ctx := context.Background()
	if !h.Enabled(ctx, slog.LevelInfo) {
		return
	}
	line := slog.NewRecord(rec.End, slog.LevelInfo, "call", 0)
	text := func(key, value string) {
		if value != "" {
			line.AddAttrs(slog.String(key, clip(value)))
		}
	}
	line.AddAttrs(
		slog.String("method", clip(rec.fullMethod())),
		slog.String("status", statusName(rec.Status)),
		slog.String("origin", origin(rec.Local)),
		slog.String("outcome", rec.Outcome.String()))
	text("message", rec.StatusMessage)
	text("route", rec.Route)
	text("cluster", rec.Cluster)
	if n := len(rec.Attempts); n > 0 {
		last := &rec.Attempts[n-1]
		text("endpoint", last.Endpoint)
		text("evidence", last.Evidence)
	}
	line.AddAttrs(
		slog.Int("attempts", len(rec.Attempts)),
		slog.Float64("total_ms", milliseconds(rec.Total)),
		slog.Float64("upstream_ms", milliseconds(rec.Upstream)),
		slog.Float64("added_ms", milliseconds(rec.Own)),
		slog.Uint64("messages_in", uint64(rec.MessagesIn)),
		slog.Uint64("messages_out", uint64(rec.MessagesOut)),
		slog.Uint64("bytes_in", rec.BytesIn),
		slog.Uint64("bytes_out", rec.BytesOut))
	text("peer", rec.Peer)
	text("caller", rec.Caller)
	text("authority", rec.Authority)
	text("user_agent", rec.UserAgent)
	line.AddAttrs(slog.Uint64("generation", rec.Generation))
	if rec.Trace != nil {
		text("trace_id", rec.Trace.TraceID())
	} else if id, _, _, ok := parseTraceparent(rec.Traceparent); ok {
		text("trace_id", id.String())
	}
	// A writer that fails has nobody to tell: the log is where one would say so.
	_ = h.Handle(ctx, line)
}

// milliseconds keeps microseconds, more digits are noise.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
