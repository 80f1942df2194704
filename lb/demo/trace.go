package demo

import (
	"context"
	"fmt"
	"net/url"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// overHTTP says whether an OTLP URL means the HTTP protocol: its own port is 4318, gRPC's is 4317.
func overHTTP(otlp string) bool {
	u, err := url.Parse(otlp)
	return err == nil && u.Port() == "4318"
}

// newTraces makes the spans of one of the demo's processes-in-play, as service names it, go to an OTLP receiver. The
// caller shuts it down.
func newTraces(ctx context.Context, otlp, service string) (*trace.TracerProvider, error) {
	u, err := url.Parse(otlp)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("--otlp %q is not a URL: write http://host:4317 (gRPC) or http://host:4318 (HTTP)", otlp)
	}
	var client otlptrace.Client
	if overHTTP(otlp) {
		client = otlptracehttp.NewClient(otlptracehttp.WithEndpointURL(u.JoinPath("v1/traces").String()))
	} else {
		client = otlptracegrpc.NewClient(otlptracegrpc.WithEndpointURL(otlp))
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("--otlp %s: %w", otlp, err)
	}
	return trace.NewTracerProvider(trace.WithBatcher(exporter),
		trace.WithResource(resource.NewSchemaless(attribute.String("service.name", service)))), nil
}
