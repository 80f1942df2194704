package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/lb/config"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

type serveCmd struct {
	Config string `short:"c" placeholder:"FILE" help:"Config file, reloaded when it changes and on SIGHUP. Without one: gRPC services by tag from Consul."`
	Listen string `placeholder:"ADDR" help:"Take calls on this address only, in place of the config's listeners; the first one's TLS stays."`
	Admin  string `placeholder:"ADDR" help:"Serve the admin API and page on this address, instead of the config's; - for none."`
}

func (c *serveCmd) Help() string {
	return "SIGTERM and SIGINT drain: clients are told to go elsewhere and live calls run to their end, bounded by drain.timeout; a second signal ends at once. SIGHUP reloads."
}

// override lets the flags win over the config, also over each reload of it.
func (c *serveCmd) override(cfg *configv1.Config) *configv1.Config {
	if c.Listen == "" && c.Admin == "" {
		return cfg
	}
	cfg = proto.Clone(cfg).(*configv1.Config)
	if c.Listen != "" {
		// The first listener's TLS stays: a flag must not open in clear what the file protects.
		first := &configv1.Listener{}
		if l := cfg.GetListeners(); len(l) > 0 {
			first = l[0]
		}
		first.Address = c.Listen
		cfg.Listeners = []*configv1.Listener{first}
	}
	if c.Admin != "" {
		cfg.Admin.Address = c.Admin
	}
	return cfg
}

func (c *serveCmd) Run(ctx context.Context, env Env) error {
	s := &serving{env: env, override: c.override}
	cfg, name := config.Default(), "(built in)"
	var warnings []config.Warning
	if c.Config != "" {
		s.file, name = config.NewWatcher(c.Config, s.reload, s.rejected), c.Config
		var err error
		if cfg, warnings, err = s.file.Load(); err != nil {
			return complain(env.Err, err)
		}
	}
	s.log = newLogger(env.Err, cfg.GetLog(), &s.level)
	s.warn(warnings)
	cfg = c.override(cfg)
	engine, err := env.Start(ctx, EngineOptions{Config: cfg, Name: name, Logger: s.log, Version: env.Version})
	if err != nil {
		return err
	}
	s.engine, s.cfg = engine, cfg
	return s.run(ctx)
}

// serving is one run of the serve command.
type serving struct {
	env      Env
	override func(*configv1.Config) *configv1.Config
	file     *config.Watcher // nil without a file
	log      *slog.Logger
	level    slog.LevelVar
	engine   Engine

	mu  sync.Mutex
	cfg *configv1.Config // in force; guarded by mu
}

// run serves until the engine ends: after a drain, by signal or by the admin API, or with an error.
func (s *serving) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if a := s.engine.AdminAddr(); a != nil {
		scheme := "http://"
		s.mu.Lock()
		if s.cfg.GetAdmin().GetTls() != nil {
			scheme = "https://"
		}
		s.mu.Unlock()
		s.log.Info("admin page", "url", scheme+a.String()+"/")
	}
	if s.file != nil {
		wg.Go(func() {
			if err := s.file.Run(ctx); err != nil {
				s.log.Warn("the config file is not watched", "error", err)
			}
		})
	}
	ended := make(chan error, 1)
	wg.Go(func() { ended <- s.engine.Run(ctx) })
	drained := make(chan struct{})
	var cut context.CancelFunc // nil until a drain begins
	for {
		select {
		case err := <-ended:
			if cut != nil {
				<-drained // so that it has said how it went
			}
			s.log.Info("ended")
			return err
		case sig := <-s.env.Signals:
			switch {
			case sig == syscall.SIGHUP && s.file != nil:
				s.file.Reload()
			case sig == syscall.SIGHUP:
				s.log.Warn("SIGHUP: there is no config file to read again")
			case cut == nil:
				var bound context.Context
				bound, cut = s.drainBound(ctx)
				defer cut()
				s.log.Info("draining; a second signal ends at once", "signal", sig.String())
				wg.Go(func() {
					defer close(drained)
					if err := s.engine.Drain(bound); err != nil {
						if errors.Is(err, bound.Err()) {
							err = context.Cause(bound)
						}
						s.log.Warn("not all streams ended by themselves", "error", err)
					}
					cancel()
				})
			default:
				s.log.Warn("ending at once", "signal", sig.String())
				cut()
			}
		}
	}
}

// drainBound is the time that a drain may take under the config in force.
func (s *serving) drainBound(ctx context.Context) (context.Context, context.CancelFunc) {
	s.mu.Lock()
	d := s.cfg.GetDrain()
	s.mu.Unlock()
	all := d.GetDelay().AsDuration() + d.GetTimeout().AsDuration()
	return context.WithTimeoutCause(context.WithoutCancel(ctx), all, fmt.Errorf("drain.timeout of %v is over", d.GetTimeout().AsDuration()))
}

// reload is the watcher's apply. What it cannot apply, the engine has recorded itself.
func (s *serving) reload(cfg *configv1.Config, warnings []config.Warning) error {
	s.warn(warnings)
	cfg = s.override(cfg)
	if err := s.engine.Apply(cfg); err != nil {
		s.log.Error("config not applied; the old one stays in force", "error", err)
		return nil
	}
	setLevel(&s.level, cfg.GetLog())
	s.mu.Lock()
	s.cfg = cfg
	s.mu.Unlock()
	return nil
}

// rejected is the watcher's reject: the file is wrong or unreadable.
func (s *serving) rejected(err error) {
	s.engine.Rejected(err)
	s.log.Error("config not read; the old one stays in force", "error", err)
}

func (s *serving) warn(warnings []config.Warning) {
	for _, w := range warnings {
		s.log.Warn(w.Message, "file", w.File, "line", w.Line, "field", w.Field)
	}
}

// complain prints what is wrong with a config as compilers do, a line each, or returns an error that is not of that kind.
func complain(w io.Writer, err error) error {
	var problems config.Errors
	if !errors.As(err, &problems) {
		return fmt.Errorf("the config cannot be read: %w", err)
	}
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
	return errSilent
}

// newLogger writes the process's log as the config wants it. level can be changed later, format cannot.
func newLogger(w io.Writer, c *configv1.Log, level *slog.LevelVar) *slog.Logger {
	setLevel(level, c)
	opts := &slog.HandlerOptions{Level: level}
	if c.GetFormat() == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func setLevel(level *slog.LevelVar, c *configv1.Log) {
	var l slog.Level // info, unless the config says otherwise in slog's own words
	_ = l.UnmarshalText([]byte(c.GetLevel()))
	level.Set(l)
}
