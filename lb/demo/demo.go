// Package demo owns `trunkline demo`: four tea shops behind a Trunkline, and a gentle client in front of it, in one
// process. It must not be needed by anything but the command line, and must not reach into the balancer: it starts it as
// anybody would, with a config, and calls it over the network.
//
// What it shows: a slow backend gets fewer calls (least_request); a backend that refuses streams unprocessed fails no call;
// a new version's method goes to the backend that has it, with no word of configuration (server reflection); policies hide
// calls that fail or dawdle, take an endpoint out that fails all of its calls, and turn away what is over a limit.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/lb/config"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// Balancer is the Trunkline of the demo: lb.Server.
type Balancer interface {
	// Run serves until ctx ends or a drain has finished.
	Run(ctx context.Context) error
	// Drain returns when live streams have ended; it cuts them when ctx ends first.
	Drain(ctx context.Context) error
	ListenerAddrs() []net.Addr
	AdminAddr() net.Addr
	Status() *adminv1.Status
	Clusters() *adminv1.ListClustersResponse
}

// Options is what the command line says.
type Options struct {
	Listen string // Trunkline's listener, host:port
	Admin  string // its admin address, host:port
	Consul string // agent to register the backends in; "" for the embedded registry
	OTLP   string // URL of an OTLP receiver for all spans; "" for none
	Once   bool   // make Calls calls, print the table, end
	Calls  int    // with Once
	// Command is how the reader calls this program: "trunkline", or "go run .".
	Command string
	Out     io.Writer
	// Start makes the balancer of a config and of sources beside it, listening when it returns.
	Start func(ctx context.Context, config *configv1.Config, extra []discovery.Source) (Balancer, error)
}

// interval is the pause between the calls of the gentle client.
const interval = 250 * time.Millisecond

// With Once: so many calls at a time, and about how long the client calls gently until the ejected shop is in again: its
// baseEjectionTime, one sweep, and enough for a slow machine.
const (
	atOnce   = 8
	comeback = 8 * time.Second
	enough   = 200 // calls, for each policy to have had its part
)

// Run is the demo. With Once it returns nil only if all was as it must be; else it stays until ctx ends, and returns nil.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{Options: o, tally: newTally(), http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.startBackends(ctx); err != nil {
		return err
	}
	if err := d.startBalancer(ctx); err != nil {
		return err
	}
	if err := d.known(ctx); err != nil {
		return err
	}
	if o.Once {
		return d.once(ctx)
	}
	d.welcome()
	d.stay(ctx)
	return nil
}

// demo is one run. Its fields are set as the parts come up, and closed in the reverse order.
type demo struct {
	Options
	tally    *tally
	backends []*backend
	balancer Balancer
	client   *client
	ended    chan struct{} // closed when the balancer has ended, of itself or not
	closers  []func() error
	http     *http.Client   // for the admin address
	before   map[string]int // what each shop had answered when the closed one opened again
}

// later runs f when the demo ends, the newest first.
func (d *demo) later(f func() error) { d.closers = append(d.closers, f) }

func (d *demo) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}

// tracesOf is the tracer provider of one part of the demo; nil where tracing is off.
func (d *demo) tracesOf(ctx context.Context, service string) (*trace.TracerProvider, error) {
	if d.OTLP == "" {
		return nil, nil
	}
	t, err := newTraces(ctx, d.OTLP, service)
	if err != nil {
		return nil, err
	}
	d.later(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := t.Shutdown(ctx); err != nil {
			return fmt.Errorf("sending the last spans of %s: %w", service, err)
		}
		return nil
	})
	return t, nil
}

func (d *demo) startBackends(ctx context.Context) error {
	host := "127.0.0.1"
	if d.Consul != "" {
		var err error
		if host, err = hostTowards(d.Consul); err != nil {
			return err
		}
	}
	for _, c := range cast() {
		traces, err := d.tracesOf(ctx, c.name)
		if err != nil {
			return err
		}
		b, err := startBackend(c, host, traces)
		if err != nil {
			return err
		}
		d.backends = append(d.backends, b)
		d.later(func() error { b.stop(); return nil })
	}
	if d.Consul == "" {
		return nil
	}
	entries, err := register(ctx, d.Consul, d.backends)
	if err != nil {
		return err
	}
	d.later(entries.withdraw)
	return nil
}

