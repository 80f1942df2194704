package health

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// prober asks one endpoint about its health (https://github.com/grpc/grpc/blob/master/doc/health-checking.md). Its fields
// are its goroutine's.
type prober struct {
	k       *Keeper                     // set once in newProber
	cluster string                      // set once in newProber
	address string                      // set once in newProber
	cfg     serviceconfig.HealthCheck   // set once in newProber, with defaults
	cancel  context.CancelFunc          // set once in newProber
	report  func(result) (settled bool) // set once in startProber

	conn     *grpc.ClientConn // nil: none
	slot     bool             // it holds one of the keeper's, since the connection is being made
	noWatch  bool             // the server at the end of conn does not serve Watch
	watching bool             // what is reported comes of Watch, or of a Check beside it
	settled  bool             // what report said last
}

// silence is how many intervals a Watch may say nothing before the server is asked whether it is alive. A process that hangs
// keeps its connections, and would look healthy for ever.
const silence = 4

func newProber(k *Keeper, cluster, address string, cfg serviceconfig.HealthCheck, cancel context.CancelFunc) *prober {
	if cfg.Interval <= 0 {
		cfg.Interval = 5 * time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Second
	}
	return &prober{k: k, cluster: cluster, address: address, cfg: cfg, cancel: cancel, settled: true}
}

// run asks until ctx ends.
func (p *prober) run(ctx context.Context) {
	defer p.hangUp()
	// Not all at once: neither the endpoints of a new cluster, nor many balancers that start together.
	wait := rand.N(min(p.cfg.Interval, time.Second))
	for sleep(ctx, wait) {
		if !p.once(ctx) {
			wait = p.cfg.Interval - p.cfg.Interval/10 + rand.N(p.cfg.Interval/5+1)
		} else {
			wait = 0
		}
	}
}

// sleep returns false if ctx ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once asks once, or as long as a Watch lasts. atOnce: a Watch that had worked has ended, so ask again without a pause.
func (p *prober) once(ctx context.Context) (atOnce bool) {
	if p.conn != nil && p.conn.GetState() != connectivity.Ready {
		p.hangUp() // making another takes a place, which grpc would not know of
	}
	if p.conn == nil && !p.connect(ctx) {
		return false
	}
	defer p.free()
	client := healthpb.NewHealthClient(p.conn)
	if !p.noWatch {
		served, worked := p.watch(ctx, client)
		if served {
			if worked {
				p.hangUp() // the connection is lost or going away, whether grpc has noticed yet or not
			}
			return worked
		}
		p.noWatch = true
	}
	p.watching = false
	p.tell(ctx, p.check(ctx, client))
	return false
}

// connect prepares a connection, after waiting for a place to make it. It is made by the first question.
func (p *prober) connect(ctx context.Context) bool {
	select {
	case p.k.slots <- struct{}{}:
		p.slot = true
	case <-ctx.Done():
		return false
	}
	conn, err := grpc.NewClient("passthrough:///"+p.address, // the dialler resolves names
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return p.k.dial(ctx, p.cluster, address) }), grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(), grpc.WithIdleTimeout(0),
		grpc.WithUserAgent("trunkline-health"), grpc.WithMaxHeaderListSize(16<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<10)))
	if err != nil {
		p.free()
		p.tell(ctx, result{note: err.Error()})
		return false
	}
	p.conn, p.noWatch, p.watching = conn, false, false
	return true
}

// free gives the place back: the connection stands, or failed.
func (p *prober) free() {
	if p.slot {
		p.slot = false
		<-p.k.slots
	}
}

func (p *prober) hangUp() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
	p.free()
}

// tell reports, unless the prober was stopped: then the result says nothing about the endpoint. After a failure that was none
// of the server's words the next question comes by a new connection.
func (p *prober) tell(ctx context.Context, r result) {
	defer p.free()
	if ctx.Err() != nil {
		return
	}
	p.settled = p.report(r)
	if !r.ok && !r.said {
		p.hangUp()
	}
}

// check asks once.
func (p *prober) check(ctx context.Context, client healthpb.HealthClient) result {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	answer, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: p.cfg.Service})
	if err == nil {
		return p.judge(answer.GetStatus())
	}
	switch s := status.Convert(err); s.Code() {
	case codes.Unimplemented:
		return result{ok: true, said: true, note: "the server has no grpc.health.v1 service: taken as healthy"}
	case codes.NotFound:
		return p.judge(healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
	default:
		if ctx.Err() != nil {
			return p.late()
		}
		return p.failure(s)
	}
}

// judge translates what the server says.
func (p *prober) judge(s healthpb.HealthCheckResponse_ServingStatus) result {
	switch s {
	case healthpb.HealthCheckResponse_SERVING:
		return result{ok: true, said: true}
	case healthpb.HealthCheckResponse_SERVICE_UNKNOWN:
		return result{said: true, note: fmt.Sprintf("the server's health service does not know the service %q", p.cfg.Service)}
	}
	return result{said: true, note: "the server says " + s.String()}
}

func (p *prober) late() result {
	return result{note: fmt.Sprintf("no answer within %v", p.cfg.Timeout)}
}

func (p *prober) failure(s *status.Status) result {
	return result{note: fmt.Sprintf("%v: %s", s.Code(), s.Message())}
}
