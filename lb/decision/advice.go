package decision

import (
	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/retry"
)

// adviseEndpoints says whom to look at.
func (d *Decision) adviseEndpoints(e *ending) {
	faults := d.faults()
	for i := 0; i < len(faults); i++ {
		f := &faults[i]
		same := []string{f.endpoint}
		for f.of == 1 && i+1 < len(faults) && faults[i+1].how == f.how && faults[i+1].of == 1 {
			i++
			same = append(same, faults[i].endpoint)
		}
		if len(same) > 1 {
			e.advise("Look at the endpoints %s: each of them %s.", join(same), f.how)
		} else {
			e.advise("Look at the endpoint %s: it %s%s.", f.endpoint, f.how, f.share())
		}
	}
	if len(faults) > 0 && d.Status == grpc.OK {
		e.advise("If one fails often, trunkline.cluster.outlierDetection takes it out by itself.")
	}
}

// adviseRetry says what would have had the call retried after a.
func (d *Decision) adviseRetry(e *ending, a *Attempt, why retry.Why) {
	switch why {
	case retry.NoPolicy:
		e.advise("To have such failures retried, give the method a methodConfig[].retryPolicy that lists %v among its retryableStatusCodes.", retryAs(a))
	case retry.NoStatus:
		if d.Hedges && !d.Retries {
			e.advise("If other copies may still succeed after it, list %v in methodConfig[].hedgingPolicy.nonFatalStatusCodes of %s.", a.Status, d.policy())
			return
		}
		e.advise("To have such failures retried, list %v in methodConfig[].retryPolicy.retryableStatusCodes of %s.", retryAs(a), d.policy())
	case retry.NoIdempotency:
		e.advise("If the method may be executed twice, declare it: trunkline.methodPolicy[].idempotent: true, or idempotency_level in its .proto. Trunkline then retries such a failure.")
	case retry.NoPushback, retry.NoPatience:
		e.advise("The server itself decided that (grpc-retry-pushback-ms): nothing of Trunkline's is to be changed.")
	case retry.NoAttempts:
		e.advise("methodConfig[].retryPolicy.maxAttempts bounds the attempts, 5 at most; where every attempt fails, more of them only add load.")
	case retry.NoReplay:
		e.advise("To keep larger requests for a retry, raise trunkline.methodPolicy[].replayBytes.")
	case retry.NoTime:
		e.advise("For a retry to be possible there must be time: give the call more, or the attempts less (trunkline.methodPolicy[].perTryTimeout), or wait less before a retry (retryPolicy.initialBackoff).")
	case retry.NoThrottle:
		e.advise("retryThrottling.maxTokens and .tokenRatio set how many failures there may be before retries stop; first look at why so many calls fail.")
	case retry.NoBudget:
		e.advise("trunkline.cluster.retryBudget.ratio and .burst set how many retries there may be; first look at why so many calls fail.")
	case retry.NoCommit:
		e.advise("Part of the answer was with the caller, so nobody could retry but the caller itself.")
	case retry.NoEndpoint:
		e.advise("There was no other endpoint to send it to: see the state of cluster %s on the admin page.", d.Cluster)
	}
}

// retryAs is the status that a retryPolicy must list for a failure like that of a.
func retryAs(a *Attempt) grpc.Status {
	if a.Evidence == retry.Ambiguous {
		return grpc.Unavailable
	}
	return a.Status
}
