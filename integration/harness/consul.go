package harness

import (
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
)

// Consul is a real Consul agent, a server with its data on disk, so that it can be killed and started again.
type Consul struct {
	*Process
	URL  string // http://127.0.0.1:port
	API  *consul.Client
	argv []string
}

// StartConsul starts an agent, with more arguments, and waits until it has a leader.
func StartConsul(t testing.TB, more ...string) *Consul {
	t.Helper()
	http := FreeAddr(t)
	_, port, _ := net.SplitHostPort(http)
	c := &Consul{URL: "http://" + http}
	c.argv = []string{
		Tool(t, "consul"), "agent", "-server", "-bootstrap-expect=1", "-node=test", "-data-dir=" + t.TempDir(),
		"-bind=127.0.0.1", "-client=127.0.0.1", "-http-port=" + port,
		"-server-port=" + strconv.Itoa(freePort(t)), "-serf-lan-port=" + strconv.Itoa(freePort(t)), "-serf-wan-port=-1",
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-log-level=warn", "-disable-host-node-id",
		// disable_update_check: loopback only. raft_multiplier 1: the quickest election.
		"-hcl=disable_update_check = true", "-hcl=performance { raft_multiplier = 1 }",
	}
	c.argv = append(c.argv, more...)
	api, err := consul.NewClient(&consul.Config{Address: c.URL})
	if err != nil {
		t.Fatal(err)
	}
	c.API = api
	c.Start(t)
	return c
}

// Start starts the agent, also again after Kill, on the same ports and data; it waits until it answers.
func (c *Consul) Start(t testing.TB) {
	t.Helper()
	c.Process = startProcess(t, "consul", nil, c.argv...)
	Eventually(t, 30*time.Second, "consul to elect itself and to know its node", func() bool {
		if c.Exited() {
			t.Fatal("consul ended")
		}
		leader, err := c.API.Status().Leader()
		if err != nil || leader == "" {
			return false
		}
		nodes, _, err := c.API.Catalog().Nodes(nil)
		return err == nil && len(nodes) == 1
	})
}

// Register registers a backend as an instance of a Consul service, with a gRPC health check every second that begins as passing.
func (c *Consul) Register(t testing.TB, service string, b *Backend, change ...func(*consul.AgentServiceRegistration)) {
	t.Helper()
	host, portText, _ := net.SplitHostPort(b.Addr)
	port, _ := strconv.Atoi(portText)
	reg := &consul.AgentServiceRegistration{
		ID: b.Name, Name: service, Address: host, Port: port, Tags: []string{"grpc"},
		Check: &consul.AgentServiceCheck{GRPC: b.Addr, Interval: "1s", Timeout: "1s", Status: consul.HealthPassing},
	}
	for _, f := range change {
		f(reg)
	}
	if err := c.API.Agent().ServiceRegister(reg); err != nil {
		t.Fatalf("register %s: %v", b.Name, err)
	}
}

// Deregister takes a backend out of Consul.
func (c *Consul) Deregister(t testing.TB, b *Backend) {
	t.Helper()
	if err := c.API.Agent().ServiceDeregister(b.Name); err != nil {
		t.Fatalf("deregister %s: %v", b.Name, err)
	}
}

// Passing is how many instances of a service pass their checks, as Consul sees it.
func (c *Consul) Passing(t testing.TB, service string) int {
	t.Helper()
	entries, _, err := c.API.Health().Service(service, "", true, nil)
	if err != nil {
		t.Fatalf("consul health of %s: %v", service, err)
	}
	return len(entries)
}

// Env is the environment by which a program finds this agent.
func (c *Consul) Env() string { return fmt.Sprintf("CONSUL_HTTP_ADDR=%s", c.URL) }
