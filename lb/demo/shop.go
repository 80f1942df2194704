package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// shop is the tea shop of one backend. It is safe for many calls at once.
type shop struct {
	demov1.UnimplementedShopServer
	me     *demov1.Server
	pace   time.Duration // how long each step takes; set once in newShop
	refuse uint64        // each so many-th GetTea is refused with UNAVAILABLE, 0: none; set once in newShop
	dawdle uint64        // each so many-th ListTeas takes dawdling, 0: none; set once in newShop

	closed  atomic.Bool   // it fails every call
	turned  atomic.Uint64 // calls that failed because it was closed
	gets    atomic.Uint64 // GetTea calls so far
	lists   atomic.Uint64 // ListTeas calls so far
	tasted  atomic.Uint64 // TasteTea calls so far that came in
	refused atomic.Uint64 // calls of all methods but ListTeas that ended UNAVAILABLE: those that are retried, not hedged
}

// door turns calls of the Shop away while the shop is closed. Its health check and reflection know nothing of that.
func (s *shop) door(method string) error {
	if !s.closed.Load() || !strings.HasPrefix(method, "/"+demov1.Shop_ServiceDesc.ServiceName+"/") {
		return nil
	}
	s.turned.Add(1)
	if !strings.HasSuffix(method, "/"+listTeas) {
		s.refused.Add(1)
	}
	return status.Errorf(codes.Unavailable, "%s is closed", s.me.GetName())
}

func (s *shop) doorUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := s.door(info.FullMethod); err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func (s *shop) doorStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := s.door(info.FullMethod); err != nil {
		return err
	}
	return handle(srv, stream)
}

// shelf is what every shop carries.
func shelf() []*demov1.Tea {
	return []*demov1.Tea{
		{Name: "sencha", Origin: "Uji", PriceCents: 890, BrewCelsius: 70},
		{Name: "assam", Origin: "Assam", PriceCents: 450, BrewCelsius: 95},
		{Name: "oolong", Origin: "Anxi", PriceCents: 1250, BrewCelsius: 85},
		{Name: "darjeeling", Origin: "Darjeeling", PriceCents: 990, BrewCelsius: 90},
	}
}

func lookUp(name string) (*demov1.Tea, error) {
	for _, t := range shelf() {
		if t.GetName() == name {
			return t, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "the shop has no %q; it has sencha, assam, oolong and darjeeling", name)
}

// wait is one step of work: it ends early with the call.
func (s *shop) wait(ctx context.Context) error { return s.take(ctx, s.pace) }

func (s *shop) take(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (s *shop) GetTea(ctx context.Context, req *demov1.GetTeaRequest) (*demov1.GetTeaResponse, error) {
	if n := s.gets.Add(1); s.refuse > 0 && n%s.refuse == 0 {
		s.refused.Add(1)
		return nil, status.Errorf(codes.Unavailable, "%s is out of hot water, as it is now and then", s.me.GetName())
	}
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	tea, err := lookUp(req.GetName())
	if err != nil {
		return nil, err
	}
	return &demov1.GetTeaResponse{Tea: tea, Server: s.me}, nil
}

func (s *shop) ListTeas(ctx context.Context, _ *demov1.ListTeasRequest) (*demov1.ListTeasResponse, error) {
	pace := s.pace
	if n := s.lists.Add(1); s.dawdle > 0 && n%s.dawdle == 0 {
		pace = dawdling
	}
	if err := s.take(ctx, pace); err != nil {
		return nil, err
	}
	return &demov1.ListTeasResponse{Teas: shelf(), Server: s.me}, nil
}

func (s *shop) TasteTea(ctx context.Context, _ *demov1.TasteTeaRequest) (*demov1.TasteTeaResponse, error) {
	s.tasted.Add(1)
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return &demov1.TasteTeaResponse{Tea: shelf()[0], Server: s.me}, nil
}

// suggestTea is the method that only the new version has; see newVersion.
func (s *shop) suggestTea(ctx context.Context, _ *demov1.GetTeaRequest) (*demov1.GetTeaResponse, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return &demov1.GetTeaResponse{Tea: shelf()[2], Server: s.me}, nil
}

func (s *shop) WatchKettle(req *demov1.WatchKettleRequest, out demov1.Shop_WatchKettleServer) error {
	until := req.GetUntilCelsius()
	if until == 0 || until > 100 {
		until = 100
	}
	for celsius := min(uint32(20), until); ; celsius = min(celsius+20, until) {
		if err := s.wait(out.Context()); err != nil {
			return err
		}
		if err := out.Send(&demov1.WatchKettleResponse{Celsius: celsius, Server: s.me}); err != nil {
			return err
		}
		if celsius == until {
			return nil
		}
	}
}

func (s *shop) PlaceOrder(in demov1.Shop_PlaceOrderServer) error {
	bill := &demov1.PlaceOrderResponse{Server: s.me}
	for {
		line, err := in.Recv()
		if errors.Is(err, io.EOF) {
			if err := s.wait(in.Context()); err != nil {
				return err
			}
			return in.SendAndClose(bill)
		}
		if err != nil {
			return err
		}
		tea, err := lookUp(line.GetTea())
		if err != nil {
			return err
		}
		bill.Lines++
		bill.TotalCents += tea.GetPriceCents() * line.GetGrams() / 100
	}
}

func (s *shop) Chat(both demov1.Shop_ChatServer) error {
	for {
		remark, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.wait(both.Context()); err != nil {
			return err
		}
		answer := fmt.Sprintf("“%s”? Have a cup of %s first.", remark.GetText(), shelf()[len(remark.GetText())%4].GetName())
		if err := both.Send(&demov1.ChatResponse{Text: answer, Server: s.me}); err != nil {
			return err
		}
	}
}
