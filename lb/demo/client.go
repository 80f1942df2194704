package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/stats/opentelemetry"
	"google.golang.org/grpc/status"

	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// callTimeout is the deadline of each call of the client.
const callTimeout = 5 * time.Second

// client calls the Shop through Trunkline, as any stock grpc-go client would.
type client struct {
	conn    *grpc.ClientConn
	shop    demov1.ShopClient
	tally   *tally
	tracing bool          // spans are made, so the trace's context is theirs
	resends atomic.Uint64 // streams that grpc-go had to send again because it was told that they were not processed
}

// newClient dials nothing yet. traces may be nil. Close it.
func newClient(target string, traces *trace.TracerProvider, t *tally) (*client, error) {
	c := &client{tally: t, tracing: traces != nil}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(&resendCounter{c})}
	if traces != nil {
		opts = append(opts, opentelemetry.DialOption(opentelemetry.Options{TraceOptions: traceOptions(traces)}))
	}
	conn, err := grpc.NewClient("passthrough:///"+target, opts...)
	if err != nil {
		return nil, err
	}
	c.conn, c.shop = conn, demov1.NewShopClient(conn)
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

// resendCounter sees what grpc-go hides: a transparent retry means that a refusal got through to the client.
type resendCounter struct{ c *client }

func (r *resendCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (r *resendCounter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if b, ok := s.(*stats.Begin); ok && b.IsTransparentRetryAttempt {
		r.c.resends.Add(1)
	}
}
func (r *resendCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (r *resendCounter) HandleConn(context.Context, stats.ConnStats) {}

// call is one kind of call: it returns who answered.
type call struct {
	method string
	expect codes.Code
	do     func(ctx context.Context, c *client) (*demov1.Server, error)
}

// The shape of a round: of twenty calls, so many of each kind.
func round() []call {
	var calls []call
	add := func(n int, method string, expect codes.Code, do func(context.Context, *client) (*demov1.Server, error)) {
		for range n {
			calls = append(calls, call{method, expect, do})
		}
	}
	add(7, "GetTea", codes.OK, func(ctx context.Context, c *client) (*demov1.Server, error) {
		teas := shelf()
		r, err := c.shop.GetTea(ctx, &demov1.GetTeaRequest{Name: teas[rand.IntN(len(teas))].GetName()})
		return r.GetServer(), err
	})
	add(1, "GetTea", codes.NotFound, func(ctx context.Context, c *client) (*demov1.Server, error) {
		_, err := c.shop.GetTea(ctx, &demov1.GetTeaRequest{Name: "coffee"})
		return nil, err
	})
	add(2, listTeas, codes.OK, func(ctx context.Context, c *client) (*demov1.Server, error) {
		r, err := c.shop.ListTeas(ctx, &demov1.ListTeasRequest{})
		return r.GetServer(), err
	})
	add(1, tasteTea, codes.OK, func(ctx context.Context, c *client) (*demov1.Server, error) {
		r, err := c.shop.TasteTea(ctx, &demov1.TasteTeaRequest{})
		return r.GetServer(), err
	})
	add(3, suggestTea, codes.OK, func(ctx context.Context, c *client) (*demov1.Server, error) {
		r := new(demov1.GetTeaResponse)
		err := c.conn.Invoke(ctx, "/"+demov1.Shop_ServiceDesc.ServiceName+"/"+suggestTea, &demov1.GetTeaRequest{}, r)
		return r.GetServer(), err
	})
	add(2, "WatchKettle", codes.OK, watchKettle)
	add(2, "PlaceOrder", codes.OK, placeOrder)
	add(2, "Chat", codes.OK, chat)
	return calls
}

func watchKettle(ctx context.Context, c *client) (*demov1.Server, error) {
	s, err := c.shop.WatchKettle(ctx, &demov1.WatchKettleRequest{})
	if err != nil {
		return nil, err
	}
	var last *demov1.WatchKettleResponse
	for {
		r, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF) && last.GetCelsius() == 100:
			return last.GetServer(), nil
		case errors.Is(err, io.EOF):
			return last.GetServer(), status.Errorf(codes.DataLoss, "the kettle's last word was %d °C", last.GetCelsius())
		case err != nil:
			return last.GetServer(), err
		}
		last = r
	}
}

func placeOrder(ctx context.Context, c *client) (*demov1.Server, error) {
	s, err := c.shop.PlaceOrder(ctx)
	if err != nil {
		return nil, err
	}
	for _, tea := range shelf() {
		if err := s.Send(&demov1.PlaceOrderRequest{Tea: tea.GetName(), Grams: 100}); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	bill, err := s.CloseAndRecv()
	if err == nil && (bill.GetLines() != 4 || bill.GetTotalCents() != 3580) {
		err = status.Errorf(codes.DataLoss, "the bill has %d lines and %d cents", bill.GetLines(), bill.GetTotalCents())
	}
	return bill.GetServer(), err
}

func chat(ctx context.Context, c *client) (*demov1.Server, error) {
	s, err := c.shop.Chat(ctx)
	if err != nil {
		return nil, err
	}
	var server *demov1.Server
	for _, text := range []string{"Lovely weather.", "Is the kettle on?", "Good day."} {
		if err := s.Send(&demov1.ChatRequest{Text: text}); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		answer, err := s.Recv()
		if err != nil {
			return server, err
		}
		server = answer.GetServer()
	}
	if err := s.CloseSend(); err != nil {
		return server, err
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		return server, fmt.Errorf("after the last remark: %w", err)
	}
	return server, nil
}

// one makes a call and tallies it.
func (c *client) one(ctx context.Context, k call) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if !c.tracing { // so that one can ask Trunkline about the call, although nobody sampled it
		ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64(), rand.Uint64(), rand.Uint64()|1))
	}
	began := time.Now()
	server, err := k.do(ctx, c)
	c.tally.add(k, server.GetName(), time.Since(began), err)
}

// rush makes n calls, a few at a time, in shuffled rounds, and returns when all have ended.
func (c *client) rush(ctx context.Context, n, atOnce int) { c.make(ctx, deal(n), atOnce) }

// make makes these calls, so many at a time.
func (c *client) make(ctx context.Context, calls []call, atOnce int) {
	work := make(chan call)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for k := range work {
				c.one(ctx, k)
			}
		})
	}
	for _, k := range calls {
		work <- k
	}
	close(work)
	workers.Wait()
}

// deal is n calls in shuffled rounds. The last round may be short, so whole ones keep the shares.
func deal(n int) []call {
	var out []call
	for len(out) < n {
		r := round()
		rand.Shuffle(len(r), func(i, j int) { r[i], r[j] = r[j], r[i] })
		out = append(out, r[:min(len(r), n-len(out))]...)
	}
	return out
}

// stroll makes a call per interval until ctx ends, and then lets the live ones end.
func (c *client) stroll(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var live sync.WaitGroup
	defer live.Wait()
	var hand []call
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if len(hand) == 0 {
			hand = deal(20)
		}
		k := hand[0]
		hand = slices.Delete(hand, 0, 1)
		live.Go(func() { c.one(context.WithoutCancel(ctx), k) })
	}
}
