package health

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// watch opens a Watch and reports what comes until it ends. served is false if the server does not serve Watch; nothing was
// reported then. worked: it said something and lasted at least an interval, so its end is no sign of ill health yet.
func (p *prober) watch(ctx context.Context, client healthpb.HealthClient) (served, worked bool) {
	stream, cancel := context.WithCancel(ctx)
	answers, ended := make(chan healthpb.HealthCheckResponse_ServingStatus), make(chan error, 1)
	read := make(chan struct{})
	defer func() { cancel(); <-read }()
	go func() {
		defer close(read)
		ended <- receive(stream, client, p.cfg.Service, answers)
	}()

	opened, answered := time.Now(), false
	timer := time.NewTimer(p.cfg.Timeout)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, false
		case s := <-answers:
			answered, p.watching = true, true
			r := p.judge(s)
			r.told = true
			p.tell(ctx, r)
		case err := <-ended:
			s := status.Convert(err)
			if s.Code() == codes.Unimplemented && !answered {
				return false, false
			}
			if answered && time.Since(opened) >= p.cfg.Interval {
				return true, true
			}
			p.tell(ctx, p.failure(s))
			return true, false
		case <-timer.C:
			if !answered {
				p.tell(ctx, p.late())
				return true, false
			}
			r := p.check(ctx, client)
			p.tell(ctx, r)
			if !r.ok && !r.said {
				return true, false
			}
		}
		if p.settled {
			timer.Reset(silence * p.cfg.Interval)
		} else {
			timer.Reset(p.cfg.Interval)
		}
	}
}

// receive passes on what a Watch says until it ends, and returns why.
func receive(ctx context.Context, client healthpb.HealthClient, service string, to chan<- healthpb.HealthCheckResponse_ServingStatus) error {
	stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case to <- answer.GetStatus():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
