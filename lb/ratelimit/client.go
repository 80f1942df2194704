// Package ratelimit owns the questions to a rate limit service of Envoy's protocol (envoy.service.ratelimit.v3,
// https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto): what replicas may do together; it must
// not refuse calls itself, keep them waiting longer than its timeout, or decide what is asked.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	extensions "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// maxInFlight bounds the questions on the way, and so the goroutines and memory that a service which hangs can hold: at the
// default timeout of 20 ms it is enough for 50,000 questions per second to a service that never answers.
const maxInFlight = 1000

// maxAnswer is the longest answer in bytes that is read. A real one has some hundred.
const maxAnswer = 64 << 10

// tellEvery is the least number of seconds between two lines in the log about failures.
const tellEvery = 10

// Entry is one key and value of a descriptor.
type Entry struct {
	Key, Value string
	Hidden     bool // the value is for the service only: it may be a secret
}

// Verdict is what became of a question. If neither Over nor Failed is set the service said yes.
type Verdict struct {
	// Over means that the call is to be refused: the service said so, or it failed and failing closed is configured.
	Over bool
	// Failed means that the service gave no sensible answer; whether the call passes is in Over.
	Failed bool
	// Why says in words what was said, by whom, or what failed and what follows. Empty for a plain yes.
	Why string
	// RetryAfter is how long until the last of the limits that were met is reset; 0: not said.
	RetryAfter time.Duration
	// Headers are fields that the service wants on the response to the caller, names in lower case, safe to send.
	Headers [][2]string
	// RequestHeaders are fields that it wants on the request that goes upstream.
	RequestHeaders [][2]string
}

// Client asks one service. It is shared by shards.
type Client struct {
	address, domain string        // set once in New
	timeout         time.Duration // set once in New
	failOpen        bool          // set once in New
	max             int64         // set once in New
	log             *slog.Logger  // set once in New
	conn            *grpc.ClientConn
	service         rls.RateLimitServiceClient
	ctx             context.Context // of all questions. set once in New
	cancel          context.CancelFunc

	holders atomic.Int64  // goroutines of questions, and one until Close; at 0 it is over. atomic
	gone    chan struct{} // closed when holders is 0
	closing atomic.Bool   // atomic

	inFlight, asked, over, failed atomic.Int64 // atomic
	down                          atomic.Bool  // the last question failed. atomic
	told                          atomic.Bool  // the log says that it fails. atomic
	toldAt                        atomic.Int64 // when, in Unix seconds. atomic
}

// New makes a client of the service at address (host:port, without TLS). It connects when it is first asked. The error is
// about an address that cannot be understood.
func New(address, domain string, timeout time.Duration, failOpen bool, log *slog.Logger) (*Client, error) {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial),
		// The waits of grpc-go's default grow to two minutes: too long not to notice that a limit service is back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithIdleTimeout(0), // a question after a pause must not pay for a connection within its 20 ms
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // each question counts a hit: asking twice would count two
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("rate limit service %q: %w", address, err)
	}
	c := &Client{address: address, domain: domain, timeout: timeout, failOpen: failOpen, max: maxInFlight, log: log,
		conn: conn, service: rls.NewRateLimitServiceClient(conn), gone: make(chan struct{})}
	c.holders.Store(1)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// dial bounds how long sent bytes may stay unacknowledged: a service that vanished without a word is noticed by its
// questions within seconds, not by the kernel's quarter of an hour, and without pings that servers punish.
func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			// Best effort: without it everything works, only slower.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 5000)
		})
	}}
	return d.DialContext(ctx, "tcp", address)
}

// Close ends all questions (their done is called, as failed) and returns when the last done has returned. It must not be
// called where done could wait for the caller, as inside a shard.
func (c *Client) Close() {
	c.cancel()
	if c.closing.CompareAndSwap(false, true) {
		c.release()
	}
	<-c.gone
	_ = c.conn.Close() // it can only say that it is closed already
}

