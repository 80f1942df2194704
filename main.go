// Command trunkline is an L7 load balancer for gRPC. All it does is in lb/cli; this file only hands over the process.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/trunkline/trunkline/lb/cli"
)

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Env{
		Out: os.Stdout, Err: os.Stderr, Signals: signals, Command: command(), Version: version(),
		Start: cli.StartEngine, Explain: cli.ExplainOffline,
	}))
}

// command is how this program was called, for hints that work when pasted.
func command() string {
	if strings.Contains(os.Args[0], "go-build") { // go run's temporary place
		return "go run ."
	}
	return os.Args[0]
}

// version is the module's, with the commit where go build knew it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(v, s.Value[:min(12, len(s.Value))]) {
			v += " " + s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}
