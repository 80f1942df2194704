package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestTheAdminAddressAsksForAProofUnlessItIsOnLoopback(t *testing.T) {
	const token, mutual, plain = "tokenFile: token", "tls: { certFile: c, keyFile: k, clientCaFile: ca }", "tls: { certFile: c, keyFile: k }"
	for _, c := range []struct {
		address, rest string
		refused       bool
		warned        bool
	}{
		{"127.0.0.1:9901", "", false, false},
		{"127.5.0.1:9901", "", false, false},
		{"[::1]:9901", "", false, false},
		{"localhost:9901", "", false, false},
		{"-", "", false, false},
		{":9901", "", true, false},
		{"0.0.0.0:9901", "", true, false},
		{"[::]:9901", "", true, false},
		{"10.0.0.7:9901", "", true, false},
		{"lb.example.com:9901", "", true, false},
		{":9901", plain, true, false},
		{":9901", mutual, false, false},
		{":9901", token + ", " + plain, false, false},
		{":9901", token, false, true},
	} {
		text := fmt.Sprintf("admin: { address: %q, %s }\n", c.address, c.rest)
		_, warnings, err := Parse("x.yaml", []byte(text))
		if (err != nil) != c.refused || (len(warnings) > 0) != c.warned {
			t.Errorf("%s%v, %v", text, err, warnings)
		}
		if err != nil && !strings.Contains(err.Error(), "admin.address: ") {
			t.Errorf("%s%v", text, err)
		}
	}
}

func TestTrustingEverybodysProxyHeaderIsWarnedOf(t *testing.T) {
	_, warnings, err := Parse("x.yaml", []byte(`listeners: [ { address: ":7443", proxyProtocol: { trusted: [ 10.0.0.0/8, 0.0.0.0/0 ] } } ]`))
	if err != nil || len(warnings) != 1 || warnings[0].Field != "listeners[0].proxyProtocol.trusted[1]" {
		t.Errorf("%v, %v", warnings, err)
	}
}

func TestSPIFFEIDs(t *testing.T) {
	for id, want := range map[string]bool{
		"spiffe://prod.example/ns/shop": true, "spiffe://prod": true, "spiffe://11.22.consul/ns/default/dc/dc1/svc/Shop_1": true,
		"spiffe://": false, "spiffe:///x": false, "spiffe://Prod/x": false, "spiffe://prod/": false, "spiffe://prod//x": false, "spiffe://prod/../x": false,
		"spiffe://prod:80/x": false, "spiffe://user@prod/x": false, "spiffe://prod/x?y": false, "https://prod/x": false,
	} {
		if spiffeID(id) != want {
			t.Errorf("%s: %v", id, !want)
		}
	}
}
