// Command tool runs one of the tools of integration/tools from the shell, building it where needed; it must not do more
// than find it and become it: `go run ./integration/tools/cmd/tool buf lint`. With -path it prints where the program is.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/trunkline/trunkline/integration/tools"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	printOnly := len(args) > 0 && args[0] == "-path"
	if printOnly {
		args = args[1:]
	}
	if len(args) == 0 {
		names, err := tools.Names()
		if err != nil {
			return err
		}
		return fmt.Errorf("usage: tool [-path] NAME [args...]; NAME is one of %s", strings.Join(names, ", "))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	path, err := tools.Path(ctx, args[0])
	stop() // the signals are the tool's own from here
	if err != nil {
		return err
	}
	if printOnly {
		fmt.Println(path)
		return nil
	}
	return syscall.Exec(path, args, os.Environ()) // so that its exit status and signals are seen as they are
}
