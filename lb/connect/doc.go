// Package connect owns this process's place in Consul's service mesh (https://developer.hashicorp.com/consul/docs/connect): its
// certificate, the authorities, and the agent's word on intentions; it must not listen, dial endpoints, or refuse calls itself.
//
// The certificate and the authorities come from the agent by blocking queries (/v1/agent/connect/ca/leaf/<service>,
// /v1/agent/connect/ca/roots), each in a goroutine of its own. The agent renews the certificate; what it sends takes the old one's
// place at once, for handshakes that begin after that. All authorities of the agent's list are trusted, whether active or not: during a
// rotation certificates of both are about. While the agent does not answer, what it said last holds on.
//
// Intentions are asked of the agent (/v1/agent/connect/authorize), which judges by services only: where it says that an intention with
// permissions (layer 7) applies, these are read from the destination's configuration (/v1/config/service-intentions/<service>, every two seconds at most) and judged here for
// each call, by its path, method and metadata, as Consul has Envoy do it. What a call may do that no permission matches is the agent's default
// (/v1/agent/self). What cannot be judged here refuses, and says so: permissions that are not understood, tokens (JWT), sameness groups.
// The answer about a pair of services is asked for
// again every five seconds, until nobody has used it for ten minutes, so that a changed intention is obeyed within ten seconds. It is
// kept while the agent does not answer. A pair of which nothing is known is refused then.
//
// An action beside which a destination's intentions ask for a token is refused, too: the agent's word leaves that out. Such a demand at the
// intentions of all destinations ("*") is not seen.
//
// The token needs service:write for Options.Service (its certificate, and intentions towards it) and for every other target that is
// asked about. That holds intentions:read unless the policy says otherwise. agent:read lets it learn the default.
package connect
