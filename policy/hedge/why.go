package hedge

// Why is the reason of a [Decision].
type Why uint8

// The reasons. Decide does not return NoEndpoint: it is for its caller, who picks after asking.
const (
	WhyNone       Why = iota // nothing was decided
	SendSlow                 // no answer yet
	SendFailed               // the others failed, not fatally
	NoPolicy                 // no hedgingPolicy holds for the method
	NoIdempotency            // the method is not declared idempotent
	NoMore                   // a fatal status, or the server forbids
	NoAttempts               // as many as there may be were sent
	NoReplay                 // the request is not kept any more
	NoTime                   // the deadline has come
	NoThrottle               // retryThrottling: too many failures lately
	NoBudget                 // the cluster's hedge budget is spent
	NoEndpoint               // nobody else is left to send it to
)

// whys is never written.
var whys = [...]struct{ code, text string }{
	WhyNone:       {"", ""},
	SendSlow:      {"slow", "hedged: there was no answer within the delay"},
	SendFailed:    {"failed", "hedged: the other attempts had failed"},
	NoPolicy:      {"no_policy", "not hedged: no hedgingPolicy holds for the method"},
	NoIdempotency: {"not_idempotent", "not hedged: the method is not declared idempotent"},
	NoMore:        {"no_more", "not hedged: a fatal status came, or the server's pushback forbids it"},
	NoAttempts:    {"attempts_exhausted", "not hedged: all attempts were sent"},
	NoReplay:      {"not_replayable", "not hedged: the request is not kept any more"},
	NoTime:        {"no_time", "not hedged: the deadline had come"},
	NoThrottle:    {"throttled", "not hedged: retryThrottling holds hedges back after too many failures"},
	NoBudget:      {"budget_exhausted", "not hedged: the cluster's hedge budget is spent"},
	NoEndpoint:    {"no_endpoint", "not hedged: no other endpoint is left to send it to"},
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
