package connect

import (
	"strings"
	"testing"
)

func TestASPIFFEIdIsTakenApart(t *testing.T) {
	for text, want := range map[string]id{
		"spiffe://td.consul/ns/default/dc/dc1/svc/web":       {domain: "td.consul", partition: "default", namespace: "default", datacenter: "dc1", service: "web"},
		"spiffe://td.consul/ap/blue/ns/team/dc/dc1/svc/web":  {domain: "td.consul", partition: "blue", namespace: "team", datacenter: "dc1", service: "web"},
		"spiffe://TD.consul/ns/default/dc/dc1/svc/a%2Fb%20c": {domain: "TD.consul", partition: "default", namespace: "default", datacenter: "dc1", service: "a/b c"},
	} {
		want.text = text
		if got, err := parseID(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "web", "://", "https://td.consul/ns/default/dc/dc1/svc/web", "spiffe:///ns/default/dc/dc1/svc/web", "spiffe:td.consul/ns/default/dc/dc1/svc/web",
		"spiffe://td.consul", "spiffe://td.consul/", "spiffe://td.consul/ns/default/dc/dc1/svc/", "spiffe://td.consul/ns/default/dc/dc1/svc/web/",
		"spiffe://td.consul/ns/default/dc/dc1/svc/web/more", "spiffe://td.consul/dc/dc1/ns/default/svc/web", "spiffe://td.consul/gateway/mesh/dc/dc1",
		"spiffe://td.consul/agent/client/dc/dc1/id/x", "spiffe://me@td.consul/ns/default/dc/dc1/svc/web", "spiffe://td.consul:1/ns/default/dc/dc1/svc/web",
		"spiffe://td.consul/ns/default/dc/dc1/svc/web?a=b", "spiffe://td.consul/ns/default/dc/dc1/svc/web?", "spiffe://td.consul/ns/default/dc/dc1/svc/web#a",
		"spiffe://td.consul//ns/default/dc/dc1/svc/web", "spiffe://td.consul/ns/default/dc/dc1/svc/%zz", "spiffe://td.consul/svc/x/ns/default/dc/dc1/svc/web",
	} {
		if got, err := parseID(text); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
}

func TestAServerMustBeTheServiceThatIsCalled(t *testing.T) {
	i := &Identity{}
	i.roots.Store(&roots{domain: domain})
	i.leaf.Store(&leaf{id: id{namespace: "default", partition: "default"}})
	match := i.Match("echo")
	for _, good := range []string{spiffe("echo"), strings.ToUpper("spiffe://" + domain)[:0] + "spiffe://" + strings.ToUpper(domain) + "/ns/default/dc/dc7/svc/echo"} {
		if err := match(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, says := range map[string]string{
		"":             "bears no SPIFFE id",
		"nonsense":     "no SPIFFE id of a service",
		spiffe("web"):  `not the service "echo"`,
		spiffe("Echo"): `not the service "echo"`,
		"spiffe://other.consul/ns/default/dc/dc1/svc/echo":            "another mesh",
		"spiffe://" + domain + ".evil/ns/default/dc/dc1/svc/echo":     "another mesh",
		"spiffe://" + domain + "/ns/other/dc/dc1/svc/echo":            `of the namespace "default"`,
		"spiffe://" + domain + "/ap/other/ns/default/dc/dc1/svc/echo": `not the service "echo"`,
	} {
		if err := match(bad); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", bad, err, says)
		}
	}
}

// Whatever a certificate says, what comes out of it is whole and can be told from all else.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{spiffe("web"), "spiffe://td/ap/a/ns/b/dc/c/svc/d%2f", "", "spiffe://", "spiffe://[::1]/ns/a/dc/b/svc/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseID(text)
		if err != nil {
			return
		}
		if got.text != text || got.domain == "" || got.namespace == "" || got.partition == "" || got.datacenter == "" || got.service == "" ||
			strings.Count(text, "/") != 8 && strings.Count(text, "/") != 10 {
			t.Fatalf("%q: %+v", text, got)
		}
	})
}
