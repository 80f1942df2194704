package connect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	longestWait = time.Minute            // that the agent holds a question, jittered
	answerLimit = 10 * time.Second       // for an answer that need not wait, and for the way
	retryFirst  = 100 * time.Millisecond // after a failure; doubles, jittered
	retryMax    = 10 * time.Second
	betweenAsks = 500 * time.Millisecond // after an answer: what changes faster is seen as its latest state
)

// watch repeats a blocking query until i is closed (https://developer.hashicorp.com/consul/api-docs/features/blocking).
func watch[T any](i *Identity, which int, ask func(*api.QueryOptions) (T, *api.QueryMeta, error), take func(T) error) {
	var index uint64
	for failures := 0; ; {
		value, now, err := query(i.ctx, index, ask)
		if i.ctx.Err() != nil {
			return
		}
		if err == nil {
			err = take(value)
		}
		i.note(which, err)
		pause := betweenAsks
		switch {
		case err != nil:
			// Whoever answers next may be a restarted agent that counts from the beginning.
			index = 0
			pause = backoff(failures)
			failures++
		case now < index: // it went backwards: start anew
			index, failures = 0, 0
		default:
			index, failures = now, 0
			if now == 0 { // which cannot be waited for
				pause = retryMax
			}
		}
		if !sleep(i.ctx, pause) {
			return
		}
	}
}

// query puts one question within its time: Consul adds up to a sixteenth to the wait.
func query[T any](ctx context.Context, index uint64, ask func(*api.QueryOptions) (T, *api.QueryMeta, error)) (T, uint64, error) {
	q := &api.QueryOptions{WaitIndex: index}
	limit := answerLimit
	if index > 0 {
		q.WaitTime = longestWait - rand.N(longestWait/8)
		limit += q.WaitTime + q.WaitTime/16
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit.Round(time.Second)))
	defer cancel()
	value, meta, err := ask(q.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.DeadlineExceeded) {
			err = cause
		}
		return value, 0, tidy(err)
	}
	return value, meta.LastIndex, nil
}

// tidy takes the question's URL out of an error, and line ends and length out of the agent's.
func tidy(err error) error {
	var code api.StatusError
	if errors.As(err, &code) {
		return fmt.Errorf("HTTP %d: %.200s", code.Code, strings.Join(strings.Fields(code.Body), " "))
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if text := inner.Error(); !strings.HasPrefix(text, "Get \"") && !strings.HasPrefix(text, "Post \"") {
			return inner
		}
	}
	return err
}

// backoff is a random half to whole of what doubles with each failure.
func backoff(failures int) time.Duration {
	d := min(retryFirst<<min(failures, 10), retryMax)
	return d/2 + rand.N(d/2+1)
}

// sleep waits for d; false: ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
