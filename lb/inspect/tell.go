package inspect

import (
	"context"
	"log/slog"
	"time"
)

// teller writes attacks to the log, not more often than people can read.
type teller struct {
	log  *slog.Logger
	pace *pace
}

func newTeller(log *slog.Logger) teller { return teller{log: log, pace: newPace(10, 20, time.Now)} }

// tell logs an attack: rules, field and client, but nothing of what the message held.
func (t *teller) tell(c *court, by charge, h *hit) {
	missed, ok := t.pace.take()
	if !ok {
		return
	}
	m := c.message
	attrs := []slog.Attr{
		slog.String("method", brief(m.Method, 256)), slog.Int("index", m.Index), slog.String("rule", by.name), slog.Bool("blocked", !by.shadow),
		slog.Any("crs", h.rules[:min(len(h.rules), 10)]), slog.String("what", h.reason), slog.String("field", brief(h.field, 200)), slog.Int("score", h.score),
		slog.String("address", m.Address), slog.String("principal", brief(m.Principal, 256)),
	}
	if missed > 0 {
		attrs = append(attrs, slog.Int("untold", missed))
	}
	t.log.LogAttrs(context.Background(), slog.LevelWarn, "a message looks like an attack", attrs...)
}
