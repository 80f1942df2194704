package connect

import (
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
)

// id is a service's name in the mesh: spiffe://<trust domain>[/ap/<partition>]/ns/<namespace>/dc/<datacenter>/svc/<service>
// (https://developer.hashicorp.com/consul/docs/connect/ca#certificate-uri-format).
type id struct {
	text                                              string
	domain, partition, namespace, datacenter, service string
}

// parseID takes a service's SPIFFE id apart.
func parseID(text string) (id, error) {
	fail := func(why string) (id, error) {
		return id{}, fmt.Errorf("%q is no SPIFFE id of a service in Consul's mesh: %s", text, why)
	}
	u, err := url.Parse(text)
	if err != nil {
		return fail("it is no URI")
	}
	if u.Scheme != "spiffe" || u.Host == "" || u.Opaque != "" || u.User != nil || u.Port() != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return fail("it must be spiffe://, a trust domain and a path")
	}
	parts := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	out := id{text: text, domain: u.Host}
	keys, values := []string{"ns", "dc", "svc"}, []*string{&out.namespace, &out.datacenter, &out.service}
	if parts[0] == "ap" {
		keys, values = append([]string{"ap"}, keys...), append([]*string{&out.partition}, values...)
	}
	if len(parts) != 2*len(keys) {
		return fail("its path must be /ns/.../dc/.../svc/...")
	}
	for i, key := range keys {
		value, err := url.PathUnescape(parts[2*i+1])
		if parts[2*i] != key || err != nil || value == "" {
			return fail("its path must be /ns/.../dc/.../svc/...")
		}
		*values[i] = value
	}
	if out.partition == "" {
		out.partition = "default"
	}
	return out, nil
}

// clone is an id that borrows nothing.
func (i id) clone() id {
	for _, text := range []*string{&i.text, &i.domain, &i.partition, &i.namespace, &i.datacenter, &i.service} {
		*text = strings.Clone(*text)
	}
	return i
}

// Match is for connections to a service of the mesh: whether the SPIFFE id that the server showed is that service's, in this trust
// domain and in this process's namespace and partition. In which datacenter it is does not matter. The error is a sentence.
func (i *Identity) Match(destination string) func(spiffe string) error {
	return func(spiffe string) error {
		own, r := i.leaf.Load(), i.roots.Load()
		if own == nil || r == nil {
			return fmt.Errorf("the endpoint cannot be told from others: %w", i.absent())
		}
		if spiffe == "" {
			return fmt.Errorf("the endpoint's certificate bears no SPIFFE id; it should be the service %q of Consul's mesh", destination)
		}
		server, err := parseID(spiffe)
		if err != nil {
			return fmt.Errorf("the endpoint's certificate is not the service %q's: %w", destination, err)
		}
		if !strings.EqualFold(server.domain, r.domain) {
			return fmt.Errorf("the endpoint's certificate is of another mesh: %s is not of the trust domain %s", spiffe, r.domain)
		}
		if server.service != destination || server.namespace != own.id.namespace || server.partition != own.id.partition {
			return fmt.Errorf("the endpoint is not the service %q of the namespace %q: its certificate says %s", destination, own.id.namespace, spiffe)
		}
		return nil
	}
}

// source takes the caller's id apart. The error says to the caller why nothing can be asked about it.
func (i *Identity) source(spiffe string) (id, error) {
	r := i.roots.Load()
	if r == nil {
		return id{}, errors.New("Trunkline does not know the mesh's authorities yet; try again later") //nolint:staticcheck // a name
	}
	if spiffe == "" {
		return id{}, errors.New("the client shows no certificate with a SPIFFE id; call with a certificate of Consul's mesh")
	}
	caller, err := parseID(spiffe)
	if err != nil {
		return id{}, fmt.Errorf("the client's certificate is no service's: %w", err)
	}
	if !strings.EqualFold(caller.domain, r.domain) {
		return id{}, fmt.Errorf("the client is of another mesh: %s is not of the trust domain %s", spiffe, r.domain)
	}
	return caller, nil
}

// hexadecimal is a serial number as Consul writes it.
func hexadecimal(n *big.Int) string {
	b := n.Bytes()
	if len(b) == 0 {
		b = []byte{0}
	}
	return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":")
}
