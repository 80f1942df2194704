package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

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

	gets    atomic.Uint64 // GetTea calls so far
	refused atomic.Uint64 // of them, refused with UNAVAILABLE
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
func (s *shop) wait(ctx context.Context) error {
	if s.pace == 0 {
		return nil
	}
	t := time.NewTimer(s.pace)
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
