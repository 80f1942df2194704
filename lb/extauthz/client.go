// Package extauthz owns the questions to an authorization service of Envoy's protocol (envoy.service.auth.v3,
// https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto): who may make a call; it must not
// refuse calls itself, keep them waiting longer than its timeout, or decide which ones are asked about.
package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// maxInFlight bounds the questions on the way, and so the goroutines and memory that a service which hangs can hold: at the
// default timeout of 200 ms it is enough for 10,000 questions per second to a service that never answers.
const maxInFlight = 2000

// maxAnswer is the longest answer in bytes that is read. A real one has some hundred.
const maxAnswer = 256 << 10

// tellEvery is the least number of seconds between two lines in the log about failures.
const tellEvery = 10

// Options are what a Client needs.
type Options struct {
	Address  string        // host:port
	Timeout  time.Duration // of a question
	FailOpen bool          // what is not answered is allowed
	// Metadata are the names of the request metadata that the service is told; empty: all but binary ones.
	Metadata []string
	// Credentials are TLS to it; nil: none.
	Credentials credentials.TransportCredentials
	Log         *slog.Logger
}

// Client asks one service. It is shared by shards.
type Client struct {
	o       Options // set once in New
	wanted  map[string]bool
	max     int64 // set once in New
	conn    *grpc.ClientConn
	service auth.AuthorizationClient
	ctx     context.Context // of all questions. set once in New
	cancel  context.CancelFunc

	holders atomic.Int64  // goroutines of questions, and one until Close; at 0 it is over. atomic
	gone    chan struct{} // closed when holders is 0
	closing atomic.Bool   // atomic

	inFlight, asked, denied, failed atomic.Int64 // atomic
	down                            atomic.Bool  // the last question failed. atomic
	told                            atomic.Bool  // the log says that it fails. atomic
	toldAt                          atomic.Int64 // when, in Unix seconds. atomic
}

// New makes a client. It connects when it is first asked. The error is about an address that cannot be understood.
func New(o Options) (*Client, error) {
	if o.Credentials == nil {
		o.Credentials = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient(o.Address,
		grpc.WithTransportCredentials(o.Credentials),
		grpc.WithContextDialer(dial),
		// The waits of grpc-go's default grow to two minutes: too long not to notice that a service is back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithIdleTimeout(0), // a question after a pause must not pay for a connection
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("externalAuthorization.address %q: %w", o.Address, err)
	}
	c := &Client{o: o, max: maxInFlight, conn: conn, service: auth.NewAuthorizationClient(conn), gone: make(chan struct{})}
	if len(o.Metadata) > 0 {
		c.wanted = map[string]bool{}
		for _, name := range o.Metadata {
			c.wanted[strings.ToLower(name)] = true
		}
	}
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

// Ask asks whether a call may be made, and calls done with the verdict: exactly once, always from another goroutine, at the
// latest a moment after the timeout. Ask itself never blocks, and keeps nothing that q borrows.
func (c *Client) Ask(q *Question, done func(*Verdict)) {
	c.asked.Add(1)
	if !c.hold() {
		go done(c.fail("the client is closed"))
		return
	}
	if c.inFlight.Add(1) > c.max {
		go func() {
			defer c.release()
			c.inFlight.Add(-1)
			done(c.fail(fmt.Sprintf("%d questions are on the way already, and no more are asked at once", c.max)))
		}()
		return
	}
	own := q.clone()
	go func() {
		defer c.release()
		v := c.question(own)
		c.inFlight.Add(-1)
		done(v)
	}()
}

func (c *Client) question(q *owned) *Verdict {
	ctx, cancel := context.WithTimeout(c.ctx, c.o.Timeout)
	defer cancel()
	answer, err := c.service.Check(ctx, c.request(q))
	if err != nil {
		return c.fail(c.cause(err))
	}
	v, wrong := verdict(q, answer)
	if wrong != "" {
		return c.fail(wrong)
	}
	c.down.Store(false)
	if c.told.CompareAndSwap(true, false) {
		c.o.Log.Info("authorization service answers again", "address", c.o.Address)
	}
	if v.Denied {
		c.denied.Add(1)
	}
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
		return fmt.Sprintf("no answer within %v (externalAuthorization.timeout): %s", c.o.Timeout, s.Message())
	}
	return fmt.Sprintf("%v: %s", s.Code(), s.Message())
}

// fail is the verdict where there is no answer.
func (c *Client) fail(cause string) *Verdict {
	c.failed.Add(1)
	follows := "the call is refused (failOpen is false)"
	if c.o.FailOpen {
		follows = "the call passes (failOpen)"
	}
	if c.ctx.Err() == nil {
		c.down.Store(true)
		// Once in a while, not for every call; the counters tell how many.
		now, last := time.Now().Unix(), c.toldAt.Load()
		if now-last >= tellEvery && c.toldAt.CompareAndSwap(last, now) {
			c.told.Store(true)
			c.o.Log.Warn("authorization service fails", "address", c.o.Address, "cause", cause, "fail_open", c.o.FailOpen, "failed_so_far", c.failed.Load())
		}
	}
	return &Verdict{Failed: true, Denied: !c.o.FailOpen, Why: fmt.Sprintf("%s: %s; %s", c.o.Address, cause, follows)}
}

// Stats counts since New.
type Stats struct {
	Asked, Denied, Failed int64
	InFlight              int64 // now
	Down                  bool  // the last question failed
}

// Stats reads the counters.
func (c *Client) Stats() Stats {
	return Stats{Asked: c.asked.Load(), Denied: c.denied.Load(), Failed: c.failed.Load(), InFlight: c.inFlight.Load(), Down: c.down.Load()}
}
