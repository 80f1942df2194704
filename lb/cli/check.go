package cli

import (
	"fmt"
	"strings"

	"github.com/trunkline/trunkline/lb"
	"github.com/trunkline/trunkline/lb/config"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

type checkCmd struct {
	Config  string `short:"c" required:"" placeholder:"FILE" help:"Config file."`
	NoFiles bool   `help:"Do not read the files that it names (certificates, keys, ...), for a machine that does not have them."`
}

func (c *checkCmd) Run(env Env) error {
	look := lb.CheckFiles
	if c.NoFiles {
		look = nil
	}
	cfg, warnings, err := config.LoadWith(c.Config, look)
	for _, w := range warnings {
		fmt.Fprintln(env.Err, w, "(a warning)")
	}
	if err != nil {
		return complain(env.Err, err)
	}
	fmt.Fprintf(env.Out, "%s is good: %s.\n", c.Config, summary(cfg))
	return nil
}

// summary says what a config holds: "1 listener, Consul and 2 static clusters (3 endpoints), 4 routes".
func summary(cfg *configv1.Config) string {
	var sources []string
	if consul := cfg.GetDiscovery().GetConsul(); consul != nil {
		sources = append(sources, "Consul at "+config.Redact(consul.GetAddress()))
	}
	if clusters := cfg.GetDiscovery().GetStatic().GetClusters(); len(clusters) > 0 {
		endpoints := 0
		for _, c := range clusters {
			endpoints += len(c.GetEndpoints())
		}
		sources = append(sources, count(len(clusters), "static cluster")+" ("+count(endpoints, "endpoint")+")")
	}
	return strings.Join([]string{count(len(cfg.GetListeners()), "listener"), strings.Join(sources, " and "), count(len(cfg.GetRoutes()), "route")}, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
