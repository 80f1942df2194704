package balance

// Reason says why Pick chose what it chose, for spans and metrics.
type Reason uint8

// The reasons.
const (
	ReasonNone              Reason = iota // nothing was chosen: no member is available
	ReasonOnlyOne                         // the cluster has one endpoint
	ReasonP2CLessLoaded                   // of two drawn, the less loaded
	ReasonP2CTie                          // of two drawn neither is less loaded: the one drawn first
	ReasonP2COtherDown                    // of two drawn, the other is down
	ReasonP2COtherAvoided                 // of two drawn, the other failed this call before
	ReasonRoundRobin                      // its turn
	ReasonRoundRobinSkipped               // its turn, after others that are not available, avoided, closed or warming up
	ReasonScanAvailable                   // both drawn were not available: the least loaded of all that are
	ReasonOnlyAvoided                     // one to avoid, because no other is available
	ReasonP2COtherUnhealthy               // of two drawn, the other fails its health check
	ReasonP2COtherEjected                 // of two drawn, the other is ejected
	ReasonP2COtherWarming                 // of two drawn, the other warms up and did not get this one (slow start)
	ReasonP2COtherClosed                  // of two drawn, the other's breaker is open, or it is full
	ReasonOnlyWarming                     // one that warms up, because no other is available
	ReasonPanic                           // it is unhealthy or ejected, but so are too many others (see Group)
	ReasonAllClosed                       // nothing was chosen: of all that are available the breaker is open, or they are full
)

// reasonNames is never written.
var reasonNames = [...]string{
	"none", "only_one", "p2c_less_loaded", "p2c_tie", "p2c_other_down", "p2c_other_avoided", "round_robin",
	"round_robin_skipped", "scan_available", "only_avoided", "p2c_other_unhealthy", "p2c_other_ejected",
	"p2c_other_warming", "p2c_other_closed", "only_warming", "panic", "all_closed",
}

// String is the reason as it appears in spans and metrics: snake case, never changing.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}
