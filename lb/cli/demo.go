package cli

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/lb/demo"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

type demoCmd struct {
	Consul string `placeholder:"ADDR" help:"Register the backends in the Consul agent at this address, instead of an embedded registry."`
	Once   bool   `help:"Make a fixed number of calls, print the table, and exit 0 only if all was as it must be."`
	Calls  int    `default:"400" help:"How many calls --once makes."`
	OTLP   string `name:"otlp" placeholder:"URL" env:"OTEL_EXPORTER_OTLP_ENDPOINT" help:"Send all spans to this OTLP receiver: http://host:4317 (gRPC) or :4318 (HTTP)."`
	Listen string `placeholder:"ADDR" help:"Take calls on this address (default: 127.0.0.1:7443; with --once a free port)."`
	Admin  string `placeholder:"ADDR" help:"Serve the admin API and page on this address (default: ${admin}; with --once a free port)."`
}

func (c *demoCmd) Run(ctx context.Context, env Env) error {
	if c.Calls < 1 {
		return fmt.Errorf("--calls %d: make at least one call", c.Calls)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case sig := <-env.Signals:
				if sig != syscall.SIGHUP {
					cancel()
				}
			}
		}
	})
	return demo.Run(ctx, demo.Options{
		Listen: c.address(c.Listen, "127.0.0.1:7443"), Admin: c.address(c.Admin, defaultAdmin),
		Consul: c.Consul, OTLP: c.OTLP, Once: c.Once, Calls: c.Calls, Command: env.Command, Out: env.Out,
		Start: func(ctx context.Context, cfg *configv1.Config, extra []discovery.Source) (demo.Balancer, error) {
			var level slog.LevelVar
			return env.Start(ctx, EngineOptions{Config: cfg, Name: "(demo)", Logger: newLogger(env.Err, cfg.GetLog(), &level), Sources: extra, Version: env.Version})
		},
	})
}

// address is what was asked for, else the usual one, else, where nobody needs to know it beforehand, a free one.
func (c *demoCmd) address(asked, usual string) string {
	switch {
	case asked != "":
		return asked
	case c.Once:
		return "127.0.0.1:0"
	}
	return usual
}
