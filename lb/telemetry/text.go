package telemetry

import "strings"

// valid replaces what is not UTF-8, which neither Prometheus labels nor OTLP strings may hold: one such string would cost a
// whole page or a whole batch.
func valid(s string) string { return strings.ToValidUTF8(s, "�") }

// maxText bounds one string from outside in a span or an access-log line, in bytes.
const maxText = 1024

// clip is valid for strings from outside, which may be long.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return valid(s)
}
