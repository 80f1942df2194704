package decision

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// told is an event in one line.
func told(d *Decision) (out []string) {
	for _, e := range d.Events() {
		s := fmt.Sprintf("%v %s %d", e.At.Sub(time.Unix(0, d.Arrived)), e.Name, e.Attempt)
		for _, kv := range e.Attrs {
			s += fmt.Sprintf(" %s=%s", kv.Key[len("trunkline."):], kv.Value.String())
		}
		out = append(out, s)
	}
	return out
}

func TestARecordsDecisionsAreSpanEvents(t *testing.T) {
	all := stories()
	for name, want := range map[string][]string{
		"ok": {"50µs lb.pick 0 endpoint=10.0.0.2:7001 pick.reason=p2c_less_loaded attempt.kind=first pick.candidates=3 pick.load=2 attempt.given_ms=2000"},
		"retried": {
			`50µs lb.pick 0 endpoint=10.0.0.3:7001 pick.reason=p2c_less_loaded attempt.kind=first pick.candidates=3 pick.load=0 pick.unavailable=["10.0.0.1:7001 ejected"] attempt.given_ms=2000`,
			"12ms lb.retry 0 retry.reason=status attempt.evidence=status attempt.status=UNAVAILABLE retry.sent=true wait_ms=20",
			`32ms lb.pick 1 endpoint=10.0.0.2:7001 pick.reason=p2c_other_avoided attempt.kind=retry pick.candidates=3 pick.load=2 pick.unavailable=["10.0.0.1:7001 ejected"] attempt.given_ms=1968`,
		},
		"retry_budget_empty": {
			"50µs lb.pick 0 endpoint=10.0.0.3:7001 pick.reason=p2c_less_loaded attempt.kind=first pick.candidates=3 pick.load=0 attempt.given_ms=2000",
			"12ms lb.retry 0 retry.reason=budget_exhausted attempt.evidence=status attempt.status=UNAVAILABLE retry.sent=false",
		},
		"hedged": {
			"50µs lb.pick 0 endpoint=10.0.0.3:7001 pick.reason=p2c_less_loaded attempt.kind=first pick.candidates=3 pick.load=0 attempt.given_ms=1999.95",
			"50ms lb.hedge 1 hedge.sent=true wait_ms=50",
			"50ms lb.pick 1 endpoint=10.0.0.2:7001 pick.reason=p2c_less_loaded attempt.kind=hedge pick.candidates=3 pick.load=1 attempt.given_ms=1950",
		},
		"not_hedged": {
			"50µs lb.pick 0 endpoint=10.0.0.2:7001 pick.reason=p2c_less_loaded attempt.kind=first pick.candidates=3 attempt.given_ms=1999.95",
			"50ms lb.hedge 0 hedge.sent=false hedge.reason=not_idempotent",
		},
		"breaker_open": {"0s lb.reject -1 reject.kind=breaker reject.reason=" + all["breaker_open"].Notes()[0].String()},
		"no_route":     {"50µs lb.reject -1 reject.kind=NO_ROUTE reject.reason=" + all["no_route"].Message},
	} {
		if got := told(all[name]); !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, want)
		}
	}
}
