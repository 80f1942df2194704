// Package cli owns the command line: what its words mean, the process's signals and log, and what is printed. It must not
// serve, route or balance anything: it starts an Engine and tells it what the operator wants.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/lb/demo"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Engine is a running balancer: lb.Server.
type Engine interface {
	demo.Balancer
	// Apply replaces the config, all or nothing; no live stream is cut.
	Apply(*configv1.Config) error
	// Rejected records why a reload never came to Apply, for the admin page and the metrics.
	Rejected(error)
}

// EngineOptions is what an Engine is made of.
type EngineOptions struct {
	Config  *configv1.Config // with its defaults
	Name    string           // of the config, for people: a path, or "(built in)"
	Logger  *slog.Logger
	Sources []discovery.Source // beside those of the config
	Version string
}

// Env is the process as the command line sees it, so that tests can be one.
type Env struct {
	Out, Err io.Writer
	// Signals are the process's: SIGINT, SIGTERM and SIGHUP.
	Signals <-chan os.Signal
	// Command is how the reader calls this program, for what is printed to be pasted.
	Command string
	Version string
	// Start makes an Engine, listening when it returns.
	Start func(context.Context, EngineOptions) (Engine, error)
	// Explain says where a call would go under a config, without running it.
	Explain func(cfg *configv1.Config, method, authority string) (*adminv1.ExplainResponse, error)
}

// commands are the words of the command line.
type commands struct {
	Serve        serveCmd        `cmd:"" help:"Balance gRPC calls until SIGTERM, then drain."`
	Check        checkCmd        `cmd:"" help:"Say what is wrong with a config file, with line and field; exit 1 if anything is."`
	Explain      explainCmd      `cmd:"" help:"Say where a call would go, or what became of calls that have ended, and why."`
	Certificates certificatesCmd `cmd:"" help:"List the certificates in force: whose, until when, where from, and why one is not renewed."`
	Demo         demoCmd         `cmd:"" help:"Show it all in one process: four backends, a balancer, a client."`
	Version      versionCmd      `cmd:"" help:"Print the version."`
}

// errSilent ends with exit code 1; what there is to say has been said.
var errSilent = errors.New("")

// Main runs one command and returns the process's exit code: 0, 1 for a failure, 2 for words that it does not understand.
func Main(ctx context.Context, args []string, env Env) (code int) {
	type exit int
	defer func() {
		switch e := recover().(type) {
		case nil:
		case exit: // --help ends like this
			code = int(e)
		default:
			panic(e)
		}
	}()
	parser, err := kong.New(&commands{}, kong.Name("trunkline"), kong.Writers(env.Out, env.Err),
		kong.Description("A load balancer that understands RPCs: it places each gRPC call by its method's name."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Exit(func(c int) { panic(exit(c)) }),
		kong.Vars{"admin": defaultAdmin}, kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(env))
	if err != nil {
		fmt.Fprintln(env.Err, "trunkline:", err)
		return 2
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(env.Err, "trunkline: %v (see %s --help)\n", err, strings.Join(append([]string{env.Command}, subcommand(err)...), " "))
		return 2
	}
	switch err := command.Run(); {
	case errors.Is(err, errSilent):
		return 1
	case err != nil:
		fmt.Fprintln(env.Err, "trunkline:", err)
		return 1
	}
	return 0
}

// subcommand is the one that was being parsed when err came up, if it came that far.
func subcommand(err error) []string {
	var p *kong.ParseError
	if errors.As(err, &p) && p.Context != nil && p.Context.Selected() != nil {
		return []string{p.Context.Selected().Name}
	}
	return nil
}

type versionCmd struct{}

func (versionCmd) Run(env Env) error {
	fmt.Fprintln(env.Out, "trunkline", env.Version, "built with", runtime.Version())
	return nil
}
