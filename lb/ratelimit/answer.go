package ratelimit

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/net/http/httpguts"
)

// maxHeaders bounds the fields that one answer may add.
const maxHeaders = 32

// overLimit says which limits were met, and when the last of them is reset.
func (c *Client) overLimit(descriptors [][]Entry, statuses []*rls.RateLimitResponse_DescriptorStatus) (time.Duration, string) {
	var after time.Duration
	var met []string
	for i, s := range statuses {
		if s.GetCode() != rls.RateLimitResponse_OVER_LIMIT {
			continue
		}
		reset := bounded(s.GetDurationUntilReset().GetSeconds(), s.GetDurationUntilReset().GetNanos())
		after = max(after, reset)
		if len(met) < 3 && len(statuses) == len(descriptors) { // statuses are in the descriptors' order, if at all
			met = append(met, describe(descriptors[i], s.GetCurrentLimit(), reset))
		}
	}
	if len(met) == 0 {
		return after, fmt.Sprintf("rate limit service %s: over the limit of domain %q", c.address, c.domain)
	}
	return after, fmt.Sprintf("rate limit service %s: over the limit of %s", c.address, strings.Join(met, " and of "))
}

// describe is for people: "tenant, method=x.Y/Z (100 per MINUTE, reset in 12s)".
func describe(entries []Entry, limit *rls.RateLimitResponse_RateLimit, reset time.Duration) string {
	var b strings.Builder
	for i, e := range entries {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(short(e.Key))
		if !e.Hidden {
			b.WriteByte('=')
			b.WriteString(short(e.Value))
		}
	}
	var more []string
	if limit != nil {
		more = append(more, fmt.Sprintf("%d per %s", limit.GetRequestsPerUnit(), strings.ToLower(limit.GetUnit().String())))
	}
	if reset > 0 {
		more = append(more, fmt.Sprintf("reset in %v", reset.Round(time.Millisecond)))
	}
	if len(more) > 0 {
		b.WriteString(" (" + strings.Join(more, ", ") + ")")
	}
	return b.String()
}

// short keeps what callers and services made up from filling logs and messages.
func short(s string) string {
	const most = 64
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "..."
	}
	return s
}

// headers keeps the fields that may be sent: the service must be able neither to break the framing nor to change what the
// call means.
func headers(fields []*core.HeaderValue) [][2]string {
	var out [][2]string
	for _, f := range fields {
		if len(out) == maxHeaders {
			break
		}
		name, value := strings.ToLower(f.GetKey()), f.GetValue()
		if value == "" {
			value = string(f.GetRawValue())
		}
		value = strings.Trim(value, " ")
		if httpguts.ValidHeaderFieldName(name) && printable(value) && !reserved(name) {
			out = append(out, [2]string{name, value})
		}
	}
	return out
}

// printable is gRPC's ASCII-Value (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), at a sane length.
func printable(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return value != "" && len(value) <= 4096
}

// reserved are the names that belong to HTTP/2 (RFC 9113, 8.2.2) and to gRPC's protocol.
func reserved(name string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host",
		"content-type", "content-length", "user-agent":
		return true
	}
	return strings.HasPrefix(name, "grpc-")
}
