package admin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/trunkline/trunkline/lb/certs"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// Limits of ListStreams and bounds of Watch's interval, as admin.proto promises them.
const (
	defaultStreams = 100
	maxStreams     = 10_000

	defaultInterval = time.Second
	minInterval     = 100 * time.Millisecond
	maxInterval     = time.Minute
)

// service is AdminService over a Source.
type service struct {
	source   Source
	own      *certs.Server   // of the admin address; nil: clear text
	stopping context.Context // ends when the server does; a watch must not outlive it
}

func (s *service) GetStatus(context.Context, *connect.Request[adminv1.GetStatusRequest]) (*connect.Response[adminv1.GetStatusResponse], error) {
	return connect.NewResponse(&adminv1.GetStatusResponse{Status: s.source.Status()}), nil
}

func (s *service) ListRoutes(context.Context, *connect.Request[adminv1.ListRoutesRequest]) (*connect.Response[adminv1.ListRoutesResponse], error) {
	return connect.NewResponse(&adminv1.ListRoutesResponse{Routes: s.source.Routes()}), nil
}

func (s *service) ListClusters(context.Context, *connect.Request[adminv1.ListClustersRequest]) (*connect.Response[adminv1.ListClustersResponse], error) {
	return connect.NewResponse(s.source.Clusters()), nil
}

func (s *service) ListStreams(_ context.Context, req *connect.Request[adminv1.ListStreamsRequest]) (*connect.Response[adminv1.ListStreamsResponse], error) {
	limit := min(int(req.Msg.GetLimit()), maxStreams)
	if limit == 0 {
		limit = defaultStreams
	}
	oldest, total := s.source.Streams(limit)
	return connect.NewResponse(&adminv1.ListStreamsResponse{Streams: oldest, Total: total}), nil
}

func (s *service) ListConnections(context.Context, *connect.Request[adminv1.ListConnectionsRequest]) (*connect.Response[adminv1.ListConnectionsResponse], error) {
	return connect.NewResponse(&adminv1.ListConnectionsResponse{Connections: s.source.Connections()}), nil
}

func (s *service) Explain(_ context.Context, req *connect.Request[adminv1.ExplainRequest]) (*connect.Response[adminv1.ExplainResponse], error) {
	method, err := ParseMethod(req.Msg.GetMethod())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(s.source.Explain(method, req.Msg.GetAuthority())), nil
}

func (s *service) Drain(context.Context, *connect.Request[adminv1.DrainRequest]) (*connect.Response[adminv1.DrainResponse], error) {
	already, streams := s.source.StartDrain()
	return connect.NewResponse(&adminv1.DrainResponse{AlreadyDraining: already, Streams: streams}), nil
}

// Watch sends a status first, then on each change and at least once per interval, until the caller or the server goes.
// However fast the changes come, it sends no more often than once per minInterval.
func (s *service) Watch(ctx context.Context, req *connect.Request[adminv1.WatchRequest], out *connect.ServerStream[adminv1.WatchResponse]) error {
	interval := defaultInterval
	if d := req.Msg.GetInterval(); d != nil {
		if !d.IsValid() {
			return connect.NewError(connect.CodeInvalidArgument, d.CheckValid())
		}
		interval = min(max(d.AsDuration(), minInterval), maxInterval)
	}
	for {
		changed := s.source.Changed()
		if err := out.Send(&adminv1.WatchResponse{Status: s.source.Status()}); err != nil {
			return err
		}
		pause, beat := time.NewTimer(minInterval), time.NewTimer(interval)
		err := s.wait(ctx, pause.C, nil)
		if err == nil {
			err = s.wait(ctx, beat.C, changed)
		}
		pause.Stop()
		beat.Stop()
		if err != nil {
			return err
		}
	}
}

// wait returns nil at tick or change, and an error when the call must end.
func (s *service) wait(ctx context.Context, tick <-chan time.Time, change <-chan struct{}) error {
	select {
	case <-tick:
	case <-change:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopping.Done():
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the admin server is closing"))
	}
	return nil
}

// ParseMethod takes a method as people write it, "pkg.Service/Method" or ":path" with a leading slash, and returns it
// without the slash. The error is one sentence that shows the right form.
func ParseMethod(s string) (string, error) {
	m := strings.TrimPrefix(s, "/")
	service, name, ok := strings.Cut(m, "/")
	if !ok || service == "" || name == "" || strings.ContainsAny(m, " \t\r\n") || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is not a method: write pkg.Service/Method, as in trunkline.demo.v1.Shop/GetTea", s)
	}
	return m, nil
}
