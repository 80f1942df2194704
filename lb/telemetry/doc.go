// Package telemetry turns finished calls into metrics, OpenTelemetry traces and one access-log line each, and must not
// take a lock, allocate or call the OpenTelemetry SDK on the path of a call that nobody samples.
//
// It has a hot side and a slow side. The hot side is a [Recorder] per shard, whose plain counters are guarded by that
// shard's own lock, [Endpoint] handles whose counters are atomic, and [Telemetry.StartTrace], which for a call that is not
// sampled parses traceparent or compares one random number. The slow side is one goroutine that builds the spans of sampled
// calls from [CallRecord]s, one that writes the access log, and the scrape, which copies the shards' blocks, merges them
// and hands them to OpenTelemetry as a metric producer.
//
// # Configuration
//
// What [Config] sets wins over the environment; what it leaves zero comes from the standard OTEL_* variables:
// OTEL_EXPORTER_OTLP_[TRACES_]{ENDPOINT,PROTOCOL,HEADERS,INSECURE,CERTIFICATE,CLIENT_CERTIFICATE,CLIENT_KEY,COMPRESSION,TIMEOUT},
// OTEL_TRACES_EXPORTER (otlp or none), OTEL_TRACES_SAMPLER and its _ARG, OTEL_PROPAGATORS, OTEL_SERVICE_NAME,
// OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_* and OTEL_SPAN_*. Without an endpoint in either place (and without
// OTEL_TRACES_EXPORTER=otlp, which means the collector on localhost) tracing is off. OTEL_SDK_DISABLED=true turns tracing
// off whatever else says; the metrics page stays, it is part of the product. Metrics are pulled: OTEL_METRICS_EXPORTER is
// not read.
//
// Three defaults differ from the SDK's: the protocol is grpc; the sampler is parent-based with a ratio of [DefaultSampleRatio]
// (the SDK's 1 would trace every call of a data plane); and spans wait for a slow collector in a queue that drops (counted)
// rather than blocks.
//
// # Metrics
//
// Labels are bounded: a method has a series only if the route table knows it, up to [MaxMethods], and all others share
// method="_other"; endpoints that are forgotten disappear.
//
//	trunkline_calls_total{method,status,origin}         calls finished, by gRPC status name; origin is upstream or local
//	trunkline_outcomes_total{outcome}                   calls finished, by why and where they ended ("OK", "UH", "DC", ...)
//	trunkline_attempts_total{method}                    tries on endpoints; more than the calls when there were retries
//	trunkline_call_duration_seconds{method}             histogram: seen by the client
//	trunkline_upstream_duration_seconds{method}         histogram: of the upstream; calls that reached one
//	trunkline_added_duration_seconds{method}            histogram: what Trunkline itself added
//	trunkline_streams_open{method}                      calls under way
//	trunkline_messages_total{method,direction}          messages; direction is request or response
//	trunkline_message_bytes_total{method,direction}     bytes of DATA relayed
//	trunkline_endpoint_picks_total{cluster,endpoint}    times the picker chose the endpoint
//	trunkline_endpoint_streams{cluster,endpoint}        calls under way on the endpoint
//	trunkline_endpoint_available{cluster,endpoint}      1 if it may be picked, 0 if it is out
//	trunkline_endpoint_dial_failures_total{cluster,endpoint}
//	trunkline_upstream_connections{cluster,endpoint}    open connections to the endpoint
//	trunkline_downstream_connections                    open client connections
//	trunkline_listener_accepted_total{listener}         connections taken
//	trunkline_listener_refused_total{listener,reason}   connections turned away before their first call: max_connections, max_connections_per_address, proxy_header, cut_off_before, unused_connections
//	trunkline_listener_cut_off_total{listener,reason}   connections cut off for abuse of HTTP/2: resets, idle_frames, refused_calls, slow, held, other
//	trunkline_tls_handshakes_total{listener,result}     handshakes with clients: full, resumed or failed
//	trunkline_tls_certificate_left_seconds{name,where}  until a certificate that is shown expires; negative afterwards
//	trunkline_cluster_endpoints{cluster}                endpoints in the snapshot in use
//	trunkline_discovery_stale_seconds{cluster}          age of a snapshot whose source does not answer; 0 when fresh
//	trunkline_discovery_lag_seconds                     last change: from seen by the source to used for picks
//	trunkline_retries_total{cluster,reason}             attempts that followed a failed one, by why ("status", "refused", "never_sent", ...)
//	trunkline_retries_denied_total{cluster,reason}      failed attempts that no other followed ("budget_exhausted", "not_idempotent", ...)
//	trunkline_hedges_total{cluster}                     attempts sent beside one under way
//	trunkline_hedges_denied_total{cluster,reason}       hedges that were due and not sent
//	trunkline_limited_total{cluster,kind}               calls turned away: rate_limit, concurrency, queue, breaker, overload, ...
//	trunkline_breaker_open{cluster,endpoint,method,state} 1 for each breaker that is open or half_open; method="" is the endpoint's roll-up; at most 1,000
//	trunkline_breaker_opened_total{cluster}             times that a breaker opened
//	trunkline_endpoint_healthy{cluster,endpoint}        0 if its active check fails
//	trunkline_endpoint_ejected{cluster,endpoint}        1 if outlier detection has taken it out
//	trunkline_endpoint_ejections_total{cluster,endpoint}
//	trunkline_endpoint_warm{cluster,endpoint}           share of its weight while it warms up; 1 otherwise
//	trunkline_cluster_panic{cluster}                    1 if too few endpoints are healthy and all are picked from
//	trunkline_budget_tokens{cluster,budget}             what is left; budget is retry, hedge or throttle
//	trunkline_concurrency_in_use{cluster,kind}          calls that count against a limit of calls at once
//	trunkline_concurrency_limit{cluster,kind}           the limit; kind is cluster or adaptive
//	trunkline_concurrency_waiting{cluster,kind}         calls that wait for a place
//	trunkline_service_config_refused{cluster}           1 if the newest service config was refused and an older one is in force
//	trunkline_shadow_calls_total{cluster}               calls compared with what the shadow policies would have done
//	trunkline_shadow_differing_total{cluster,kind}      of these, whose outcome would have differed
//	trunkline_shadow_refusals_total{cluster,reason}     what rules in shadow (authorization, externalAuthorization, payload) would have refused, by rule
//	trunkline_overload_shedding                         1 while Trunkline is overloaded and refuses new calls
//	trunkline_config_generation                         number of the configuration in use
//	trunkline_config_rejected_total                     reloads refused as invalid
//	trunkline_methods                                   methods that have series of their own
//	trunkline_spans_exported_total                      spans that the collector took
//	trunkline_spans_dropped_total{reason}               spans lost: queue_full or export_failed
//	trunkline_access_log_dropped_total                  access-log lines lost because the writer was too slow
//
// Beside these the page has target_info (the OpenTelemetry resource) and the usual go_* and process_* series.
//
// # Traces
//
// A sampled call is one SERVER span and one CLIENT span per attempt, named pkg.Service/Method, by the RPC semantic
// conventions 1.43 (rpc.system.name, rpc.method fully qualified, rpc.response.status_code by name, error.type). The three
// older names that dashboards still read, rpc.system, rpc.service and rpc.grpc.status_code, are set too. Trunkline's own
// attributes begin with "trunkline.". The SERVER span has an event for each decision: lb.pick, lb.retry, lb.hedge, lb.reject. What goes upstream is the attempt's context; tracestate and baggage pass untouched.
package telemetry
