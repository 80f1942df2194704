package demo

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/trunkline/trunkline/policy/serviceconfig"
	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// The demo claims so in its config.
func TestTheDemosPoliciesLoadHereAndInAGRPCClient(t *testing.T) {
	c, problems := serviceconfig.Parse("demo", []byte(policies), 1)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(policies))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	shop := demov1.Shop_ServiceDesc.ServiceName
	if m := c.For(shop, listTeas); m.Hedge == nil || m.Retry != nil {
		t.Error("ListTeas is not hedged")
	}
	if m := c.For(shop, tasteTea); m.Retry == nil || len(m.Rates) != 1 {
		t.Error("TasteTea is not retried, or has no rate limit")
	}
	if c.For(shop, "Chat").Retry == nil || c.Cluster.Outlier == nil {
		t.Error("Chat is not retried, or no outlier is detected")
	}
	list := demov1.File_trunkline_demo_v1_demo_proto.Services().ByName("Shop").Methods().ByName(listTeas)
	if o := list.Options().(*descriptorpb.MethodOptions); o.GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
		t.Error("ListTeas is not declared idempotent: it would not be hedged")
	}
}

func TestAShopThatIsClosedFailsItsCallsAndNothingElse(t *testing.T) {
	b := start(t, "shop-d")
	conn, err := grpc.NewClient(b.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	shop := demov1.NewShopClient(conn)
	taste := func() error {
		_, err := shop.TasteTea(t.Context(), &demov1.TasteTeaRequest{})
		return err
	}
	if err := taste(); err != nil {
		t.Fatal(err)
	}
	b.shop.closed.Store(true)
	if err := taste(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "shop-d is closed") {
		t.Errorf("closed, it answers %v", err)
	}
	s, err := shop.WatchKettle(t.Context(), &demov1.WatchKettleRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("closed, it answers a stream %v", err)
	}
	if _, err := shop.ListTeas(t.Context(), &demov1.ListTeasRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("closed, it answers ListTeas %v", err)
	}
	if got := methods(t.Context(), t, conn); len(got) == 0 {
		t.Error("closed, it tells of no methods")
	}
	if n, tasted := b.shop.refused.Load(), b.shop.tasted.Load(); n != 2 || tasted != 1 {
		t.Errorf("it counts %d calls that it refused beside ListTeas, and %d tasted", n, tasted)
	}
	b.shop.closed.Store(false)
	if err := taste(); err != nil {
		t.Errorf("open again, it answers %v", err)
	}
}

func TestEveryThirdListOfShopBIsSlow(t *testing.T) {
	b := start(t, "shop-b")
	quickest := time.Hour
	for i := 1; i <= 6; i++ {
		began := time.Now()
		if _, err := b.shop.ListTeas(t.Context(), &demov1.ListTeasRequest{}); err != nil {
			t.Fatal(err)
		}
		switch took := time.Since(began); {
		case i%3 != 0:
			quickest = min(quickest, took)
		case took < dawdling:
			t.Errorf("call %d took only %v", i, took)
		}
	}
	if quickest >= dawdling {
		t.Errorf("of the others the quickest took %v", quickest)
	}
}

func TestThePageOfMetricsIsSummedUpByLabels(t *testing.T) {
	p, err := readPage(strings.NewReader(`# HELP trunkline_a_total things
# TYPE trunkline_a_total counter
trunkline_a_total{cluster="shop",reason="status"} 3
trunkline_a_total{cluster="shop",reason="refused"} 4
trunkline_a_total{cluster="shop2",reason="status"} 5
trunkline_b 1.5e+03
go_goroutines 7
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		want   int
		name   string
		labels []string
	}{
		{12, "trunkline_a_total", nil},
		{7, "trunkline_a_total", []string{`cluster="shop"`}},
		{3, "trunkline_a_total", []string{`cluster="shop"`, `reason="status"`}},
		{1500, "trunkline_b", nil},
		{0, "trunkline_a", nil},
		{0, "go_goroutines", nil},
	} {
		if got := p.sum(x.name, x.labels...); got != x.want {
			t.Errorf("%s %v: %d, want %d", x.name, x.labels, got, x.want)
		}
	}
}
