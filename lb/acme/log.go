package acme

import (
	"context"
	"log/slog"
	"strings"

	"go.uber.org/zap/zapcore"
)

// core writes certmagic's log to ours: errors as warnings, since it tries again, what it does as debug, and not its own debugging.
type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func level(l zapcore.Level) slog.Level {
	if l >= zapcore.ErrorLevel {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (c core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.InfoLevel && c.log.Enabled(context.Background(), level(l))
}

func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.log, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	at := level(e.Level)
	if e.Message == "could not get certificate from issuer" {
		at = slog.LevelDebug // the error is said again where it says when it tries again
	}
	var attrs []slog.Attr
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		one := zapcore.NewMapObjectEncoder() // a map for each, to keep their order
		f.AddTo(one)
		for key, value := range one.Fields {
			attrs = append(attrs, slog.Any(key, value))
			if text, ok := value.(string); ok && key == "error" && strings.Contains(text, context.Canceled.Error()) {
				at = slog.LevelDebug // Close
			}
		}
	}
	c.log.LogAttrs(context.Background(), at, "certificates: "+e.Message, attrs...)
	return nil
}

func (core) Sync() error { return nil }

// quiet makes debug of what acmez says, since certmagic reports its errors, and drops its own debugging, which has whole requests.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo && q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(g string) slog.Handler      { return quiet{q.Handler.WithGroup(g)} }
