package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	demov1 "github.com/trunkline/trunkline/proto/trunkline/demo/v1"
)

// catalogue is the demo's entries in a real Consul.
type catalogue struct {
	agent *api.Agent
	ids   []string
}

// consulURL takes an agent's address as people write it: host:port, or a URL.
func consulURL(address string) string {
	if strings.Contains(address, "://") {
		return address
	}
	return "http://" + address
}

// hostTowards is the address of this machine on which an agent can reach the backends for its checks.
func hostTowards(agent string) (string, error) {
	u, err := url.Parse(consulURL(agent))
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("--consul %q is not an address: write host:port or http://host:port", agent)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	c, err := net.Dial("udp", net.JoinHostPort(u.Hostname(), port)) // sends nothing: the kernel only chooses the way
	if err != nil {
		return "", fmt.Errorf("--consul %s: %w", agent, err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// register puts the backends into the agent's catalogue: one service, tag grpc, a gRPC health check each. What was
// registered before an error is withdrawn.
func register(ctx context.Context, agent string, backends []*backend) (*catalogue, error) {
	config := api.DefaultNonPooledConfig() // with the token of the environment
	config.Address = consulURL(agent)
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("--consul %s: %w", agent, err)
	}
	c := &catalogue{agent: client.Agent()}
	for _, b := range backends {
		host, _, _ := net.SplitHostPort(b.address)
		entry := &api.AgentServiceRegistration{
			ID:   fmt.Sprintf("trunkline-demo-%s-%d", b.name, os.Getpid()),
			Name: shopCluster, Tags: []string{"grpc"}, Address: host, Port: b.port(),
			Meta: map[string]string{"version": b.version, "name": b.name},
			Check: &api.AgentServiceCheck{
				GRPC:     b.address + "/" + demov1.Shop_ServiceDesc.ServiceName,
				Interval: "1s", Timeout: "1s", Status: api.HealthPassing,
				DeregisterCriticalServiceAfter: "1m", // should this process die without a word
			},
		}
		if err := c.agent.ServiceRegisterOpts(entry, api.ServiceRegisterOpts{}.WithContext(ctx)); err != nil {
			return nil, errors.Join(fmt.Errorf("--consul %s: registering %s: %w", agent, b.name, err), c.withdraw())
		}
		c.ids = append(c.ids, entry.ID)
	}
	return c, nil
}

// withdraw takes the entries out again.
func (c *catalogue) withdraw() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var errs []error
	for _, id := range c.ids {
		if err := c.agent.ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
			errs = append(errs, fmt.Errorf("withdrawing %s from Consul: %w", id, err))
		}
	}
	c.ids = nil
	return errors.Join(errs...)
}
