package demo

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// welcome says what runs and what to try. Every line to try works as pasted.
func (d *demo) welcome() {
	p := func(format string, a ...any) { fmt.Fprintf(d.Out, format+"\n", a...) }
	target, admin, service := d.target(), loopback(d.balancer.AdminAddr()), demov1.Shop_ServiceDesc.ServiceName
	p("Trunkline: four tea shops at the end of one trunk line, and a client that calls them four times a second.\n")
	p("  calls come in at   %s   (gRPC over h2c)", target)
	p("  watch them live    http://%s/\n", admin)
	for _, b := range d.backends {
		p("  %s %s at %-16s %s", b.name, b.version, b.address, b.says)
	}
	p("\nThe client sees none of these failures: Trunkline retries, hedges ListTeas, and ejects shop-d while it is closed. Only")
	p("TasteTea has a limit, and is turned away beyond it.")
	if d.Consul != "" {
		p("\nThe shops are registered in the Consul at %s as “%s” with the tag grpc; that is all Trunkline was told.", d.Consul, shopCluster)
	} else {
		p("\nNobody told Trunkline which methods a shop has: it asked, by server reflection.")
	}
	p("\nTry")
	hints(d.Out, [][2]string{
		{"grpcurl -plaintext " + target + " list", ""},
		{"grpcurl -plaintext -d '{\"name\":\"sencha\"}' " + target + " " + service + "/GetTea", "again and again: see server.name"},
		{"grpcurl -plaintext " + target + " " + service + "/WatchKettle", "a server stream"},
		{"grpcurl -plaintext " + target + " " + service + "/" + suggestTea, "only the new version has it"},
		{d.Command + " explain " + service + "/" + suggestTea + " --admin " + admin, "why it goes where it goes"},
		{d.Command + " explain " + service + "/GetTee --admin " + admin, "a slip of the pen"},
		{d.ask("--last-errors"), "what went wrong, why, and what to change"},
		{d.ask("--last"), "the latest calls of any kind, and their traces' ids"},
		{"curl -s http://" + admin + "/metrics | grep -E '^trunkline_(calls|retries|hedges|limited)_total'", ""},
		{"grpcurl -plaintext " + admin + " trunkline.admin.v1.AdminService/ListClusters", "what the page shows"},
	})
	if d.OTLP == "" {
		p("\nSee each call in a Jaeger, client -> Trunkline -> attempt -> shop")
		hints(d.Out, [][2]string{
			{"docker run --rm -p 16686:16686 -p 4317:4317 jaegertracing/all-in-one:1.62.0", ""},
			{d.Command + " demo --otlp http://127.0.0.1:4317", "then open http://127.0.0.1:16686/"},
		})
	} else {
		p("\nEvery call is traced to %s: look for the service “tea-drinker” in your Jaeger.", d.OTLP)
	}
	p("\nCtrl-C drains, and ends.\n")
}

// hints prints lines to paste, with shell comments in a column where the line leaves room.
func hints(w io.Writer, lines [][2]string) {
	for _, l := range lines {
		if l[1] == "" {
			fmt.Fprintf(w, "  %s\n", l[0])
			continue
		}
		fmt.Fprintf(w, "  %-92s # %s\n", l[0], l[1])
	}
}

// The opening hours of a shop that closes.
const (
	openFor   = 15 * time.Second
	closedFor = 15 * time.Second
)

// hours closes shop-d now and then, until ctx ends. After the first time it shows how to ask about a call that was retried.
func (d *demo) hours(ctx context.Context) {
	wait := func(t time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(t):
			return true
		}
	}
	for first := true; wait(openFor); first = false {
		d.door(true)
		ended := !wait(closedFor)
		d.open()
		if ended {
			return
		}
		if c := d.retried(ctx); first && c != nil {
			fmt.Fprintf(d.Out, "%s  shop-d was closed for %v. A call that was tried again meanwhile, in words:\n  %s\n", time.Now().Format(time.TimeOnly), closedFor, d.ask("--trace "+c.GetTraceId()))
		}
	}
}

// stay lets the gentle client call until ctx ends or somebody drains the balancer, with a line of news now and then.
func (d *demo) stay(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.client.stroll(ctx, interval) })
	wg.Go(func() { d.hours(ctx) })
	news := time.NewTicker(15 * time.Second)
	defer news.Stop()
	for {
		select {
		case <-d.ended:
			cancel()
		case <-ctx.Done():
			wg.Wait()
			fmt.Fprintln(d.Out, "\nThe client's calls:")
			if err := d.settle(context.WithoutCancel(ctx), false); err != nil {
				fmt.Fprintln(d.Out, err)
			}
			return
		case now := <-news.C:
			calls, ended := d.tally.totals()
			line := fmt.Sprintf("%s  %d calls, %d OK", now.Format(time.TimeOnly), calls, ended[codes.OK])
			if other := endings(ended); other != "" {
				line += ", " + other
			}
			fmt.Fprintln(d.Out, line)
		}
	}
}
