// Package consul owns turning a Consul catalog into clusters: which services are watched, what their instances look like,
// and what is believed while Consul is away or tells of a sudden emptiness. It must not decide where a call goes, and it
// never emits an emptier set because Consul could not be asked.
//
// One blocking query watches the catalog for services that bear the tag, and one watches the health of each such service
// (https://developer.hashicorp.com/consul/api-docs/features/blocking). Each runs in a goroutine of its own (watch.go) and
// reports to one loop (source.go), which alone holds the state and emits.
//
// What is believed (guard.go): a service that loses at least two, and more than a share, of its endpoints within a second,
// or all of them, keeps the missing ones for a while; that is what a restarted agent looks like. So the deregistration of
// the only instance of a service is believed only after HoldFor; calls to it meanwhile fail at dial.
//
// Documents (documents.go) watches keys of the KV store in the same way, for the policies that are kept there.
//
// Each watched service holds one connection to the agent. Consul's agent admits 200 connections per client address
// (limits.http_max_conns_per_client): raise that limit to watch more services.
package consul
