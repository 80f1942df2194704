package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	retryFirst = 100 * time.Millisecond
	retryMax   = 10 * time.Second // of a service's watch; see recovery
	retryScout = time.Second      // of the catalog's, or without one of the services': who finds out that Consul is back

	// A watch may put rateBurst questions in a row and one per rateEvery after that. What changes faster than that is
	// seen as its latest state.
	rateBurst = 5
	rateEvery = 200 * time.Millisecond
)

// agent is whom the watches of one Source, or of one Documents, ask.
type agent struct {
	options   Options      // set once in newAgent
	client    *api.Client  // set once in newAgent
	http      *http.Client // what client sends by. set once in newAgent
	token     *token       // set once in newAgent
	recovered recovery     // shared by the watches
}

// newAgent does not talk to Consul, but it reads TLS files, the token file and the environment. o has its defaults.
func newAgent(o Options) (*agent, error) {
	client, sender, err := o.client()
	if err != nil {
		return nil, err
	}
	return &agent{options: o, client: client, http: sender, token: &token{path: o.TokenFile, log: o.Logger}}, nil
}

// answer is what one question brought; exactly one of value and err counts.
type answer[T any] struct {
	value T
	err   error
	index uint64
	at    time.Time // when the answer was complete
}

// ask puts one question; it must hand q to Consul and return promptly when ctx ends.
type ask[T any] func(ctx context.Context, q *api.QueryOptions) (T, *api.QueryMeta, error)

// watch repeats a blocking query until ctx ends, and tells of each answer and each failure. After failures it pauses for at
// most longest.
func watch[T any](ctx context.Context, from *agent, longest time.Duration, question ask[T], tell func(answer[T])) {
	var index uint64
	failures := 0
	bucket := bucket{tokens: rateBurst}
	for ctx.Err() == nil {
		value, meta, err := query(ctx, from, index, question)
		if ctx.Err() != nil {
			return
		}
		a := answer[T]{value: value, err: err, at: time.Now()}
		if err != nil {
			// Whoever answers next may be a restarted agent that counts from the beginning: to wait for the old index
			// there could take a whole Wait. The next question takes what there is.
			index = 0
			tell(a)
			if !from.recovered.pause(ctx, backoff(longest, failures)) {
				return
			}
			failures++
			continue
		}
		if failures > 0 {
			from.recovered.tell()
		}
		failures = 0
		a.index = meta.LastIndex
		tell(a)
		switch {
		case meta.LastIndex < index: // it went backwards: start anew
			index = 0
		default:
			// An index of 0 cannot be waited for. It is a bug of Consul's that did happen, and makes this a slow poll.
			index = meta.LastIndex
		}
		pause := bucket.take(time.Now())
		if index == 0 && meta.LastIndex == 0 {
			pause = max(pause, time.Second)
		}
		if pause > 0 && !sleep(ctx, pause) {
			return
		}
	}
}

// query puts one question within its time: Consul adds up to a sixteenth to the wait, and the rest is for the way.
func query[T any](ctx context.Context, from *agent, index uint64, question ask[T]) (T, *api.QueryMeta, error) {
	limit := 10 * time.Second
	q := &api.QueryOptions{
		AllowStale: from.options.Stale, RequireConsistent: from.options.Consistent, Token: from.token.current(false), WaitIndex: index,
	}
	if index > 0 {
		// Jittered, so that the watches of one process do not all come back at once.
		q.WaitTime = from.options.Wait - rand.N(from.options.Wait/8+1)
		limit += q.WaitTime + q.WaitTime/16
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit.Round(time.Second)))
	defer cancel()
	value, meta, err := question(ctx, q.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.DeadlineExceeded) {
			err = cause
		}
		var code api.StatusError
		if errors.As(err, &code) && code.Code == http.StatusForbidden {
			from.token.current(true)
		}
		return value, nil, tidy(err)
	}
	if from.options.Stale && !meta.KnownLeader {
		return value, nil, errors.New("the server that answered a stale read knows no leader")
	}
	return value, meta, nil
}

// tidy takes the question's URL and local port out of an error, so that the same trouble reads the same each time.
func tidy(err error) error {
	var code api.StatusError
	if errors.As(err, &code) {
		body := strings.Join(strings.Fields(code.Body), " ")
		return fmt.Errorf("HTTP %d: %.200s", code.Code, body)
	}
	for {
		text := err.Error()
		inner := errors.Unwrap(err)
		if inner == nil || !strings.HasPrefix(text, "Get \"") && !strings.HasPrefix(text, "read tcp") && !strings.HasPrefix(text, "write tcp") {
			return err
		}
		err = inner
	}
}

// backoff doubles from retryFirst to longest, and of that is a random half to whole.
func backoff(longest time.Duration, failures int) time.Duration {
	d := longest
	if failures < 20 && retryFirst<<failures < longest {
		d = retryFirst << failures
	}
	return d/2 + rand.N(d/2+1)
}

// bucket bounds a watch's rate.
type bucket struct {
	tokens float64
	at     time.Time
}

// take returns how long to wait before the next question.
func (b *bucket) take(now time.Time) time.Duration {
	if !b.at.IsZero() {
		b.tokens = min(rateBurst, b.tokens+float64(now.Sub(b.at))/float64(rateEvery))
	}
	b.at = now
	b.tokens--
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens * float64(rateEvery))
}

// recovery lets the watches that wait out a backoff know that another one got its answer.
type recovery struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu; closed when somebody recovers
}

func (r *recovery) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ch == nil {
		r.ch = make(chan struct{})
	}
	return r.ch
}

func (r *recovery) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ch != nil {
		close(r.ch)
		r.ch = nil
	}
}

// pause waits for d, or until somebody recovers and then a moment, so that not all come at once. false: ctx ended first.
func (r *recovery) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.wait():
		return sleep(ctx, min(d, rand.N(retryFirst)))
	case <-ctx.Done():
		return false
	}
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