// hold enters one more goroutine, unless all have left for good. Without a lock: Ask is called inside a shard.
func (c *Client) hold() bool {
	for n := c.holders.Load(); n > 0 && !c.closing.Load(); n = c.holders.Load() {
		if c.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (c *Client) release() {
	if c.holders.Add(-1) == 0 {
		close(c.gone)
	}
}

// Ask asks whether one more call with these descriptors may pass, and calls done with the verdict: exactly once, always
// from another goroutine, at the latest a moment after the timeout. Ask itself never blocks. The descriptors belong to the
// client until done is called.
func (c *Client) Ask(descriptors [][]Entry, done func(Verdict)) {
	if len(descriptors) == 0 { // nothing to limit; a service would call it an error
		go done(Verdict{})
		return
	}
	c.asked.Add(1)
	if !c.hold() {
		go done(c.fail("the client is closed"))
		return
	}
	go func() {
		defer c.release()
		done(c.question(descriptors))
	}()
}

func (c *Client) question(descriptors [][]Entry) Verdict {
	defer c.inFlight.Add(-1)
	if c.inFlight.Add(1) > c.max {
		return c.fail(fmt.Sprintf("%d questions are on the way already, and no more are asked at once", c.max))
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	request := &rls.RateLimitRequest{Domain: c.domain, Descriptors: make([]*extensions.RateLimitDescriptor, 0, len(descriptors))}
	for _, entries := range descriptors {
		d := &extensions.RateLimitDescriptor{Entries: make([]*extensions.RateLimitDescriptor_Entry, 0, len(entries))}
		for _, e := range entries {
			// Bytes that are no UTF-8 cannot be sent, and must not be a way to make a question fail and so pass.
			value := strings.ToValidUTF8(e.Value, "\uFFFD")
			d.Entries = append(d.Entries, &extensions.RateLimitDescriptor_Entry{Key: e.Key, Value: value})
		}
		request.Descriptors = append(request.Descriptors, d)
	}
	answer, err := c.service.ShouldRateLimit(ctx, request)
	if err != nil {
		return c.fail(c.cause(err))
	}
	return c.verdict(descriptors, answer)
}

// verdict reads an answer.
func (c *Client) verdict(descriptors [][]Entry, answer *rls.RateLimitResponse) Verdict {
	switch answer.GetOverallCode() {
	case rls.RateLimitResponse_OK, rls.RateLimitResponse_OVER_LIMIT:
	default:
		return c.fail(fmt.Sprintf("its answer has the code %v, neither OK nor OVER_LIMIT", answer.GetOverallCode()))
	}
	c.down.Store(false)
	if c.told.CompareAndSwap(true, false) {
		c.log.Info("rate limit service answers again", "address", c.address)
	}
	v := Verdict{Headers: headers(answer.GetResponseHeadersToAdd())}
	if answer.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT {
		c.over.Add(1)
		v.Over = true
		v.RetryAfter, v.Why = c.overLimit(descriptors, answer.GetStatuses())
		return v
	}
	v.RequestHeaders = headers(answer.GetRequestHeadersToAdd())
	return v
}

// cause says in words why there is no answer.
func (c *Client) cause(err error) string {
	if c.ctx.Err() != nil {
		return "the client is closed"
	}
	// The context's error only says that time is up; with a connection that never came, grpc-go's says why.
	s := status.Convert(err)
	if s.Code() == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %v (globalLimits timeout): %s", c.timeout, s.Message())
	}
	return fmt.Sprintf("%v: %s", s.Code(), s.Message())
}

// fail is the verdict where there is no answer.
func (c *Client) fail(cause string) Verdict {
	c.failed.Add(1)
	follows := "the call is refused (failOpen is false)"
	if c.failOpen {
		follows = "the call passes (failOpen)"
	}
	why := fmt.Sprintf("rate limit service %s: %s; %s", c.address, cause, follows)
	if c.ctx.Err() == nil {
		c.down.Store(true)
		// Once in a while, not for every call; the counters tell how many.
		now, last := time.Now().Unix(), c.toldAt.Load()
		if now-last >= tellEvery && c.toldAt.CompareAndSwap(last, now) {
			c.told.Store(true)
			c.log.Warn("rate limit service fails", "address", c.address, "cause", cause, "fail_open", c.failOpen, "failed_so_far", c.failed.Load())
		}
	}
	return Verdict{Failed: true, Over: !c.failOpen, Why: why}
}

// Stats counts since New.
type Stats struct {
	Asked, Over, Failed int64
	InFlight            int64 // now
	Down                bool  // the last question failed
}

// Stats reads the counters.
func (c *Client) Stats() Stats {
	return Stats{Asked: c.asked.Load(), Over: c.over.Load(), Failed: c.failed.Load(), InFlight: c.inFlight.Load(), Down: c.down.Load()}
}

// bounded keeps a duration that others made up within what makes sense.
func bounded(seconds int64, nanos int32) time.Duration {
	if seconds < 0 || nanos < 0 || nanos >= 1e9 {
		return 0
	}
	if seconds > math.MaxInt32 {
		seconds = math.MaxInt32
	}
	return time.Duration(seconds)*time.Second + time.Duration(nanos)
}
