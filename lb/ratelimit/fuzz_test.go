package ratelimit

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Whatever a service answers, the verdict is one of four, its words are short, and its fields can be sent.
func FuzzAnswer(f *testing.F) {
	for _, m := range []*rls.RateLimitResponse{
		{OverallCode: rls.RateLimitResponse_OK},
		{OverallCode: rls.RateLimitResponse_OVER_LIMIT, Statuses: []*rls.RateLimitResponse_DescriptorStatus{
			{Code: rls.RateLimitResponse_OVER_LIMIT, DurationUntilReset: durationpb.New(time.Minute),
				CurrentLimit: &rls.RateLimitResponse_RateLimit{RequestsPerUnit: 5, Unit: 77}},
			{Code: rls.RateLimitResponse_OVER_LIMIT},
		}, ResponseHeadersToAdd: []*core.HeaderValue{{Key: "X-A", Value: " b "}, {Key: "Grpc-Status", RawValue: []byte("0")}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	c, err := New("127.0.0.1:1", "shop", time.Second, true, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		var answer rls.RateLimitResponse
		if proto.Unmarshal(b, &answer) != nil {
			return
		}
		v := c.verdict(tenant, &answer)
		if v.RetryAfter < 0 || v.Over && v.Failed || (v.Why == "") == (v.Over || v.Failed) || len(v.Why) > 2000 {
			t.Fatalf("%+v", v)
		}
		for _, h := range append(v.Headers, v.RequestHeaders...) {
			if h[0] == "" || h[0] != strings.ToLower(h[0]) || strings.ContainsAny(h[0]+h[1], "\r\n\x00") || strings.ContainsAny(h[0], ": ") ||
				strings.HasPrefix(h[0], "grpc-") || h[1] != strings.TrimSpace(h[1]) {
				t.Fatalf("field %q", h)
			}
		}
	})
}
