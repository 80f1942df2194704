package main

import "strings"

// workload is one row of the table.
type workload struct {
	name, title string
	spec        spec
	bulk        bool    // peers tuned for large messages; figures per MiB
	limit       float64 // of HAProxy's CPU that Trunkline may take (issue 2); 0: none
	optional    bool    // only when asked for by name
}

// workloads are those of shared/performance.md. W1 to W3 and W5 come with h2load's
// header habits, W6 and W7 with grpc-go's. W5 is behind TLS; the endpoints never are.
var workloads = []workload{
	{name: "W1", title: "4 connections x 100 streams, saturating", limit: 0.25,
		spec: spec{conns: 4, streams: 100, method: methodPing, style: styleH2load}},
	{name: "W2", title: "200 x 2, saturating", limit: 0.50,
		spec: spec{conns: 200, streams: 2, method: methodPing, style: styleH2load}},
	{name: "W3", title: "50 x 1, Poisson, 5,000 calls/s", limit: 0.90,
		spec: spec{conns: 50, streams: 1, rate: 5000, method: methodPing, style: styleH2load}},
	{name: "W3h", title: "50 x 1, Poisson, 20,000 calls/s", limit: 0.90,
		spec: spec{conns: 50, streams: 1, rate: 20000, method: methodPing, style: styleH2load}},
	{name: "W4d", title: "1 MiB downloads, 4 x 2", limit: 0.80, bulk: true,
		spec: spec{conns: 4, streams: 2, method: methodDownload, style: styleGRPC, window: bulkWindow}},
	{name: "W4u", title: "1 MiB uploads, 4 x 2", limit: 0.80, bulk: true,
		spec: spec{conns: 4, streams: 2, method: methodUpload, style: styleGRPC, window: bulkWindow}},
	{name: "W5", title: "W1 behind TLS", limit: 0.25,
		spec: spec{conns: 4, streams: 100, method: methodPing, style: styleH2load, tls: true}},
	{name: "W5b", title: "W2 behind TLS", limit: 0.50,
		spec: spec{conns: 200, streams: 2, method: methodPing, style: styleH2load, tls: true}},
	{name: "W5d", title: "1 MiB downloads behind TLS, 4 x 2", limit: 1, bulk: true,
		spec: spec{conns: 4, streams: 2, method: methodDownload, style: styleGRPC, window: bulkWindow, tls: true}},
	{name: "W5u", title: "1 MiB uploads behind TLS, 4 x 2", limit: 1, bulk: true,
		spec: spec{conns: 4, streams: 2, method: methodUpload, style: styleGRPC, window: bulkWindow, tls: true}},
	{name: "W5f", title: "full TLS 1.3 handshakes, ECDSA P-256, X25519",
		spec: spec{conns: 16, tls: true, shakes: full}},
	{name: "W5q", title: "W5f with X25519MLKEM768, which not every peer has", optional: true,
		spec: spec{conns: 16, tls: true, shakes: full, hybrid: true}},
	{name: "W5r", title: "resumed TLS 1.3 handshakes",
		spec: spec{conns: 16, tls: true, shakes: resumed}},
	{name: "W6", title: "W1 with grpc-timeout, traceparent, x-request-id varying", limit: 0.25,
		spec: spec{conns: 4, streams: 100, method: methodPing, style: styleGRPC, vary: vary{timeout: true, ids: true}}},
	{name: "W7", title: "20 x 10, grpc-timeout varies", limit: 0.35,
		spec: spec{conns: 20, streams: 10, method: methodPing, style: styleGRPC, vary: vary{timeout: true}}},
	{name: "W1g", title: "W1 with grpc-go's header habits", limit: 0.25, optional: true,
		spec: spec{conns: 4, streams: 100, method: methodPing, style: styleGRPC}},
	{name: "5k", title: "5,000 connections x 1, saturating", optional: true,
		spec: spec{conns: 5000, streams: 1, method: methodPing, style: styleH2load}},
}

func workloadNamed(name string) *workload {
	for i := range workloads {
		if strings.EqualFold(workloads[i].name, name) {
			return &workloads[i]
		}
	}
	return nil
}