// config is the demo's: what a user's would be.
func (d *demo) config() *configv1.Config {
	c := &configv1.Config{
		Listeners: []*configv1.Listener{{Address: d.Listen}},
		Admin:     &configv1.Admin{Address: d.Admin},
		Discovery: &configv1.Discovery{},
		AccessLog: &configv1.AccessLog{Mode: "off"},
		Log:       &configv1.Log{Level: "error"}, // that shop-d is ejected now and then is no news
		// One file for clients and proxy: a gRPC client would take this text, too.
		ServiceConfig: policies,
	}
	if d.Consul != "" {
		c.Discovery.Consul = &configv1.Consul{Address: consulURL(d.Consul), SnapshotDir: "-"}
	}
	if d.OTLP != "" {
		c.Tracing = &configv1.Tracing{OtlpEndpoint: d.OTLP, SampleRatio: proto.Float64(1), Protocol: "grpc"}
		if overHTTP(d.OTLP) {
			c.Tracing.Protocol = "http/protobuf"
		}
	}
	config.ApplyDefaults(c)
	return c
}

func (d *demo) startBalancer(ctx context.Context) error {
	// The balancer outlives ctx: at the end it is drained, while the backends still serve.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var extra []discovery.Source
	if d.Consul == "" {
		extra = append(extra, newRegistry(d.backends))
	}
	b, err := d.Start(ctx, d.config(), extra)
	if err != nil {
		cancel()
		return err
	}
	d.ended = make(chan struct{})
	var ran error
	go func() {
		defer close(d.ended)
		ran = b.Run(ctx)
	}()
	d.later(func() error {
		grace, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		err := b.Drain(grace)
		cancel()
		<-d.ended
		return errors.Join(err, ran)
	})
	d.balancer = b
	traces, err := d.tracesOf(ctx, "tea-drinker")
	if err != nil {
		return err
	}
	if d.client, err = newClient(d.target(), traces, d.tally); err != nil {
		return err
	}
	d.later(func() error { d.client.close(); return nil })
	return nil
}

// target is where clients call.
func (d *demo) target() string { return loopback(d.balancer.ListenerAddrs()[0]) }

// loopback is an address as a local client writes it: an unspecified host becomes 127.0.0.1.
func loopback(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// known waits until Trunkline has found the shops and asked each what it serves.
func (d *demo) known(ctx context.Context) error {
	const patience = 20 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the balancer has not learned of all backends within %v", patience))
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		missing := d.missing()
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), missing)
		case <-d.ended:
			return errors.New("the balancer ended before it had begun")
		case <-look.C:
		}
	}
}

// missing says what Trunkline does not know yet; "" once it knows all.
func (d *demo) missing() string {
	if s := d.balancer.Status(); !s.GetReady() {
		return "it is not ready: " + s.GetNotReadyReason()
	}
	offers := map[string]bool{} // addresses whose offer of the Shop is known
	for _, c := range d.balancer.Clusters().GetClusters() {
		for _, e := range c.GetEndpoints() {
			for _, s := range e.GetServices() {
				if s.GetName() == demov1.Shop_ServiceDesc.ServiceName {
					offers[e.GetAddress()] = true
				}
			}
		}
	}
	for _, b := range d.backends {
		if !offers[b.address] {
			return b.name + " at " + b.address + " is not known to serve " + demov1.Shop_ServiceDesc.ServiceName
		}
	}
	return ""
}

// once is a play in three acts: all shops are open; shop-d closes; it is open again, and is found to be after a while.
func (d *demo) once(ctx context.Context) error {
	fmt.Fprintf(d.Out, "%d calls of %s through Trunkline on %s, to four backends:\n\n", d.Calls, demov1.Shop_ServiceDesc.ServiceName, d.target())
	calls := deal(d.Calls)
	act := func(n int) {
		d.client.make(ctx, calls[:min(n, len(calls))], atOnce)
		calls = calls[min(n, len(calls)):]
	}
	act(d.Calls / 4)
	d.door(true)
	act(d.Calls / 4)
	d.open()
	gently := time.NewTicker(max(time.Millisecond, comeback/time.Duration(len(calls)+1)))
	defer gently.Stop()
	for len(calls) > 0 && !d.returned() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-gently.C:
			act(1)
		}
	}
	act(len(calls))
	return d.settle(ctx, true)
}

// settle prints the table and what is to be said about it.
func (d *demo) settle(ctx context.Context, exact bool) error {
	d.tally.table(d.Out, d.backends)
	fmt.Fprintln(d.Out, "\nNOT_FOUND: the client asked for coffee. RESOURCE_EXHAUSTED: the samples are rationed.")
	bad := d.tally.verdict(d.backends, d.client.resends.Load(), exact)
	if d.admin() != "" {
		e, err := d.effects(ctx)
		switch {
		case err != nil:
			bad = append(bad, err.Error())
		case exact && d.Calls >= enough:
			bad = append(bad, d.check(e)...)
			fallthrough
		default:
			d.tell(e)
			d.explain(d.retried(ctx))
		}
	}
	if len(bad) > 0 {
		errs := make([]error, len(bad))
		for i, b := range bad {
			errs[i] = errors.New(b)
		}
		return fmt.Errorf("not all was as it must be:\n%w", errors.Join(errs...))
	}
	return nil
}
