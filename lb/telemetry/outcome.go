package telemetry

import "strconv"

// Outcome says why and where a call ended, in Envoy's letters. It is finer than the status: UNAVAILABLE can be UH, UF, UC ...
type Outcome uint8

// The outcomes. OutcomeOK means that the stream ran to its end, whatever its status.
const (
	OutcomeOK                      Outcome = iota
	OutcomeNoRoute                         // NR
	OutcomeNoHealthyUpstream               // UH
	OutcomeUpstreamConnectFailure          // UF
	OutcomeUpstreamOverflow                // UO: circuit breaker
	OutcomeUpstreamConnectionEnd           // UC
	OutcomeUpstreamReset                   // UR
	OutcomeUpstreamTimeout                 // UT: deadline or per-try timeout
	OutcomeRetryLimit                      // URX
	OutcomeDownstreamEnd                   // DC: the client cancelled or went away
	OutcomeDownstreamProtocolError         // DPE
	OutcomeUpstreamProtocolError           // UPE
	OutcomeRateLimited                     // RL
	OutcomeUnauthorized                    // UAEX
	OutcomeOverloaded                      // OM: out of a memory or stream budget
	OutcomeLocalReset                      // LR: reset by Trunkline, e.g. when the drain time is over
	outcomes                               // their number
)

// String returns the letters, "OK" for [OutcomeOK].
func (o Outcome) String() string {
	letters := [outcomes]string{"OK", "NR", "UH", "UF", "UO", "UC", "UR", "UT", "URX", "DC", "DPE", "UPE", "RL", "UAEX", "OM", "LR"}
	if o < outcomes {
		return letters[o]
	}
	return "Outcome(" + strconv.Itoa(int(o)) + ")"
}

// statusSlots is one per gRPC status, 0 to 16, and one for numbers that gRPC does not know.
const statusSlots = 18

// statusName returns the upper-case name of a gRPC status, and its decimal digits when gRPC has no name for it.
func statusName(status uint32) string {
	names := [statusSlots - 1]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if status < uint32(len(names)) {
		return names[status]
	}
	return strconv.FormatUint(uint64(status), 10)
}

// slotName is statusName for a metric label: all numbers without a name share one, so that upstreams cannot grow the series.
func slotName(slot int) string {
	if slot >= statusSlots-1 {
		return "_other"
	}
	return statusName(uint32(slot))
}

// origin says who made the status.
func origin(local bool) string {
	if local {
		return "local"
	}
	return "upstream"
}
