package health

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/outlier"
)

// What one round of a cluster's loop costs, with nothing amiss and while all warm up.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		for _, warming := range []bool{false, true} {
			b.Run(fmt.Sprintf("n=%d/warming=%v", n, warming), func(b *testing.B) {
				k := New(slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
				defer k.Close()
				cfg := slow()
				cfg.SlowStart = time.Hour
				var all []Member
				for i := range n {
					a := fmt.Sprint("10.0.0.1:", i)
					all = append(all, Member{a, balance.NewEndpoint(a), outlier.NewHost()})
				}
				k.Set("c", all[:1], new(balance.Group), &cfg)
				if warming {
					k.Set("c", all, new(balance.Group), &cfg)
				} else {
					k.Retire(func(string) bool { return false })
					k.Set("c", all, new(balance.Group), &cfg)
				}
				c := (*k.clusters.Load())["c"]
				b.ReportAllocs()
				for now := k.now(); b.Loop(); now += int64(time.Second) / 10 {
					c.mu.Lock()
					c.step(now)
					c.mu.Unlock()
				}
			})
		}
	}
}
