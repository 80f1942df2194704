package retry

// Why is the reason of a [Decision].
type Why uint8

// The reasons. Decide does not return NoCommit and NoEndpoint: they are for its callers, who find them before or after asking.
const (
	WhyNone                  Why = iota // nothing was decided
	RetryUnsent                         // never sent: sent now
	RetryRefused                        // refused unprocessed: re-dispatched
	RetryStatus                         // failed with a status that the policy lists
	RetryPushback                       // the same, when the server said it should be
	RetryAmbiguousIdempotent            // perhaps executed, and declared idempotent
	NoFailure                           // it did not fail
	NoOwn                               // Trunkline's own refusal
	NoPolicy                            // no retryPolicy holds for the method
	NoStatus                            // the policy does not list the status
	NoIdempotency                       // perhaps executed, and not declared idempotent
	NoPushback                          // the server forbids
	NoAttempts                          // as many as there may be were made
	NoReplay                            // the request is not kept any more
	NoPatience                          // the server's pushback is longer than a proxy waits
	NoTime                              // the deadline comes before the retry would
	NoThrottle                          // retryThrottling: too many failures lately
	NoBudget                            // the cluster's retry budget is spent
	NoCommit                            // part of the response has gone to the caller
	NoEndpoint                          // nobody is left to send it to
)

// whys is never written.
var whys = [...]struct{ code, text string }{
	WhyNone:                  {"", ""},
	RetryUnsent:              {"never_sent", "sent again: it had never left"},
	RetryRefused:             {"refused", "sent again: it was refused unprocessed"},
	RetryStatus:              {"status", "retried: the policy lists the status"},
	RetryPushback:            {"pushback", "retried when the server asked for it"},
	RetryAmbiguousIdempotent: {"ambiguous_idempotent", "retried: it may have been executed, but the method is idempotent"},
	NoFailure:                {"no_failure", "not retried: it did not fail"},
	NoOwn:                    {"own_refusal", "not retried: Trunkline refused it itself"},
	NoPolicy:                 {"no_policy", "not retried: no retryPolicy holds for the method"},
	NoStatus:                 {"status_not_retryable", "not retried: the status is not among retryableStatusCodes"},
	NoIdempotency:            {"not_idempotent", "not retried: it may have been executed, and the method is not declared idempotent"},
	NoPushback:               {"pushback_forbids", "not retried: the server's pushback forbids it"},
	NoAttempts:               {"attempts_exhausted", "not retried: all attempts were made"},
	NoReplay:                 {"not_replayable", "not retried: the request is not kept any more"},
	NoPatience:               {"pushback_too_long", "not retried: the server's pushback is too long to wait for here"},
	NoTime:                   {"no_time", "not retried: the deadline comes first"},
	NoThrottle:               {"throttled", "not retried: retryThrottling holds retries back after too many failures"},
	NoBudget:                 {"budget_exhausted", "not retried: the cluster's retry budget is spent"},
	NoCommit:                 {"committed", "not retried: part of the response had gone to the caller"},
	NoEndpoint:               {"no_endpoint", "not retried: no endpoint is left to send it to"},
}

// String is the reason in words, for people; empty for WhyNone.
func (w Why) String() string {
	if int(w) < len(whys) {
		return whys[w].text
	}
	return "unknown"
}

// Code is the reason as one word, for spans and metrics: a fixed, small set.
func (w Why) Code() string {
	if int(w) < len(whys) {
		return whys[w].code
	}
	return "unknown"
}
