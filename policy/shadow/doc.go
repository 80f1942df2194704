// Package shadow owns the comparison of what happened to a call with what would have happened under another policy; it
// must not influence calls.
//
// A [Policy] is the shadow of what holds for a method. It is told of finished calls, goes through each as its own rules
// would have, and says where the two part. Up to there it knows what would have happened, for it did happen; there it says what the
// shadow would have done; and of what would have come of that it says that nobody knows, unless it ends the call. A call that would
// have been refused by the shadow is a known outcome; one that would have been retried is not.
//
// What makes it inexact, and is not hidden:
//
//   - Its rate limits, breakers and budgets only see the calls that reached Trunkline under the live policy, in the order in which
//     they ended. A caller who had been refused might have come back.
//   - Waits between attempts are taken as they were, though the shadow's backoff may be another.
//   - Of calls that were hedged it says little: their copies ran beside each other.
//   - What cannot be seen in finished calls at all is not judged; [Policy.Unjudged] names it.
package shadow
